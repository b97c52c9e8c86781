"""How a dataset is to be opened, as a caller says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mask2former.data.dataset import Transform


@dataclass(frozen=True)
class Wanted:
    """See `datasets.open_dataset`."""

    split: str = "train"
    classes: str | Sequence[str] | None = None
    background: str | None = None
    transform: Transform | None = None
    exif: str = "auto"
    hold_out: str = "make"
