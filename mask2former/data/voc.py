"""Pascal VOC's segmentation layout: JPEGImages, SegmentationClass, SegmentationObject, ImageSets/Segmentation.

Written by the PASCAL challenge (palette pictures, 255 is void), by CVAT and datumaro as `Segmentation mask 1.1`
(colours, named in labelmap.txt), and by labelme2voc (palette pictures, names in class_names.txt).
"""

from __future__ import annotations

from pathlib import PurePosixPath

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.files import mode_of
from mask2former.data.findings import Findings, listed
from mask2former.data.listing import OF_NAME, Listing, plainly
from mask2former.data.mapped import MappedPhotos, packed, void_or
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

KIND = "voc"
CLASSES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
VOID = 255


def recognise(listing: Listing) -> str | None:
    if listing.is_file or not masks_in(listing, "SegmentationClass"):
        return None
    if listing.named("labelmap.txt"):
        return "Segmentation mask 1.1 from CVAT or datumaro"
    return "VOC from LabelMe" if listing.named("class_names.txt") else "Pascal VOC"


def masks_in(listing: Listing, folder: str) -> dict[str, str]:
    """Name without folder and ending → file, of pictures below a folder of that name."""
    found = {}
    for file in listing.files:
        _, there, name = f"/{file}".replace(f"/{folder}PNG/", f"/{folder}/").partition(f"/{folder}/")
        if there and name.lower().endswith((".png", ".bmp")):
            found[str(PurePosixPath(name).with_suffix(""))] = file
    return found


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    classes, objects = masks_in(listing, "SegmentationClass"), masks_in(listing, "SegmentationObject")
    values, as_colors = table(listing, findings)
    split_names = image_sets(listing)
    triples, splits, missing = [], [], []
    for name, mask in classes.items():
        photo = photo_of(listing, name)
        if photo is None:
            missing.append(name)
            continue
        triples.append((photo, mask, objects.get(name)))
        splits.append(split_names.get(name))
    if not triples:
        raise DataError(listing.root, "SegmentationClass without photos", "export it with its images, in JPEGImages")
    findings.repair("masks without a photo left out", listed(missing, 3), len(missing))
    if without := [name for name in classes if name not in objects and objects]:
        findings.repair(
            "pictures of objects missing, so that all are read as classes alone", listed(without, 3), len(without)
        )
        triples = [(photo, mask, None) for photo, mask, _ in triples]
    photos = sum("/JPEGImages/" in f"/{file}" for file in listing.photos)
    findings.assume("photos have no mask, which is usual in VOC, and are left out", "", max(0, photos - len(triples)))
    return MappedPhotos(listing, triples, values, as_colors, wanted, findings, splits)


def photo_of(listing: Listing, name: str) -> str | None:
    options = [
        file
        for file in listing.by_stem.get(plainly(PurePosixPath(name).name), [])
        if "/Segmentation" not in f"/{file}" and str(PurePosixPath(file).with_suffix("")).endswith(name)
    ]
    options.sort(key=lambda file: "JPEGImages" not in file)
    return options[0] if options else None


def image_sets(listing: Listing) -> dict[str, str]:
    """Photo → split, by the lists of ImageSets/Segmentation; trainval.txt and default.txt say none."""
    found = {}
    for file in listing.files:
        path = PurePosixPath(file)
        if path.suffix == ".txt" and path.parent.name == "Segmentation" and path.stem.lower() in OF_NAME:
            found |= dict.fromkeys(
                (line.strip() for line in listing.text(file).splitlines() if line.strip()), OF_NAME[path.stem.lower()]
            )
    return found


def table(listing: Listing, findings: Findings) -> tuple[dict[int, str | None], bool]:
    """Value → class, and whether values are colours."""
    if found := listing.named("labelmap.txt"):
        return label_map(listing, found[0], findings), True
    if found := listing.named("class_names.txt"):
        names = [line.strip() for line in listing.text(found[0]).splitlines() if line.strip()]
        names = names[1:] if names and names[0] in ("__ignore__", "_ignore_") else names
        return {VOID: None} | {
            k: "background" if name == "_background_" else name for k, name in enumerate(names)
        }, False
    first = next(iter(masks_in(listing, "SegmentationClass").values()))
    if mode_of(listing.root / first) in ("RGB", "RGBA"):
        findings.conclude("colours are those of VOC, as no labelmap.txt names others")
        values = {packed(color(k)): name for k, name in enumerate(CLASSES)}
        return values | {packed(color(VOID)): None}, True
    return {VOID: None} | dict(enumerate(CLASSES)), False


def color(number: int) -> tuple[int, int, int]:
    """VOC's colour of a class: its bits, three by three, go to red, green and blue, from the highest bit down."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    return tuple(channels)


def label_map(listing: Listing, file: str, findings: Findings) -> dict[int, str | None]:
    """labelmap.txt: `name:r,g,b:parts:actions` a line."""
    values: dict[int, str | None] = {}
    for number, line in enumerate(listing.text(file).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            color = packed([int(part) for part in rest.split(":")[0].split(",")])
        except ValueError:
            raise DataError(listing.root / file, f"line {number}: {line!r}", "expected name:red,green,blue::") from None
        if color in values:
            raise DataError(
                listing.root / file,
                f"line {number}: the colour of {name} is {values[color]}'s too",
                "give each its own",
            )
        values[color] = void_or(name, findings)
    return values
