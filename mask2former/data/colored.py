"""Masks with a table of colours or values: CamVid's label_colors.txt, class_dict.csv, Roboflow's _classes.csv."""

from __future__ import annotations

import csv
import io
import re

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.listing import Listing
from mask2former.data.mapped import MappedPhotos, packed, void_or
from mask2former.data.pairs import pairs
from mask2former.data.voc import label_map
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

KIND = "colored"
TABLES = {
    "label_colors.txt": "colour masks in CamVid's layout",
    "class_dict.csv": "colour masks with class_dict.csv",
    "class_dict_seg.csv": "colour masks with class_dict_seg.csv",
    "labelmap.txt": "colour masks with labelmap.txt",
    "_classes.csv": "semantic masks from Roboflow",
}


def recognise(listing: Listing) -> str | None:
    name = table_name(listing)
    return TABLES[name] if name else None


def table_name(listing: Listing) -> str | None:
    return next((name for name in TABLES if listing.named(name)), None) if not listing.is_file else None


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    name = table_name(listing)
    tables = [read_table(listing, file, name, findings) for file in listing.named(name)]
    if any(other != tables[0] for other in tables):
        raise DataError(
            listing.root, f"the files {name} differ from split to split", "export all splits with the same classes"
        )
    found = pairs(listing, findings)
    if not found:
        raise DataError(
            listing.root,
            f"{name}, but no photo with a mask",
            "put photos into train/ and masks of the same names into train_labels/ (val/, val_labels/)",
        )
    triples = [(photo, mask, None) for photo, mask in found]
    return MappedPhotos(listing, triples, tables[0], name != "_classes.csv", wanted, findings)


def read_table(listing: Listing, file: str, name: str, findings: Findings) -> dict[int, str | None]:
    if name == "labelmap.txt":
        return label_map(listing, file, findings)
    values: dict[int, str | None] = {}
    rows = (
        csv.reader(io.StringIO(listing.text(file)))
        if name.endswith(".csv")
        else map(fields, listing.text(file).splitlines())
    )
    for number, row in enumerate(rows, start=1):
        row = [cell.strip() for cell in row]
        if not any(row) or number == 1 and name.endswith(".csv"):  # headings
            continue
        try:
            if name == "_classes.csv":
                key, label = int(row[0]), row[1]
            elif name == "label_colors.txt":
                key, label = packed([int(part) for part in row[:3]]), " ".join(row[3:])
            else:
                key, label = packed([int(part) for part in row[1:4]]), row[0]
            if not label:
                raise ValueError
        except (ValueError, IndexError):
            raise DataError(listing.root / file, f"line {number}: {row}", "expected a name and a colour") from None
        if key in values:
            raise DataError(
                listing.root / file, f"line {number}: {label} has what another class has", "give each its own"
            )
        values[key] = void_or(label, findings)
    return values


def fields(line: str) -> list[str]:
    return re.split(r"\s+", line.strip()) if line.strip() and not line.startswith("#") else []
