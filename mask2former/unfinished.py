"""What is being written, told from what a killed process has left: its name says which process is at it."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PREFIX = ".unfinished-"
FORGOTTEN = 24 * 3600  # seconds without a change, after which another machine's unfinished work counts as left


def unfinished_name() -> str:
    """A name for something that is being written, always short; nobody else has it."""
    return PREFIX + "-".join((*map(str, this_process()), secrets.token_hex(4)))


def clear_unfinished(folder: Path) -> int:
    """Delete what processes that no longer run have left half-written in a folder. Returns how many there were."""
    left = [path for path in folder.glob(PREFIX + "*") if not _has_owner(path)]
    for path in left:
        remove(path)
    return len(left)


def _has_owner(path: Path) -> bool:
    found = re.fullmatch(rf"{re.escape(PREFIX)}([0-9a-f]{{6}})-(\d+)-(\d*)-[0-9a-f]{{8}}", path.name)
    if found is None:
        return False  # an earlier version's
    alive = Process(found[1], int(found[2]), found[3]).is_alive
    if alive is not None:
        return alive
    with suppress(OSError):
        return time.time() - path.stat().st_mtime < FORGOTTEN
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it, as far as it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


class Process(NamedTuple):
    """A process, told from all others that have had or will have its number."""

    host: str
    pid: int
    started: str  # in the system's own count; "" where it does not say

    @property
    def is_alive(self) -> bool | None:
        """Whether it still runs; None for one of another machine or container, which cannot be asked."""
        return _start_of(self.pid) == self.started if self.host == _host() else None


def this_process() -> Process:
    return Process(_host(), os.getpid(), _start_of(os.getpid()) or "")


@functools.cache
def _host() -> str:
    """Six digits for this machine and the space of process numbers, of which each container has its own."""
    space = os.readlink("/proc/self/ns/pid") if os.path.lexists("/proc/self/ns/pid") else ""
    return hashlib.blake2b(f"{platform.node()} {space}".encode(), digest_size=3).hexdigest()


def _start_of(pid: int) -> str | None:
    """When a process was started, "" where the system does not say, None if there is none or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()  # ended, but nobody has asked how
    except OSError:
        if os.path.exists("/proc/self/stat"):
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""
