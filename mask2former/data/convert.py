"""A dataset of any kind that can be opened, written in one of four layouts: COCO's two, a plain folder, YOLO's.

Photos are copied as they are; those that EXIF turns are written upright, so that no tool can read them two ways.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from mask2former.data.annotation import Annotation, Shapes
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.datasets import open_dataset
from mask2former.data.exif import orientation
from mask2former.data.files import open_image
from mask2former.data.findings import Findings
from mask2former.data.flat import FlatDataset
from mask2former.data.mask_numbers import INSTANCES_OF_CLASS
from mask2former.data.trace import outlines
from mask2former.errors import DataError
from mask2former.structures import ClassInfo

SPLITS = ("train", "val", "test")
JPEG = {"quality": 95, "subsampling": 0}


def convert_data(
    source: str, destination: Path | str, to: str, background: str = "ignore", **choices: Any
) -> tuple[dict[str, int], list[str]]:
    """Write a dataset into a new folder, each of its splits (train, val, test).

    Arguments:
        to: "coco-instance", "coco-panoptic", "folder" or "yolo".
        background: of outlines, where one class a pixel is wanted: "ignore" or "class", see `FlatDataset`.
        choices: see `open_dataset`.

    Returns how many photos each split has, and what is to be said. Raises FileExistsError where the folder is there
    and not empty. Nothing is left where something goes wrong.
    """
    if to not in WRITERS:
        raise ValueError(f"to={to!r}: expected one of {', '.join(WRITERS)}")
    destination = Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(f"{destination} is there and not empty: name a new folder")
    said, findings, counts = [], Findings(), {}
    draft = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    draft.mkdir(parents=True)
    try:
        for split, dataset in parts(source, choices, said).items():
            if to in ("coco-panoptic", "folder") and dataset.tasks == ("instance",):
                dataset = FlatDataset(dataset, background)
                said.append(dataset.notes[-1])
            counts[split] = WRITERS[to](dataset, draft, split, findings)
            said += dataset.skipped.text().splitlines() if dataset.skipped else []
        with suppress(FileNotFoundError):
            destination.rmdir()
        draft.replace(destination)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return counts, list(dict.fromkeys([*said, *findings.sentences()]))


def parts(source: str, choices: dict[str, Any], said: list[str]) -> dict[str, SegmentationDataset]:
    """The splits that a dataset has; all of it as train where it is not split and cannot be."""
    found: dict[str, SegmentationDataset] = {}
    first: Exception | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for split in SPLITS:
            try:
                found[split] = open_dataset(source, split, **choices)
            except (DataError, FileNotFoundError) as error:
                first = first or error
        if "test" in found and "val" in found and set(ids_of(found["test"])) & set(ids_of(found["val"])):
            del found["test"]
        if not found:
            with suppress(DataError, FileNotFoundError):
                found["train"] = open_dataset(source, "all", **choices)
    if not found:
        raise first
    if len({tuple(ids_of(dataset)) for dataset in found.values()}) < len(found):  # the text names a split itself
        found = {"train": found["train"]}
    said += [note for dataset in found.values() for note in dataset.notes]
    return found


def ids_of(dataset: SegmentationDataset) -> list[Any]:
    return [dataset.image_id(k) for k in range(len(dataset))]


def each(dataset: SegmentationDataset, photos: Path, findings: Findings) -> Any:
    """(number, name, file name, annotation) of each photo, which is written into a folder."""
    photos.mkdir(parents=True, exist_ok=True)
    stems = [dataset.photo_path(number).stem for number in range(len(dataset))]
    names = stems if len(set(stems)) == len(stems) else [str(dataset.image_id(k)) for k in range(len(dataset))]
    for number in range(len(dataset)):
        try:
            annotation = dataset.annotation(number)
            photo = dataset.photo(number, annotation.size)
        except DataError as error:
            if dataset.skipped is None:
                raise
            dataset.skipped.add(error)
            continue
        name = names[number].replace("/", "_").replace("\\", "_")
        yield number, name, write_photo(dataset.photo_path(number), photo, photos, name, findings), annotation


def write_photo(source: Path, photo: Image.Image, folder: Path, name: str, findings: Findings) -> str:
    """Returns the name of the file."""
    turned = not source.is_file() or orientation(open_image(source)) != 1
    if not turned:
        shutil.copyfile(source, folder / f"{name}{source.suffix}")
        return f"{name}{source.suffix}"
    lossless = source.suffix.lower() not in (".jpg", ".jpeg", ".webp")
    file = f"{name}{'.png' if lossless else '.jpg'}"
    photo.save(folder / file, **({} if lossless else JPEG))
    findings.assume("photos written anew, upright" if source.is_file() else "photos written from a table", name)
    return file


def write_coco_instance(dataset: SegmentationDataset, folder: Path, split: str, findings: Findings) -> int:
    images, annotations = [], []
    for number, _, file, annotation in each(dataset, folder / split, findings):
        height, width = annotation.size
        images.append({"id": number + 1, "file_name": file, "height": height, "width": width})
        for k, entry in enumerate(annotation.to_coco()):
            shapes = annotation.shapes[k] if isinstance(annotation, Shapes) else ()
            polygons = [ring for shape in shapes if isinstance(shape, list) for ring in shape]
            runs = {"size": [height, width], "counts": as_text(entry["segmentation"]["counts"])}
            only_polygons = bool(shapes) and all(isinstance(shape, list) for shape in shapes)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number + 1, "category_id": entry["label_id"] + 1}
                | {"segmentation": polygons if only_polygons and not entry["iscrowd"] else runs}
                | {"area": float(entry["area"]), "bbox": entry["bbox"], "iscrowd": entry["iscrowd"]}
            )
    dump(folder, f"instances_{split}", images, annotations, dataset.classes)
    return len(images)


def write_coco_panoptic(dataset: SegmentationDataset, folder: Path, split: str, findings: Findings) -> int:
    images, annotations = [], []
    maps = folder / "annotations" / f"panoptic_{split}"
    maps.mkdir(parents=True)
    for number, name, file, annotation in each(dataset, folder / split, findings):
        height, width = annotation.size
        values = annotation.segment_map
        colors = np.stack([values & 255, values >> 8 & 255, values >> 16 & 255], -1).astype(np.uint8)
        Image.fromarray(colors).save(maps / f"{name}.png")
        areas, boxes = annotation.areas().tolist(), [entry["bbox"] for entry in annotation.to_coco()]
        infos = [
            {"id": k + 1, "category_id": int(label) + 1, "iscrowd": int(annotation.is_crowd[k])}
            | {"area": areas[k], "bbox": boxes[k]}
            for k, label in enumerate(annotation.labels)
            if areas[k]
        ]
        images.append({"id": number + 1, "file_name": file, "height": height, "width": width})
        annotations.append({"image_id": number + 1, "file_name": f"{name}.png", "segments_info": infos})
    dump(folder, f"panoptic_{split}", images, annotations, dataset.classes)
    return len(images)


def write_folder(dataset: SegmentationDataset, folder: Path, split: str, findings: Findings) -> int:
    """Values are label + 1, or 1000 × (label + 1) + instance; 0 is ignored."""
    telling = "instance" in dataset.tasks
    if len(dataset.classes) > (998 if telling else 254):
        raise ValueError(f"{len(dataset.classes)} classes do not fit into masks; use coco-panoptic")
    masks, count = folder / split / "masks", 0
    masks.mkdir(parents=True)
    for _, name, _, annotation in each(dataset, folder / split / "images", findings):
        values, number_of = np.zeros(len(annotation.labels) + 1, np.int64), {}
        for k, label in enumerate(annotation.labels.tolist()):
            if annotation.is_crowd[k]:
                findings.repair("crowds written as ignored pixels", name)
            elif telling and annotation.is_thing[k]:
                number_of[label] = number_of.get(label, 0) + 1
                if number_of[label] >= INSTANCES_OF_CLASS:
                    raise DataError(name, "1000 things of one class in a photo", "use coco-panoptic")
                values[k + 1] = INSTANCES_OF_CLASS * (label + 1) + number_of[label]
            else:
                values[k + 1] = label + 1
        mask = values[annotation.segment_map]
        if not telling:
            picture = mask.astype(np.uint8)
        elif mask.max() < 65536:
            picture = mask.astype(np.uint16)
        else:
            picture = np.stack([mask & 255, mask >> 8 & 255, mask >> 16], -1).astype(np.uint8)
        Image.fromarray(picture).save(masks / f"{name}.png")
        count += 1
    table = [
        {"id": k + 1, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
        for k, c in enumerate(dataset.classes)
    ]
    write_json(folder / "classes.json", table)
    return count


def write_yolo(dataset: SegmentationDataset, folder: Path, split: str, findings: Findings) -> int:
    labels, count = folder / "labels" / split, 0
    labels.mkdir(parents=True)
    for _, name, _, annotation in each(dataset, folder / "images" / split, findings):
        height, width = annotation.size
        rows = []
        for k, label in enumerate(annotation.labels.tolist()):
            if annotation.is_crowd[k]:
                findings.repair("crowds left out, which YOLO has not", name)
                continue
            ring = one_ring(rings_of(annotation, k))
            if not ring:
                findings.repair("segments without a pixel left out", name)
                continue
            shares = np.clip(np.array(ring).reshape(-1, 2) / (width, height), 0, 1).ravel()
            rows.append(" ".join([str(label), *(f"{share:.7g}" for share in shares)]))
        (labels / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        count += 1
    table = folder / "data.yaml"
    content = yaml.safe_load(table.read_text(encoding="utf-8")) if table.exists() else {"path": "."}
    content |= {split: f"images/{split}", "names": {k: c.name for k, c in enumerate(dataset.classes)}}
    table.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return count


def rings_of(annotation: Annotation, segment: int) -> list[list[float]]:
    """A segment's own polygons, or those around its mask."""
    if isinstance(annotation, Shapes) and all(isinstance(shape, list) for shape in annotation.shapes[segment]):
        return [ring for shape in annotation.shapes[segment] for ring in shape]
    return outlines(annotation.masks(np.array([segment]))[0].numpy())


def one_ring(rings: list[list[float]]) -> list[float]:
    """Several rings as one, by ways there and back of no width, as a row of YOLO's has only one."""
    joined = list(rings[0]) if rings else []
    for ring in rings[1:]:
        joined += [*joined[:2], *ring, *ring[:2], *joined[:2]]
    return joined


def dump(folder: Path, name: str, images: list, annotations: list, classes: tuple[ClassInfo, ...]) -> None:
    categories = [
        {"id": k + 1, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)} for k, c in enumerate(classes)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "annotations" / f"{name}.json", content)


def write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def as_text(counts: bytes | str) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts


WRITERS: dict[str, Callable[[SegmentationDataset, Path, str, Findings], int]] = {
    "coco-instance": write_coco_instance,
    "coco-panoptic": write_coco_panoptic,
    "folder": write_folder,
    "yolo": write_yolo,
}
