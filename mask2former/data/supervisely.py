"""Supervisely: meta.json with the classes, and DATASET/ann/PHOTO.json beside DATASET/img/PHOTO.

Objects are polygons with holes, or bitmaps: a PNG, compressed with zlib, as base64, with the place of its corner.
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.listing import Listing, parent, split_of
from mask2former.data.outlined import Contents, Drawn, Object, OutlinedPhotos
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

KIND = "supervisely"


class ObjectClass(msgspec.Struct, gc=False):
    title: str
    color: str | None = None


class Meta(msgspec.Struct, gc=False):
    classes: list[ObjectClass]


class Points(msgspec.Struct, gc=False):
    exterior: list[list[float]] = []
    interior: list[list[list[float]]] = []


class Bitmap(msgspec.Struct, gc=False):
    data: str
    origin: tuple[int, int]  # left, top


class Figure(msgspec.Struct, gc=False):
    classTitle: str
    geometryType: str | None = None
    points: Points | None = None
    bitmap: Bitmap | None = None


class Size(msgspec.Struct, gc=False):
    height: int
    width: int


class File(msgspec.Struct, gc=False):
    size: Size
    objects: list[Figure] = []


def recognise(listing: Listing) -> str | None:
    found = any("/ann/" in f"/{file}" for file in listing.ending(".json"))
    return "Supervisely" if found and meta_files(listing) else None


def meta_files(listing: Listing) -> list[str]:
    return [file for file in listing.named("meta.json") if "classes" in listing.keys(file)]


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    table = {c.title: c.color for file in meta_files(listing) for c in listing.json(file, Meta).classes}
    colors = {name: tuple(bytes.fromhex(color[1:])) for name, color in table.items() if color and len(color) == 7}
    photos = list(photos_of(listing, set(table), findings))
    return OutlinedPhotos(listing, Contents(photos, list(table), colors=colors), wanted, findings)


def photos_of(listing: Listing, names: set[str], findings: Findings) -> Iterator[Drawn]:
    for file in listing.ending(".json"):
        if PurePosixPath(file).parent.name != "ann":
            continue
        content = listing.json(file, File)
        size, objects = (content.size.height, content.size.width), []
        for number, figure in enumerate(content.objects):
            where = f"{file} $.objects[{number}]"
            if figure.classTitle not in names:
                raise DataError(
                    listing.root / file, f"{where}: class {figure.classTitle!r}", "meta.json does not have it: add it"
                )
            if figure.bitmap is not None:
                objects.append(
                    Object(figure.classTitle, None, where, cutout=bitmap(listing, file, figure.bitmap, where))
                )
            elif figure.geometryType in ("polygon", None) and figure.points is not None:
                holes = [flat(ring) for ring in figure.points.interior if len(ring) > 2]
                objects.append(Object(figure.classTitle, [flat(figure.points.exterior)], where, holes=holes))
            else:
                findings.repair(f"objects left out, as a {figure.geometryType} is no mask", where)
        folder = PurePosixPath(parent(file)).parent
        yield Drawn(PurePosixPath(file).name[:-5], file, size, objects, split_of(file), (str(folder / "img"),))


def flat(ring: list[list[float]]) -> list[float]:
    return [value for point in ring for value in point]


def bitmap(listing: Listing, file: str, content: Bitmap, where: str) -> tuple[Any, int, int]:
    """(h, w) bool, left, top."""
    try:
        picture = Image.open(io.BytesIO(zlib.decompress(base64.b64decode(content.data))))
        values = np.asarray(picture.convert("RGBA"))[..., 3] if picture.mode in ("RGBA", "LA") else np.asarray(picture)
    except (binascii.Error, zlib.error, OSError, ValueError) as error:
        raise DataError(listing.root / file, f"{where}.bitmap: no picture ({error})", "export it anew") from None
    return values > 0, *content.origin
