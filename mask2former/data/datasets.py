"""From a short text such as "coco-panoptic:FOLDER" to a dataset: what the command line takes as DATA."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mask2former.data.ade20k import Ade20kInstance, Ade20kPanoptic, Ade20kSemantic
from mask2former.data.cityscapes import Cityscapes
from mask2former.data.classes import dataset_classes
from mask2former.data.coco_instance import CocoInstance
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.dataset import SegmentationDataset, Transform
from mask2former.data.exif import FRAMES
from mask2former.data.findings import Findings
from mask2former.data.flat import flat_for
from mask2former.data.folder import FolderDataset
from mask2former.data.frame import settle_frame
from mask2former.data.hub import HubDataset
from mask2former.data.joined import JoinedDataset
from mask2former.data.listing import OF_NAME, SPLIT_FILE
from mask2former.data.recognise import open_recognised
from mask2former.data.skipped import SkippedPhotos
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

WITH_BACKGROUND = ("folder", "coco-instance", "ade20k-instance")
LONGEST = 4096  # characters of a path


def open_dataset(
    spec: str | Path | Sequence[str | Path],
    split: str = "train",
    classes: str | Sequence[str] | None = None,
    background: str | None = None,
    transform: Transform | None = None,
    strict: bool = False,
    skip_bad: bool = False,
    exif: str = "auto",
    hold_out: str = "make",
) -> SegmentationDataset:
    """Open a dataset by a short text.

    Arguments:
        spec: see `kinds.DATA_HELP`; several join into one dataset, whose classes must be the same.
        split: "train", "val" or "all"; one inside the spec goes before it.
        classes: None for the dataset's own, "supercategory" for COCO's 27 coarse ones, or names to keep.
        background: what belongs to no object is a "class" or is "ignore"d: for a plain folder with classes.txt, see
            `FolderDataset`; for outlines, of which it makes semantic and panoptic targets too, see `FlatDataset`.
        transform: see `SegmentationDataset`.
        strict: of data that is recognised, refuse what would have to be repaired.
        skip_bad: go on over photos that cannot be used; they are listed in the dataset's `skipped`.
        exif: how photos that EXIF turns were annotated: "upright", as they are shown, "stored", as they lie in the
            file, or "auto", as their sizes tell.
        hold_out: of recognised data that is not split, what train and val are: "make", a fifth is held out for val,
            and written down; "kept", as is written down, and where nothing is, all of it; "none", all of it.

    What was repaired, left out or assumed is in the dataset's `notes`, and each of them is a UserWarning.
    Raises ValueError for a text that names no dataset, DataError, which is one, for bad files, and FileNotFoundError.
    """
    if exif not in FRAMES:
        raise ValueError(f"exif={exif!r}: expected one of {', '.join(FRAMES)}")
    if hold_out not in ("make", "kept", "none"):
        raise ValueError(f"hold_out={hold_out!r}: expected make, kept or none")
    wanted, findings = Wanted(split, classes, background, transform, exif, hold_out), (strict, skip_bad)
    if isinstance(spec, str | Path):
        return open_one(str(spec), wanted, *findings)
    if not isinstance(spec, Sequence):
        raise ValueError(f"data {repr(spec)[:80]}: expected a folder, a text KIND:FOLDER, or a list of such")
    parts = [open_one(str(part) if isinstance(part, Path) else part, wanted, *findings) for part in spec]
    return parts[0] if len(parts) == 1 else JoinedDataset(parts)


def is_bare(spec: str | Path) -> bool:
    """Whether a text names no kind, so that what it names is recognised."""
    return str(spec).partition(":")[0] not in (*OPENERS, "hf")


def open_one(spec: str, wanted: Wanted, strict: bool, skip_bad: bool) -> SegmentationDataset:
    """`open_dataset` of one text."""
    if not isinstance(spec, str) or "\0" in spec:
        raise ValueError(f"data {repr(spec)[:80]}: expected a folder, a text KIND:FOLDER, or a list of such")
    if len(spec) > LONGEST:
        raise ValueError(f"data {spec[:80]!r}…: {len(spec)} characters, expected a path, which has at most {LONGEST}")
    if not (wanted.classes is None or isinstance(wanted.classes, str | Sequence)):
        raise ValueError(f"classes={wanted.classes!r}: expected names of classes")
    findings = Findings(strict, skip_bad)
    try:
        dataset = open_by_kind(spec, wanted, findings)
    except FileNotFoundError:
        raise
    except OSError as error:  # forbidden, a name too long, a circle of links
        reason = error.strerror or str(error)
        raise DataError(error.filename or spec, reason, "check the name, and that it may be read") from error
    except UnicodeError as error:
        raise DataError(ascii(spec), str(error), "check the name") from error
    dataset.exif = wanted.exif
    line = (findings.line(len(dataset.classes), len(dataset)),) if findings.tool else ()
    turned = settle_frame(dataset) if wanted.exif == "auto" else []
    for note in (*(line if findings.repairs else ()), *dataset.notes, *turned):
        warnings.warn(note, stacklevel=3)
    dataset.notes = (*line, *dataset.notes, *turned)
    if skip_bad:
        dataset.skipped = SkippedPhotos()
    return flat_for(dataset, None, wanted.background)


def open_by_kind(spec: str, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    kind, _, rest = spec.partition(":")
    if kind in (*OPENERS, "hf") and rest:
        place, _, last = rest.rpartition(":")
        if place and "/" not in last and "\\" not in last and not last.endswith(".json"):
            rest, wanted = place, replace(wanted, split=last)
        check_split(wanted.split)
        if kind == "hf":
            return HubDataset(rest, wanted, findings)
        if wanted.background is not None and kind not in WITH_BACKGROUND:
            raise ValueError(
                f"background={wanted.background!r} is for folder:… and outlines; {kind} says itself what is void"
            )
        if kind == "folder":
            return FolderDataset(rest, wanted.split, wanted.classes, wanted.background, wanted.transform)
        return OPENERS[kind](rest, wanted.split, wanted.classes, wanted.transform)
    place, _, last = spec.rpartition(":")
    if place and not Path(spec).exists() and Path(place).exists():
        spec, wanted = place, replace(wanted, split=last)
    check_split(wanted.split)
    if not Path(spec).exists() and ("/" not in spec or spec.partition(":")[0] in OPENERS or ":" in spec):
        raise ValueError(
            f"data {spec!r}: expected KIND:FOLDER or KIND:FOLDER:SPLIT with one of the kinds {', '.join(OPENERS)}, or "
            "a folder or file that is there; `mask2former inspect --help` shows how each lays its files out"
        )
    return open_recognised(spec, replace(wanted, split=OF_NAME.get(wanted.split.lower(), wanted.split)), findings)


def check_split(split: str) -> None:
    if not isinstance(split, str) or not split or "\0" in split:
        raise ValueError(f"split={split!r}: expected train, val or, for data that is not split, all")


def open_coco_panoptic(
    place: str, split: str, classes: str | Sequence[str] | None, transform: Transform | None
) -> CocoPanoptic:
    if place.endswith(".json"):
        photos, file = split_photos_and_file(place)
        return CocoPanoptic(photos, file, classes=classes, transform=transform)
    folder = existing_folder(place)
    file = first_file(folder, [f"annotations/panoptic_{split}2017.json", f"annotations/panoptic_{split}.json"])
    name = file.stem.removeprefix("panoptic_")
    photos = first_folder(folder, [name, f"images/{name}", split, f"images/{split}"])
    instances = file.with_name(f"instances_{name}.json")
    return CocoPanoptic(
        photos, file, classes=classes, transform=transform, instances=instances if instances.is_file() else None
    )


def open_coco_instance(
    place: str, split: str, classes: str | Sequence[str] | None, transform: Transform | None
) -> CocoInstance:
    if place.endswith(".json"):
        photos, file = split_photos_and_file(place)
        return CocoInstance(photos, file, classes, transform)
    folder = existing_folder(place)
    names = [f"annotations/instances_{split}2017.json", f"annotations/instances_{split}.json",
             f"annotations/{split}.json", f"{split}/_annotations.coco.json", f"{split}.json"]  # fmt: skip
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None and split == "all":
        found = [path for sub in (".", "annotations", "data") for path in sorted((folder / sub).glob("*.json"))]
        found = [path for path in found if not path.name.endswith(SPLIT_FILE)]  # our own, of a run without a kind
        if len(found) == 1:
            file = found[0]
        elif file is None:
            raise DataError(
                folder, f"found {len(found)} JSON files in it, in annotations/ and in data/ instead of one",
                "say where photos and annotations lie: coco-instance:PHOTOS:FILE.json",
            )  # fmt: skip
    if file is None:
        raise DataError(
            folder, f"found none of {', '.join(names)}",
            "use split 'all' (coco-instance:FOLDER:all) for a folder with a single JSON file that is not split, "
            "or say where both lie: coco-instance:PHOTOS:FILE.json",
        )  # fmt: skip
    name = file.stem.removeprefix("instances_")
    photos = first_folder(
        folder, [name, f"images/{name}", f"{split}/images", split, f"images/{split}", "images", "data/images", "."]
    )
    return CocoInstance(photos, file, classes, transform)


def open_cityscapes(task: str) -> Callable[..., Cityscapes]:
    def open_of_task(place: str, split: str, classes: str | Sequence[str] | None, transform: Transform | None):
        if task == "instance" and classes is None:
            classes = [c.name for c in dataset_classes("cityscapes_instance")]
        dataset = Cityscapes(place, split, classes, transform, with_instances=task != "semantic")
        if task == "instance":
            dataset.tasks = ("instance",)
        return dataset

    return open_of_task


OPENERS: dict[str, Callable[..., SegmentationDataset]] = {
    "coco-panoptic": open_coco_panoptic,
    "coco-instance": open_coco_instance,
    "ade20k-semantic": Ade20kSemantic,
    "ade20k-panoptic": Ade20kPanoptic,
    "ade20k-instance": Ade20kInstance,
    "cityscapes": open_cityscapes("panoptic"),
    "cityscapes-semantic": open_cityscapes("semantic"),
    "cityscapes-instance": open_cityscapes("instance"),
    "folder": FolderDataset,
}


def split_photos_and_file(place: str) -> tuple[str, str]:
    """ "PHOTOS:FILE.json" → its two halves; a drive letter's colon stays where it is."""
    for cut in (i for i, letter in enumerate(place) if letter == ":"):
        if Path(place[:cut]).is_dir():
            return place[:cut], place[cut + 1 :]
    raise ValueError(f"{place!r}: expected PHOTOS:FILE.json with an existing folder of photos before the colon")


def existing_folder(place: str) -> Path:
    if not Path(place).is_dir():
        raise DataError(place, "no such folder", "check its name, and that you are where it starts from")
    return Path(place)


def first_file(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = [str(path.relative_to(folder)) for path in sorted(folder.glob("annotations/*.json"))[:5]]
    hint = f"; it has {', '.join(there)}" if there else ""
    raise DataError(folder, f"found none of {', '.join(names)}{hint}", "check the folder and the split")


def first_folder(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise DataError(folder, f"found no folder of photos: {', '.join(names)}", "put the photos into one of them")
