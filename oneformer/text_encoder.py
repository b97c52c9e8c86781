"""The text encoder of OneFormer's training (Jain et al. 2023, §3.3): a causal transformer over CLIP's token ids.

Shape letters: B texts, T ids of a text, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mask2former.modeling.layers import FeedForward, MultiHeadAttention

HEAD_DIM = 64


class TextEncoder(nn.Module):
    """Token ids (B, T) → one vector a text (B, C): the output at its end token, whose id is the largest."""

    def __init__(self, vocabulary: int = 49408, context_length: int = 77, dim: int = 256, num_layers: int = 6):
        """dim: a multiple of 64, the size of a head."""
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, dim)
        self.position_embedding = nn.Parameter(torch.empty(context_length, dim))
        self.layers = nn.ModuleList(TextLayer(dim) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.01)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2 or tokens.shape[1] != len(self.position_embedding) or tokens.is_floating_point():
            raise ValueError(
                f"tokens is {tokens.dtype} of shape {tuple(tokens.shape)}: expected integer ids "
                f"(texts, {len(self.position_embedding)})"
            )
        x = self.token_embedding(tokens) + self.position_embedding
        mask = causal_mask(tokens.shape[1], tokens.device)
        for layer in self.layers:
            x = layer(x, mask)
        ends = tokens.argmax(dim=1)[:, None, None].expand(-1, 1, x.shape[2])
        return self.norm(x.gather(1, ends).squeeze(1))  # (B, C)


class TextLayer(nn.Module):
    """Self-attention and feed-forward, each pre-norm with a residual connection; (B, T, C) in and out."""

    def __init__(self, dim: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, dim // HEAD_DIM)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = QuickGELUFeedForward(dim, 4 * dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed, normed, mask)
        return x + self.feedforward(self.feedforward_norm(x))


class QuickGELUFeedForward(FeedForward):
    """With CLIP's cheap approximation of GELU between the two linear layers, and without the sum."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear1(x)
        return self.linear2(x * torch.sigmoid(1.702 * x))


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(T, T) bool, True where a token may look: at itself and at earlier ones."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
