"""OneFormer's transformer decoder (Jain et al. 2023, §3.2): queries made for a task, then Mask2Former's decoder.

Shape letters: B images, Q queries with the task token, C hidden channels, D mask channels, S = H/4 · W/4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mask2former.modeling.layers import FeedForward, MultiHeadAttention, sine_position_encoding
from mask2former.modeling.transformer_decoder import MaskedAttentionDecoder
from mask2former.structures import Outputs


class TaskConditionedDecoder(MaskedAttentionDecoder):
    """Mask2Former's decoder, started from queries that depend on the task and the image."""

    def __init__(
        self,
        num_classes: int,
        hidden_dim: int = 256,
        mask_dim: int = 256,
        num_queries: int = 150,
        num_heads: int = 8,
        num_layers: int = 9,
        feedforward_dim: int = 2048,
        class_layers: int = 2,
        dropout: float = 0.1,
    ):
        """num_queries: Q, the task token among them; dropout: of the class transformer, training only."""
        super().__init__(num_classes, hidden_dim, mask_dim, num_queries, num_heads, num_layers, feedforward_dim)
        self.class_projection = nn.Conv2d(mask_dim, hidden_dim, 1)
        self.class_transformer = ClassTransformer(hidden_dim, num_heads, class_layers, feedforward_dim, dropout)
        nn.init.kaiming_uniform_(self.class_projection.weight, a=1)
        nn.init.zeros_(self.class_projection.bias)

    def forward(self, levels: Sequence[Tensor], mask_features: Tensor, task_token: Tensor) -> Outputs:
        """levels: three maps (B, C, H_l, W_l), strides 32, 16, 8; mask_features (B, D, H/4, W/4); task_token (B, C).

        `contrastive_logits` of the outputs are the queries (B, Q, C) before the first layer, the task token last.
        """
        token = self.norm(task_token)[:, None]  # (B, 1, C); by the norm of the prediction heads
        queries = token.expand(-1, len(self.query_positions) - 1, -1)
        queries = self.class_transformer(queries, self.query_positions[:-1], self.class_projection(mask_features))
        queries = torch.cat((queries, token), dim=1)  # (B, Q, C)
        outputs = self.decode(queries, levels, mask_features)
        outputs.contrastive_logits = queries
        return outputs


class ClassTransformer(nn.Module):
    """Copies of the task token → queries that have looked at the image's mask features.

    What they attend *by* is the features with the position encoding added; what they *receive* is the position
    encoding alone. It looks like two swapped arguments, and the released weights were trained so.
    """

    def __init__(self, dim: int, num_heads: int, num_layers: int, feedforward_dim: int, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.ModuleList(ClassLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, query_positions: Tensor, features: Tensor) -> Tensor:
        """queries (B, Q, C); query_positions (Q, C); features (B, C, H/4, W/4) → (B, Q, C)."""
        B, C, H, W = features.shape
        values = sine_position_encoding(H, W, C, like=features).expand(B, -1, -1)  # (B, S, C)
        keys = features.flatten(2).transpose(1, 2) + values
        for layer in self.layers:
            queries = layer(queries, query_positions, keys, values)
        return self.norm(queries)


class ClassLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, in this order; each added, then normalised."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float = 0.0):
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, num_heads, dropout)
        self.self_attention_norm = nn.LayerNorm(dim)
        self.cross_attention = MultiHeadAttention(dim, num_heads, dropout)
        self.cross_attention_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, query_positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """queries (B, Q, C); query_positions (Q, C); keys and values (B, S, C) → (B, Q, C)."""
        positioned = queries + query_positions
        attended = self.self_attention(positioned, positioned, queries)
        queries = self.self_attention_norm(queries + self.dropout(attended))
        attended = self.cross_attention(queries + query_positions, keys, values)
        queries = self.cross_attention_norm(queries + self.dropout(attended))
        return self.feedforward_norm(self.feedforward(queries))
