"""The segments of overlapping windows as those of the photo.

Every pixel of a map is decided by the window that owns it. Things of one class are the same thing where their masks
agree in the strip that two neighbours both see, and so is what these are the same as; stuff of one class is one
segment a photo, as without windows.

The whole photo is held as one int32 map, or as packed masks; of the windows that are still to meet a neighbour, the
strips alone.

Shape letters: N things of a window, h × w its pixels, H × W the photo, S pixels of a strip, T pixels along a tile's
side, P tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mask2former.inference.packed_masks import BITS_SET, PackedMasks
from mask2former.inference.segmentation import Segmentation, regions
from mask2former.inference.windows import Box, Window
from mask2former.structures import ClassInfo, Segment

AGREE = 0.5  # the IoU inside a strip that two masks of one thing exceed
TILE = 16  # of the merged packed masks


class MergedMap:
    """Panoptic and semantic segmentation: each pixel from the window that owns it, and one number for all parts of a
    segment.

    A segment's score is the best of its parts', as `postprocess.panoptic` has it for stuff: a part at a window's border
    scores low because little of it is seen, not because the thing is doubtful. Semantic segmentation takes the class
    that won in the owner: the scores of all classes at all pixels of the photo would be too much to hold.
    """

    def __init__(self, task: str, windows: Sequence[Window], classes: Sequence[ClassInfo]):
        self.task, self.classes = task, classes
        self.ids = np.zeros(_photo_size(windows), np.int32)  # numbers of parts until the end, 0 for none
        self.seams = Seams(windows)
        self.stuff: dict[int, int] = {}  # class → number
        self.labels, self.scores = {}, {}  # number → class, and best score so far
        self.regions: dict[int, list[tuple[int, Box]]] = {}  # number → area and box in each owner

    def add(self, window: Window, result: Segmentation) -> None:
        """The segments of a window, in its own pixels. Windows come in the order that `cut` gave them."""
        table = np.zeros(max((s.id for s in result.segments), default=0) + 1, np.int32)  # window's id → number
        things = [n for n, s in enumerate(result.segments) if s.is_thing and self.task == "panoptic"]
        labels = [result.segments[n].label_id for n in things]
        numbers = dict(zip(things, self.seams.add(window, labels, map(result.mask, things)), strict=True))
        for n, segment in enumerate(result.segments):
            number = numbers.get(n) or self.stuff.get(segment.label_id) or self.seams.new()
            if n not in numbers:
                self.stuff[segment.label_id] = number
            table[segment.id] = number
            self.labels[number] = segment.label_id
            self.scores[number] = max(segment.score, self.scores.get(number, 0.0))

        x0, y0, x1, y1 = window.own
        left, top = window.box[:2]
        ids = result.segmentation[y0 - top : y1 - top, x0 - left : x1 - left]
        if ids.size:
            self.ids[y0:y1, x0:x1] = table[ids]
            for k, (area, box) in regions(ids, len(table)).items():
                if table[k]:
                    self.regions.setdefault(int(table[k]), []).append((area, _moved(box, x0, y0)))

    def result(self) -> Segmentation:
        """The whole photo's. Segments are numbered 1 … N in the order in which windows first showed them; in a
        semantic map an id is a class."""
        groups: dict[int, list[int]] = {}
        for number in self.labels:
            groups.setdefault(self.seams.root(number), []).append(number)
        table = np.zeros(len(self.seams.parent), np.int32)  # number → id
        segments = []
        for numbers in groups.values():
            parts = [part for number in numbers for part in self.regions.get(number, [])]
            if not parts:  # its windows saw it only where others decide
                continue
            label, score = self.labels[numbers[0]], max(self.scores[number] for number in numbers)
            final = len(segments) + 1 if self.task == "panoptic" else label
            table[numbers] = final
            area, box, info = sum(area for area, _ in parts), _around([box for _, box in parts]), self.classes[label]
            segments.append(Segment(final, label, info.name, score, area, box, info.is_thing))
        for row in self.ids:  # in place, so that no second map is needed
            row[:] = table[row]
        return Segmentation(self.task, sorted(segments, key=lambda s: s.id), self.classes, ids=self.ids)


class MergedMasks:
    """Instance segmentation: a thing's mask is the union of what the windows saw of it, its score the best of theirs.

    Every window finds as many instances as a photo of its own would; all of them are kept.
    """

    def __init__(self, windows: Sequence[Window], classes: Sequence[ClassInfo]):
        self.size, self.classes = _photo_size(windows), classes
        self.seams = Seams(windows)
        self.found: dict[int, tuple[Segment, np.ndarray, np.ndarray]] = {}  # number → with its mask's tiles

    def add(self, window: Window, result: Segmentation) -> None:
        """The instances of a window, in its own pixels. Windows come in the order that `cut` gave them."""
        across = -(-self.size[1] // TILE)
        tiles = []

        def masks() -> Iterator[np.ndarray]:
            for n in range(len(result.segments)):
                mask = result.mask(n)  # dense, but one of them, and the window's size
                tiles.append(_tiles(mask, window.box, across))
                yield mask

        numbers = self.seams.add(window, [s.label_id for s in result.segments], masks())
        for number, segment, found in zip(numbers, result.segments, tiles, strict=True):
            self.found[number] = (segment, *found)

    def result(self) -> Segmentation:
        """The whole photo's, the surest first."""
        groups: dict[int, list[int]] = {}
        for number in self.found:
            groups.setdefault(self.seams.root(number), []).append(number)
        parts = [[self.found[number][0] for number in numbers] for numbers in groups.values()]
        bits, places = [np.zeros((0, TILE, TILE // 8), np.uint8)], [np.zeros(0, np.int64)]
        for numbers in groups.values():
            found = [self.found.pop(number)[1:] for number in numbers]
            merged = found[0] if len(found) == 1 else _union(*map(np.concatenate, zip(*found, strict=True)))
            bits.append(merged[0])
            places.append(merged[1])
        starts = np.cumsum([len(b) for b in bits])
        masks = PackedMasks(self.size, np.concatenate(bits), np.concatenate(places), starts, np.arange(len(parts)))
        best = [max(group, key=lambda segment: segment.score) for group in parts]
        order = sorted(range(len(best)), key=lambda i: -best[i].score)
        areas, boxes = masks.areas(), masks.boxes()
        segments = [
            Segment(number, best[i].label_id, best[i].label, best[i].score, areas[i], boxes[i], best[i].is_thing)
            for number, i in enumerate(order, start=1)
        ]
        return Segmentation("instance", segments, self.classes, masks=masks.select(order))


class Seams:
    """Numbers for the segments of all windows, 1, 2, …, and which of them are the same thing.

    Neighbours share a side; windows that share a corner alone are joined through the two beside them.
    """

    def __init__(self, windows: Sequence[Window]):
        self.windows = {(w.row, w.column): w for w in windows}
        self.strips: dict[tuple, Strip] = {}  # (where a window lies, where a later one does) → the first's view
        self.parent = [0]  # of each number, itself or one that it was united with

    def new(self) -> int:
        self.parent.append(len(self.parent))
        return len(self.parent) - 1

    def root(self, number: int) -> int:
        """The number that stands for all that are the same as this."""
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def add(self, window: Window, labels: Sequence[int], masks: Iterable[np.ndarray]) -> list[int]:
        """New numbers for the N things of a window, joined to those of its earlier neighbours: their labels, and their
        masks in its pixels, each (h, w) bool."""
        here = window.row, window.column
        earlier = (window.row - 1, window.column), (window.row, window.column - 1)
        later = (window.row + 1, window.column), (window.row, window.column + 1)
        slices = {there: _strip(window, self.windows[there]) for there in earlier + later if there in self.windows}
        views = {there: [] for there in slices}
        for mask in masks:
            for there, part in slices.items():
                views[there].append(np.packbits(mask[part]))
        numbers = [self.new() for _ in labels]
        for there, bits in views.items():
            strip = Strip(numbers, labels, bits)
            if there in later:
                self.strips[here, there] = strip
                continue
            for number, other in same_things(self.strips.pop((there, here)), strip):
                self.parent[self.root(other)] = self.root(number)
        return numbers


@dataclass
class Strip:
    """What one of two neighbours sees where both do."""

    numbers: Sequence[int]
    labels: Sequence[int]
    bits: Sequence[np.ndarray]  # N masks, each (⌈S / 8⌉,) uint8


def same_things(one: Strip, other: Strip) -> list[tuple[int, int]]:
    """Pairs of numbers, one from each view: of the same class, with an IoU above a half, best first, each at most
    once."""
    candidates = []
    areas, other_areas = ([_count(bits) for bits in strip.bits] for strip in (one, other))
    for a, label in enumerate(one.labels):
        for b, other_label in enumerate(other.labels):
            # No IoU is above the ratio of the areas
            if label == other_label and min(areas[a], other_areas[b]) > AGREE * max(areas[a], other_areas[b]):
                common = _count(one.bits[a] & other.bits[b])
                iou = common / (areas[a] + other_areas[b] - common)
                if iou > AGREE:
                    candidates.append((-iou, a, b))
    pairs, taken_one, taken_other = [], set(), set()
    for _, a, b in sorted(candidates):
        if a not in taken_one and b not in taken_other:
            pairs.append((one.numbers[a], other.numbers[b]))
            taken_one.add(a)
            taken_other.add(b)
    return pairs


def _count(bits: np.ndarray) -> int:
    return int(BITS_SET[bits].sum(dtype=np.int64))


def _photo_size(windows: Sequence[Window]) -> tuple[int, int]:
    return windows[-1].box[3], windows[-1].box[2]


def _strip(window: Window, other: Window) -> tuple[slice, slice]:
    """Where, in the pixels of the window, the other one sees the photo too."""
    (x0, y0, x1, y1), (left, top, right, bottom) = window.box, other.box
    return slice(max(y0, top) - y0, min(y1, bottom) - y0), slice(max(x0, left) - x0, min(x1, right) - x0)


def _tiles(mask: np.ndarray, box: Box, across: int) -> tuple[np.ndarray, np.ndarray]:
    """The (h, w) mask of a window in the photo's tiles, of which a row has `across`: bits (P, T, T / 8) of those that
    hold something, and where they lie (P,), rising."""
    (column, left), (row, top) = divmod(box[0], TILE), divmod(box[1], TILE)
    height, width = mask.shape
    padded = np.pad(mask, ((top, -(top + height) % TILE), (left, -(left + width) % TILE)))
    rows, columns = padded.shape[0] // TILE, padded.shape[1] // TILE
    bits = np.packbits(padded, axis=1).reshape(rows, TILE, columns, TILE // 8).swapaxes(1, 2)
    y, x = bits.any((2, 3)).nonzero()
    return bits[y, x], (y + row) * across + x + column


def _union(bits: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tiles of several masks as those of one: (P, T, T / 8) and (P,), fewer where some lay in the same place."""
    order = places.argsort(kind="stable")
    unique, starts = np.unique(places[order], return_index=True)
    return np.bitwise_or.reduceat(bits[order], starts, axis=0), unique


def _moved(box: Box, x: int, y: int) -> Box:
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def _around(boxes: Sequence[Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)
