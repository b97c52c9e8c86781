"""What a caller gets for a photo: segments in the photo's own pixels, and every form they can be written in.

Shape letters: H × W the photo, N segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mask2former.inference import formats, visualize
from mask2former.inference.packed_masks import PackedMasks
from mask2former.inference.result_writer import ResultWriter
from mask2former.structures import TASKS, ClassInfo, Segment

PATIENCE = 10.0  # seconds that a result waits for others that are being saved into the same folder


class Segmentation:
    """The segments of one photo, for one task.

    task: panoptic (every pixel in at most one segment), instance (things, which may overlap, the surest first) or
        semantic (one segment a class).
    segments: N of them; for instance in the order of their masks.
    classes: those of the model; a segment's `label_id` is a position among them, for every task and dataset.
    photo: what `overlay` is painted on, or None.
    name: of the photo's file, without its ending.
    """

    def __init__(
        self,
        task: str,
        segments: Sequence[Segment],
        classes: Sequence[ClassInfo],
        ids: NDArray[np.int32] | None = None,
        masks: PackedMasks | None = None,
        photo: Image.Image | None = None,
        name: str = "photo",
    ):
        """ids: (H, W) int32, for panoptic and semantic. masks: for instance, in the order of the segments."""
        if task not in TASKS:
            raise ValueError(f"task {task!r}: expected one of {TASKS}")
        if (ids is None) == (masks is None) or (masks is None) == (task == "instance"):
            raise ValueError(f"task {task!r}: give masks for instance, ids for the others")
        self.task, self.segments, self.classes = task, list(segments), tuple(classes)
        self.photo, self.name = photo, name
        self._masks = masks
        if ids is not None:
            self.segmentation = ids

    @classmethod
    def from_ids(
        cls,
        ids: NDArray[np.integer[Any]],
        labels: Mapping[int, int],
        classes: Sequence[ClassInfo],
        photo: Image.Image | None = None,
        name: str = "photo",
    ) -> Segmentation:
        """A panoptic one from an (H, W) map of arbitrary ids, and the label id of each; ids not listed are nothing."""
        numbers = list(labels)
        index = formats.position_of(ids, numbers)
        segments = [
            _segment(numbers[k - 1], labels[numbers[k - 1]], area, box, classes)
            for k, (area, box) in regions(index, len(numbers) + 1).items()
            if k
        ]
        kept = np.where(index > 0, ids, 0).astype(np.int32)
        return cls("panoptic", segments, classes, ids=kept, photo=photo, name=name)

    @classmethod
    def from_labels(
        cls,
        labels: NDArray[np.int32],
        classes: Sequence[ClassInfo],
        photo: Image.Image | None = None,
        name: str = "photo",
    ) -> Segmentation:
        """A semantic one from an (H, W) int32 map of class positions."""
        found = regions(labels, len(classes))
        segments = [_segment(label, label, area, box, classes) for label, (area, box) in found.items()]
        return cls("semantic", segments, classes, ids=labels, photo=photo, name=name)

    @classmethod
    def from_masks(
        cls,
        masks: NDArray[np.bool_],
        labels: Sequence[int],
        classes: Sequence[ClassInfo],
        scores: Sequence[float] | None = None,
        photo: Image.Image | None = None,
        name: str = "photo",
    ) -> Segmentation:
        """Instances from (N, H, W) bool masks, their label ids, and their scores (1 if not given), the surest first."""
        packed = PackedMasks.from_dense(masks)
        scores = [1.0] * len(masks) if scores is None else scores
        rows = zip(labels, packed.areas(), packed.boxes(), scores, strict=True)
        segments = [
            _segment(number, int(label), area, box, classes, float(score))
            for number, (label, area, box, score) in enumerate(rows, start=1)
        ]
        return cls("instance", segments, classes, masks=packed, photo=photo, name=name)

    def __repr__(self) -> str:
        height, width = self.size
        return f"Segmentation({self.task}, {len(self.segments)} segments, {width} × {height})"

    @property
    def size(self) -> tuple[int, int]:
        """H, W of the photo."""
        return self.segmentation.shape if self._masks is None else self._masks.size

    @cached_property
    def segmentation(self) -> NDArray[np.int32]:
        """(H, W) int32: the id of the segment at each pixel, 0 for none; of overlapping instances the surest one's.
        For semantic: the position of the class, 0 … K − 1."""
        ids = np.zeros(self.size, np.int32)
        for n in reversed(range(len(self.segments))):
            ids[self.mask(n)] = self.segments[n].id
        return ids

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(N, H, W) bool, one a segment, overlaps kept; made when read. For many large masks take `mask(n)` instead."""
        if not self.segments:
            return np.zeros((0, *self.size), bool)
        return np.stack([self.mask(n) for n in range(len(self.segments))])

    def mask(self, n: int) -> NDArray[np.bool_]:
        """(H, W) bool of the n-th segment."""
        return self.segmentation == self.segments[n].id if self._masks is None else self._masks[n]

    def overlay(self, min_score: float | None = None) -> Image.Image:
        """The photo with its segments in the classes' colours, things numbered, and a legend below.

        min_score: leave out what scores less; by default 0.5 for instances, of which many are unlikely, else nothing.
        """
        if min_score is None:
            min_score = 0.5 if self.task == "instance" else 0.0
        photo = self.photo or Image.new("RGB", self.size[::-1], "gray")
        shown = [n for n, segment in enumerate(self.segments) if segment.score >= min_score]
        segments = [self.segments[n] for n in shown]
        return visualize.overlay(photo, segments, lambda n: self.mask(shown[n]), self.classes)

    def to_coco(self, image_id: int | str, category: str = "dataset_id") -> list[dict[str, Any]]:
        """COCO results: for each segment image_id, category_id, segmentation (compressed run lengths), area, score.

        category: "dataset_id" writes the dataset's ids; "thing_position" the position among the thing classes alone,
            which is how ADE20K's instance task numbers them.
        Raises ImportError without hotcoco or pycocotools, ValueError for the thing position of stuff.
        """
        return formats.coco_results(self.segments, self.mask, self.classes, image_id, category)

    def to_panoptic(self, image_id: int | str, file_name: str | None = None) -> tuple[Image.Image, dict[str, Any]]:
        """COCO's panoptic format: a picture with R + 256 G + 65536 B = segment id, 0 for none, and its annotation with
        the dataset's category ids. Of overlapping instances the surest shows. In a semantic map 0 is a class: there
        the ids are one higher."""
        file_name = file_name or f"{self.name}.panoptic.png"
        if self.task != "semantic":
            return formats.panoptic_results(self.segmentation, self.segments, self.classes, image_id, file_name)
        segments = [replace(segment, id=segment.id + 1) for segment in self.segments]
        return formats.panoptic_results(self.segmentation + 1, segments, self.classes, image_id, file_name)

    def to_semantic(self) -> Image.Image:
        """A PNG's worth of class positions, 255 (65535 for more than 255 classes) where there is none."""
        labels = {segment.id: segment.label_id for segment in self.segments}
        return formats.semantic_picture(self.segmentation, labels, self.classes)

    def save(
        self, folder: str | Path, only: Sequence[str] | None = None, overlay: bool = True, overwrite: bool = False
    ) -> list[Path]:
        """Write the overlay and some formats (coco, panoptic, semantic; by default the task's own) into a folder.

        The overlay is NAME.TASK.jpg, the others are NAME.coco.json, NAME.panoptic.png with NAME.panoptic.json, and
        NAME.semantic.png. Where one of these is there already, NAME is numbered (photo_2), unless `overwrite` is True.
        Returns what was written. Raises FileExistsError while another process writes into the folder, OSError if the
        disk will not take it; nothing is then left of it.
        """
        with ResultWriter(folder, only, overlay, alone=True, overwrite=overwrite, wait=PATIENCE) as writer:
            writer.add(self)
            return writer.close()


def regions(index: NDArray[np.integer[Any]], count: int) -> dict[int, tuple[int, tuple[int, int, int, int]]]:
    """Area and box of each number 0 … count − 1 that occurs in an (H, W) map of them."""
    height, width = index.shape
    in_row = np.bincount((index + count * np.arange(height)[:, None]).ravel(), minlength=height * count)
    in_column = np.bincount((index + count * np.arange(width)).ravel(), minlength=width * count)
    in_row, in_column = in_row.reshape(height, count), in_column.reshape(width, count)
    found = {}
    for k in in_row.any(0).nonzero()[0].tolist():
        y, x = in_row[:, k].nonzero()[0], in_column[:, k].nonzero()[0]
        found[k] = int(in_row[:, k].sum()), (int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1)
    return found


def _segment(
    number: int,
    label: int,
    area: int,
    box: tuple[int, int, int, int],
    classes: Sequence[ClassInfo],
    score: float = 1.0,
) -> Segment:
    return Segment(number, label, classes[label].name, score, area, box, classes[label].is_thing)
