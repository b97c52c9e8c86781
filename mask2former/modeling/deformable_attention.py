"""Multi-scale deformable attention (Zhu et al. 2021, eq. 3): every query looks at a few points of every level.

Shape letters: B images, N queries, M heads, L levels, P points a head and level, D channels a head, C = M · D,
S = Σ H_l · W_l positions of all levels together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mask2former.kernels.deformable_sampling import multi_scale_deformable_sampling
from mask2former.kernels.linear import affine, linear


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
        value = linear(self.value_projection, memory).unflatten(-1, (self.num_heads, -1))  # (B, S, M, D)
        # The checkpoint's rows are (M, L, P, x or y). With all x first, every later pass runs over contiguous memory.
        weight, bias = (
            p.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1) for p in self.sampling_offsets.parameters()
        )
        locations = reference_points + affine(self.sampling_offsets, query, weight, bias).unflatten(-1, (2, *points))
        # (B, N, 2, M, L, P)
        logits = linear(self.attention_weights, query).mT.unflatten(1, (self.num_heads, -1))  # (B, M, L · P, N)
        # Softmax over L · P together; along twelve neighbours in memory it is five times slower on a CPU.
        weights = logits.softmax(2).flatten(1, 2).mT.unflatten(2, points)  # (B, N, M, L, P)
        sampled = multi_scale_deformable_sampling(value, shapes, locations, weights)
        return linear(self.output_projection, sampled)
