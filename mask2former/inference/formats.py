"""Segments in the forms others read: COCO's results, panopticapi's PNG and JSON, semantic PNG.

Shape letters: H × W the photo, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mask2former.inference.postprocess import thing_positions
from mask2former.structures import ClassInfo, Segment

FORMATS = ("coco", "panoptic", "semantic")
CATEGORIES = ("dataset_id", "thing_position")
DIGITS = 18  # of a number that every reader of JSON can hold
NO_CLASS = 255  # in a semantic PNG; 65535 where there are more classes than that


def coco_results(
    segments: Sequence[Segment],
    mask: Callable[[int], np.ndarray],
    classes: Sequence[ClassInfo],
    image_id: int | str,
    category: str = "dataset_id",
) -> list[dict[str, Any]]:
    """COCO's results of a photo; mask: the (H, W) bool mask of the n-th segment.

    category: what category_id is, one of CATEGORIES: the class's id in its dataset, or its position among the things
        alone, as in ADE20K's instance task. Raises ValueError where a segment is stuff, which has no such position.
    No bbox: where there is one, pycocotools takes its area for the segment's and misjudges what is small or large.
    """
    if category not in CATEGORIES:
        raise ValueError(f"category {category!r}: expected one of {CATEGORIES}")
    ids = thing_positions(classes) if category == "thing_position" else [c.dataset_id for c in classes]
    if stuff := [s.label for s in segments if ids[s.label_id] is None and category == "thing_position"]:
        raise ValueError(f"{stuff[0]!r} is stuff, and has no position among the things: take the instance task")
    encode = rle_encoder()
    return [
        {
            "image_id": image_id,
            "category_id": ids[segment.label_id],
            "segmentation": encode(mask(n)),
            "area": segment.area,
            "score": segment.score,
        }
        for n, segment in enumerate(segments)
    ]


def rle_encoder() -> Callable[[np.ndarray], dict[str, Any]]:
    """A function from an (H, W) bool mask to COCO's compressed run lengths, {"size", "counts"}, ready for JSON."""
    try:
        from hotcoco import mask as library
    except ImportError:
        try:
            from pycocotools import mask as library
        except ImportError:
            raise ImportError(
                "COCO's run-length encoding needs hotcoco or pycocotools: install the extra `eval`"
            ) from None

    def encode(mask: np.ndarray) -> dict[str, Any]:
        counts = library.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]  # column by column, as COCO has it
        return {"size": list(mask.shape), "counts": counts.decode() if isinstance(counts, bytes) else counts}

    return encode


def panoptic_results(
    ids: np.ndarray, segments: Sequence[Segment], classes: Sequence[ClassInfo], image_id: int | str, file_name: str
) -> tuple[Image.Image, dict[str, Any]]:
    """COCO's panoptic format for an (H, W) id map: a picture of R + 256 G + 65536 B = id, and its annotation.

    Areas and boxes are those of the map, where an instance may be partly or wholly hidden by a surer one.
    """
    colors = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)
    areas = np.bincount(position_of(ids, [s.id for s in segments]).ravel(), minlength=len(segments) + 1)[1:].tolist()
    infos = []
    for segment, area in zip(segments, areas, strict=True):
        if not area:
            continue
        info = classes[segment.label_id]
        box = coco_box(segment) if area == segment.area else visible_box(ids == segment.id)
        infos.append(
            {
                "id": segment.id,
                "category_id": info.dataset_id,
                "isthing": int(info.is_thing),
                "iscrowd": 0,
                "bbox": box,
                "area": area,
                "score": segment.score,
            }
        )
    return Image.fromarray(colors), {"image_id": image_id, "file_name": file_name, "segments_info": infos}


def panoptic_json(classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """The JSON file beside panoptic PNGs, with no image in it yet."""
    categories = [
        {"id": c.dataset_id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)} for c in classes
    ]
    return {"images": [], "annotations": [], "categories": categories}


def semantic_picture(ids: np.ndarray, labels: Mapping[int, int], classes: Sequence[ClassInfo]) -> Image.Image:
    """A PNG's worth of class positions for an (H, W) id map and the label id of each id, 255 (or 65535) for none;
    viewers show it in the classes' colours, where they are few enough for a palette."""
    many = len(classes) > NO_CLASS
    table = np.full(len(labels) + 1, 65535 if many else NO_CLASS, np.uint16 if many else np.uint8)
    table[1:] = list(labels.values())
    picture = Image.fromarray(table[position_of(ids, list(labels))])
    if not many:
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(classes)] = [c.color for c in classes]
        picture.putpalette(palette.tobytes())
    return picture


def position_of(ids: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """(H, W) ids to 1 + the position of each among some numbers, 0 where it is none of them. Ids may be large."""
    if not numbers:
        return np.zeros(ids.shape, np.int64)
    order = np.argsort(numbers)
    numbers = np.asarray(numbers)[order]
    place = np.searchsorted(numbers, ids).clip(max=len(numbers) - 1)
    return np.where(numbers[place] == ids, order[place] + 1, 0)


def image_id_of(name: str) -> int | str:
    """A photo's id from its file's name: COCO's photos are named after their ids."""
    return int(name) if name.isascii() and name.isdigit() and len(name) <= DIGITS else name


def coco_box(segment: Segment) -> list[int]:
    """x, y, width, height."""
    x0, y0, x1, y1 = segment.box
    return [x0, y0, x1 - x0, y1 - y0]


def visible_box(mask: np.ndarray) -> list[int]:
    """x, y, width, height of an (H, W) mask that is not empty."""
    y, x = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(x[0]), int(y[0]), int(x[-1] - x[0]) + 1, int(y[-1] - y[0]) + 1]
