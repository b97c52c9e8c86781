"""Swin (Liu et al. 2021) over timm's modules and parameters, computed as the segmentation papers' code has it.

timm builds the network and holds its weights, but its own forward shrinks windows on small maps, drops shifts there,
and rolls a map before padding it. Here, at every size: windows keep their size, every odd block shifts, and the map is
padded with zeros first and rolled then. Padded tokens are attended to.

Shape letters: B images, H × W a stage's map, C its channels, M heads, w the window's side, T = w² tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import repeat
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from mask2former.modeling.linear import affine, feed_forward, is_compiled_inference, is_plain, linear

TOKENS = 3200  # in the windows that are attended to at once in inference on a CPU


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
    """timm's block, its modules and parameters, with the attention of this file."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C)."""
        x = x + self.drop_path1(shifted_window_attention(self, self.norm1(x)))
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


def shifted_window_attention(block: SwinTransformerBlock, x: Tensor) -> Tensor:
    """Self-attention inside windows, shifted by half a window in odd blocks (§3.2): (B, H, W, C) → (B, H, W, C)."""
    attention, side, shift = block.attn, block.window_size[0], block.shift_size[0]
    qkv, proj = attention.qkv, attention.proj
    bias = attention.relative_position_bias_table, attention.relative_position_index
    if x.is_cpu and is_compiled_inference() and is_plain(qkv) and is_plain(proj):
        return attention_operator(x, qkv.weight, qkv.bias, proj.weight, proj.bias, *bias, side, shift)
    return attend(x, partial(linear, qkv), partial(linear, proj), *bias, side, shift)


def attend(
    x: Tensor,
    qkv: Callable[[Tensor], Tensor],
    proj: Callable[[Tensor], Tensor],
    bias_table: Tensor,
    bias_index: Tensor,
    side: int,
    shift: int,
) -> Tensor:
    """The same from its parts: the two linear layers, the relative position bias by offset (n, M), and which of these
    offsets lies between two tokens of a window (T, T)."""
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, padding(W, side), 0, padding(H, side)))
    rows, columns = x.shape[1] // side, x.shape[2] // side
    if shift:
        x = torch.roll(x, (-shift, -shift), dims=(1, 2))
    x = x.view(B, rows, side, columns, side, C).transpose(2, 3).reshape(-1, side * side, C)  # (B · windows, T, C)
    region = shift_regions(rows, columns, side, shift, x.device).repeat(B, 1) if shift else None  # (B · windows, T)
    bias = bias_table[bias_index.flatten()].view(1, *bias_index.shape, -1).permute(0, 3, 1, 2)  # (1, M, T, T)

    # In inference on a CPU as many windows at a time as stay in the cache, which takes little memory too.
    in_parts = x.is_cpu and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    count = max(1, TOKENS // x.shape[1]) if in_parts else len(x)
    regions = repeat(None) if region is None else region.split(count)
    x = [proj(window_attention(part, qkv, bias, r)) for part, r in zip(x.split(count), regions, strict=False)]
    x = torch.cat(x) if in_parts else x[0]

    x = x.view(B, rows, columns, side, side, C).transpose(2, 3).reshape(B, rows * side, columns * side, C)
    if shift:
        x = torch.roll(x, (shift, shift), dims=(1, 2))
    return crop(x, H, W)


def window_attention(x: Tensor, qkv: Callable[[Tensor], Tensor], bias: Tensor, region: Tensor | None) -> Tensor:
    """Attention with relative position bias (1, M, T, T) in each window (eq. 4): x (windows, T, C) → the same.

    region: (windows, T) int, which part of a shifted window a token belongs to; tokens of two parts are no neighbours
    in the map, and do not see each other.
    """
    q, k, v = qkv(x).unflatten(-1, (3, bias.shape[1], -1)).permute(2, 0, 3, 1, 4)  # (windows, M, T, C/M)
    if region is not None:
        apart = region[:, None, :, None] != region[:, None, None, :]  # (windows, 1, T, T)
        bias = bias + torch.zeros((), dtype=x.dtype, device=x.device).masked_fill(apart, -100.0)
    return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)


@torch.library.custom_op("mask2former::shifted_window_attention", mutates_args=())
def attention_operator(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor | None,
    proj_weight: Tensor,
    proj_bias: Tensor,
    bias_table: Tensor,
    bias_index: Tensor,
    side: int,
    shift: int,
) -> Tensor:
    """`attend` as one node of a compiled graph in inference on a CPU, where the compiler would take all windows at once
    and be slower."""
    qkv, proj = (partial(affine, weight=w, bias=b) for w, b in ((qkv_weight, qkv_bias), (proj_weight, proj_bias)))
    return attend(x, qkv, proj, bias_table, bias_index, side, shift).contiguous()


@attention_operator.register_fake
def _(x: Tensor, *_: Tensor | int | None) -> Tensor:
    return x.new_empty(x.shape)


def shift_regions(rows: int, columns: int, side: int, shift: int, device: torch.device) -> Tensor:
    """(windows, T) int: which part of its window each token belongs to.

    After the roll, the last window of a row (of a column) holds two regions that are no neighbours in the map.
    """

    def regions(windows: int) -> Tensor:  # (windows, side): which of the two regions a line of pixels belongs to
        line = torch.arange(windows * side, device=device)
        return (line >= windows * side - shift).view(windows, side)

    row, column = regions(rows), regions(columns)
    return (row[:, None, :, None] * 2 + column[None, :, None, :]).view(rows * columns, side * side)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The top left of a map (B, H, W, C), as a view; inside the compiler as a copy, fused with what follows.

    Whether a cropped view is contiguous depends on whether anything was cut off, and a compiler that asks makes graphs
    of their own for sizes that need no padding.
    """
    if not torch.compiler.is_compiling():
        return x[:, :height, :width]
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    return x.index_select(1, rows).index_select(2, columns)


def padding(length: int, multiple: int) -> int:
    """What is missing to the next multiple. (Written without %, which symbolic sizes simplify less well.)"""
    return -(-length // multiple) * multiple - length
