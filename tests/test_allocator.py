"""Freed memory is kept: what a tensor held before costs no new pages; and the commands alone ask for it."""

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys, torch
from mask2former.allocator import keep_freed_memory
if "keep" in sys.argv and not keep_freed_memory():
    print("not here")
    sys.exit()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def once():
    before = faults()
    torch.empty(2**24).fill_(1)  # 64 MiB
    return faults() - before
print(sorted(once() for _ in range(9))[4])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_memory_is_kept():
    kept, usual = (
        subprocess.run([sys.executable, "-c", FAULTS, *how], capture_output=True, text=True, check=True).stdout.strip()
        for how in (["keep"], [])
    )
    if kept == "not here":
        pytest.skip("this C library has no mallopt")
    assert int(kept) < 10 < int(usual)  # 16384 pages a tensor, fewer where the system gives huge ones
