"""3 × 3 convolutions; on a CPU in a quarter of the multiplications (Lavin and Gray 2016).

Winograd's F(4 × 4, 3 × 3): 4 × 4 results need the 6 × 6 values around them. Values and filter are mapped to 36 sums
each, by small fixed matrices; there a convolution is a product of channels at each of the 36, which are mixed back
into the results. In float32 its rounding error is four times that of the plain convolution, 1e-5 of the largest value.

Forms: `textbook`; `winograd`. Proved equal to the textbook form, values and gradients, by
`tests/test_kernels_convolution.py`.

Shape letters: B images, C channels in, N out, H × W the map, t tiles of 4 × 4 results.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mask2former.kernels import route


def textbook(layer: nn.Module, x: Tensor) -> Tensor:
    """Each result is the sum over the 3 × 3 values around it, each times its number in the filter."""
    return layer(x)


def convolve_3x3(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), (B, C, H, W) → (B, N, H, W), for a 3 × 3 convolution with padding 1."""
    if route.choose("convolution_3x3", x, (layer,)) == "textbook":
        return textbook(layer, x)
    out = route.called(x, convolve, Convolution.apply, convolve_compiled)(x, layer.weight)
    return out if layer.bias is None else out + layer.bias[:, None, None]


TILES = 256  # worked on at once

# The matrices of the paper's §4.3, one dimension of each.
VALUES = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
FILTER = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
          (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
RESULTS = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


@torch.library.custom_op("mask2former::convolve_3x3", mutates_args=())
def convolve_operator(x: Tensor, weight: Tensor) -> Tensor:
    """`convolve` as one node of a compiled graph in inference: (B, C, H, W), (N, C, 3, 3) → (B, H, W, N).

    Channels come last so that what it returns, and what the compiler is told of it, are plainly contiguous.
    """
    return convolve(x, weight).permute(0, 2, 3, 1).contiguous()


@convolve_operator.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], *x.shape[2:], len(weight))


def convolve_compiled(x: Tensor, weight: Tensor) -> Tensor:
    return convolve_operator(x, weight).permute(0, 3, 1, 2)


class Convolution(torch.autograd.Function):
    """`convolve` with gradients: that of the values is a convolution too, with the filter turned round."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return convolve(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad
        return (
            convolve(grad, weight.flip(2, 3).transpose(0, 1)) if need_x else None,
            weight_gradient(x, grad) if need_weight else None,
        )


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """(B, C, H, W), (N, C, 3, 3) → (B, N, H, W), channels last in memory."""
    _, filter_to_sums, to_results = matrices(x.dtype)
    N, C = weight.shape[:2]
    filters = (filter_to_sums @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(36, C, N)
    B, _, H, W = x.shape
    down, across = -(-H // 4), -(-W // 4)
    out = x.new_empty(B, 4 * down, 4 * across, N)
    for image, result in zip(x.permute(0, 2, 3, 1), out, strict=True):
        for rows, sums in sums_of_values(image):
            mixed = torch.bmm(sums, filters)  # (36, t, N)
            found = (to_results @ mixed.flatten(1)).view(4, 4, -1, across, N)
            tiles_of(result[rows], across).copy_(found)
    return out[:, :H, :W].permute(0, 3, 1, 2)


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The filter's gradient from values (B, C, H, W) and the results' gradient (B, N, H, W): (N, C, 3, 3)."""
    _, filter_to_sums, to_results = matrices(x.dtype)
    C, (N, H, W) = x.shape[1], grad.shape[1:]
    down, across = -(-H // 4), -(-W // 4)
    grad_filters = x.new_zeros(36, C, N)
    for image, grad_image in zip(x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1), strict=True):
        grad_image = F.pad(grad_image, (0, 0, 0, 4 * across - W, 0, 4 * down - H))
        for rows, sums in sums_of_values(image):
            grad_mixed = to_results.T @ tiles_of(grad_image[rows], across).reshape(16, -1)
            grad_filters.baddbmm_(sums.mT, grad_mixed.view(36, -1, N))
    return (filter_to_sums.T @ grad_filters.flatten(1)).view(3, 3, C, N).permute(3, 2, 0, 1)


def sums_of_values(image: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """An image (H, W, C), some rows of tiles at a time: which rows of results they give, and their sums (36, t, C)."""
    H, W, C = image.shape
    down, across = -(-H // 4), -(-W // 4)
    padded = image.new_empty(4 * down + 2, 4 * across + 2, C)
    for border in (padded[0], padded[H + 1 :], padded[1 : H + 1, 0], padded[1 : H + 1, W + 1 :]):
        border.zero_()
    padded[1 : H + 1, 1 : W + 1] = image
    step = max(1, TILES // across)
    for top in range(0, down, step):
        bottom = min(top + step, down)
        tiles = padded[4 * top : 4 * bottom + 2].unfold(0, 6, 4).unfold(1, 6, 4)  # (rows, across, C, 6, 6)
        sums = matrices(image.dtype)[0] @ tiles.permute(3, 4, 0, 1, 2).reshape(36, -1)  # (36, t · C)
        yield slice(4 * top, 4 * bottom), sums.view(36, -1, C)


def tiles_of(image: Tensor, across: int) -> Tensor:
    """A view of whole tiles, (4 · rows, 4 · across, N) → (4, 4, rows, across, N)."""
    return image.view(-1, 4, across, 4, image.shape[-1]).permute(1, 3, 0, 2, 4)


@lru_cache
def matrices(dtype: torch.dtype) -> list[Tensor]:
    """Both dimensions of each mapping at once: (36, 36), (36, 9), (16, 36)."""
    sides = (torch.tensor(matrix, dtype=torch.float64) for matrix in (VALUES, FILTER, RESULTS))
    return [torch.kron(side, side).to(dtype) for side in sides]
