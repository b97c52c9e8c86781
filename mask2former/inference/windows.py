"""Overlapping windows over a photo that is too large for one pass of the network.

Windows are laid out over the padded input, the photo as the network would see it whole, at multiples of 32: so with
the photo's own pixels each window lies on the network's grid. Each has a box in the photo's pixels, from which it is
resized on its own; its segments come in these pixels, and nothing has to be mapped back afterwards.

Two neighbours both see the strip in which they overlap. Each pixel is owned by the window in which it lies furthest
from a border that is not the photo's: the cut goes through the middle of the strip.
"""

from __future__ import annotations

from dataclasses import dataclass

from mask2former.structures import PhotoSizes

STRIDE = 32  # of the network's coarsest map: padding and the corners of windows are multiples of it

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the photo, x1 and y1 exclusive


@dataclass(frozen=True)
class Window:
    """One window of a photo."""

    row: int  # in the grid of windows
    column: int
    box: Box  # what it sees of the photo
    own: Box  # the part of it that it decides; these parts do not overlap and cover the photo. May be empty
    sizes: PhotoSizes  # of the box, as if it were a photo


def window_size(padded: tuple[int, int], pixels: int) -> tuple[int, int]:
    """The largest (height, width) of a window over a padded input with at most so many pixels: square, or longer where
    the input is narrower than that. Multiples of 32."""
    square, short = _down(pixels**0.5), min(padded)
    if short >= square:
        return square, square
    long = min(max(padded), _down(pixels / short))
    return (short, long) if padded[0] == short else (long, short)


def cut(sizes: PhotoSizes, size: tuple[int, int], overlap: int) -> list[Window]:
    """Windows over a photo, row by row; all of one padded size, which is at most `size`.

    sizes: of the whole photo. size: the largest (height, width) of a window in the network's pixels. overlap: the least
    of two neighbours, in the same pixels. Of all sizes that need no more windows the smallest is taken: larger ones
    would overlap more at the same number, for more work. Raises ValueError where `size` is no multiple of 32, or the
    overlap more than half of a side that has to be cut.
    """
    sides = zip(sizes.photo, sizes.resized, sizes.padded, size, strict=True)
    rows, columns = (_spans(*side, overlap) for side in sides)
    return [
        Window(
            row,
            column,
            (x.start, y.start, x.end, y.end),
            (x.own_start, y.own_start, x.own_end, y.own_end),
            PhotoSizes((y.end - y.start, x.end - x.start), (y.resized, x.resized), (y.padded, x.padded)),
        )
        for row, y in enumerate(rows)
        for column, x in enumerate(columns)
    ]


@dataclass
class _Span:
    """One side of a window. start, end, own_start, own_end: in the photo's pixels; resized, padded: the network's."""

    start: int
    end: int
    own_start: int
    own_end: int
    resized: int
    padded: int


def _spans(photo: int, resized: int, padded: int, size: int, overlap: int) -> list[_Span]:
    """One side of the photo, cut into windows."""
    whole, most, least = padded // STRIDE, size // STRIDE, -(-overlap // STRIDE)
    if size % STRIDE or size < STRIDE or overlap < 0 or (whole > most and 2 * least > most):
        raise ValueError(
            f"windows of {size} pixels that overlap by {overlap}: expected a multiple of {STRIDE}, and an overlap that "
            "is at most half of it, rounded up to such a multiple"
        )
    count = 1 if whole <= most else -(-(whole - least) // (most - least))
    length = -(-(whole + (count - 1) * least) // count)
    starts = [i * (whole - length) // max(1, count - 1) * STRIDE for i in range(count)]
    scale, length = photo / resized, length * STRIDE
    first = [min(photo - 1, round(start * scale)) for start in starts]
    last = [max(a + 1, round((start + length) * scale)) for a, start in zip(first, starts, strict=True)]
    last = [min(photo, end) for end in last[:-1]] + [photo]
    cuts = [0, *((a + b) // 2 for a, b in zip(first[1:], last[:-1], strict=True)), photo]
    return [
        _Span(first[i], last[i], cuts[i], cuts[i + 1], min(length, resized - starts[i]), length) for i in range(count)
    ]


def _down(side: float) -> int:
    """To a multiple of 32, at least one."""
    return max(1, int(side) // STRIDE) * STRIDE
