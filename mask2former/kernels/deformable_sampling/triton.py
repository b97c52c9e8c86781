"""The deformable sampling as one GPU kernel forward and one backward (Triton). Imported only where it is used.

Nothing but the result is written: the corners' indices, their shares and the gathered rows stay in registers. The
arithmetic is float32 whatever the tensors are.

Shape letters: B images, N queries, M heads, L levels, P points, D channels a head, S positions of all levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

QUERIES = 32  # queries of one head that a program instance works on


def sample(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The contract of `multi_scale_deformable_sampling`; float32, bfloat16 or float16."""
    sizes = [n for height, width in shapes for n in (height, width)]
    return _sample(value.contiguous(), sizes, locations.contiguous(), weights.contiguous())


@torch.library.custom_op("mask2former::deformable_sampling", mutates_args=())
def _sample(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    B, N, _, M, L, P = locations.shape
    D = value.shape[3]
    out = torch.empty(B, N, M * D, dtype=value.dtype, device=value.device)
    grid = (triton.cdiv(N, QUERIES), B * M)
    with _device_of(value):
        _forward_kernel[grid](
            value, _levels(sizes, value), locations, weights, out,
            N, M, value.shape[1], D, L, P, QUERIES, triton.next_power_of_2(D),
        )  # fmt: skip
    return out


@_sample.register_fake
def _(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(locations.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op("mask2former::deformable_sampling_backward", mutates_args=())
def _sample_backward(
    grad: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, _, M, L, P = locations.shape
    D = value.shape[3]
    grad_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)  # several queries add to one row
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    grid = (triton.cdiv(N, QUERIES), B * M)
    with _device_of(value):
        _backward_kernel[grid](
            grad, value, _levels(sizes, value), locations, weights, grad_value, grad_locations, grad_weights,
            N, M, value.shape[1], D, L, P, QUERIES, triton.next_power_of_2(D),
        )  # fmt: skip
    return grad_value.to(value.dtype), grad_locations, grad_weights


@_sample_backward.register_fake
def _(grad: Tensor, value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor):
    return torch.empty_like(value), torch.empty_like(locations), torch.empty_like(weights)


def _remember(ctx, inputs, output) -> None:
    value, ctx.sizes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _differentiate(ctx, grad: Tensor):
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = _sample_backward(grad.contiguous(), value, ctx.sizes, locations, weights)
    return grad_value, None, grad_locations, grad_weights


_sample.register_autograd(_differentiate, setup_context=_remember)


def _device_of(value: Tensor) -> AbstractContextManager:
    """Triton launches on the current GPU, which need not be the tensors'."""
    return torch.cuda.device_of(value) if value.is_cuda else nullcontext()


def _levels(sizes: Sequence[int], like: Tensor) -> Tensor:
    return _levels_on(tuple(sizes), like.device)


@lru_cache(maxsize=256)
def _levels_on(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """(L, 3) int32: height, width, first position of each level. Kept, since a copy to the GPU would make it wait."""
    rows, start = [], 0
    for height, width in zip(sizes[::2], sizes[1::2], strict=True):
        rows.append((height, width, start))
        start += height * width
    return torch.tensor(rows, dtype=torch.int32, device=device)


@triton.jit
def _corner(value, row, column, height, width, image_head, step, channel, inside):
    """The value rows (QUERIES, D) at one corner of each query's location, zero outside the map, and where they lie."""
    valid = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = image_head + (row * width + column)[:, None] * step + channel[None, :]
    return tl.load(value + place, mask=valid[:, None] & (channel >= 0)[None, :], other=0.0).to(tl.float32), place, valid


@triton.jit
def _forward_kernel(
    value, levels, locations, weights, out,
    N, M, S, D: tl.constexpr, L: tl.constexpr, P: tl.constexpr, QUERIES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(1) // M, tl.program_id(1) % M
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    inside = query < N
    channel = tl.arange(0, CHANNELS)
    channel = tl.where(channel < D, channel, -1)  # −1: a channel that only fills up the power of two
    points = M * L * P
    row_of_query = (image * N + query).to(tl.int64)
    total = tl.zeros((QUERIES, CHANNELS), dtype=tl.float32)
    for level in tl.static_range(L):
        height, width = tl.load(levels + level * 3), tl.load(levels + level * 3 + 1)
        image_head = ((image * S + tl.load(levels + level * 3 + 2)).to(tl.int64) * M + head) * D
        for point in tl.static_range(P):
            at = (head * L + level) * P + point
            x = tl.load(locations + row_of_query * 2 * points + at, mask=inside, other=0.0).to(tl.float32)
            y = tl.load(locations + row_of_query * 2 * points + points + at, mask=inside, other=0.0).to(tl.float32)
            weight = tl.load(weights + row_of_query * points + at, mask=inside, other=0.0).to(tl.float32)
            x, y = tl.clamp(x, -1.0, width.to(tl.float32)), tl.clamp(y, -1.0, height.to(tl.float32))
            left, top = tl.floor(x), tl.floor(y)
            right_share, bottom_share = x - left, y - top
            column, row = left.to(tl.int32), top.to(tl.int32)
            a, _, _ = _corner(value, row, column, height, width, image_head, M * D, channel, inside)
            b, _, _ = _corner(value, row, column + 1, height, width, image_head, M * D, channel, inside)
            c, _, _ = _corner(value, row + 1, column, height, width, image_head, M * D, channel, inside)
            d, _, _ = _corner(value, row + 1, column + 1, height, width, image_head, M * D, channel, inside)
            upper = a + (b - a) * right_share[:, None]
            lower = c + (d - c) * right_share[:, None]
            total += (upper + (lower - upper) * bottom_share[:, None]) * weight[:, None]
    place = (row_of_query * M + head)[:, None] * D + channel[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside[:, None] & (channel >= 0)[None, :])


@triton.jit
def _backward_kernel(
    grad, value, levels, locations, weights, grad_value, grad_locations, grad_weights,
    N, M, S, D: tl.constexpr, L: tl.constexpr, P: tl.constexpr, QUERIES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(1) // M, tl.program_id(1) % M
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    inside = query < N
    channel = tl.arange(0, CHANNELS)
    channel = tl.where(channel < D, channel, -1)
    points = M * L * P
    row_of_query = (image * N + query).to(tl.int64)
    here = inside[:, None] & (channel >= 0)[None, :]
    place = (row_of_query * M + head)[:, None] * D + channel[None, :]
    g = tl.load(grad + place, mask=here, other=0.0).to(tl.float32)  # (QUERIES, D)
    for level in tl.static_range(L):
        height, width = tl.load(levels + level * 3), tl.load(levels + level * 3 + 1)
        image_head = ((image * S + tl.load(levels + level * 3 + 2)).to(tl.int64) * M + head) * D
        for point in tl.static_range(P):
            at = (head * L + level) * P + point
            x_at = row_of_query * 2 * points + at
            raw_x = tl.load(locations + x_at, mask=inside, other=0.0).to(tl.float32)
            raw_y = tl.load(locations + x_at + points, mask=inside, other=0.0).to(tl.float32)
            weight = tl.load(weights + row_of_query * points + at, mask=inside, other=0.0).to(tl.float32)
            x, y = tl.clamp(raw_x, -1.0, width.to(tl.float32)), tl.clamp(raw_y, -1.0, height.to(tl.float32))
            left, top = tl.floor(x), tl.floor(y)
            right_share, bottom_share = x - left, y - top
            column, row = left.to(tl.int32), top.to(tl.int32)
            a, a_at, a_in = _corner(value, row, column, height, width, image_head, M * D, channel, inside)
            b, b_at, b_in = _corner(value, row, column + 1, height, width, image_head, M * D, channel, inside)
            c, c_at, c_in = _corner(value, row + 1, column, height, width, image_head, M * D, channel, inside)
            d, d_at, d_in = _corner(value, row + 1, column + 1, height, width, image_head, M * D, channel, inside)
            ga, gb, gc, gd = tl.sum(g * a, 1), tl.sum(g * b, 1), tl.sum(g * c, 1), tl.sum(g * d, 1)
            upper, lower = ga + (gb - ga) * right_share, gc + (gd - gc) * right_share
            tl.store(
                grad_weights + row_of_query * points + at,
                (upper + (lower - upper) * bottom_share).to(grad_weights.dtype.element_ty),
                mask=inside,
            )
            slope_x = ((gb - ga) * (1 - bottom_share) + (gd - gc) * bottom_share) * weight
            slope_y = (lower - upper) * weight
            slope_x = tl.where(raw_x == x, slope_x, 0.0)  # a clamped location moves nothing
            slope_y = tl.where(raw_y == y, slope_y, 0.0)
            tl.store(grad_locations + x_at, slope_x.to(grad_locations.dtype.element_ty), mask=inside)
            tl.store(grad_locations + x_at + points, slope_y.to(grad_locations.dtype.element_ty), mask=inside)
            top_share, left_share = weight * (1 - bottom_share), 1 - right_share
            low_share = weight * bottom_share
            real = (channel >= 0)[None, :]
            tl.atomic_add(grad_value + a_at, g * (top_share * left_share)[:, None], mask=a_in[:, None] & real)
            tl.atomic_add(grad_value + b_at, g * (top_share * right_share)[:, None], mask=b_in[:, None] & real)
            tl.atomic_add(grad_value + c_at, g * (low_share * left_share)[:, None], mask=c_in[:, None] & real)
            tl.atomic_add(grad_value + d_at, g * (low_share * right_share)[:, None], mask=d_in[:, None] & real)
