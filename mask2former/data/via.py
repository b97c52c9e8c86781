"""VGG Image Annotator (VIA): one JSON or CSV file with the regions of every photo, in pixels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import msgspec

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.listing import Listing, split_of
from mask2former.data.outlined import Contents, Drawn, Object, OutlinedPhotos
from mask2former.data.rings import circle
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError
from mask2former.schema import decode_json

KIND = "via"
COLUMNS = {"region_shape_attributes", "region_attributes"}
USUAL = ("class", "label", "name", "type", "category", "object", "object_name")  # attributes that name the class


class Region(msgspec.Struct, gc=False):
    shape_attributes: dict[str, Any]
    region_attributes: dict[str, Any] = {}


class Photo(msgspec.Struct, gc=False):
    filename: str
    regions: list[Region] | dict[str, Region] = []


class Project(msgspec.Struct, gc=False):
    metadata: dict[str, Photo] = msgspec.field(name="_via_img_metadata")


def recognise(listing: Listing) -> str | None:
    return "VIA" if files(listing) else None


def files(listing: Listing) -> list[str]:
    found = [file for file in listing.some_json() if is_via(listing, file)]
    for file in listing.ending(".csv"):
        with (listing.root / file).open("rb") as start:
            if b"region_shape_attributes" in start.readline():
                found.append(file)
    return found


def is_via(listing: Listing, file: str) -> bool:
    keys = listing.keys(file)
    if "_via_img_metadata" in keys:
        return True
    if not keys or len(keys & {"images", "shapes", "objects", "annotations"}):
        return False
    with (listing.root / file).open("rb") as start:
        text = start.read(4096)
    return b'"filename"' in text and b'"regions"' in text


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    photos = [pair for file in files(listing) for pair in read(listing, file, findings)]
    attribute = class_attribute(listing, [photo for _, photo in photos])
    if attribute is None:
        findings.conclude("the class of all regions is called object, as no attribute names any")
    return OutlinedPhotos(
        listing, Contents([drawn(file, photo, attribute, findings) for file, photo in photos]), wanted, findings
    )


def read(listing: Listing, file: str, findings: Findings) -> Iterator[tuple[str, Photo]]:
    if file.lower().endswith(".csv"):
        yield from ((file, photo) for photo in rows_of(listing, file))
    elif "_via_img_metadata" in listing.keys(file):
        yield from ((file, photo) for photo in listing.json(file, Project).metadata.values())
    else:
        yield from ((file, photo) for photo in listing.json(file, dict[str, Photo]).values())


def rows_of(listing: Listing, file: str) -> Iterator[Photo]:
    photos: dict[str, Photo] = {}
    for number, row in enumerate(csv.DictReader(io.StringIO(listing.text(file).lstrip("#"))), start=2):
        if not set(row) >= COLUMNS or "filename" not in row:
            raise DataError(listing.root / file, f"columns {list(row)}", "expected VIA's CSV: export it anew")
        place = f"line {number}"
        shape, attributes = (
            decode_json(
                row[c] or "{}", dict[str, Any], lambda p: DataError(listing.root / file, p, "export it anew"), place
            )
            for c in ("region_shape_attributes", "region_attributes")
        )
        photo = photos.setdefault(row["filename"], Photo(row["filename"], []))
        if shape:
            photo.regions.append(Region(shape, attributes))
    yield from photos.values()


def class_attribute(listing: Listing, photos: list[Photo]) -> str | None:
    """The region attribute that names the class: the only one, or one of a usual name."""
    names: dict[str, int] = {}
    for photo in photos:
        for region in regions_of(photo):
            for name in region.region_attributes:
                names[name] = names.get(name, 0) + 1
    usual = [name for name in names if name.lower() in USUAL]
    if len(names) <= 1 or len(usual) == 1:
        return usual[0] if len(usual) == 1 else next(iter(names), None)
    raise DataError(
        listing.place,
        f"regions have the attributes {', '.join(sorted(names))}",
        "call the one that is the class `class`",
    )


def regions_of(photo: Photo) -> list[Region]:
    return list(photo.regions.values()) if isinstance(photo.regions, dict) else photo.regions


def drawn(file: str, photo: Photo, attribute: str | None, findings: Findings) -> Drawn:
    objects = []
    for number, region in enumerate(regions_of(photo)):
        where = f"{file} {photo.filename} region {number}"
        label = region.region_attributes.get(attribute) if attribute else "object"
        if isinstance(label, dict):  # of a checkbox: {"fig": true}
            label = next((name for name, ticked in label.items() if ticked), None)
        label = str(label).strip() if label is not None else ""
        if not label:
            findings.repair("regions without a class left out", where)
            continue
        outline = outline_of(region.shape_attributes, where, findings)
        if outline is not None:
            objects.append(Object(label, [outline], where))
    return Drawn(photo.filename, file, None, objects, split_of(f"{file}/") or split_of(photo.filename))


def outline_of(shape: dict[str, Any], where: str, findings: Findings) -> list[Any] | None:
    kind = shape.get("name")
    try:
        if kind in ("polygon", "polyline"):
            if kind == "polyline":
                findings.assume("open polylines closed", where)
            xs, ys = shape["all_points_x"], shape["all_points_y"]
            return [value for point in zip(xs, ys, strict=True) for value in point]
        if kind == "rect":
            findings.assume("rectangles taken as outlines", where)
            x, y, w, h = (shape[key] for key in ("x", "y", "width", "height"))
            return [x, y, x + w, y, x + w, y + h, x, y + h]
        if kind in ("circle", "ellipse"):
            rx, ry = (shape["r"], shape["r"]) if kind == "circle" else (shape["rx"], shape["ry"])
            return circle(shape["cx"], shape["cy"], rx, ry, shape.get("theta") or 0.0)
    except (KeyError, TypeError, ValueError):
        findings.repair("regions whose shape lacks its numbers left out", where)
        return None
    findings.repair("points left out, which have no area", where)
    return None
