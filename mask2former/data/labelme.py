"""LabelMe: a JSON file for each photo, with shapes in pixels, and often the photo itself as text (`imageData`)."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.listing import Listing, parent, plainly, split_of
from mask2former.data.outlined import Contents, Drawn, Object, OutlinedPhotos
from mask2former.data.rings import circle
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

KIND = "labelme"
NOT_AREAS = ("point", "line", "linestrip", "points")


class Shape(msgspec.Struct, gc=False):
    label: str
    points: list[Any]
    shape_type: str | None = None
    group_id: int | str | None = None
    mask: str | None = None


class File(msgspec.Struct, gc=False):
    shapes: list[Shape]
    imagePath: str | None = None
    imageHeight: int | None = None
    imageWidth: int | None = None
    imageData: msgspec.Raw = msgspec.Raw()


def recognise(listing: Listing) -> str | None:
    return "LabelMe" if any("shapes" in listing.keys(file) for file in listing.some_json()) else None


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    return OutlinedPhotos(listing, Contents(list(photos_of(listing, findings))), wanted, findings)


def photos_of(listing: Listing, findings: Findings) -> Iterator[Drawn]:
    for file in listing.ending(".json"):
        if "shapes" not in listing.keys(file):
            if listing.keys(file):
                findings.assume("JSON files without shapes passed over", file)
                continue
            raise DataError(
                listing.root / file, "no LabelMe file, though others here are", "take it out, or export it anew"
            )
        content = listing.json(file, File)
        size = (content.imageHeight, content.imageWidth) if content.imageHeight and content.imageWidth else None
        objects: dict[Any, Object] = {}
        for number, shape in enumerate(content.shapes):
            where = f"{file} $.shapes[{number}]"
            one = object_of(shape, where, listing, file, findings)
            if one is None:
                continue
            # Shapes of one label and one group are parts of one object.
            key = (shape.label, shape.group_id) if shape.group_id is not None and one.cutout is None else number
            if key in objects:
                objects[key].outline += one.outline
            else:
                objects[key] = one
        name = content.imagePath or PurePosixPath(file).name
        stem = PurePosixPath(file).stem
        # LabelMe's own path is relative to the JSON, and often from another machine; the photo then lies beside it.
        beside = [p for p in listing.by_stem.get(plainly(stem), []) if parent(p) == parent(file)]
        if PurePosixPath(name.replace("\\", "/")).stem != stem and len(beside) == 1:
            findings.repair("photos found beside their file, which names another", file)
            name = beside[0]
        yield Drawn(name, file, size, list(objects.values()), split_of(file))


def object_of(shape: Shape, where: str, listing: Listing, file: str, findings: Findings) -> Object | None:
    kind, points = shape.shape_type or "polygon", shape.points
    if kind in NOT_AREAS:
        findings.repair("points and lines left out, which have no area", where)
        return None
    if shape.mask is not None or kind == "mask":
        try:
            mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape.mask or "", validate=False)))) > 0
            (left, top), *_ = points
            return Object(shape.label, None, where, cutout=(mask, round(left), round(top)))
        except (binascii.Error, OSError, ValueError, TypeError) as error:
            raise DataError(listing.root / file, f"{where}.mask: no picture ({error})", "draw it again") from None
    if kind == "polygon":
        return Object(shape.label, [points], where)
    try:
        (x0, y0), (x1, y1) = points[:2]
    except (TypeError, ValueError):
        findings.repair("shapes with too few points left out", where)
        return None
    if kind == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        return Object(shape.label, [circle(x0, y0, radius, radius)], where)
    if kind == "rectangle":
        findings.assume("rectangles taken as outlines", where)
        return Object(shape.label, [[x0, y0, x1, y0, x1, y1, x0, y1]], where)
    if kind == "oriented_rectangle":
        return Object(shape.label, [points], where)
    raise DataError(listing.root / file, f"{where}.shape_type: {kind!r}", "expected polygon, mask, rectangle or circle")
