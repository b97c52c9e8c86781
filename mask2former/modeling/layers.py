"""The small parts every other file is built from: attention, feed-forward, MLP, sine position encoding.

Shape letters: B images, N queries, S keys, C channels, M heads, H × W a feature map.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.kernels.feed_forward import feed_forward
from mask2former.kernels.linear import affine, linear
from mask2former.kernels.precision import at_least_float32


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, §3.2.2) with one fused projection for queries, keys and values."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout  # of the attention weights, training only
        self.in_projection = nn.Linear(dim, 3 * dim)
        self.out_projection = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_projection.weight)
        nn.init.zeros_(self.in_projection.bias)
        nn.init.zeros_(self.out_projection.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """query (B, N, C), key and value (B, S, C) → (B, N, C).

        mask: bool, broadcastable to (B, M, N, S), True where a query may look; or float, added to the logits.
        """
        q, k, v = (
            affine(self.in_projection, x, w, b)
            .unflatten(-1, (self.num_heads, -1))
            .transpose(1, 2)  # (B, M, N or S, C/M)
            for x, w, b in zip(
                (query, key, value), self.in_projection.weight.chunk(3), self.in_projection.bias.chunk(3), strict=True
            )
        )
        attended = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return linear(self.out_projection, attended.transpose(1, 2).flatten(2))  # (B, N, C)


class FeedForward(nn.Module):
    """Two linear layers with ReLU between, added to what came in; dropout after each."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x + linear2(ReLU(linear1(x))), (…, C) → (…, C)."""
        if self.training and self.dropout.p:
            return x + self.dropout(self.linear2(self.dropout(linear(self.linear1, x, "relu"))))
        return feed_forward(self.linear1, self.linear2, x, "relu", residual=x)


class MLP(nn.Module):
    """Linear layers with ReLU between, none after the last."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [in_dim] + [hidden_dim] * (num_layers - 1) + [out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(dims[:-1], dims[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = linear(layer, x, "relu")
        return linear(self.layers[-1], x)


def sine_position_encoding(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """(H·W, C) sine encoding of a map's rows (first C/2 channels) and columns (last C/2); values in −1..1.

    Rows are numbered 1 … H and divided by H, so that the encoding spans one period of the slowest sine whatever the
    size (Carion et al. 2020, §A.4). Device and dtype are those of `like`; it is computed in at least float32.
    """
    dtype = at_least_float32(like.dtype)
    frequency = torch.arange(channels // 4, device=like.device, dtype=dtype)
    frequency = 10000.0 ** (-4 * frequency / channels)

    def encode(length: int) -> Tensor:
        position = torch.arange(1, length + 1, device=like.device, dtype=dtype)
        angle = (position / (position[-1:] + 1e-6) * (2 * math.pi))[:, None] * frequency
        return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)  # (length, C/2), sine and cosine in turn

    rows = encode(height)[:, None].expand(-1, width, -1)
    columns = encode(width)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), dim=2).flatten(0, 1).to(like.dtype)  # (H·W, C)
