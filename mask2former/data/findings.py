"""What was concluded about a dataset, and what was repaired, left out or assumed to read it: each named and counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mask2former.errors import DataError

SHOWN = 3  # examples of one finding


class Findings:
    """A record that readers write into while they open a dataset.

    A *repair* changes or leaves out something that the files say; `strict` refuses those. An *assumption* is a
    reading that the files do not forbid, such as which part is held out; it is said, and never refused.
    """

    def __init__(self, strict: bool = False, skip_bad: bool = False):
        self.strict, self.skip_bad = strict, skip_bad
        self.tool = ""  # what was recognised: "COCO from Label Studio"
        self.repairs: dict[str, int] = {}
        self.assumptions: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}
        self.conclusions: list[str] = []  # sentences

    def repair(self, what: str, example: object = "", count: int = 1) -> None:
        """what: of which the count is written in front, "specks dropped"."""
        self._count(self.repairs, what, example, count)

    def assume(self, what: str, example: object = "", count: int = 1) -> None:
        self._count(self.assumptions, what, example, count)

    def conclude(self, sentence: str) -> None:
        """Something assumed that is no number of things."""
        if sentence not in self.conclusions:
            self.conclusions.append(sentence)

    def _count(self, where: dict[str, int], what: str, example: object, count: int) -> None:
        if count:
            where[what] = where.get(what, 0) + count
            shown = self.examples.setdefault(what, [])
            if example and len(shown) < SHOWN:
                shown.append(str(example))

    def sentences(self) -> list[str]:
        """One each, repairs first, counted, with examples."""
        counted = [self._sentence(what, n) for found in (self.repairs, self.assumptions) for what, n in found.items()]
        return counted + self.conclusions

    def _sentence(self, what: str, count: int) -> str:
        shown = self.examples[what]
        more = ", …" if count > len(shown) else ""
        return f"{count} {what}" + (f" ({', '.join(shown)}{more})" if shown else "")

    def line(self, classes: int, photos: int) -> str:
        """All of it in one line: "COCO from Label Studio: 3 classes, 214 photos; 2 specks dropped"."""
        start = f"{self.tool}: {classes} class{'es' * (classes != 1)}, {photos} photo{'s' * (photos != 1)}"
        return "; ".join([start, *self.sentences()])

    def close(self, place: Path) -> None:
        """Called when a dataset is open. Raises DataError where something had to be repaired and `strict` is set."""
        if self.strict and self.repairs:
            found = "; ".join(self._sentence(what, n) for what, n in self.repairs.items())
            raise DataError(place, f"strict, but to be repaired: {found}", "mend the files, or leave out strict")


def listed(names: Sequence[object], shown: int = 8) -> str:
    """The first few of many, for a message."""
    return ", ".join(map(str, names[:shown])) + (f" and {len(names) - shown} more" if len(names) > shown else "")
