"""Multi-scale deformable attention (Zhu et al. 2021, eq. 3): every query looks at a few points of every level.

Shape letters: B images, N queries, M heads, L levels, P points a head and level, D channels a head, C = M · D,
S = Σ H_l · W_l positions of all levels together.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# "auto": the Triton kernel on CUDA where Triton is installed, PyTorch elsewhere; "triton", "pytorch": always that one.
KERNEL = os.environ.get("MASK2FORMER_SAMPLING", "auto")
HAS_TRITON = importlib.util.find_spec("triton") is not None


class MultiScaleDeformableAttention(nn.Module):
    """Attention whose L · P points a head, and their weights, are linear functions of the query."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, num_points: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_projection = nn.Linear(dim, dim)
        self.output_projection = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """At first every head looks into its own direction, point p at distance p + 1 (Zhu et al. 2021, §A.4)."""
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=1)
        direction = direction / direction.abs().amax(dim=1, keepdim=True)  # onto the square around the query
        distance = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None] * distance[:, None]  # (M, 1, P, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.data.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self, query: Tensor, reference_points: Tensor, memory: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """query (B, N, C), memory (B, S, C): the levels one after another, row by row → (B, N, C).

        reference_points: where each query stands on each level, broadcastable to (B, N, 2, M, L, P); x, then y, in
        pixels of that level, the centre of the first pixel being 0. Offsets are in pixels too.
        shapes: (H_l, W_l) of each level.
        """
        points = (self.num_heads, self.num_levels, self.num_points)
        value = self.value_projection(memory).unflatten(-1, (self.num_heads, -1))  # (B, S, M, D)
        # The checkpoint's rows are (M, L, P, x or y). With all x first, every later pass runs over contiguous memory.
        weight, bias = (
            p.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1) for p in self.sampling_offsets.parameters()
        )
        offsets = F.linear(query, weight, bias).unflatten(-1, (2, *points))  # (B, N, 2, M, L, P)
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)  # over L · P together
        weights = weights.unflatten(-1, points[1:])  # (B, N, M, L, P)
        sampled = multi_scale_deformable_sampling(value, shapes, reference_points + offsets, weights)
        return self.output_projection(sampled)


def multi_scale_deformable_sampling(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Σ over levels and points of weight × value, read bilinearly at the location; zero outside the map.

    value (B, S, M, D); shapes L × (H, W) with Σ H · W = S; locations (B, N, 2, M, L, P): x, then y, in pixels of the
    level, pixel centres at whole numbers; weights (B, N, M, L, P) → (B, N, M · D). Differentiable in all tensors.
    """
    if KERNEL not in ("auto", "triton", "pytorch"):
        raise ValueError(f"MASK2FORMER_SAMPLING={KERNEL!r}: expected auto, triton or pytorch")
    on_gpu = HAS_TRITON and value.is_cuda and value.dtype != torch.float64
    if KERNEL == "triton" or (KERNEL == "auto" and on_gpu):
        from mask2former.modeling import deformable_attention_triton

        return deformable_attention_triton.sample(value, shapes, locations, weights)
    return sample_with_embedding_bag(value, shapes, locations, weights)


def sample_with_embedding_bag(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The sampling in PyTorch, on any device and in any float type.

    A bilinear reading is a weighted sum of four pixels, so a head's whole result is a weighted sum of 4 · L · P rows
    of the value table, which `embedding_bag` gathers and adds up in one pass without storing the gathered rows.
    A frame of zeros around each level makes every clamped location a valid one, so nothing needs masking.
    """
    B, N, _, M, L, P = locations.shape
    table, starts = _framed_table(value, shapes)
    dtype = torch.promote_types(locations.dtype, torch.float32)  # bfloat16 could not tell neighbouring pixels apart

    def per_level(numbers: list[int], dtype: torch.dtype) -> Tensor:
        """(M, L · P): a level's number at each of its points, as flat as the points are, for one pass each below."""
        column = torch.stack([torch.full((), n, dtype=torch.int32, device=value.device) for n in numbers])
        return column.to(dtype)[:, None].expand(M, L, P).flatten(1)

    largest = torch.stack((per_level([w for _, w in shapes], dtype), per_level([h for h, _ in shapes], dtype)))
    xy = locations.to(dtype).flatten(3)  # (B, N, 2, M · L · P)
    xy = torch.clamp(xy, torch.full_like(largest, -1).flatten(1), largest.flatten(1))
    corner = xy.detach().floor()
    right_share, bottom_share = (xy - corner).unbind(2)  # (B, N, M · L · P)

    # Rows of the table are (image, position, head): one step right is M rows, one step down M · (W + 2).
    left, top = corner.int().unbind(2)
    step_down = per_level([M * (w + 2) for _, w in shapes], torch.int32)
    origin = per_level([M * (s + w + 3) for s, (_, w) in zip(starts, shapes, strict=True)], torch.int32)
    origin = (origin + torch.arange(M, dtype=torch.int32, device=value.device)[:, None]).flatten()
    image = torch.arange(B, dtype=torch.int32, device=value.device)[:, None, None] * (table.shape[1] * M)
    index = torch.add(torch.addcmul(origin + image, top, step_down.flatten()), left, alpha=M)  # (B, N, M · L · P)
    step_down = step_down[0]
    corners = torch.stack((torch.zeros_like(step_down), torch.full_like(step_down, M), step_down, step_down + M))
    index = index.view(-1, 1, L * P) + corners  # (B · N · M, 4, L · P)

    weights = weights.flatten(2)
    bottom = weights * bottom_share
    top = weights - bottom
    bottom_right, top_right = bottom * right_share, top * right_share
    shares = (top - top_right, top_right, bottom - bottom_right, bottom_right)
    shares = torch.stack([share.view(-1, L * P) for share in shares], dim=1)  # (B · N · M, 4, L · P)

    sampled = F.embedding_bag(
        index.flatten(1), table.flatten(0, 2), mode="sum", per_sample_weights=shares.flatten(1).to(table.dtype)
    )
    return sampled.view(B, N, -1)  # (B, N, M · D)


def _framed_table(value: Tensor, shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, list[int]]:
    """Each level with a frame of zeros one pixel wide, one after another: (B, S', M, D), and where each one starts.

    A location clamped to x = W has its left pixel in the frame and its right one, of weight zero, just beyond: in the
    next row or level, or, after the last level, in the rows of zeros added at the end.
    """
    levels, starts, start = [], [], 0
    for level, (height, width) in zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True):
        levels.append(F.pad(level.unflatten(1, (height, width)), (0, 0, 0, 0, 1, 1, 1, 1)).flatten(1, 2))
        starts.append(start)
        start += (height + 2) * (width + 2)
    beyond = value.new_zeros(value.shape[0], shapes[-1][1] + 4, *value.shape[2:])
    return torch.cat([*levels, beyond], dim=1), starts
