"""The ground truth of one photo. Its masks stay compressed until somebody says which part of them is wanted.

Shape letters: N segments, H × W the photo (or, where a window is given, the window's canvas).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mask2former.data.window import Window
from mask2former.structures import TASKS, Targets


@dataclass(frozen=True, eq=False)
class Annotation:
    """N segments: what both kinds, `IdMap` (no overlaps) and `Shapes` (overlaps), have in common."""

    labels: NDArray[np.int64]  # (N,), positions in the dataset's class list
    is_thing: NDArray[np.bool_]  # (N,)
    is_crowd: NDArray[np.bool_]  # (N,): a region of many things nobody told apart; ignored, neither right nor wrong

    @property
    def size(self) -> tuple[int, int]:
        """H, W of the photo."""
        raise NotImplementedError

    def masks(self, segments: np.ndarray | None = None, window: Window | None = None) -> Tensor:
        """(N, H, W) bool of all segments, or of those whose positions are given, in that order."""
        raise NotImplementedError

    def areas(self, window: Window | None = None) -> NDArray[np.int64]:
        """(N,) int64: pixels of each segment."""
        return np.array([np.count_nonzero(mask) for mask in self.masks(window=window).numpy()], np.int64)

    def regroup(self, group: np.ndarray, labels: np.ndarray, is_thing: np.ndarray, is_crowd: np.ndarray) -> Annotation:
        """The same masks as other segments: `group` (N,) is each one's new segment, −1 to leave it out."""
        raise NotImplementedError

    def to_coco(self) -> list[dict[str, Any]]:
        """One entry a segment: `segmentation` (polygons or RLE), `area`, `bbox`, `iscrowd`, `label_id`."""
        raise NotImplementedError

    def targets(self, window: Window | None = None) -> Targets:
        """What a network is taught: the segments that are no crowd and have a pixel left inside the window."""
        segments = np.flatnonzero(~self.is_crowd)
        masks = self.masks(segments, window)
        visible = np.array([mask.any() for mask in masks.numpy()], bool)
        if not visible.all():
            segments, masks = segments[visible], masks[torch.from_numpy(visible)]
        return Targets(torch.from_numpy(self.labels[segments]), masks)

    def label_map(self) -> NDArray[np.int32]:
        """(H, W) int32: the label id at each pixel, crowds included, −1 where nothing is annotated."""
        label_map = np.full(self.size, -1, np.int32)
        for label, mask in zip(self.labels, self.masks(), strict=True):
            label_map[mask.numpy()] = label
        return label_map

    def for_task(self, task: str) -> Annotation:
        """The segments that one task asks for.

        Panoptic: as they are. Instance: the things. Semantic: everything of one class is one segment, crowds too.
        """
        if task not in TASKS:
            raise ValueError(f"task {task!r}: expected one of {TASKS}")
        if task == "panoptic":
            return self
        if task == "instance":
            kept = np.flatnonzero(self.is_thing)
            group = np.full(len(self.labels), -1)
            group[kept] = np.arange(len(kept))
            return self.regroup(group, self.labels[kept], self.is_thing[kept], self.is_crowd[kept])
        labels, first, group = np.unique(self.labels, return_index=True, return_inverse=True)
        return self.regroup(group, labels, self.is_thing[first], np.zeros(len(labels), bool))


@dataclass(frozen=True, eq=False)
class IdMap(Annotation):
    """At most one segment a pixel: panoptic and semantic ground truth."""

    segment_map: np.ndarray  # (H, W) int32: 0 where nothing is annotated (void), k + 1 for segment k

    @classmethod
    def from_values(cls, values: np.ndarray, segments: Sequence[tuple[int, int, bool, bool]]) -> IdMap:
        """From a map of arbitrary ids.

        Arguments:
            values: (H, W) integers.
            segments: (id in the map, label id, is thing, is crowd) each. Ids that are not listed are void. Stuff of
                one class becomes one segment, as the panoptic task has it (Kirillov et al. 2019, §4.1).
        """
        ids, rows, stuff = [], [], {}  # stuff: (label, is crowd) → its row
        columns: list[tuple[int, bool, bool]] = []
        for value, label, is_thing, is_crowd in segments:
            row = len(columns) if is_thing else stuff.setdefault((label, is_crowd), len(columns))
            if row == len(columns):
                columns.append((label, is_thing, is_crowd))
            ids.append(value)
            rows.append(row + 1)
        labels, is_thing, is_crowd = zip(*columns, strict=True) if columns else ((), (), ())
        return cls(
            np.array(labels, np.int64), np.array(is_thing, bool), np.array(is_crowd, bool), lookup(values, ids, rows)
        )

    @property
    def size(self) -> tuple[int, int]:
        return self.segment_map.shape

    def masks(self, segments: np.ndarray | None = None, window: Window | None = None) -> Tensor:
        segments = np.arange(len(self.labels)) if segments is None else segments
        return (window or Window.whole(*self.size)).masks(self.segment_map, segments + 1)

    def areas(self, window: Window | None = None) -> NDArray[np.int64]:
        segment_map = window.index_map(self.segment_map) if window else self.segment_map
        return np.bincount(segment_map.ravel(), minlength=len(self.labels) + 1)[1:]

    def label_map(self) -> NDArray[np.int32]:
        return np.concatenate([[-1], self.labels]).astype(np.int32)[self.segment_map]

    def regroup(self, group: np.ndarray, labels: np.ndarray, is_thing: np.ndarray, is_crowd: np.ndarray) -> IdMap:
        renamed = np.concatenate([[0], group + 1]).astype(np.int32)
        return IdMap(labels, is_thing, is_crowd, renamed[self.segment_map])

    def to_coco(self) -> list[dict[str, Any]]:
        rle = rle_library()
        masks = self.masks().numpy()  # (N, H, W)
        encoded = rle.encode(np.asfortranarray(masks.transpose(1, 2, 0))) if len(masks) else []
        areas = self.areas()
        return [coco_entry(self, k, e, int(areas[k]), rle.toBbox(e)) for k, e in enumerate(encoded)]


@dataclass(frozen=True, eq=False)
class Shapes(Annotation):
    """Segments that may overlap, each as polygons or a run-length encoding: COCO's instance ground truth."""

    shapes: tuple[tuple[list[list[float]] | Mapping[str, Any], ...], ...]  # N; a segment is the union of its shapes
    recorded_areas: np.ndarray  # (N,) float64, as the file has them; mask AP sorts objects into sizes by these
    photo_size: tuple[int, int]  # H, W

    @property
    def size(self) -> tuple[int, int]:
        return self.photo_size

    def masks(self, segments: np.ndarray | None = None, window: Window | None = None) -> Tensor:
        segments = np.arange(len(self.labels)) if segments is None else segments
        window = window or Window.whole(*self.size)
        masks = torch.zeros(len(segments), *window.canvas, dtype=torch.bool)
        for mask, segment in zip(masks, segments, strict=True):
            for shape in self.shapes[segment]:
                mask[: window.height, : window.width] |= self._draw(shape, window)
        return masks

    def areas(self, window: Window | None = None) -> np.ndarray:
        if window is not None:
            return super().areas(window)
        runs = [self._runs(k) for k in range(len(self.shapes))]  # pixels are counted without a mask of them all
        return np.array([int(rle_library().area(merged)) for merged in runs], np.int64)

    def _runs(self, segment: int) -> Any:
        """The run-length encoding of one segment."""
        rle, runs = rle_library(), []
        for shape in self.shapes[segment]:
            if isinstance(shape, Mapping):
                runs.append(as_rle(shape, self.size))
            else:
                runs += rle.frPyObjects(shape, *self.size)
        return rle.merge(runs)

    def _draw(self, shape: list[list[float]] | Mapping[str, Any], window: Window) -> Tensor:
        """(height, width) bool of the window, padding left out."""
        rle = rle_library()
        if isinstance(shape, Mapping):
            decoded = rle.decode(as_rle(shape, self.size)).astype(np.int32)
            return torch.from_numpy(window.index_map(decoded) > 0)
        polygons = [moved.tolist() for polygon in shape if (moved := window.polygon(polygon)) is not None]
        if not polygons:
            return torch.zeros(window.height, window.width, dtype=torch.bool)
        runs = rle.merge(rle.frPyObjects(polygons, window.height, window.width))
        return torch.from_numpy(rle.decode(runs)).bool()

    def regroup(self, group: np.ndarray, labels: np.ndarray, is_thing: np.ndarray, is_crowd: np.ndarray) -> Shapes:
        members = [np.flatnonzero(group == k) for k in range(len(labels))]
        shapes = tuple(tuple(shape for m in member for shape in self.shapes[m]) for member in members)
        areas = np.array([self.recorded_areas[m].sum() for m in members])
        return replace(self, labels=labels, is_thing=is_thing, is_crowd=is_crowd, shapes=shapes, recorded_areas=areas)

    def to_coco(self) -> list[dict[str, Any]]:
        runs = [self._runs(k) for k in range(len(self.shapes))]
        areas = self.recorded_areas.tolist()
        return [coco_entry(self, k, merged, areas[k], rle_library().toBbox(merged)) for k, merged in enumerate(runs)]


def coco_entry(annotation: Annotation, k: int, runs: Any, area: float, box: np.ndarray) -> dict[str, Any]:
    return {
        "label_id": int(annotation.labels[k]),
        "segmentation": runs,
        "area": area,
        "bbox": np.asarray(box).ravel().tolist(),
        "iscrowd": int(annotation.is_crowd[k]),
    }


def as_rle(shape: Mapping[str, Any], size: tuple[int, int]) -> Mapping[str, Any]:
    """A run-length encoding in the compressed form; plain lists of counts are compressed first."""
    return rle_library().frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape


def lookup(values: np.ndarray, keys: Sequence[int], results: Sequence[int]) -> np.ndarray:
    """`values` (H, W) with every key replaced by its result and everything else by 0: (H, W) int32."""
    if not keys:
        return np.zeros(values.shape, np.int32)
    order = np.argsort(keys, kind="stable")
    keys, results = np.asarray(keys)[order], np.asarray(results, np.int32)[order]
    flat = values.ravel()
    starts = run_starts(flat)
    position = np.searchsorted(keys, flat[starts]).clip(max=len(keys) - 1)
    found = np.where(keys[position] == flat[starts], results[position], np.int32(0))
    return np.repeat(found, np.diff(starts, append=flat.size)).reshape(values.shape)


def values_in(values: np.ndarray) -> list[int]:
    """The different values of a map of ids, in order."""
    flat = values.ravel()
    return np.unique(flat[run_starts(flat)]).tolist()


def run_starts(flat: np.ndarray) -> np.ndarray:
    """Where each run of one value starts: ids come in runs, so that much fewer values have to be looked at."""
    return np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])


def rle_library() -> Any:
    """hotcoco's drop-in for `pycocotools.mask`."""
    try:
        from hotcoco import mask
    except ImportError as error:
        raise ImportError("polygons and run-length masks need the package hotcoco: pip install hotcoco") from error
    return mask
