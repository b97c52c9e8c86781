"""Files written whole or not at all: under a name of their own first, and renamed once they are on the disk.

Everything in this library that writes a file writes it here.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mask2former.unfinished import remove, unfinished_name

if TYPE_CHECKING:
    from PIL import Image

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # nothing more fits, whichever file comes next


@contextmanager
def written(path: Path | str, size: int = 0) -> Iterator[Path]:
    """Inside, write to the path that this gives, in the same folder; afterwards the file has its own name.

    size: bytes that are about to come, if known, so that too full a disk is found out before the work. Whatever goes
    wrong, nothing is left of it and an older file of the name stays; an OSError then names the path and the reason.
    """
    path = Path(path)
    temporary = path.with_name(unfinished_name())
    try:
        if size > (free := free_space(path.parent)):
            raise OSError(errno.ENOSPC, f"the disk is full: {size} bytes are needed, {size - free} more than are free")
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        remove(temporary)
        if (reason := disk_error(error)) is None:
            raise
        raise OSError(reason.errno, f"{path} cannot be written: {reason.strerror}") from error


def write_bytes(path: Path | str, content: bytes) -> None:
    with written(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_together(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Several files by name, none of them unless the disk takes all."""
    with ExitStack() as stack:
        for name, content in files.items():
            stack.enter_context(written(folder / name, len(content))).write_bytes(content)
    return [folder / name for name in files]


def as_json(content: Any, indent: int | None = None, ensure_ascii: bool = True) -> bytes:
    return as_text(json.dumps(content, indent=indent, ensure_ascii=ensure_ascii))


def as_text(text: str) -> bytes:
    return f"{text}\n".encode("utf-8", "backslashreplace")  # names of files need not be valid Unicode


def as_picture(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A picture as the bytes of a file. Pillow, writing to a disk itself, does not say what the disk had against it."""
    content = io.BytesIO()
    picture.save(content, form, **options)
    return content.getvalue()


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all."""
    with open(path, "ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            _write_all(file, line.encode() + b"\n")
        except OSError as error:
            with suppress(OSError):
                os.truncate(path, before)
            raise OSError(error.errno, f"{path} cannot be added to: {error.strerror}") from error


def save_torch(content: Any, path: Path | str, tensors: Mapping[str, Any] | None = None) -> None:
    """`torch.save` to a file that is whole or not there. tensors: the most of what it holds, to see that it fits."""
    import torch

    size = sum(tensor.numel() * tensor.element_size() for tensor in (tensors or {}).values())
    with written(path, size) as temporary, open(temporary, "wb", buffering=0) as file:
        sink = _Sink(file)
        torch.save(content, sink)
        if sink.error is not None:
            raise sink.error


class _Sink:
    """A file for `torch.save`, which turns an OSError into a RuntimeError about positions in an archive. So the first
    one is kept, and the rest of the archive goes nowhere."""

    def __init__(self, file: Any):
        self.file, self.error = file, None

    def write(self, content: Any) -> int:
        content = memoryview(content).cast("B")
        if self.error is None:
            try:
                _write_all(self.file, content)
            except OSError as error:
                self.error = error
        return len(content)

    def flush(self) -> None:
        pass


def _write_all(file: Any, content: Any) -> None:
    content = memoryview(content)
    while len(content):
        content = content[file.write(content) :]


def disk_error(error: BaseException) -> OSError | None:
    """What a disk had against being written to, if that is what an exception is about."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if found := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors has a kind of exception of its own
        return OSError(int(found[1]), os.strerror(int(found[1])))
    return None


def is_full(error: BaseException) -> bool:
    """Whether nothing more fits on the disk, so that there is no use in going on."""
    return isinstance(error, OSError) and error.errno in FULL


def free_space(folder: Path) -> int:
    """Bytes that may still be written into a folder; for ever so many where the system does not say."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 1 << 62


def safe_name(name: str, longest: int) -> str:
    """A name that can be part of a file's, in at most `longest` bytes: itself where that is possible, else with what
    cannot be in a file's name replaced, cut off if need be, and marked so that two names do not become one."""
    odd = r"[\x00-\x1f\x7f/\\\ud800-\udc7f\udd00-\udfff" + (r'<>:"|?*]' if os.name == "nt" else "]")
    safe = re.sub(odd, "_", name)
    if safe == name and len(os.fsencode(name)) <= longest:
        return name
    mark = "-" + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    safe = safe[: longest - len(mark)]
    while len(os.fsencode(safe + mark)) > longest:
        safe = safe[:-1]
    return safe + mark


def longest_name(folder: Path) -> int:
    """Bytes that the name of a file in a folder may have, which need not be there yet."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    try:
        return os.pathconf(there, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):
        return 255
