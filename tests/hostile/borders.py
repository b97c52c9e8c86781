"""Every border of the library with the cases that are drawn against it.

A border is a function of a `random.Random` and an empty folder. It makes one case from the random numbers, tries it,
and returns what came of it in a word; it raises AssertionError where that is not what was promised (`SECURITY.md`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from random import Random

from tests.hostile import checkpoints, data, outputs, photos

Border = Callable[[Random, Path], str]


def checkpoint(random: Random, folder: Path) -> str:
    return checkpoints.run(next(checkpoints.cases(random)), folder)


def dataset(kind: str, random: Random, folder: Path) -> str:
    return data.check(data.make(kind, random, folder))


def output(check: Callable[[Random, outputs.Place], None], random: Random, folder: Path) -> str:
    check(random, place())
    return "held"


@cache
def place() -> outputs.Place:
    """A model, photos and data for commands to work on, made once a process."""
    return outputs.make_place(Path(tempfile.mkdtemp(prefix="hostile-")))


BORDERS: dict[str, Border] = {
    "checkpoints": checkpoint,
    **{f"annotations: {kind}": partial(dataset, kind) for kind in data.KINDS},
    "photo files": photos.check_file,
    "photo objects": photos.check_object,
    **{name: partial(output, check) for name, check in outputs.CHECKS.items()},
}
# Of a thousand cases; those that start processes are dear.
SHARES = dict.fromkeys(BORDERS, 80) | {"checkpoints": 250, "photo files": 200, "command lines": 10}
SHARES |= {"kills": 2, "full disks": 2}
