"""Masks of 0 and 255 (or 0 and 1): something, and everything else."""

from __future__ import annotations

import re

from mask2former.data.annotation import values_in
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.folder import FolderClass
from mask2former.data.listing import Listing
from mask2former.data.mapped import BACKGROUND_NAMES, MappedPhotos, read_values
from mask2former.data.pairs import pairs
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

KIND = "binary"
LOOKED_AT = 60  # masks
KIND_OF_CLASS = re.compile(r"\s*,\s*(thing|stuff)$")


def recognise(listing: Listing) -> str | None:
    if listing.is_file:
        return None
    found = pairs(listing, Findings())
    return "masks of 0 and 255" if found and is_binary(values_of(listing, [mask for _, mask in found])) else None


def values_of(listing: Listing, masks: list[str]) -> set[int]:
    """The values in some of the masks, spread evenly; none where one cannot be read as a mask."""
    values: set[int] = set()
    for mask in masks[:: max(1, len(masks) // LOOKED_AT)]:
        try:
            values.update(values_in(read_values(listing.root / mask, as_colors=False)))
        except DataError:
            return set()
        if len(values) > 1000:
            break
    return values


def is_binary(values: set[int]) -> bool:
    return values in ({0, 255}, {0, 1}, {255})


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    found = pairs(listing, findings)
    names = class_names(listing)
    if names is None:
        names = ["background", "object"]
        findings.conclude(f"the classes are called {' and '.join(names)}, as nothing names them")
    elif len(names) == 1:
        names = ["background", *names]
    if len(names) != 2 or len(set(names)) < 2:
        raise DataError(
            listing.root,
            f"masks hold two values, but there are {len(names)} classes ({', '.join(names[:8])})",
            "name one class or two, or save masks with the number of the class at each pixel",
        )
    if names[0].lower() not in BACKGROUND_NAMES:
        findings.conclude(f"0 in the masks is {names[0]}, the other value {names[1]}")
    values = {0: names[0], 1: names[1], 255: names[1]}
    return MappedPhotos(listing, [(p, m, None) for p, m in found], values, False, wanted, findings)


def class_names(listing: Listing) -> list[str] | None:
    """The names in classes.txt, or in classes.json in the order of their numbers."""
    for file in listing.named("classes.txt"):
        lines = [line.strip() for line in listing.text(file).splitlines() if line.strip()]
        if not lines:
            raise DataError(listing.root / file, "no class", "write one class name a line")
        return [KIND_OF_CLASS.sub("", line) for line in lines]
    for file in listing.named("classes.json"):
        table = listing.json(file, list[FolderClass])
        return [entry.name for entry in sorted(table, key=lambda entry: entry.id)]
    return None
