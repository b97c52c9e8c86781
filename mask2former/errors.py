"""What is wrong with a thing that came from outside, as exceptions: few, public, each a ValueError.

Each message names what came, what was expected and what to do. A file that is not there is a FileNotFoundError,
one that would be overwritten a FileExistsError, an argument that makes no sense a plain ValueError.
"""

from __future__ import annotations

from pathlib import Path


class PhotoError(ValueError):
    """A photo that cannot be read, or is none: which one, and why."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be believed, or does not fit its network: which file, what is wrong, what to do."""


class DataError(ValueError):
    """A file of a dataset is not as it should be: which one, what is wrong, and what to do."""

    def __init__(self, file: Path | str, problem: str = "", remedy: str = ""):
        if not problem:  # so a DataLoader makes it anew: of a text that ends like a worker's traceback
            said = str(file).strip().rpartition(f"{type(self).__name__}: ")[2]
            file, _, said = said.partition(": ")
            problem, _, remedy = said.rpartition("; ")
        super().__init__(f"{file}: {problem}; {remedy}")
        self.file, self.problem, self.remedy = Path(file), problem, remedy

    def __reduce__(self) -> tuple[type[DataError], tuple[Path, str, str]]:  # worker processes hand them over pickled
        return DataError, (self.file, self.problem, self.remedy)


def sentence(error: BaseException) -> str:
    """An exception in one line for people: an OSError without its number, with the file it is about."""
    if isinstance(error, OSError) and error.strerror:
        files = " → ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{files}: {error.strerror}" if files else error.strerror
    return str(error) or type(error).__name__
