"""The deformable sampling in PyTorch, on any device and in any float type, with a backward pass of its own.

A bilinear reading is a weighted sum of four pixels, so a head's whole result is a weighted sum of 4 · L · P rows of
the value table, which `embedding_bag` gathers and adds up in one pass without storing the gathered rows. A frame of
zeros around each level makes every clamped location a valid one, so nothing needs masking.

Between forward and backward only table, locations and weights are kept: the corners are computed again.

Shape letters: B images, N queries, M heads, L levels, P points, D channels a head, S positions of all levels,
R rows of the framed table, of all images and heads; G = B · N · M results and K = 4 · L · P corners of each.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor
from torch.autograd.function import once_differentiable

from mask2former.kernels import route
from mask2former.kernels.precision import at_least_float32


def sample(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The contract of `multi_scale_deformable_sampling`."""
    return route.called(value, sampled, recorded, compiled)(value, shapes, locations, weights)


def sampled(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The weighted sums of the table's rows (B, N, M · D), without gradient."""
    return sums_of_rows(framed_table(value, shapes), shapes, locations, weights)


def recorded(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    return Sampling.apply(value, locations, weights, shapes)


def compiled(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    return sampling_operator(value, [n for shape in shapes for n in shape], locations, weights)


@torch.library.custom_op("mask2former::deformable_sampling_pytorch", mutates_args=())
def sampling_operator(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """`sampled` as one node of a compiled graph in inference on a CPU, where the compiler's own code is slower."""
    return sampled(value, list(zip(sizes[::2], sizes[1::2], strict=True)), locations, weights)


@sampling_operator.register_fake
def _(value: Tensor, sizes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(*locations.shape[:2], value.shape[2:].numel())


def sums_of_rows(table: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`sampled` with the table made."""
    index, shares = Corners(table, locations, weights, shapes).flat()
    return add_rows(table, index, shares).view(*locations.shape[:2], -1)


class Sampling(torch.autograd.Function):
    """`sampled` with gradients in the values, the locations and the weights."""

    @staticmethod
    def forward(ctx, value: Tensor, locations: Tensor, weights: Tensor, shapes) -> Tensor:
        table = framed_table(value, shapes)
        ctx.save_for_backward(table, locations, weights)
        ctx.shapes = shapes
        return sums_of_rows(table, shapes, locations, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        table, locations, weights = ctx.saved_tensors
        corners = Corners(table, locations, weights, ctx.shapes)
        index, shares = corners.flat()
        grad = grad.contiguous().view(len(index), -1)  # (G, D)
        grad_table = add_to_rows(grad, index, shares, table.shape[:3].numel()).view(table.shape)
        grad_value = torch.cat([level.flatten(1, 2) for level in interiors(grad_table, ctx.shapes)], dim=1)
        grad_shares = products_with_rows(grad, table.flatten(0, 2), index).view(-1, 4, corners.points)
        return grad_value, *corners.gradients(grad_shares), None


class Corners:
    """The four pixels around every point: their rows in the table, and each one's share of the result."""

    def __init__(self, table: Tensor, locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]]):
        M, L, P = locations.shape[3:]
        device = table.device
        self.dtype, self.points, self.locations = table.dtype, L * P, locations
        dtype = at_least_float32(locations.dtype)  # bfloat16 could not tell neighbouring pixels apart

        def per_level(numbers: list[int], dtype: torch.dtype) -> Tensor:
            """(M, L · P): a level's number at each of its points, as flat as the points are, for one pass each."""
            column = torch.stack([torch.full((), n, dtype=torch.int32, device=device) for n in numbers])
            return column.to(dtype)[:, None].expand(M, L, P).flatten(1)

        largest = torch.stack((per_level([w for _, w in shapes], dtype), per_level([h for h, _ in shapes], dtype)))
        self.largest = largest.flatten(1)  # (2, M · L · P)
        xy = locations.to(dtype).flatten(3)  # (B, N, 2, M · L · P)
        xy = torch.clamp(xy, torch.full_like(self.largest, -1), self.largest)
        corner = xy.floor()
        self.right_share, self.bottom_share = (xy - corner).unbind(2)  # (B, N, M · L · P)
        self.weights = weights.contiguous().flatten(2)

        # Rows of the table are (image, position, head): one step right is M rows, one step down M · (W + 2).
        left, top = corner.int().unbind(2)
        down = per_level([M * (w + 2) for _, w in shapes], torch.int32)
        origin = per_level(
            [M * (s + w + 3) for s, (_, w) in zip(level_starts(shapes), shapes, strict=False)], torch.int32
        )
        origin = (origin + torch.arange(M, dtype=torch.int32, device=device)[:, None]).flatten()
        image = torch.arange(len(locations), dtype=torch.int32, device=device)[:, None, None] * (table.shape[1] * M)
        self.first = torch.add(torch.addcmul(origin + image, top, down.flatten()), left, alpha=M)  # (B, N, M · L · P)
        self.steps = torch.stack((torch.zeros_like(down[0]), torch.full_like(down[0], M), down[0], down[0] + M))

    def flat(self) -> tuple[Tensor, Tensor]:
        """Rows and shares of all corners, both (G, K): top left, top right, bottom left, bottom right."""
        index = self.first.view(-1, 1, self.points) + self.steps  # (G, 4, L · P)
        bottom = self.weights * self.bottom_share
        top = self.weights - bottom
        bottom_right, top_right = bottom * self.right_share, top * self.right_share
        shares = (top - top_right, top_right, bottom - bottom_right, bottom_right)
        shares = torch.stack([share.view(-1, self.points) for share in shares], dim=1)  # (G, 4, L · P)
        return index.flatten(1), shares.flatten(1).to(self.dtype)

    def gradients(self, grad_shares: Tensor) -> tuple[Tensor, Tensor]:
        """Of locations and weights, from those of the shares (G, 4, L · P)."""
        shape = self.weights.shape
        parts = grad_shares.to(self.right_share.dtype).unbind(1)
        top_left, top_right, bottom_left, bottom_right = (part.reshape(shape) for part in parts)
        top_slope, bottom_slope = top_right - top_left, bottom_right - bottom_left
        top = torch.addcmul(top_left, top_slope, self.right_share)
        bottom = torch.addcmul(bottom_left, bottom_slope, self.right_share)
        grad_weights = torch.lerp(top, bottom, self.bottom_share)
        grad_x = torch.lerp(top_slope, bottom_slope, self.bottom_share) * self.weights
        grad_y = (bottom - top) * self.weights
        flat = self.locations.flatten(3)
        inside = (flat >= -1) & (flat <= self.largest)
        grad_locations = torch.stack((grad_x, grad_y), dim=2) * inside
        return (
            grad_locations.view(self.locations.shape).to(self.locations.dtype),
            grad_weights.view(*shape[:2], *self.locations.shape[3:]).to(self.weights.dtype),
        )


def add_rows(table: Tensor, index: Tensor, shares: Tensor) -> Tensor:
    """Σ over k of shares[g, k] · table row index[g, k]: (B, S', M, D), (G, K), (G, K) → (G, D)."""
    return F.embedding_bag(index, table.flatten(0, 2), mode="sum", per_sample_weights=shares)


@torch.library.custom_op("mask2former::products_with_rows", mutates_args=())
def products_with_rows(grad: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """The gradient of the shares: ⟨grad[g], table row index[g, k]⟩, for (G, D), (rows, D), (G, K) → (G, K).

    On a CPU it is a product of two matrices at the places of a sparse one, four times faster than the backward pass of
    `embedding_bag`, which is left for other devices and types.
    """
    G, K = index.shape
    if grad.is_cpu and grad.dtype in (torch.float32, torch.float64):
        starts = torch.arange(0, G * K + 1, K, dtype=index.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "Sparse CSR tensor support is in beta state"
            places = torch.sparse_csr_tensor(
                starts, index.flatten(), grad.new_zeros(G * K), (G, len(table)), check_invariants=False
            )
            torch.sparse.sampled_addmm(places, grad, table.T, beta=0.0, out=places)  # in place: no copy of the indices
            return places.values().view(G, K)
    index = index.long() if grad.is_cuda else index
    bags = torch.arange(G, device=index.device, dtype=index.dtype)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, table, index.flatten(), bags * K, bags.repeat_interleave(K), 0
    ).view(G, K)


@products_with_rows.register_fake
def _(grad: Tensor, table: Tensor, index: Tensor) -> Tensor:
    return grad.new_empty(index.shape)


@torch.library.custom_op("mask2former::add_to_rows", mutates_args=())
def add_to_rows(grad: Tensor, index: Tensor, shares: Tensor, rows: int) -> Tensor:
    """The gradient of the table: row r gets Σ of shares[g, k] · grad[g] where index[g, k] = r; (G, D) → (rows, D).

    On a CPU PyTorch's own backward sorts all G · K corners and adds them one by one. Here the sparse matrix of shares
    is transposed (a counting sort), after which the sum is another gathering one: eight times faster.
    """
    if not grad.is_cpu:
        return grad.new_zeros(rows, grad.shape[1]).index_add_(
            0, index.flatten(), (shares[..., None] * grad[:, None]).flatten(0, 1)
        )
    (G, K), low = index.shape, grad.dtype in (torch.bfloat16, torch.float16)
    starts = torch.arange(0, G * K + 1, K, dtype=torch.int32).numpy()
    flat = shares.float() if low else shares
    by_row = csr_array((flat.flatten().numpy(), index.flatten().numpy(), starts), shape=(G, rows)).tocsc()
    index, starts, shares = (torch.from_numpy(x) for x in (by_row.indices, by_row.indptr, by_row.data))
    return F.embedding_bag(
        index, grad, starts, mode="sum", per_sample_weights=shares.to(grad.dtype), include_last_offset=True
    )


@add_to_rows.register_fake
def _(grad: Tensor, index: Tensor, shares: Tensor, rows: int) -> Tensor:
    return grad.new_empty(rows, grad.shape[1])


def framed_table(value: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Each level with a frame of zeros one pixel wide, one after another: (B, S, M, D) → (B, S', M, D).

    A location clamped to x = W has its left pixel in the frame and its right one, of weight zero, just beyond: in the
    next row or level, or, after the last level, in the rows of zeros added at the end.
    """
    B, _, M, D = value.shape
    beyond = shapes[-1][1] + 4
    table = value.new_zeros(B, level_starts(shapes)[-1] + beyond, M, D)
    levels = value.split([h * w for h, w in shapes], dim=1)
    for interior, level in zip(interiors(table, shapes), levels, strict=True):
        interior.copy_(level.unflatten(1, interior.shape[1:3]))
    return table


def interiors(table: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Views (B, H_l, W_l, M, D) of the levels inside their frames."""
    starts = level_starts(shapes)
    framed = (table[:, start:end] for start, end in zip(starts, starts[1:], strict=False))
    return [t.unflatten(1, (h + 2, w + 2))[:, 1:-1, 1:-1] for t, (h, w) in zip(framed, shapes, strict=True)]


def level_starts(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The position in the framed table where each level starts, and where the last one ends."""
    starts = [0]
    for height, width in shapes:
        starts.append(starts[-1] + (height + 2) * (width + 2))
    return starts
