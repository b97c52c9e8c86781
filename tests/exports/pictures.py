"""Layouts whose annotations are pictures: VOC and its relatives, colours with a table, binary, plain and published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .coco_tools import dump
from .known import CLASSES, PHOTOS, voc_colormap, write_photo, write_png

COLORS = {"background": (0, 0, 0), "fig": (250, 50, 83), "date": (51, 221, 255), "nut": (250, 50, 183)}


def colored(values: np.ndarray) -> np.ndarray:
    return np.array(list(COLORS.values()), np.uint8)[values]


def voc(folder: Path, objects: bool = True, tool: str = "pascal") -> Path:
    """tool: pascal (palette, ImageSets), labelme (class_names.txt), cvat (colours, labelmap.txt)."""
    for photo in PHOTOS:
        write_photo(photo, folder / "JPEGImages" / photo.name)
        classes, numbers = photo.class_map(), photo.object_map()
        if tool == "pascal":
            names = {"fig": 5, "date": 8, "nut": 15}  # bottle, cat, person
            classes = np.array([0, *names.values()], np.uint8)[classes]
        for kind, values in (("SegmentationClass", classes), ("SegmentationObject", numbers)):
            if kind == "SegmentationClass" or objects:
                if tool == "cvat":
                    values = colored(values) if kind == "SegmentationClass" else voc_colormap()[values]
                write_png(values, folder / kind / f"{photo.stem}.png", palette=tool != "cvat")
    sets = folder / "ImageSets" / "Segmentation"
    if tool == "labelme":
        (folder / "class_names.txt").write_text("\n".join(["_background_", *CLASSES]))
    else:
        sets.mkdir(parents=True)
    if tool == "pascal":
        for split in ("train", "val"):
            names = [photo.stem for photo in PHOTOS if photo.split == split or split == "val" and photo.split == "test"]
            (sets / f"{split}.txt").write_text("\n".join(names) + "\n")
    if tool == "cvat":
        (sets / "default.txt").write_text("\n".join(photo.stem for photo in PHOTOS) + "\n")
        lines = [f"{name}:{','.join(map(str, color))}::" for name, color in COLORS.items()]
        (folder / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *lines]) + "\n")
    return folder


def camvid(folder: Path, table: str = "label_colors.txt") -> Path:
    """SPLIT/ and SPLITannot/ (datumaro), or SPLIT_labels/ with _L names and class_dict.csv."""
    for photo in PHOTOS:
        write_photo(photo, folder / photo.split / photo.name)
        if table == "label_colors.txt":
            write_png(colored(photo.class_map()), folder / f"{photo.split}annot" / f"{photo.stem}.png")
        else:
            write_png(colored(photo.class_map()), folder / f"{photo.split}_labels" / f"{photo.stem}_L.png")
    if table == "label_colors.txt":
        text = "".join(f"{r} {g} {b} {name}\n" for name, (r, g, b) in COLORS.items())
    else:
        text = "name,r,g,b\n" + "".join(f"{name},{r},{g},{b}\n" for name, (r, g, b) in COLORS.items())
    (folder / table).write_text(text)
    return folder


def roboflow_masks(folder: Path) -> Path:
    """SPLIT/NAME.jpg, SPLIT/NAME_mask.png with class numbers, SPLIT/_classes.csv."""
    for photo in PHOTOS:
        split = photo.split.replace("val", "valid")
        write_photo(photo, folder / split / photo.name)
        write_png(photo.class_map(), folder / split / f"{photo.stem}_mask.png")
        rows = "\n".join(f"{k}, {name}" for k, name in enumerate(COLORS))
        (folder / split / "_classes.csv").write_text(f"Pixel Value, Class\n{rows}\n")
    return folder


def binary(folder: Path, names: str | None = None, high: int = 255) -> Path:
    """images/, masks/ of 0 and 255: everything known is one class."""
    for photo in PHOTOS:
        write_photo(photo, folder / "images" / photo.name)
        write_png((photo.class_map() > 0).astype(np.uint8) * high, folder / "masks" / f"{photo.stem}.png")
    if names:
        (folder / "classes.txt").write_text(names)
    return folder


def plain(folder: Path, as_saved=lambda values: values, things: bool = False) -> Path:
    """Our own folder with classes.json, or classes.txt without telling things apart."""
    for photo in PHOTOS:
        write_photo(photo, folder / "images" / photo.name)
        values = photo.class_map()
        if things:
            values = np.where(values > 0, values.astype(np.uint16) * 1000 + photo.object_map(), 0).astype(np.uint16)
        write_png(as_saved(values), folder / "masks" / f"{photo.stem}.png")
    if things:
        table = [{"id": k + 1, "name": name, "isthing": 1} for k, name in enumerate(CLASSES)]
        (folder / "classes.json").write_text(json.dumps(table))
    else:
        (folder / "classes.txt").write_text("\n".join(["background", *CLASSES]))
    return folder


def ade20k(folder: Path) -> Path:
    """figs are walls (1), dates buildings (2), nuts skies (3) in ADE20K's numbers; 0 is ignored."""
    for photo in PHOTOS:
        split = "training" if photo.split == "train" else "validation"
        write_photo(photo, folder / "images" / split / photo.name)
        write_png(photo.class_map(), folder / "annotations" / split / f"{photo.stem}.png")
    return folder


def cityscapes(folder: Path, train_ids: bool = False, instances: bool = True) -> Path:
    """figs are cars (26), dates persons (24), nuts vegetation (21), the rest road (7); or their train ids."""
    label_ids = np.array([7, 26, 24, 21], np.uint8)
    ids_of_training = np.array([0, 13, 11, 8], np.uint8)
    for photo in PHOTOS:
        name = f"ulm_000000_{PHOTOS.index(photo):06d}"
        split = photo.split
        path = folder / "leftImg8bit" / split / "ulm" / f"{name}_leftImg8bit.png"
        write_png(np.full((*photo.size, 3), 90, np.uint8), path)
        classes = photo.class_map()
        labels = label_ids[classes]
        annotations = folder / "gtFine" / split / "ulm"
        write_png(ids_of_training[classes] if train_ids else labels, annotations / f"{name}_gtFine_labelIds.png")
        if instances:
            is_thing = np.isin(labels, (24, 26))
            ids = np.where(is_thing, labels * 1000.0 + photo.object_map(), labels).astype(np.uint16)
            write_png(ids, annotations / f"{name}_gtFine_instanceIds.png")
    return folder


def coco_panoptic(folder: Path, json_name: str = "labels.json", maps: str = "labels") -> Path:
    """A panoptic JSON under a name of its own, photos in photos/, ids in a folder of PNG files."""
    images, annotations = [], []
    for k, photo in enumerate(PHOTOS):
        write_photo(photo, folder / "photos" / photo.name)
        ids = photo.object_map().astype(np.int32) * 300
        colors = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], -1).astype(np.uint8)
        write_png(colors, folder / maps / f"{photo.stem}.png")
        infos = [
            {"id": 300 * n, "category_id": CLASSES.index(thing.label) + 1, "iscrowd": 0}
            for n, thing in enumerate(photo.things, start=1)
        ]
        images.append({"id": k, "file_name": photo.name, "height": photo.size[0], "width": photo.size[1]})
        annotations.append({"image_id": k, "file_name": f"{photo.stem}.png", "segments_info": infos})
    categories = [{"id": k + 1, "name": name, "isthing": 1} for k, name in enumerate(CLASSES)]
    dump({"images": images, "categories": categories, "annotations": annotations}, folder / json_name)
    return folder
