"""The pixel decoder (Mask2Former §4.1): a deformable encoder over three levels, then one step up to stride 4.

Shape letters: B images, C hidden channels, L = 3 levels (strides 32, 16, 8), H_l × W_l the map of a level,
S = Σ H_l · W_l tokens of all levels together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.kernels.convolution import convolve_3x3
from mask2former.kernels.precision import at_least_float32
from mask2former.modeling.deformable_attention import MultiScaleDeformableAttention
from mask2former.modeling.layers import FeedForward, sine_position_encoding

NUM_LEVELS = 3


class PixelDecoder(nn.Module):
    """Backbone maps → mask features at stride 4 and the three levels the transformer decoder attends to."""

    def __init__(
        self,
        in_channels: Sequence[int],
        hidden_dim: int = 256,
        mask_dim: int = 256,
        num_heads: int = 8,
        num_layers: int = 6,
        feedforward_dim: int = 1024,
        num_points: int = 4,
        dropout: float = 0.0,
    ):
        """in_channels: of the four backbone maps, finest first; hidden_dim: a multiple of num_heads and of 32."""
        super().__init__()
        if len(in_channels) != 1 + NUM_LEVELS:
            raise ValueError(f"in_channels={tuple(in_channels)}: expected those of four maps, strides 4, 8, 16, 32")
        self.num_heads, self.num_points = num_heads, num_points
        groups = group_count(hidden_dim)
        self.input_projections = nn.ModuleList(  # coarsest first
            nn.Sequential(nn.Conv2d(channels, hidden_dim, 1), nn.GroupNorm(groups, hidden_dim))
            for channels in reversed(in_channels[1:])
        )
        self.level_embedding = nn.Parameter(torch.randn(NUM_LEVELS, hidden_dim))
        self.encoder = nn.ModuleList(
            DeformableEncoderLayer(hidden_dim, num_heads, feedforward_dim, num_points, dropout)
            for _ in range(num_layers)
        )
        self.lateral = nn.Sequential(
            nn.Conv2d(in_channels[0], hidden_dim, 1, bias=False), nn.GroupNorm(groups, hidden_dim)
        )
        self.output = nn.Sequential(
            nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, bias=False),
            nn.GroupNorm(groups, hidden_dim),
            nn.ReLU(inplace=True),
        )
        self.mask_projection = nn.Conv2d(hidden_dim, mask_dim, 1)
        for projection in self.input_projections:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        for convolution in (self.lateral[0], self.output[0], self.mask_projection):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        nn.init.zeros_(self.mask_projection.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """features: four maps (B, C_s, H/stride, W/stride), finest first.

        Returns the mask features (B, mask_dim, H/4, W/4) and three levels (B, C, H_l, W_l), strides 32, 16, 8.
        """
        finest, *coarser = features
        maps = [project(m) for project, m in zip(self.input_projections, reversed(coarser), strict=True)]
        shapes = [(m.shape[2], m.shape[3]) for m in maps]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)  # (B, S, C)
        positions = torch.cat(
            [
                sine_position_encoding(height, width, tokens.shape[2], like=tokens) + embedding
                for (height, width), embedding in zip(shapes, self.level_embedding, strict=True)
            ]
        )  # (S, C)
        reference_points = token_centres(shapes, like=tokens)[:, :, :, None, :, None]
        # The same for every head and point, but laid out in full once, so that each layer adds its offsets in one pass.
        reference_points = reference_points.expand(-1, -1, -1, self.num_heads, -1, self.num_points).contiguous()
        for layer in self.encoder:
            tokens = layer(tokens, positions, reference_points, shapes)

        levels = tuple(
            part.transpose(1, 2).unflatten(2, shape)  # (B, C, H_l, W_l)
            for part, shape in zip(tokens.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        )
        # A map of its own, not a view into all tokens, whose strides would make it lose its layout (channels last).
        coarse = levels[-1].clone(memory_format=torch.channels_last)
        upsampled = F.interpolate(coarse, finest.shape[2:], mode="bilinear", align_corners=False)
        summed = convolve_3x3(self.output[0], self.lateral(finest).add_(upsampled))
        return self.mask_projection(self.output[1:](summed)), levels


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all levels at once, then a feed-forward; each added, then normalised."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, num_points: int, dropout: float = 0.0):
        super().__init__()
        self.attention = MultiScaleDeformableAttention(dim, num_heads, NUM_LEVELS, num_points)
        self.attention_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, positions: Tensor, reference_points: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """tokens (B, S, C); positions (S, C), for the queries only; reference_points (1, S, 2, M, L, P) → (B, S, C)."""
        attended = self.attention(tokens + positions, reference_points, tokens, shapes)
        tokens = self.attention_norm(tokens + self.dropout(attended))
        return self.feedforward_norm(self.feedforward(tokens))


def token_centres(shapes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Where the centre of every token lies on every level: (1, S, 2, L), x and y in pixels of that level.

    Pixel i's centre is at i, so a token in column j of W_m stands at (j + ½) · W_l / W_m − ½ on level l.
    """
    dtype = at_least_float32(like.dtype)

    def centres(length: int, targets: list[int]) -> Tensor:  # (length, L)
        steps = torch.arange(length, device=like.device, dtype=dtype) + 0.5
        return torch.stack([steps / length * target - 0.5 for target in targets], dim=1)

    tokens = []
    for height, width in shapes:
        x = centres(width, [w for _, w in shapes]).expand(height, -1, -1)
        y = centres(height, [h for h, _ in shapes])[:, None].expand(-1, width, -1)
        tokens.append(torch.stack((x, y), dim=2).flatten(0, 1))  # (H_m · W_m, 2, L)
    return torch.cat(tokens)[None]


def group_count(channels: int) -> int:
    """32 groups as in the paper, or a smaller power of two where the channels do not divide (toy sizes)."""
    groups = 32
    while channels % groups:
        groups //= 2
    return groups
