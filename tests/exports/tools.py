"""The tools' own formats: CVAT XML, VIA JSON and CSV, Supervisely, LabelMe, YOLO."""

from __future__ import annotations

import base64
import csv
import io
import json
import zlib
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from .coco_tools import dump, row_runs
from .known import CLASSES, PHOTOS, jpeg, write_photo


def cvat_xml(folder: Path, masks: bool = False) -> Path:
    """CVAT for images 1.1: annotations.xml, images/; masks as runs along the rows of their box."""
    labels = "".join(f"<label><name>{c}</name><color>#fa3253</color><attributes></attributes></label>" for c in CLASSES)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "<version>1.1</version>",
        f"<meta><task><id>1</id><size>4</size><mode>annotation</mode><labels>{labels}</labels></task></meta>",
    ]
    for k, photo in enumerate(PHOTOS):
        write_photo(photo, folder / "images" / photo.name)
        lines.append(f'<image id="{k}" name={quoteattr(photo.name)} width="{photo.size[1]}" height="{photo.size[0]}">')
        for thing in photo.things:
            common = f'label="{thing.label}" source="manual" occluded="0"'
            if masks:
                mask = thing.mask(photo.size)
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                top, left, height, width = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
                runs = ", ".join(map(str, row_runs(mask[top : top + height, left : left + width], down=False)))
                lines.append(
                    f'<mask {common} rle="{runs}" left="{left}" top="{top}" width="{width}" height="{height}" '
                    'z_order="0"></mask>'
                )
            else:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in thing.polygon)
                lines.append(f'<polygon {common} points="{points}" z_order="0"></polygon>')
        lines.append("</image>")
    (folder / "annotations.xml").write_text("\n".join([*lines, "</annotations>"]), encoding="utf-8")
    return folder


def via_regions(photo) -> list[dict]:
    return [
        {
            "shape_attributes": {
                "name": "polygon",
                "all_points_x": thing.polygon[:, 0].tolist(),
                "all_points_y": thing.polygon[:, 1].tolist(),
            },
            "region_attributes": {"type": thing.label},
        }
        for thing in photo.things
    ]


def via_json(folder: Path, project: bool = True) -> Path:
    """VIA 2: a project, or the annotations alone; each photo under its name and size in bytes."""
    photos = {}
    for photo in PHOTOS:
        size = write_photo(photo, folder / photo.name).stat().st_size
        photos[f"{photo.name}{size}"] = {
            "filename": photo.name,
            "size": size,
            "regions": via_regions(photo),
            "file_attributes": {},
        }
    if not project:
        dump(photos, folder / "via_region_data.json")
        return folder
    content = {
        "_via_settings": {"project": {"name": "fruits"}},
        "_via_img_metadata": photos,
        "_via_attributes": {
            "region": {"type": {"type": "dropdown", "options": dict.fromkeys(CLASSES, "")}},
            "file": {},
        },
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": list(photos),
    }
    dump(content, folder / "via_project_2May2024_10h11m.json")
    return folder


def via_csv(folder: Path) -> Path:
    with (folder / "via_export_csv.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "filename",
                "file_size",
                "file_attributes",
                "region_count",
                "region_id",
                "region_shape_attributes",
                "region_attributes",
            ]
        )
        for photo in PHOTOS:
            size, regions = write_photo(photo, folder / photo.name).stat().st_size, via_regions(photo)
            for k, region in enumerate(regions):
                parts = (json.dumps(region[key]) for key in ("shape_attributes", "region_attributes"))
                writer.writerow([photo.name, size, "{}", len(regions), k, *parts])
    return folder


def supervisely(folder: Path, bitmaps: bool = True) -> Path:
    """meta.json, DATASET/img, DATASET/ann; bitmaps as a palette PNG in zlib in base64."""
    classes = [
        {"title": c, "shape": "any", "color": f"#0{k}80FF", "geometry_config": {}, "id": k, "hotkey": ""}
        for k, c in enumerate(CLASSES)
    ]
    dump({"classes": classes, "tags": [], "projectType": "images"}, folder / "meta.json")
    for photo in PHOTOS:
        write_photo(photo, folder / "ds1" / "img" / photo.name)
        objects = []
        for k, thing in enumerate(photo.things):
            common = {
                "id": k,
                "classId": CLASSES.index(thing.label),
                "description": "",
                "labelerLogin": "a",
                "tags": [],
                "classTitle": thing.label,
            }
            if bitmaps:
                mask = thing.mask(photo.size)
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
                picture, buffer = Image.fromarray(part), io.BytesIO()
                picture.putpalette([0, 0, 0, 255, 255, 255])
                picture.save(buffer, format="PNG", transparency=0, optimize=0)
                data = base64.b64encode(zlib.compress(buffer.getvalue())).decode()
                objects.append(
                    common
                    | {"geometryType": "bitmap", "bitmap": {"data": data, "origin": [int(columns[0]), int(rows[0])]}}
                )
            else:
                points = {"exterior": thing.polygon.tolist(), "interior": []}
                objects.append(common | {"geometryType": "polygon", "points": points})
        size = {"height": photo.size[0], "width": photo.size[1]}
        content = {"description": "", "tags": [], "size": size, "objects": objects}
        dump(content, folder / "ds1" / "ann" / f"{photo.name}.json")
    return folder


def labelme(folder: Path, image_path: str = "{name}", image_data: bool = True) -> Path:
    """A JSON beside each photo, perhaps with the photo in it; paths as the annotator's machine had them."""
    for photo in PHOTOS:
        write_photo(photo, folder / photo.name)
        shapes = [
            {
                "label": thing.label,
                "points": thing.polygon.tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for thing in photo.things
        ]
        content = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": image_path.format(name=photo.name),
            "imageData": base64.b64encode(jpeg(photo)).decode() if image_data else None,
            "imageHeight": photo.size[0],
            "imageWidth": photo.size[1],
        }
        dump(content, folder / f"{photo.stem}.json", indent=2)
    return folder


def yolo(folder: Path, layout: str = "ultralytics") -> Path:
    """layout: ultralytics (images/SPLIT), roboflow (SPLIT/images, paths up), label_studio (classes.txt alone)."""
    for photo in PHOTOS:
        split = {"ultralytics": photo.split, "roboflow": photo.split.replace("val", "valid"), "label_studio": ""}[
            layout
        ]
        inner = {
            "ultralytics": ("images/{}", "labels/{}"),
            "roboflow": ("{}/images", "{}/labels"),
            "label_studio": ("images", "labels"),
        }[layout]
        photos, labels = (folder / part.format(split) for part in inner)
        write_photo(photo, photos / photo.name)
        rows = []
        for thing in photo.things:
            shares = (thing.polygon / (photo.size[1], photo.size[0])).ravel()
            rows.append(" ".join([str(CLASSES.index(thing.label)), *(f"{share:.6g}" for share in shares)]))
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{photo.stem}.txt").write_text("\n".join(rows) + "\n")
    if layout == "ultralytics":
        names = "\n".join(f"  {k}: {name}" for k, name in enumerate(CLASSES))
        text = f"path: ../datasets/fruits\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n{names}\n"
        (folder / "fruits.yaml").write_text(text)
    elif layout == "roboflow":
        text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
        (folder / "data.yaml").write_text(f"{text}nc: 3\nnames: {list(CLASSES)}\n\nroboflow:\n  project: fruits\n")
    else:
        (folder / "classes.txt").write_text("\n".join(CLASSES))
        dump({"categories": [{"id": k, "name": c} for k, c in enumerate(CLASSES)]}, folder / "notes.json")
    return folder
