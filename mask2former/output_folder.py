"""A folder that one process writes into: nobody else meanwhile, and nothing of an earlier run replaced unasked."""

from __future__ import annotations

import errno
import json
import os
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from mask2former.unfinished import clear_unfinished

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

LOCK = ".mask2former.lock"
UNLOCKABLE = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF)  # the file system has no locks


def free_folder(path: Path) -> Path:
    """The path itself, or the first of NAME_2, NAME_3, … where nothing is yet."""
    numbered = (path.with_name(f"{path.name}_{number}") for number in count(2))
    return next(folder for folder in chain((path,), numbered) if not folder.exists() or not any(folder.iterdir()))


class OutputFolder:
    """`with OutputFolder("segments", files) as folder:` makes the folder, locks it, clears what was left half-written.

    files: names that are about to be written there. Where one exists already FileExistsError is raised, unless
    `overwrite` is True or it was left by a run that was killed: the lock's file says which those are. It goes when the
    block ends; so do folders made here that are then empty.
    wait: seconds to wait for another process's lock before FileExistsError is raised, which names that process.
    """

    def __init__(self, path: Path | str, files: Iterable[str] = (), overwrite: bool = False, wait: float = 0.0):
        self.path, self.files, self.overwrite, self.wait = Path(path), list(files), overwrite, wait
        self.replaced: list[str] = []  # of `files`, what was there
        self.left = 0  # half-written files and folders that were cleared
        self._unfinished: set[str] = set()
        self._made: list[Path] = []
        self._lock: _Lock | None = None

    def __enter__(self) -> OutputFolder:
        self._make()
        try:
            self._lock = self._locked()
            self.left = clear_unfinished(self.path)
            self._unfinished = set(self._lock.record())
            self.announce(self.files)
        except BaseException:
            self.__exit__()
            raise
        return self

    def announce(self, files: Iterable[str]) -> None:
        """Say which files are about to be written; raises FileExistsError as the class does."""
        self.files = list(files)
        self.replaced = [name for name in self.files if os.path.lexists(self.path / name)]
        kept = [name for name in self.replaced if name not in self._unfinished]
        if kept and not self.overwrite:
            more = f" and {len(kept) - 1} more" if len(kept) > 1 else ""
            raise FileExistsError(
                f"{self.path} holds {kept[0]}{more} of an earlier run: name another folder, or replace what is there "
                "(--overwrite)"
            )
        self._lock.write({"pid": os.getpid(), "files": self.files})

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()  # if it is empty
        self._made = []

    def _make(self) -> None:
        self._made = [path for path in (*reversed(self.path.parents), self.path) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(f"{self.path} is a file; name a folder") from None
        except OSError as error:
            self.__exit__()
            raise OSError(error.errno, f"{self.path} cannot be made: {error.strerror}") from error

    def _locked(self) -> _Lock:
        end = time.monotonic() + self.wait
        while (lock := _Lock.take(self.path / LOCK)) is None:
            if time.monotonic() >= end:
                holder = _pid_in(self.path / LOCK)
                raise FileExistsError(
                    f"{self.path} is being written into by {holder or 'another process'}: name another folder, or wait "
                    "until that is done"
                )
            time.sleep(0.05)
        return lock


class _Lock:
    """A lock that the system lets go of when its process ends, however it ends; its file holds what is being done.

    filelock has such locks too, but neither removes their files, which would litter what people publish, nor says who
    holds one; so it is taken only where the system has no `flock`.
    """

    def __init__(self, path: Path, descriptor: int | None, other: object = None):
        self.path, self.descriptor, self.other = path, descriptor, other
        _HELD.add(self)

    @classmethod
    def take(cls, path: Path) -> _Lock | None:
        """None where another process, or another part of this one, holds it."""
        if fcntl is None:
            import filelock

            lock = filelock.FileLock(path, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except filelock.Timeout:
                return None
            return cls(path, None, lock)
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise OSError(error.errno, f"{path.parent} cannot be written into: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in UNLOCKABLE:
                    os.close(descriptor)
                    if error.errno in (errno.EAGAIN, errno.EACCES):
                        return None
                    raise
                warnings.warn(
                    f"{path.parent}: its file system has no locks; write into it once at a time", stacklevel=5
                )
            with suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return cls(path, descriptor)
            os.close(descriptor)  # its last holder has removed it meanwhile

    def record(self) -> list[str]:
        """The files that a process was about to write which has not come to its end."""
        if self.descriptor is None:
            return []
        with suppress(OSError, ValueError, KeyError, TypeError):
            size = os.fstat(self.descriptor).st_size
            return [str(name) for name in json.loads(os.pread(self.descriptor, size, 0))["files"]]
        return []

    def write(self, content: dict[str, object]) -> None:
        if self.descriptor is None:
            return
        try:
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, json.dumps(content).encode(), 0)
        except OSError as error:
            raise OSError(error.errno, f"{self.path.parent} cannot be written into: {error.strerror}") from error

    def close(self) -> None:
        if self in _HELD:
            with suppress(OSError):
                self.path.unlink()  # before others can have it
            self.forget()

    def forget(self) -> None:
        _HELD.discard(self)
        if self.descriptor is not None:
            os.close(self.descriptor)
        if self.other is not None:
            self.other.release()


_HELD: set[_Lock] = set()


def _forget_all() -> None:
    """A process that forks, as a DataLoader does, must not share its locks: they would outlive it."""
    for lock in list(_HELD):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def _pid_in(path: Path) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return f"process {int(json.loads(path.read_bytes())['pid'])}"
    return ""
