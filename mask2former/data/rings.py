"""Outlines as tools write them, brought into the one form that is drawn: lists x, y, x, y, … or a run-length encoding.

Everything that is changed or dropped is counted in the findings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import msgspec
import numpy as np

from mask2former.data.annotation import rle_library
from mask2former.data.findings import Findings

FARTHEST = 1e7  # pixels
RINGS = msgspec.json.Decoder(list[list[float]])


def clean_outline(
    outline: Any, size: tuple[int, int], findings: Findings, where: str, unit: bool = False
) -> list[list[float]] | dict[str, Any] | None:
    """An outline fit to be drawn in a photo of `size` (H, W); None where nothing of it can be used.

    Arguments:
        outline: rings, one flat ring, rings of pairs, or a run-length encoding with size and counts; or that as JSON.
        where: for the examples in the findings.
        unit: coordinates are shares of width and height.
    """
    if isinstance(outline, msgspec.Raw):
        if (rings := tidy(outline, size)) is not None:
            return rings
        outline = decoded(outline)
    if isinstance(outline, Mapping):
        return clean_run_lengths(outline, size, findings, where)
    if not isinstance(outline, Sequence) or isinstance(outline, str) or not len(outline):
        findings.repair("objects without an outline left out (a box alone is no mask)", where)
        return None
    rings = []
    for ring in as_rings(outline, findings, where):
        points = clean_ring(ring, findings, where)
        if points is None:
            continue
        if unit:
            points = points * (size[1], size[0])
        low, high = points.min(0), points.max(0)
        if low[0] >= size[1] or low[1] >= size[0] or high[0] <= 0 or high[1] <= 0:
            findings.repair("rings outside their photo dropped", where)
            continue
        if low.min() < -1 or high[0] > size[1] + 1 or high[1] > size[0] + 1:
            findings.repair("rings cut off at the edge of their photo", where)
            points = cut_off(points, size)
            if points is None:
                continue
        rings.append(points.ravel().tolist())
    if not rings:
        findings.repair("objects left out, as nothing of their outline can be used", where)
        return None
    return rings


def tidy(outline: msgspec.Raw, size: tuple[int, int]) -> list[list[float]] | None:
    """The rings of an outline that needs no repair, as nearly all are, quickly; None for any other."""
    try:
        rings = RINGS.decode(outline)
    except (msgspec.DecodeError, RecursionError):
        return None
    height, width = size
    for ring in rings:
        if len(ring) < 6 or len(ring) % 2:
            return None
        xs, ys = ring[::2], ring[1::2]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
        inside = left >= -1 and top >= -1 and right <= width + 1 and bottom <= height + 1
        if not inside or right <= 0 or bottom <= 0 or left >= width or top >= height:
            return None
        if len(set(zip(xs, ys, strict=True))) < 3:
            return None
    return rings or None


def decoded(outline: Any) -> Any:
    """An outline at hand; None for JSON that is none."""
    try:
        return msgspec.json.decode(outline) if isinstance(outline, msgspec.Raw) else outline
    except (msgspec.DecodeError, RecursionError):
        return None


def cut_off(points: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The part of a ring within the photo, by Sutherland and Hodgman's rule, an edge at a time."""
    for axis, bound, sign in ((0, 0, 1), (0, size[1], -1), (1, 0, 1), (1, size[0], -1)):
        kept = []
        for a, b in zip(points, np.roll(points, -1, 0), strict=True):
            inside_a, inside_b = sign * (a[axis] - bound) >= 0, sign * (b[axis] - bound) >= 0
            if inside_a:
                kept.append(a)
            if inside_a != inside_b:
                kept.append(a + (b - a) * ((bound - a[axis]) / (b[axis] - a[axis])))
        if len(kept) < 3:
            return None
        points = np.array(kept)
    return points


def as_rings(outline: Sequence[Any], findings: Findings, where: str) -> list[Any]:
    """A list of rings, whichever way they were nested."""
    if any(isinstance(item, Real) for item in outline):
        findings.repair("flat rings wrapped", where)
        return [outline]
    if (
        all(isinstance(item, Sequence) and len(item) == 2 and isinstance(item[0], Real) for item in outline)
        and len(outline) > 2
    ):
        findings.repair("rings of pairs flattened", where)
        return [outline]
    return list(outline)


def clean_ring(ring: Any, findings: Findings, where: str) -> np.ndarray | None:
    """(points, 2), or None for what is no ring."""
    if isinstance(ring, Sequence) and len(ring) and all(isinstance(point, list | tuple) for point in ring):
        ring = [number for point in ring for number in point]
    if not isinstance(ring, Sequence) or isinstance(ring, str) or not all(isinstance(x, Real) for x in ring):
        findings.repair("rings that are null or hold no numbers dropped", where)
        return None
    if not all(math.isfinite(x) and abs(x) <= FARTHEST for x in ring):
        findings.repair("rings with numbers that are none dropped", where)
        return None
    if len(ring) % 2:
        findings.repair("rings with an odd number of coordinates dropped", where)
        return None
    points = np.array(ring, np.float64).reshape(-1, 2)
    if len(np.unique(points, axis=0)) < 3:
        findings.repair("specks dropped", where)
        return None
    return points


def clean_run_lengths(
    outline: Mapping[str, Any], size: tuple[int, int], findings: Findings, where: str
) -> dict[str, Any] | None:
    counts, theirs = outline.get("counts"), outline.get("size")
    try:
        height, width = (int(side) for side in theirs)
        if (height, width) != size:
            raise ValueError
        if isinstance(counts, str):
            runs = {"size": [height, width], "counts": counts}
            counts = rle_library().decode(runs)
            if not counts.any():
                raise ValueError
            return runs
        if any(run < 0 for run in counts) or sum(counts) != height * width:
            raise ValueError
        return {"size": [height, width], "counts": [int(run) for run in counts]}
    except Exception:  # a library's own, of whatever it stumbles over
        findings.repair("run-length masks that are cut off, empty or of another size left out", where)
        return None


def runs_of(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool → a run-length encoding."""
    runs = rle_library().encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = runs["counts"]
    return {"size": list(mask.shape), "counts": counts.decode() if isinstance(counts, bytes) else counts}


def placed(mask: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    """A cut-out of a mask at its place in a photo of `size`; what lies beyond is cut off."""
    whole = np.zeros(size, bool)
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + mask.shape[0], size[0]), min(left + mask.shape[1], size[1])
    if y1 > y0 and x1 > x0:
        whole[y0:y1, x0:x1] = mask[y0 - top : y1 - top, x0 - left : x1 - left]
    return whole


def inside(rings: list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool inside any of the rings."""
    rle = rle_library()
    return rle.decode(rle.merge(rle.frPyObjects(rings, *size))).astype(bool)


def circle(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0, points: int = 64) -> list[float]:
    """A circle or ellipse as a ring; turn in radians."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    across, down = radius_x * np.cos(angles), radius_y * np.sin(angles)
    ring = np.stack(
        [x + across * math.cos(turn) - down * math.sin(turn), y + across * math.sin(turn) + down * math.cos(turn)], 1
    )
    return ring.ravel().tolist()
