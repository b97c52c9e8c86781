"""Swin (Liu et al. 2021) over timm's modules and parameters, computed as the segmentation papers' code has it.

timm builds the network and holds its weights, but its own forward shrinks windows on small maps, drops shifts there,
and rolls a map before padding it. Here, at every size: windows keep their size, every odd block shifts, and the map is
padded with zeros first and rolled then. Padded tokens are attended to.

Shape letters: B images, H × W a stage's map, C its channels. The attention itself is in
`kernels/window_attention.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from mask2former.kernels.feed_forward import feed_forward
from mask2former.kernels.linear import linear
from mask2former.kernels.window_attention import shifted_window_attention
from mask2former.kernels.windows import padding


def create_swin(name: str, options: Mapping[str, Any], drop_path_rate: float, pretrained: bool) -> SwinTransformer:
    """timm's Swin without classifier and final norm, ready for `swin_maps`."""
    swin = timm.create_model(
        name, pretrained, num_classes=0, drop_path_rate=drop_path_rate, always_partition=True, strict_img_size=False,
        **options,
    )  # fmt: skip
    swin.norm = torch.nn.Identity()
    for stage in swin.layers:
        for block in stage.blocks:
            block.attn_mask = None  # made for one image size; ours is made for the map at hand
            block.__class__ = PaddedFirstBlock
    return swin


def swin_maps(swin: SwinTransformer, pixel_values: Tensor) -> list[Tensor]:
    """pixel_values (B, 3, H, W) → the map after each stage, (B, H/4, W/4, C) … (B, H/32, W/32, 8C), rounded up."""
    height, width = pixel_values.shape[-2:]
    side = swin.patch_embed.patch_size[0]
    x = F.pad(pixel_values, (0, padding(width, side), 0, padding(height, side)))
    # Not by its own forward, which checks sizes with a remainder: a compiler would make a graph of its own for each.
    x = swin.patch_embed.norm(swin.patch_embed.proj(x).movedim(1, -1))  # (B, H/4, W/4, C)
    maps = []
    for stage in swin.layers:
        if maps:
            x = merge_patches(stage.downsample, x)
        for block in stage.blocks:
            x = block(x)
        maps.append(x)
    return maps


class PaddedFirstBlock(SwinTransformerBlock):
    """timm's block, its modules and parameters, padded before it is rolled."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C)."""
        attention = self.attn
        attended = shifted_window_attention(
            attention.qkv,
            attention.proj,
            attention.relative_position_bias_table,
            attention.relative_position_index,
            self.norm1(x),
            side=self.window_size[0],
            shift=self.shift_size[0],
        )
        x = x + self.drop_path1(attended)
        hidden = self.norm2(x)
        if self.training and not isinstance(self.drop_path2, nn.Identity):
            return x + self.drop_path2(feed_forward(self.mlp.fc1, self.mlp.fc2, hidden, "gelu"))
        return feed_forward(self.mlp.fc1, self.mlp.fc2, hidden, "gelu", residual=x)


def merge_patches(merging: PatchMerging, x: Tensor) -> Tensor:
    """Every 2 × 2 patches into one (§3.1): (B, H, W, C) → (B, H/2, W/2, 2C), rounded up; odd sizes are padded."""
    x = F.pad(x, (0, 0, 0, padding(x.shape[2], 2), 0, padding(x.shape[1], 2)))
    x = (
        x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
    )  # (B, H/2, W/2, column·row·C)
    return linear(merging.reduction, merging.norm(x))
