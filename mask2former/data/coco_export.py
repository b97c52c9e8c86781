"""COCO instance files as annotation tools write them: Roboflow, CVAT, Label Studio, VIA, Supervisely and others.

What such files have beyond `coco_instance`, which reads the official ones, and what is done about it:
photos under other paths, ids as text beside numbers, flat rings and specks, images without a size, a root category
that nothing belongs to, and CVAT's brush masks, which it calls crowds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import msgspec

from mask2former.data.coco_file import number
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.listing import Listing, parent, split_of
from mask2former.data.outlined import Contents, Drawn, Object, OutlinedPhotos
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

KIND = "coco-instance"
PASSED_OVER = ("captions", "person_keypoints", "image_info", "stuff_", "panoptic")
Id = int | str


class Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str | None = None
    height: int | float | str | None = None
    width: int | float | str | None = None


class Category(msgspec.Struct, gc=False):
    id: Id
    name: str
    supercategory: str | None = None


class Entry(msgspec.Struct, gc=False):
    image_id: Id | None = None
    category_id: Id | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    iscrowd: Any = None
    attributes: Any = None


class File(msgspec.Struct, gc=False):
    images: list[Image]
    categories: list[Category]
    annotations: list[Entry] = []
    info: Any = None


def files(listing: Listing) -> list[str]:
    """The COCO instance files of a folder."""
    found = []
    for file in listing.some_json():
        if not PurePosixPath(file).name.startswith(PASSED_OVER) and {"images", "categories"} <= listing.keys(file):
            text = (listing.root / file).read_bytes()
            if b'"segments_info"' not in text:
                found.append(file)
    return found


def recognise(listing: Listing) -> str | None:
    found = files(listing)
    if not found:
        return None
    by = tool(listing, found[0])
    return f"COCO from {by}" if by else "COCO instances"


def tool(listing: Listing, file: str) -> str:
    """Which tool wrote a file, by what only that one writes; nothing where none is told."""
    text = (listing.root / file).read_bytes()
    start = text[:4096].lower()
    if file.endswith("_annotations.coco.json") or b"roboflow" in start:
        return "Roboflow"
    for mark, name in ((b'"Label Studio"', "Label Studio"), (b"VGG Image Annotator", "VIA"), (b"VIA (", "VIA")):
        if mark in text[:4096] or mark in text[-4096:]:
            return name
    if b"supervisely" in start:
        return "Supervisely"
    if b'"attributes"' in text and b'"occluded"' in text:
        return "CVAT"
    return ""


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    found = files(listing)
    contents = [listing.json(file, File) for file in found]
    names: dict[str, str | None] = {}
    for file, content in zip(found, contents, strict=True):
        for category in kept_categories(listing, file, content, findings):
            names.setdefault(category.name, category.supercategory)
    photos = (drawn for pair in zip(found, contents, strict=True) for drawn in photos_of(*pair, findings))
    coarse = {name: above for name, above in names.items() if above}
    return OutlinedPhotos(listing, Contents(photos, list(names), coarse), wanted, findings)


def kept_categories(listing: Listing, file: str, content: File, findings: Findings) -> list[Category]:
    """The categories that are classes. Left out: a root that has no object, and is above others or has their name."""
    used = {number(entry.category_id) for entry in content.annotations}
    above = {c.supercategory for c in content.categories if c.supercategory and c.supercategory != c.name} | {
        c.supercategory for c in content.categories if number(c.id) in used
    }
    names = [c.name for c in content.categories]
    kept, seen = [], set()
    for category in content.categories:
        is_root = category.supercategory in (None, "", "none") and category.name in above
        twin = names.count(category.name) > 1 and any(
            c is not category and c.name == category.name and number(c.id) in used for c in content.categories
        )
        if number(category.id) not in used and twin:
            findings.repair("categories without objects left out, as others have their name", category.name)
            continue
        if number(category.id) not in used and is_root and len(names) > 1:
            findings.assume("categories without objects left out, as they are the root of others", category.name)
            continue
        if category.name in seen:
            findings.repair("categories of one name put together", category.name)
            continue
        seen.add(category.name)
        kept.append(category)
    if not kept:
        raise DataError(listing.root / file, "$.categories: no class", "name at least one")
    return kept


def photos_of(file: str, content: File, findings: Findings) -> Iterator[Drawn]:
    names = {number(c.id): c.name for c in content.categories}
    entries: dict[Any, list[tuple[int, Entry]]] = {}
    known = {number(image.id): isinstance(image.id, str) for image in content.images}
    for position, entry in enumerate(content.annotations):
        where = f"{file} $.annotations[{position}]"
        image = number(entry.image_id)
        if image not in known:
            findings.repair("annotations of an image that is not listed left out", where)
        elif number(entry.category_id) not in names:
            findings.repair("annotations of a category that is not listed left out", where)
        else:
            if isinstance(entry.image_id, str) != known[image]:
                findings.repair("ids written as text in one place and as numbers in another", where)
            entries.setdefault(image, []).append((position, entry))
    brushes = crowds_by_mistake(content)
    split, places = split_of(f"{file[:-5]}/"), near(file)
    seen = set()
    for image in content.images:
        if not image.file_name:
            findings.repair("images without a file name left out", f"{file} id {image.id}")
            continue
        if number(image.id) in seen:
            findings.repair("images listed twice taken once", image.file_name)
            continue
        seen.add(number(image.id))
        objects = []
        for position, entry in entries.get(number(image.id), []):
            where = f"{file} $.annotations[{position}]"
            crowd = entry.iscrowd in (1, True, "1", 1.0)
            if crowd and brushes:
                findings.repair("brush masks that CVAT calls crowds taken as single objects", where)
            objects.append(Object(names[number(entry.category_id)], entry.segmentation, where, crowd and not brushes))
        size = side(image.height), side(image.width)
        if None in size:
            findings.repair("images without height and width, which the photo has", image.file_name)
        yield Drawn(image.file_name, file, size if None not in size else None, objects, split, places)


def side(value: Any) -> int | None:
    try:
        return int(float(value)) or None
    except (TypeError, ValueError):
        return None


def crowds_by_mistake(content: File) -> bool:
    """CVAT and datumaro write a mask painted with the brush as a run-length encoding, and call each a crowd.

    They alone give annotations `attributes`.
    """
    crowds = [entry for entry in content.annotations if entry.iscrowd == 1]
    ours = all(isinstance(e.attributes, dict) for e in crowds)
    return bool(crowds) and ours and all(bytes(entry.segmentation).startswith(b"{") for entry in crowds)


def near(file: str) -> tuple[str, ...]:
    """Where tools put the photos of an annotation file."""
    here, stem = parent(file), PurePosixPath(file).stem.removeprefix("instances_").removeprefix("panoptic_")
    above = parent(here)
    folders = [f"{base}/{sub}" for base in (here, above) for sub in (stem, f"images/{stem}", "images", "data", ".")]
    return tuple(str(PurePosixPath(folder)) for folder in folders)
