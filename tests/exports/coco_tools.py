"""COCO files of Roboflow, CVAT, Label Studio, VIA and Supervisely: their folders, keys and habits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .known import CLASSES, PHOTOS, Photo, Thing, write_photo


def flat(thing: Thing) -> list[float]:
    return thing.polygon.ravel().tolist()


def area(thing: Thing) -> float:
    x, y = thing.polygon.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def bbox(thing: Thing) -> list[float]:
    low, high = thing.polygon.min(0), thing.polygon.max(0)
    return [*low.tolist(), *(high - low).tolist()]


def row_runs(mask: np.ndarray, down: bool = True) -> list[int]:
    """Lengths of runs, outside first; down the columns as COCO has it, or along the rows."""
    values = mask.T.ravel() if down else mask.ravel()
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    runs = np.diff([0, *changes, len(values)]).tolist()
    return [0, *runs] if values[0] else runs


def dump(content: object, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, **options), encoding="utf-8")
    return path


def roboflow(folder: Path, root_name: str = "fruits-7xQb") -> Path:
    """train/, valid/, test/ with `_annotations.coco.json`; category 0 is the project, above all others."""
    for split in ("train", "valid", "test"):
        photos = [p for p in PHOTOS if p.split == split.replace("valid", "val")]
        images, annotations = [], []
        for k, photo in enumerate(photos):
            name = f"{photo.stem.replace(' ', '-')}_jpg.rf.{'0123456789abcdef' * 2}.jpg"
            write_photo(photo, folder / split / name)
            images.append(
                {
                    "id": k,
                    "license": 1,
                    "file_name": name,
                    "height": photo.size[0],
                    "width": photo.size[1],
                    "date_captured": "2024-05-02T10:11:12+00:00",
                    "extra": {"name": photo.name},
                }
            )
            for thing in photo.things:
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": k,
                        "category_id": CLASSES.index(thing.label) + 1,
                        "bbox": bbox(thing),
                        "area": area(thing),
                        "segmentation": [flat(thing)],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": 0, "name": root_name, "supercategory": "none"}]
        categories += [{"id": k + 1, "name": name, "supercategory": root_name} for k, name in enumerate(CLASSES)]
        info = {
            "year": "2024",
            "version": "1",
            "description": "Exported from roboflow.com",
            "contributor": "",
            "url": "https://public.roboflow.com/object-detection/undefined",
            "date_created": "2024-05-02",
        }
        content = {"info": info, "licenses": [{"id": 1, "url": "", "name": "CC BY 4.0"}], "categories": categories}
        dump(content | {"images": images, "annotations": annotations}, folder / split / "_annotations.coco.json")
    (folder / "README.dataset.txt").write_text("# fruits > 2024-05-02\n")
    return folder


def cvat(folder: Path, brush: bool = False) -> Path:
    """annotations/instances_default.json, images/default/; with `brush` masks, which CVAT marks as crowds."""
    images, annotations = [], []
    for k, photo in enumerate(PHOTOS, start=1):
        write_photo(photo, folder / "images" / "default" / photo.name)
        images.append(
            {
                "id": k,
                "width": photo.size[1],
                "height": photo.size[0],
                "file_name": photo.name,
                "license": 0,
                "flickr_url": "",
                "coco_url": "",
                "date_captured": 0,
            }
        )
        for thing in photo.things:
            outline = {"counts": row_runs(thing.mask(photo.size)), "size": list(photo.size)} if brush else [flat(thing)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": k,
                    "category_id": CLASSES.index(thing.label) + 1,
                    "segmentation": outline,
                    "area": area(thing),
                    "bbox": bbox(thing),
                    "iscrowd": int(brush),
                    "attributes": {"occluded": False},
                }
            )
    categories = [{"id": k + 1, "name": name, "supercategory": ""} for k, name in enumerate(CLASSES)]
    info = {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""}
    content = {"licenses": [{"name": "", "id": 0, "url": ""}], "info": info, "categories": categories, "images": images}
    dump(content | {"annotations": annotations}, folder / "annotations" / "instances_default.json")
    return folder


def label_studio(folder: Path, name: str = "images/{upload}", photos: tuple[Photo, ...] = PHOTOS) -> Path:
    """result.json and images/ with a mark before each name; `name` is how the version at hand writes the path."""
    images, annotations = [], []
    for k, photo in enumerate(photos):
        upload = f"{k:08x}-{photo.name.replace(' ', '_')}"
        write_photo(photo, folder / "images" / upload)
        images.append(
            {
                "width": photo.size[1],
                "height": photo.size[0],
                "id": k,
                "file_name": name.format(upload=upload, name=photo.name),
            }
        )
        for thing in photo.things:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": k,
                    "category_id": CLASSES.index(thing.label),
                    "segmentation": [flat(thing)],
                    "bbox": bbox(thing),
                    "ignore": 0,
                    "iscrowd": 0,
                    "area": area(thing),
                }
            )
    info = {
        "year": 2024,
        "version": "1.0",
        "description": "",
        "contributor": "Label Studio",
        "url": "",
        "date_created": "2024-05-02 10:11:12.131415",
    }
    categories = [{"id": k, "name": label} for k, label in enumerate(CLASSES)]
    content = {"images": images, "categories": categories, "annotations": annotations, "info": info}
    dump(content, folder / "result.json", indent=2)
    return folder


def via(folder: Path) -> Path:
    """VIA's COCO export: flat rings, and the ids of annotations' images as text."""
    images, annotations = [], []
    for k, photo in enumerate(PHOTOS, start=1):
        write_photo(photo, folder / photo.name)
        images.append(
            {
                "id": k,
                "width": photo.size[1],
                "height": photo.size[0],
                "file_name": photo.name,
                "license": 0,
                "flickr_url": photo.name,
                "coco_url": photo.name,
                "date_captured": "",
            }
        )
        for thing in photo.things:
            annotations.append(
                {
                    "segmentation": flat(thing),
                    "area": area(thing),
                    "bbox": bbox(thing),
                    "iscrowd": 0,
                    "id": len(annotations) + 1,
                    "image_id": str(k),
                    "category_id": CLASSES.index(thing.label) + 1,
                }
            )
    info = {
        "year": 2024,
        "version": "1.0",
        "description": "VIA project exported to COCO format using VGG Image Annotator "
        "(http://www.robots.ox.ac.uk/~vgg/software/via/)",
        "contributor": "",
        "url": "",
        "date_created": "",
    }
    categories = [{"supercategory": "type", "id": k + 1, "name": label} for k, label in enumerate(CLASSES)]
    content = {"info": info, "images": images, "annotations": annotations, "licenses": [], "categories": categories}
    dump(content, folder / "via_project_coco.json")
    return folder


def supervisely(folder: Path) -> Path:
    """DATASET/images and DATASET/annotations/instances.json."""
    images, annotations = [], []
    for k, photo in enumerate(PHOTOS, start=1):
        write_photo(photo, folder / "ds1" / "images" / photo.name)
        images.append(
            {
                "license": "None",
                "file_name": photo.name,
                "url": "None",
                "height": photo.size[0],
                "width": photo.size[1],
                "date_captured": "2024-05-02T10:11:12.131Z",
                "id": k,
            }
        )
        for thing in photo.things:
            annotations.append(
                {
                    "segmentation": [flat(thing)],
                    "area": area(thing),
                    "iscrowd": 0,
                    "image_id": k,
                    "bbox": bbox(thing),
                    "category_id": CLASSES.index(thing.label) + 1,
                    "id": len(annotations) + 1,
                }
            )
    info = {
        "description": "",
        "url": "None",
        "version": "1.0",
        "year": 2024,
        "contributor": "Supervisely",
        "date_created": "2024-05-02T10:11:12.131Z",
    }
    categories = [{"supercategory": label, "id": k + 1, "name": label} for k, label in enumerate(CLASSES)]
    content = {"info": info, "licenses": [{"url": "None", "id": 0, "name": "None"}], "images": images}
    dump(
        content | {"annotations": annotations, "categories": categories},
        folder / "ds1" / "annotations" / "instances.json",
    )
    return folder
