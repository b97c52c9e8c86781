"""What a folder or file of data is, asked of every format in turn; and opening it without any option."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from mask2former.data import (
    binary,
    coco_export,
    colored,
    cvat_xml,
    labelme,
    panoptic_export,
    plain,
    published,
    supervisely,
    via,
    voc,
    yolo,
)
from mask2former.data.annotation import values_in
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings, listed
from mask2former.data.hub import HubDataset, is_saved
from mask2former.data.listing import Listing
from mask2former.data.mapped import read_values
from mask2former.data.pairs import pairs
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

# In this order: the more a layout demands, the earlier. Each module has `recognise` and `open_export`.
FORMATS: tuple[ModuleType, ...] = (
    published,
    plain,
    panoptic_export,
    coco_export,
    supervisely,
    cvat_xml,
    labelme,
    via,
    yolo,
    voc,
    colored,
    binary,
)


def open_recognised(place: Path | str, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    """Open whatever a folder or file is; what was concluded is `findings.line`.

    Raises DataError naming the nearest format, and a converter, where it is none that is known.
    """
    if Path(place).is_dir() and is_saved(Path(place)):
        dataset: SegmentationDataset = HubDataset(str(place), wanted, findings)
        return closed(dataset, Path(place), findings)
    listing = Listing(place)
    first = next(((module, title) for module in FORMATS if (title := module.recognise(listing))), None)
    if first is None:
        raise DataError(listing.place, *nearest(listing))
    module, findings.tool = first
    findings.assume("Mac companions (._NAME) passed over", "", listing.companions)
    for file, reason in listing.unreadable.items():
        findings.assume(f"photos are not read ({reason})", file)
    dataset = module.open_export(listing, wanted, findings)
    rest = FORMATS[FORMATS.index(module) + 1 : FORMATS.index(binary)]  # masks lie in many other layouts too
    rest = [other for other in rest if (module, other) != (voc, colored)]  # which share labelmap.txt
    others = [title for other in rest if (title := other.recognise(listing))]
    if others:
        findings.conclude(f"it also holds {', '.join(others)}, which is not read")
    return closed(dataset, listing.place, findings)


def closed(dataset: SegmentationDataset, place: Path, findings: Findings) -> SegmentationDataset:
    if not len(dataset):
        raise DataError(place, f"{findings.tool}, but no photo to use", "check that the export is whole")
    findings.close(place)
    return dataset


def nearest(listing: Listing) -> tuple[str, str]:
    """What a folder of no known format most resembles, and how to get to one that is known."""
    convert = "or convert it with datumaro in an environment of its own: `datum convert -i FOLDER -if FORMAT -f coco`"
    label_studio = [f for f in listing.some_json() if looks_like_tasks(listing, f)]
    if label_studio:
        return (
            f"{label_studio[0]} is Label Studio's own JSON, which is not read",
            "export the project as `COCO` (polygons), or as `Brush labels to PNG` for brushes",
        )
    if not listing.photos:
        kinds = sorted({Path(file).suffix.lower() or "no ending" for file in listing.files})
        return (
            f"no photo in it, only files with {listed(kinds) or 'nothing'}",
            "name the folder that holds photos and annotations",
        )
    if listing.ending(".xml"):
        return "XML files beside photos, as of VOC detection: boxes, which are no masks", f"draw outlines, {convert}"
    if any(file.endswith(".txt") for file in listing.files):
        return (
            "no annotation that is known; nearest is YOLO segmentation: data.yaml, images/ and labels/",
            f"add data.yaml with `names`, {convert}",
        )
    if listing.ending(".json"):
        return "JSON that is none of COCO, LabelMe, VIA, Supervisely", f"export it as COCO, {convert}"
    if found := pairs(listing, Findings()):
        mask = listing.root / found[0][1]
        try:
            values = values_in(read_values(mask, as_colors=False))
        except DataError as error:
            return f"photos with masks, but {found[0][1]} is {error.problem}", error.remedy
        return (
            f"photos with masks of the values {listed(values)}, but nothing names the classes; nearest is our folder",
            "call the folders images/ and masks/, and write the class names into classes.txt",
        )
    masks = "photos, but no masks or annotations; nearest is a plain folder: images/, masks/ and classes.txt"
    return masks, f"put masks of the photos' names into masks/ and the class names into classes.txt, {convert}"


def looks_like_tasks(listing: Listing, file: str) -> bool:
    with (listing.root / file).open("rb") as start:
        text = start.read(65536)
    return text.lstrip()[:1] == b"[" and (
        b'"brushlabels"' in text or b'"polygonlabels"' in text or b'"completed_by"' in text
    )
