"""COCO's two formats: panoptic (JSON and one PNG of segment ids a photo) and instance (JSON with polygons or RLE)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mask2former.data.annotation import Annotation, IdMap, Shapes, as_rle, rle_library
from mask2former.data.classes import dataset_classes
from mask2former.data.dataset import SegmentationDataset, Transform
from mask2former.data.files import read_json, read_map
from mask2former.data.label_space import LEFT_OUT, LabelSpace
from mask2former.errors import DataError
from mask2former.modeling.config import class_color
from mask2former.structures import ClassInfo

IMAGES = {"id": int | str, "file_name": str}
CATEGORIES = {"id": int, "name": str}


class CocoPanoptic(SegmentationDataset):
    """The panoptic format (Kirillov et al. 2019; the COCO, ADE20K and Mapillary panoptic releases).

    Arguments:
        photos: folder of the photos.
        annotations: JSON file with images, annotations (`segments_info` each) and categories (`isthing` each).
        maps: folder of the PNG files, id = R + 256 G + 65536 B, 0 = void; default: the JSON's name without ".json".
        classes: see `LabelSpace.choose`; "supercategory" gives COCO's 27.
        instances: JSON file with the official instance ground truth of the same photos, against which mask AP is
            then measured; without it the thing segments serve.
    """

    def __init__(
        self,
        photos: Path | str,
        annotations: Path | str,
        maps: Path | str | None = None,
        classes: str | Sequence[str] | None = None,
        transform: Transform | None = None,
        instances: Path | str | None = None,
    ):
        self.photos, self.file = Path(photos), Path(annotations)
        self.maps = Path(maps) if maps is not None else self.file.with_suffix("")
        for folder in (self.photos, self.maps):
            if not folder.is_dir():
                raise DataError(folder, "no such folder", "say where the photos and the panoptic PNG files lie")
        content = read_json(
            self.file,
            {
                "images": IMAGES,
                "categories": CATEGORIES,
                "annotations": {"image_id": int | str, "file_name": str, "segments_info": list},
            },
        )
        self.space = label_space(self.file, content["categories"], classes)
        self.instances = instances
        self._official: tuple[CocoInstance, dict[Any, int]] | None = None  # read when first asked for
        images = {image["id"]: image["file_name"] for image in content["images"]}
        missing = [a["image_id"] for a in content["annotations"] if a["image_id"] not in images]
        if missing:
            raise DataError(
                self.file, f"annotations of images {missing[:5]} that are not under images", "add or remove them"
            )
        if not content["annotations"]:
            raise DataError(self.file, "has no annotation", "expected one for each photo")
        records = (
            (a["image_id"], images[a["image_id"]], a["file_name"], self._segments(a)) for a in content["annotations"]
        )
        super().__init__(str(self.file), self.space.classes, records, transform)

    def image_id(self, index: int) -> int | str:
        return self.records[index][0]

    def photo_path(self, index: int) -> Path:
        return self.photos / self.records[index][1]

    def annotation(self, index: int) -> IdMap:
        _, _, file_name, segments_info = self.records[index]
        segments = []
        for segment, category, is_crowd in segments_info:
            label = self.space.label(category, self.file, f"segment {segment} of {file_name}")
            if label != LEFT_OUT:
                segments.append((segment, label, self.classes[label].is_thing, is_crowd))
        return IdMap.from_values(read_map(self.maps / file_name), segments)

    def _segments(self, annotation: Mapping[str, Any]) -> list[tuple[int, int, bool]]:
        """Id, category and whether it is a crowd, of each segment."""
        try:
            return [(s["id"], s["category_id"], bool(s.get("iscrowd", 0))) for s in annotation["segments_info"]]
        except (KeyError, TypeError):
            raise DataError(
                self.file, f"segments_info of {annotation['file_name']} has an entry without id or category_id",
                "give each segment both",
            ) from None  # fmt: skip

    def problems(self, index: int) -> list[str]:
        _, _, file_name, segments_info = self.records[index]
        listed = {segment for segment, _, _ in segments_info}
        unlisted = sorted(set(np.unique(read_map(self.maps / file_name)).tolist()) - listed - {0})
        return [
            f"{self.maps / file_name}: the ids {unlisted[:5]} are not in segments_info, so they count as void; "
            f"add them to {self.file.name}"
        ] * bool(unlisted)

    def ground_truth(self, index: int, task: str) -> Annotation:
        if task != "instance" or self.instances is None:
            return super().ground_truth(index, task)
        if self._official is None:
            official = CocoInstance(self.photos, self.instances, self.space)
            self._official = official, {official.image_id(i): i for i in range(len(official))}
        official, positions = self._official
        if self.image_id(index) not in positions:
            raise DataError(official.file, f"no image {self.image_id(index)}", "use the file of the same photos")
        return official.annotation(positions[self.image_id(index)])


class CocoInstance(SegmentationDataset):
    """The instance format: things only, each as polygons or RLE, which may overlap; crowds as RLE.

    Arguments:
        photos: folder of the photos.
        annotations: JSON file with images, annotations and categories.
        classes: see `LabelSpace.choose`, or a ready LabelSpace.
    """

    tasks = ("instance",)

    def __init__(
        self,
        photos: Path | str,
        annotations: Path | str,
        classes: str | Sequence[str] | LabelSpace | None = None,
        transform: Transform | None = None,
    ):
        self.photos, self.file = Path(photos), Path(annotations)
        if not self.photos.is_dir():
            raise DataError(self.photos, "no such folder", "say where the photos lie")
        content = read_json(
            self.file,
            {
                "images": {**IMAGES, "height": int | float, "width": int | float},
                "categories": CATEGORIES,
                "annotations": {"image_id": int | str, "category_id": int},
            },
        )
        if not content["images"]:
            raise DataError(self.file, "lists no image", "expected one entry for each photo")
        ready = isinstance(classes, LabelSpace)
        self.space = classes if ready else label_space(self.file, content["categories"], classes, things_only=True)
        objects: dict[Any, list[tuple[Any, ...]]] = {image["id"]: [] for image in content["images"]}
        for a in content["annotations"]:
            if a["image_id"] not in objects:
                raise DataError(
                    self.file, f"annotation {a.get('id')} is of image {a['image_id']}, which is not under images",
                    "add the image or remove the annotation",
                )  # fmt: skip
            objects[a["image_id"]].append(
                (a.get("id"), a["category_id"], bool(a.get("iscrowd", 0)), a.get("area"), a.get("segmentation"))
            )
        records = (
            (image["id"], image["file_name"], (image["height"], image["width"]), objects[image["id"]])
            for image in content["images"]
        )
        super().__init__(str(self.file), self.space.classes, records, transform)

    def image_id(self, index: int) -> int | str:
        return self.records[index][0]

    def photo_path(self, index: int) -> Path:
        return self.photos / self.records[index][1]

    def annotation(self, index: int) -> Shapes:
        _, file_name, size, objects = self.records[index]
        labels, crowds, areas, shapes = [], [], [], []
        for name, category, is_crowd, area, segmentation in objects:
            where = f"annotation {name} of {file_name}"
            label = self.space.label(category, self.file, where)
            if label == LEFT_OUT:
                continue
            self._check(segmentation, size, where)
            labels.append(label)
            crowds.append(is_crowd)
            areas.append(area)
            shapes.append((segmentation,))
        annotation = Shapes(
            np.array(labels, np.int64), np.ones(len(labels), bool), np.array(crowds, bool), tuple(shapes),
            np.array(areas, np.float64), size,
        )  # fmt: skip
        if None in areas:  # optional in practice; mask AP needs it
            annotation.recorded_areas[:] = np.where(
                np.isnan(annotation.recorded_areas), annotation.areas(), annotation.recorded_areas
            )
        return annotation

    def problems(self, index: int) -> list[str]:
        _, file_name, (height, width), objects = self.records[index]
        found = []
        outlines = [json.dumps([category, segmentation]) for _, category, _, _, segmentation in objects]
        if len(set(outlines)) < len(outlines):
            found.append(f"{self.file}: {file_name} has the same object twice; remove one of them")
        polygons = [p for *_, shape in objects if isinstance(shape, list) for p in shape if is_polygon(p)]
        if any(max(p[::2], default=0) > width + 1 or max(p[1::2], default=0) > height + 1 for p in polygons):
            found.append(
                f"{self.file}: {file_name} has polygons beyond its {width}×{height} pixels; "
                "they were drawn at another size"
            )
        return found

    def _check(self, segmentation: Any, size: tuple[int, int], where: str) -> None:
        if isinstance(segmentation, Mapping) and {"counts", "size"} <= set(segmentation):
            if tuple(segmentation["size"]) != tuple(size):
                raise DataError(
                    self.file, f"{where}: RLE of size {segmentation['size']}, image of size {list(size)}",
                    "encode masks at the photo's height and width",
                )  # fmt: skip
            try:
                rle_library().area(as_rle(segmentation, size))
            except (ValueError, TypeError) as error:
                raise DataError(self.file, f"{where}: {error}", "encode the mask anew") from error
            return
        polygons = segmentation if isinstance(segmentation, list) else []
        if not polygons or not all(is_polygon(p) for p in polygons):
            raise DataError(
                self.file, f"{where}: segmentation is neither RLE nor polygons of three or more points",
                "boxes alone cannot be learned as masks: add the outline or remove the annotation",
            )  # fmt: skip


def is_polygon(points: Any) -> bool:
    """x, y, x, y, … of three or more points, all of them numbers."""
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        return False
    try:
        return bool(np.isfinite(np.array(points, np.float64)).all())
    except (ValueError, TypeError):
        return False


def is_color(color: Any) -> bool:
    return isinstance(color, list | tuple) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)


def label_space(
    file: Path,
    categories: Sequence[Mapping[str, Any]],
    choice: str | Sequence[str] | None,
    things_only: bool = False,
) -> LabelSpace:
    """Category ids → contiguous label ids, in the order of the file's `categories`."""
    if not things_only and any("isthing" not in c for c in categories):
        raise DataError(file, "categories without isthing", 'give each category "isthing": 1 (countable) or 0 (stuff)')
    odd = next((c for c in categories if c.get("color") and not is_color(c["color"])), None)
    if odd:
        raise DataError(
            file, f"category {odd['id']} has the color {odd['color']!r}", "expected [red, green, blue], 0 … 255"
        )
    official = {c.name: c.color for c in dataset_classes("coco_panoptic")}
    table = tuple(
        ClassInfo(
            c["name"],
            things_only or bool(c["isthing"]),
            tuple(c.get("color") or official.get(c["name"]) or class_color(position)),
            c["id"],
        )
        for position, c in enumerate(categories)
    )
    if len({c.dataset_id for c in table}) < len(table):
        raise DataError(file, "two categories have the same id", "give each its own")
    coarse = {c["id"]: c["supercategory"] for c in categories if c.get("supercategory")}
    return LabelSpace.choose(table, choice, coarse if len(coarse) == len(table) else None)
