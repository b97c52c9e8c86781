"""One object's outline as COCO has it, polygons or a run-length encoding: declared, checked, and only then drawn.

The library that draws believes what it is given: it takes four numbers for a box, two lists of one length for a mask,
and any coordinate for one worth drawing. So an outline is checked here against the size of its photo.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np

from mask2former.schema import decode_json

FARTHEST = 1e7  # pixels; no coordinate of a photo is beyond it
BITS, DIGITS = 5, 7  # of a number in each character of compressed counts, and characters at most
FIRST = 48  # the character for 0

Coordinate = Annotated[float, msgspec.Meta(ge=-FARTHEST, le=FARTHEST)]
Polygon = Annotated[list[Coordinate], msgspec.Meta(min_length=6)]  # x, y, x, y, … of three or more points


class RunLengths(msgspec.Struct, gc=False):
    """Pixels down the columns: so many outside, so many inside, and so on."""

    size: tuple[int, int]  # height, width
    counts: list[Annotated[int, msgspec.Meta(ge=0)]] | str  # or compressed to text


Outline = Annotated[list[Polygon], msgspec.Meta(min_length=1)] | RunLengths
Shape = list[list[float]] | dict[str, Any]  # what `annotation.Shapes` holds
Fault = Callable[[str, str], Exception]  # what is wrong, what to do → the exception to raise

REMEDY = (
    "expected polygons [[x, y, x, y, …], …] of three or more points each, or a run-length encoding with size and "
    "counts; a box alone cannot be learned as a mask: add the outline or remove the annotation"
)


def read_outline(text: bytes, size: tuple[int, int], place: str, fault: Fault) -> Shape:
    """An outline from the JSON text of a `segmentation`, fit to be drawn in a photo of `size` (height, width).

    place: where it stands in its file, for messages.
    """
    if not text:
        raise fault(f"{place.rpartition('.')[0]}: no segmentation", REMEDY)
    outline = decode_json(text, Outline, lambda problem: fault(f"segmentation: {problem}", REMEDY), place)
    if isinstance(outline, list):
        check_polygons(outline, size, place, fault)
        return outline
    if outline.size != size:
        raise fault(
            f"{place}.size: {list(outline.size)}, but the image has the size {list(size)}",
            "encode masks at the photo's height and width",
        )
    counts = outline.counts
    if isinstance(counts, str):
        try:
            counts = decompress(counts)
        except ValueError as error:
            raise fault(f"{place}.counts: {error}", "encode the mask anew") from None
    if sum(counts) != size[0] * size[1]:
        raise fault(
            f"{place}.counts: a run-length encoding of {sum(counts)} pixels for a photo of {size[0] * size[1]}",
            "it is cut off or of another photo: encode the mask anew",
        )
    return {"size": list(size), "counts": counts}


def check_polygons(polygons: list[list[float]], size: tuple[int, int], place: str, fault: Fault) -> bool:
    """Raises unless the polygons can be drawn in a photo of `size`, and reach into it.

    Returns whether one of them goes more than a pixel beyond the photo's edges, where it is cut off.
    """
    height, width = size
    shortest = min(size) + 1
    reaches = beyond = False
    length = 0.0
    for number, polygon in enumerate(polygons):
        if len(polygon) % 2:
            raise fault(
                f"{place}[{number}]: {len(polygon)} numbers, which are no pairs x, y",
                "points have two numbers each; leave out visibility flags",
            )
        low, high = min(polygon), max(polygon)
        length += len(polygon) * (high - low)  # at most; measured where it could be too much
        if low >= -1 and high <= shortest:  # most are, and this is asked of every polygon of a file
            reaches = True
            continue
        xs, ys = polygon[::2], polygon[1::2]
        right, bottom = max(xs), max(ys)
        reaches = reaches or (min(xs) < width and right > 0 and min(ys) < height and bottom > 0)
        beyond = beyond or low < -1 or right > width + 1 or bottom > height + 1
    if not reaches:
        raise fault(
            f"{place}: all of it lies outside the photo of {width}×{height} pixels",
            "outlines are in pixels of the photo, not in shares of it or of another size",
        )
    longest = 4 * height * width + 100_000  # pixels: a line through each pixel of the photo, and more
    if length > longest and sum(map(perimeter, polygons)) > longest:
        raise fault(
            f"{place}: outlines longer than {longest} pixels in a photo of {width}×{height}",
            "they were drawn at another size or are no outlines: draw them anew",
        )
    return beyond


def perimeter(polygon: list[float]) -> float:
    xs, ys = polygon[::2], polygon[1::2]
    return sum(
        max(abs(x - xs[k - 1]), abs(y - ys[k - 1])) for k, (x, y) in enumerate(zip(xs, ys, strict=True))
    )  # the library's pixels of a line


def decompress(text: str) -> list[int]:
    """Counts from COCO's text: 5 bits a character, the lowest first, and from the fourth on the difference to the
    count before the last. Raises ValueError for text that is none."""
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - FIRST  # (characters,)
    if not len(codes):
        return []
    odd = np.flatnonzero((codes < 0) | (codes > 63))
    if len(odd):
        raise ValueError(f"character {text[odd[0]]!r} at {odd[0]} does not occur in compressed counts")
    ends = np.flatnonzero(codes < 32)  # 32 says that the number goes on
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("the text ends within a count")
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > DIGITS:
        raise ValueError(f"a count of {digits.max()} characters, where {DIGITS} are enough for any photo")
    place = np.arange(len(codes)) - np.repeat(starts, digits)
    counts = np.add.reduceat((codes & 31) << (BITS * place), starts)
    counts -= np.where(codes[ends] & 16, np.int64(1) << (BITS * digits), 0)  # negative
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    if counts.min() < 0:
        raise ValueError(f"a run of {counts.min()} pixels")
    return counts.tolist()
