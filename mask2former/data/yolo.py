"""YOLO segmentation data: data.yaml with names and splits, images/ and labels/ beside each other.

A line of labels/NAME.txt is a class number and an outline in shares of width and height: `0 0.1 0.2 0.5 0.2 …`.
Ultralytics, Roboflow, Label Studio (classes.txt instead of data.yaml) and CVAT write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import yaml

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.listing import Listing, parent, split_of
from mask2former.data.outlined import Contents, Drawn, Object, OutlinedPhotos
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

KIND = "yolo"
KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


def recognise(listing: Listing) -> str | None:
    if not any(in_labels(file) for file in listing.files):
        return None
    if table_file(listing) is None:
        return None
    return "YOLO segmentation"


def in_labels(file: str) -> bool:
    return file.endswith(".txt") and "labels" in file.split("/")[:-1]


def table_file(listing: Listing) -> str | None:
    """The file that names the classes: data.yaml or another YAML with `names`, or classes.txt."""
    if listing.is_file:
        return listing.only if listing.place.suffix.lower() in (".yaml", ".yml") else None
    for file in listing.ending(".yaml", ".yml"):
        content = read_yaml(listing, file)
        if isinstance(content, dict) and "names" in content:
            return file
    return next((file for name in ("classes.txt", "obj.names") for file in listing.named(name)), None)


def read_yaml(listing: Listing, file: str) -> Any:
    try:
        return yaml.safe_load(listing.text(file))
    except yaml.YAMLError as error:
        raise DataError(listing.root / file, f"no YAML ({error})", "mend it, or export it anew") from None


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    file = table_file(listing)
    content = read_yaml(listing, file) if file.lower().endswith(("yaml", "yml")) else {}
    names = (
        content.get("names") if content else [line.strip() for line in listing.text(file).splitlines() if line.strip()]
    )
    if isinstance(names, dict):
        if not all(isinstance(key, int) and key >= 0 for key in names):
            raise DataError(listing.root / file, f"names: {list(names)[:5]}", "expected class numbers from 0")
        names = [str(names.get(k, f"class {k}")) for k in range(max(names, default=-1) + 1)]
    if not isinstance(names, list) or not names:
        raise DataError(listing.root / file, "names: no class", "expected a list of class names")
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise DataError(listing.root / file, "names: two classes of one name", "rename one: numbers cannot be merged")
    photos = list(photos_of(listing, names, splits_of(listing, content), findings))
    return OutlinedPhotos(listing, Contents(photos, names), wanted, findings)


def splits_of(listing: Listing, content: dict[str, Any]) -> Callable[[str], str | None]:
    """The split of a photo, as data.yaml has it: by the end of a folder, "../valid/images", or by a list of photos."""
    folders: dict[str, set[str]] = {}
    photos: dict[str, set[str]] = {}
    for key, split in KEYS.items():
        value = content.get(key)
        for entry in [value] if isinstance(value, str) else value if isinstance(value, list) else []:
            path = "/".join(part for part in str(entry).replace("\\", "/").split("/") if part not in ("", ".", ".."))
            if not path.lower().endswith(".txt"):
                folders.setdefault(path, set()).add(split)
                continue
            for file in listing.named(path.rpartition("/")[2]):
                for line in listing.text(file).splitlines():
                    photos.setdefault(line.strip().replace("\\", "/").rpartition("/")[2], set()).add(split)

    def split_of_photo(photo: str) -> str | None:
        folder, name = f"/{parent(photo)}/", photo.rpartition("/")[2]
        found = photos.get(name) or next(
            (s for end, s in folders.items() if end and (f"/{end}/" in folder or f"/{end}/".endswith(folder))), set()
        )
        return next(iter(found)) if len(found) == 1 else split_of(photo)  # one folder for train and val says nothing

    return split_of_photo


def photos_of(
    listing: Listing, names: list[str], split: Callable[[str], str | None], findings: Findings
) -> Iterator[Drawn]:
    labels = {file for file in listing.files if in_labels(file)}
    used = set()
    for photo in listing.photos:
        parts = photo.split("/")
        places = [k for k, part in enumerate(parts[:-1]) if part == "images"]
        options = [[*parts[:k], "labels", *parts[k + 1 :]] for k in reversed(places)]
        options += [[*parts[:-1], "labels", parts[-1]], [*parts[:-2], "labels", parts[-1]], ["labels", parts[-1]]]
        texts = [str(PurePosixPath(*option).with_suffix(".txt")) for option in options]
        text = next((t for t in texts if t in labels), None)
        if text is None and not places:
            continue  # a picture that is none of the photos, such as a plot
        used.add(text)
        objects = list(objects_of(listing, text, names, findings)) if text else []
        if text is None:
            findings.assume("photos without a label file hold no object", photo)
        yield Drawn(photo, ".", None, objects, split(photo))
    for text in sorted(labels - used):
        findings.repair("label files without a photo left out", text)


def objects_of(listing: Listing, file: str, names: list[str], findings: Findings) -> Iterator[Object]:
    for row, line in enumerate(listing.text(file).splitlines(), start=1):
        fields, where = line.split(), f"{file} line {row}"
        if not fields:
            continue
        try:
            label, *numbers = float(fields[0]), *map(float, fields[1:])
            if label != int(label):
                raise ValueError
        except ValueError:
            raise DataError(
                listing.root / file, f"line {row}: {line[:40]!r}", "expected a class and shares x y x y …"
            ) from None
        if not 0 <= label < len(names):
            raise DataError(
                listing.root / file,
                f"line {row}: class {int(label)}, but there are {len(names)}",
                "correct names or line",
            )
        if len(numbers) == 4:
            findings.repair("boxes left out, which are no masks", where)
            continue
        if max(numbers, default=0) > 2:
            raise DataError(
                listing.root / file, f"line {row}: {max(numbers):g} is no share of a side", "divide by width and height"
            )
        yield Object(names[int(label)], [numbers], where, unit=True)
