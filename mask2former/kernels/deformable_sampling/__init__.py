"""Multi-scale deformable sampling, the inside of deformable attention (Zhu et al. 2021, eq. 3).

Forms: `textbook`; `table`, one gathering sum in plain PyTorch on any device; `triton`, one GPU kernel. Proved equal
to the textbook form, values and gradients, by `tests/test_kernels_deformable_sampling.py`.

Shape letters: B images, N queries, M heads, L levels, P points a head and level, D channels a head, S = Σ H_l · W_l
positions of all levels together.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mask2former.kernels import route
from mask2former.kernels.deformable_sampling import table
from mask2former.kernels.precision import at_least_float32


def textbook(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Σ over levels and points of A · x(p), every level after the other."""
    sampled = 0
    for n, level in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        x, y = locations[..., n, :].unbind(2)  # (B, N, M, P)
        read = bilinear(level, shapes[n], x, y)  # (B, N, M, P, D)
        sampled = sampled + (weights[..., n, :, None] * read).sum(3)
    return sampled.flatten(2).to(value.dtype)


def bilinear(level: Tensor, shape: tuple[int, int], x: Tensor, y: Tensor) -> Tensor:
    """A level (B, H · W, M, D) read at x, y (B, N, M, P), a sum over the four pixels around → (B, N, M, P, D).

    Pixels outside the map are zero. Positions are computed in at least float32: bfloat16 cannot tell neighbours apart.
    """
    height, width = shape
    dtype = at_least_float32(x.dtype)
    x, y = x.to(dtype).clamp(-1, width), y.to(dtype).clamp(-1, height)  # beyond, all four pixels are zero
    read = 0
    for row, row_share in corners(y):
        for column, column_share in corners(x):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)  # (B, N, M, P)
            pixels = level.movedim(2, 1).gather(2, rows_of(place, level.shape[3]))  # (B, M, N · P, D)
            pixels = pixels.unflatten(2, (place.shape[1], place.shape[3])).movedim(1, 2)
            read = read + (row_share * column_share * inside)[..., None] * pixels
    return read


def corners(x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The pixels before and after a position along one axis, and how much of the result is each one's."""
    before = x.floor()
    share = x - before
    return (before.long(), 1 - share), (before.long() + 1, share)


def rows_of(place: Tensor, channels: int) -> Tensor:
    """An index into each head's rows of the level, once for every channel: (B, N, M, P) → (B, M, N · P, D)."""
    return place.movedim(2, 1).flatten(2)[..., None].expand(-1, -1, -1, channels)


def multi_scale_deformable_sampling(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Σ over levels and points of weight × value, read bilinearly at the location; zero outside the map.

    value (B, S, M, D); shapes L × (H, W) with Σ H · W = S; locations (B, N, 2, M, L, P): x, then y, in pixels of the
    level, pixel centres at whole numbers; weights (B, N, M, L, P) → (B, N, M · D). Differentiable in all tensors.
    """
    form = route.choose("deformable_sampling", value)
    if form == "triton":
        from mask2former.kernels.deformable_sampling import triton

        return triton.sample(value, shapes, locations, weights)
    return (textbook if form == "textbook" else table.sample)(value, shapes, locations, weights)
