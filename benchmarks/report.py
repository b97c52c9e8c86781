"""What a benchmark says: rows of one table, each with the goal it is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HEADER = ("work", "size", "part", "ours", "transformers", "ratio", "goal")
LEGEND = (
    "Seconds unless the part says otherwise. Ratio: how many times as fast ours is; for peak MiB, ours ÷ transformers. "
    "A goal is on the ratio, or on our own number where there is none."
)


@dataclass(frozen=True)
class Goal:
    """A bound: on the ratio of a row, or on our own number where the row has no ratio."""

    sign: str  # "≥" or "≤"
    bound: float

    def __post_init__(self):
        if self.sign not in ("≥", "≤"):
            raise ValueError(f"sign {self.sign!r}: expected ≥ or ≤")

    def met(self, number: float) -> bool:
        return number >= self.bound if self.sign == "≥" else number <= self.bound


def at_least(bound: float) -> Goal:
    return Goal("≥", bound)


def at_most(bound: float) -> Goal:
    return Goal("≤", bound)


@dataclass(frozen=True)
class Row:
    """One measured number, on both sides where there are two.

    kind: how the sides are compared: "seconds" (ratio: transformers ÷ ours), "rate" (a second; ours ÷ transformers),
        "memory" (MiB; ours ÷ transformers), "figure" (they are not).
    """

    work: str
    size: str
    part: str
    ours: float
    theirs: float | None = None
    goal: Goal | None = None
    kind: str = "seconds"

    @property
    def ratio(self) -> float | None:
        if self.theirs is None or self.kind == "figure":
            return None
        return self.theirs / self.ours if self.kind == "seconds" else self.ours / self.theirs

    def verdict(self) -> str:
        """The goal, and "met" or "missed" as the number says; nothing where what it is about was not measured."""
        if self.goal is None:
            return "–"
        number = self.ours if self.kind == "figure" else self.ratio
        unit = "" if self.kind == "figure" else "×"
        said = f"{self.goal.sign} {self.goal.bound:g}{unit}"
        return f"{said}: not compared" if number is None else f"{said}: {'met' if self.goal.met(number) else 'missed'}"

    def cells(self) -> list[str]:
        ratio = "–" if self.ratio is None else f"{self.ratio:.2f}×"
        return [self.work, self.size, self.part, number(self.ours), number(self.theirs), ratio, self.verdict()]


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [list(HEADER), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def document(machine: str, rows: Sequence[Row], notes: Sequence[str]) -> str:
    """The whole result, fit to be pasted into RESULTS.md: the machine, the table, and what the table cannot say."""
    notes = list(dict.fromkeys(notes))
    parts = [machine, table(rows), LEGEND] if rows else [machine]
    return "\n\n".join(parts + (["\n".join(f"* {note}" for note in notes)] if notes else [])) + "\n"


def number(value: float | None) -> str:
    """Three significant figures below 1, two decimals above, none from 1000."""
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"


def size_text(size: tuple[int, int], images: int = 1) -> str:
    """(height, width) and the images of a batch."""
    return f"{images} × " * (images > 1) + f"{size[0]}×{size[1]}"
