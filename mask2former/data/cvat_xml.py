"""CVAT for images 1.1: annotations.xml with polygons and masks of every photo, the photos in images/."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.listing import Listing, parent, split_of
from mask2former.data.outlined import Contents, Drawn, Object, OutlinedPhotos
from mask2former.data.rings import circle
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

KIND = "cvat-xml"
NOT_AREAS = ("box", "polyline", "points", "cuboid", "skeleton", "tag")


def recognise(listing: Listing) -> str | None:
    return "CVAT for images 1.1" if files(listing) else None


def files(listing: Listing) -> list[str]:
    found = []
    for file in listing.ending(".xml")[:50]:
        with (listing.root / file).open("rb") as start:
            if b"<annotations" in start.read(400):
                found.append(file)
    return found


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    names: dict[str, None] = {}
    photos = []
    for file in files(listing):
        root = parse(listing, file)
        names |= dict.fromkeys(label.text or "" for label in root.iterfind("./meta//labels/label/name"))
        if root.find("track") is not None:
            raise DataError(
                listing.root / file,
                "tracks of a video",
                "export as `CVAT for images 1.1` or as `COCO 1.0`, which go by frames",
            )
        photos += photos_of(listing, file, root, findings)
    met = {one.label for drawn in photos for one in drawn.objects}
    names |= dict.fromkeys(sorted(met - set(names)))
    return OutlinedPhotos(listing, Contents(photos, list(names)), wanted, findings)


def parse(listing: Listing, file: str) -> ElementTree.Element:
    text = (listing.root / file).read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # entities can grow without end
        raise DataError(listing.root / file, "an XML file with a document type", "CVAT writes none: export it anew")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(listing.root / file, f"no XML ({error})", "export it anew") from None


def photos_of(listing: Listing, file: str, root: ElementTree.Element, findings: Findings) -> Iterator[Drawn]:
    for image in root.iterfind("image"):
        name = image.get("name", "")
        try:
            size = int(image.get("height")), int(image.get("width"))
        except (TypeError, ValueError):
            size = None
        objects = []
        for number, shape in enumerate(image):
            where = f"{file} {name} {shape.tag} {number}"
            if shape.tag in NOT_AREAS:
                findings.repair(f"objects left out, as a {shape.tag} is no mask", where)
                continue
            try:
                objects.append(object_of(shape, where))
            except (TypeError, ValueError) as error:
                raise DataError(listing.root / file, f"{where}: {error}", "export it anew") from None
        objects.sort(key=lambda one: one[0])
        split = image.get("subset", "").lower()
        split = split_of(f"{split}/") or split_of(name)
        yield Drawn(name, file, size, [one for _, one in objects], split, (f"{parent(file)}/images",))


def object_of(shape: ElementTree.Element, where: str) -> tuple[int, Object]:
    """Its place in the stack, and the object."""
    label, order = shape.get("label", ""), int(shape.get("z_order") or 0)
    if shape.tag == "polygon":
        points = [float(value) for point in shape.get("points", "").split(";") for value in point.split(",")]
        return order, Object(label, [points], where)
    if shape.tag == "ellipse":
        cx, cy, rx, ry = (float(shape.get(key)) for key in ("cx", "cy", "rx", "ry"))
        turn = np.deg2rad(float(shape.get("rotation") or 0))
        return order, Object(label, [circle(cx, cy, rx, ry, turn)], where)
    if shape.tag == "mask":
        runs = [int(run) for run in shape.get("rle", "").split(",")]  # along the rows, outside first
        left, top, width, height = (int(float(shape.get(key))) for key in ("left", "top", "width", "height"))
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        if len(values) != width * height:
            raise ValueError(f"a run-length encoding of {len(values)} pixels for {width}×{height}")
        return order, Object(label, None, where, cutout=(values.reshape(height, width), left, top))
    raise ValueError(f"unknown shape {shape.tag}")
