"""Memory that was freed is kept for the next tensor, in a process that is ours to tune.

glibc hands every block of more than 32 MB back to the system when it is freed, and the system clears it again, page by
page, when the next one is asked for. For a photo of 16 megapixels that is half of the network's time on a CPU.
"""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = -1
LARGEST = 2**30  # bytes of a block that is kept; larger ones are few


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed; whether it understood. Elsewhere than on Linux with glibc nothing is done.

    It holds for the whole process until it ends: memory is not given back in between, and as blocks of many sizes share
    one heap, the peak for a very large photo is higher (Swin-T, 16 megapixels: 11 instead of 6 GB, in half of the
    time). So no import and no function of the library calls it; the commands that compute on a CPU do, unless they are
    given a ceiling (`--memory`).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, NEVER))
