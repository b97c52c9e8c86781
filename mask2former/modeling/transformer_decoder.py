"""The transformer decoder (Mask2Former §3.2): queries look, layer by layer, where their last mask was.

Shape letters: B images, Q queries, K classes, C hidden channels, D mask channels, L = 3 levels, S = H_l · W_l.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.modeling.layers import MLP, FeedForward, MultiHeadAttention, sine_position_encoding
from mask2former.structures import Outputs

NUM_LEVELS = 3


class MaskedAttentionDecoder(nn.Module):
    """Layers of masked cross-attention, level after level, with a prediction before the first and after each."""

    def __init__(
        self,
        num_classes: int,
        hidden_dim: int = 256,
        mask_dim: int = 256,
        num_queries: int = 100,
        num_heads: int = 8,
        num_layers: int = 9,
        feedforward_dim: int = 2048,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.query_positions = nn.Parameter(torch.randn(num_queries, hidden_dim))
        self.level_embedding = nn.Parameter(torch.randn(NUM_LEVELS, hidden_dim))
        self.layers = nn.ModuleList(
            DecoderLayer(hidden_dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_dim)
        self.class_head = nn.Linear(hidden_dim, num_classes + 1)
        self.mask_head = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    def decode(self, queries: Tensor, levels: Sequence[Tensor], mask_features: Tensor) -> Outputs:
        """queries (B, Q, C) to start from; levels: three maps (B, C, H_l, W_l); mask_features (B, D, H/4, W/4)."""
        memories, memory_positions, small_features = [], [], []
        for level, embedding in zip(levels, self.level_embedding, strict=True):
            memory = level.flatten(2).transpose(1, 2) + embedding  # (B, S, C)
            memories.append(memory)
            memory_positions.append(memory + sine_position_encoding(*level.shape[2:], memory.shape[2], like=memory))
            # Resizing and the inner product with a mask embedding are linear and commute, so the features are resized
            # once for each level instead of every query's mask once for each layer.
            small = F.interpolate(mask_features, level.shape[2:], mode="bilinear", align_corners=False)
            small_features.append(small.flatten(2))  # (B, D, S)

        predictions = [self.predict(queries, mask_features)]
        for i, layer in enumerate(self.layers):
            level = i % NUM_LEVELS
            may_look = attention_mask(predictions[-1].mask_embeddings, small_features[level])
            queries = layer(queries, self.query_positions, memories[level], memory_positions[level], may_look)
            predictions.append(self.predict(queries, mask_features))
        final = predictions.pop()
        final.auxiliary = tuple(predictions)
        return final

    def predict(self, queries: Tensor, mask_features: Tensor) -> Outputs:
        """Class logits and mask embeddings of queries (B, Q, C); the shared norm acts here and not between layers."""
        queries = self.norm(queries)
        return Outputs(self.class_head(queries), self.mask_head(queries), mask_features)


class TransformerDecoder(MaskedAttentionDecoder):
    """Mask2Former's decoder: its queries start from learned features, the same for every image."""

    def __init__(self, num_classes: int, hidden_dim: int = 256, num_queries: int = 100, **sizes: int | float):
        """sizes: those of MaskedAttentionDecoder."""
        super().__init__(num_classes, hidden_dim, num_queries=num_queries, **sizes)
        self.query_features = nn.Parameter(torch.randn(num_queries, hidden_dim))

    def forward(self, levels: Sequence[Tensor], mask_features: Tensor) -> Outputs:
        """levels: three maps (B, C, H_l, W_l), strides 32, 16, 8; mask_features (B, D, H/4, W/4)."""
        return self.decode(self.query_features.expand(len(mask_features), -1, -1), levels, mask_features)


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward, in this order; each added, then normalised (fig. 2)."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float = 0.0):
        super().__init__()
        self.cross_attention = MultiHeadAttention(dim, num_heads, dropout)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.self_attention = MultiHeadAttention(dim, num_heads, dropout)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Tensor, query_positions: Tensor, memory: Tensor, memory_positions: Tensor, may_look: Tensor
    ) -> Tensor:
        """queries (B, Q, C); query_positions (Q, C); memory and memory with positions (B, S, C) → (B, Q, C).

        may_look (B, 1, Q, S): True where a query may look at a pixel.
        """
        attended = self.cross_attention(queries + query_positions, memory_positions, memory, may_look)
        queries = self.cross_attention_norm(queries + self.dropout(attended))
        positioned = queries + query_positions
        attended = self.self_attention(positioned, positioned, queries)
        queries = self.self_attention_norm(queries + self.dropout(attended))
        return self.feedforward_norm(self.feedforward(queries))


def attention_mask(mask_embeddings: Tensor, features: Tensor) -> Tensor:
    """Where each query may look: inside its own predicted mask (eq. 1–3), everywhere if that is empty.

    mask_embeddings (B, Q, D), features (B, D, S) → (B, 1, Q, S) bool, the same for every head. No gradient passes.
    """
    inside = mask_embeddings.detach() @ features.detach() >= 0  # (B, Q, S); sigmoid ≥ ½
    return (inside | ~inside.any(dim=2, keepdim=True))[:, None]
