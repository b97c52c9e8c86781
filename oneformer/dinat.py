"""DiNAT, the dilated neighborhood attention transformer (Hassani and Shi 2022), in plain PyTorch.

Parameters, S = 0…3 the stage, J the block in it:
    patch_embed.proj.{0,1}, patch_embed.norm
    levels.S.blocks.J.{norm1, attn.{qkv, relative_position_bias, proj}, norm2, mlp.{fc1, fc2}}
    levels.S.downsample.{reduction, norm} for S < 3, norms.S

Shape letters: B images, C channels, H × W the map, N heads, D = C / N, K kernel size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from mask2former.modeling.linear import feed_forward, linear

# DiNAT-L as trained for COCO; other datasets' models differ in kernel size and dilations.
PRESETS = {
    "dinat_large": {
        "embed_dim": 192,
        "depths": (3, 4, 18, 5),
        "num_heads": (6, 12, 24, 48),
        "kernel_size": 11,
        "dilations": (
            (1, 20, 1),
            (1, 5, 1, 10),
            (1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5),
            (1, 2, 1, 2, 1),
        ),
        "mlp_ratio": 2.0,
    }
}


class DiNAT(nn.Module):
    """Four stages of neighborhood attention at strides 4, 8, 16 and 32, blocks alternating dense and dilated.

    Beside its weights, DiNAT-L takes about 0.4 GB for a picture of 640 × 640 and 1.2 GB for 1280 × 1280 (float32,
    without gradients).

    Args:
        embed_dim: channels of the first stage; each later stage has twice as many.
        depths: blocks in each stage.
        num_heads: heads in each stage.
        kernel_size: K, odd; every pixel attends to K × K others.
        dilations: one a block, stage by stage.
        mlp_ratio: hidden channels of a block's MLP over its channels.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0; training only.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        kernel_size: int,
        dilations: Sequence[Sequence[int]],
        mlp_ratio: float,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        if [len(stage) for stage in dilations] != list(depths):
            raise ValueError(f"dilations for {[len(stage) for stage in dilations]} blocks but depths={list(depths)}")
        self.channels = tuple(embed_dim * 2**s for s in range(len(depths)))
        self.patch_embed = PatchEmbedding(embed_dim)
        drop_paths = (drop_path_rate * i / max(1, sum(depths) - 1) for i in range(sum(depths)))
        self.levels = nn.ModuleList()
        for channels, heads, stage in zip(self.channels, num_heads, dilations, strict=True):
            blocks = [Block(channels, heads, kernel_size, d, mlp_ratio, next(drop_paths)) for d in stage]
            self.levels.append(Stage(blocks, Downsample(channels) if channels < self.channels[-1] else None))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """(B, 3, H, W) → four normalised maps (B, C·2ˢ, ⌈H / 2ˢ⁺²⌉, ⌈W / 2ˢ⁺²⌉), S = 0…3."""
        features = []
        x = self.patch_embed(pixel_values)
        for level, norm in zip(self.levels, self.norms, strict=True):
            x, output = level(x)
            features.append(norm(output).permute(0, 3, 1, 2))  # (B, C, H, W)
        return features


class Stage(nn.Module):
    """Blocks at one resolution. Gives the next stage's input and, before downsampling, its own output."""

    def __init__(self, blocks: list[Block], downsample: Downsample | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x)
        return (x if self.downsample is None else self.downsample(x)), x


class Block(nn.Module):
    """Neighborhood attention and an MLP, each pre-norm with a residual connection; (B, H, W, C) in and out."""

    def __init__(self, dim: int, num_heads: int, kernel_size: int, dilation: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = NeighborhoodAttention(dim, num_heads, kernel_size, dilation)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        hidden = self.norm2(x)
        if self.training and self.drop_path.drop_prob:
            return x + self.drop_path(feed_forward(self.mlp.fc1, self.mlp.fc2, hidden, "gelu"))
        return feed_forward(self.mlp.fc1, self.mlp.fc2, hidden, "gelu", residual=x)


class NeighborhoodAttention(nn.Module):
    """Multi-head dilated neighborhood attention with a relative position bias; (B, H, W, C) in and out.

    A map smaller than kernel × dilation is extended with zero vectors at the bottom and right *before* the
    projections, and the extension is attended to: its keys and values are the projections' biases. The released
    weights were trained so.
    """

    def __init__(self, dim: int, num_heads: int, kernel_size: int, dilation: int):
        super().__init__()
        if kernel_size % 2 == 0 or kernel_size < 3 or dilation < 1:
            raise ValueError(f"kernel_size={kernel_size}, dilation={dilation}: expected odd ≥ 3, and ≥ 1")
        if dim % num_heads:
            raise ValueError(f"dim={dim} is not a multiple of num_heads={num_heads}")
        self.num_heads, self.kernel_size, self.dilation = num_heads, kernel_size, dilation
        self.qkv = nn.Linear(dim, 3 * dim)
        self.relative_position_bias = nn.Parameter(torch.zeros(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        heads = (self.num_heads, C // self.num_heads)
        q, k, v = linear(self.qkv, x).chunk(3, dim=-1)
        q = q * heads[1] ** -0.5
        smallest = self.kernel_size * self.dilation
        if min(H, W) < smallest:
            k_pad, v_pad = self.qkv.bias.to(q.dtype)[C:].chunk(2)
            k, v = extend(k, k_pad, smallest), extend(v, v_pad, smallest)
        q, k, v = (t.unflatten(-1, heads).permute(0, 3, 1, 2, 4) for t in (q, k, v))  # (B, N, H, W, D)
        x = neighborhood_attention(q, k, v, self.relative_position_bias, self.kernel_size, self.dilation)
        return linear(self.proj, x.permute(0, 2, 3, 1, 4).flatten(-2))  # (B, H, W, C)


class PatchEmbedding(nn.Module):
    """Two strided 3×3 convolutions, nothing between them: (B, 3, H, W) → (B, ⌈H/4⌉, ⌈W/4⌉, C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(3, dim // 2, 3, stride=2, padding=1), nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.norm(self.proj(pixel_values).permute(0, 2, 3, 1))


class Downsample(nn.Module):
    """A strided 3×3 convolution: (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, 2C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def extend(x: Tensor, vector: Tensor, smallest: int) -> Tensor:
    """(B, H, W, C) → (B, max(H, smallest), max(W, smallest), C), the new pixels all equal to `vector` (C,)."""
    B, H, W, C = x.shape
    larger = vector.expand(B, max(H, smallest), max(W, smallest), C).clone()
    larger[:, :H, :W] = x
    return larger


# --- The attention itself ---------------------------------------------------------------------------------------------
# Dilation d splits an axis into d groups (positions equal modulo d) that never meet; inside a group the attention is
# undilated. A group's queries are cut into tiles; the windows of a tile's T queries lie within T + K − 1 consecutive
# keys. So each T × T tile of queries is one dense attention over (T + K − 1)² keys, with the relative position bias
# where a key is in the query's window and −inf where not. Tiles with the same arrangement of windows (all interior
# ones, say) share that bias and go through one call. Time and memory are linear in the number of pixels.

TILE = 8  # T at most: larger tiles waste more of each product, smaller ones copy more keys
ELEMENTS_AT_ONCE = 2**22  # of keys copied for one call; bounds the memory on large maps, and fits caches


def neighborhood_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Each query attends to the K × K keys of its own dilation group nearest to it (Hassani and Shi 2022, §3).

    At a border the window stays whole and moves inwards, so every query sees exactly K × K keys.

    Args:
        q: (B, N, H, W, D), already scaled.
        k, v: (B, N, H', W', D), H' ≥ H and W' ≥ W, both ≥ K · dilation; the queries are their top left part.
        bias: (N, 2K − 1, 2K − 1), added at [key − query + K − 1] vertically, then horizontally, in steps of the
            dilation.
        kernel_size: K, odd.

    Returns:
        (B, N, H, W, D)
    """
    B, N, H, W, D = q.shape
    key_height, key_width = k.shape[2:4]
    if min(key_height, key_width) < kernel_size * dilation:
        raise ValueError(
            f"{key_height}×{key_width} keys are fewer than kernel × dilation = {kernel_size * dilation} a side: "
            "extend the map first"
        )
    # What is copied together lies together: one pixel's heads. index_select would copy the rest of the map each time.
    q, k, v = (t.permute(0, 2, 3, 1, 4).flatten(1, 2).contiguous() for t in (q, k, v))  # (B, H·W, N, D)
    bias = F.pad(bias.to(q.dtype), (0, 1, 0, 1), value=-torch.inf)  # its last row and column: not in the window
    rows = axis_tiles(H, key_height, kernel_size, dilation, q.device)
    columns = axis_tiles(W, key_width, kernel_size, dilation, q.device)
    results, places = [], []
    for row_queries, row_keys, row_offsets in rows:
        for column_queries, column_keys, column_offsets in columns:
            queries = (row_queries[:, None, :, None] * W + column_queries[:, None]).flatten(2).flatten(0, 1)
            keys = (row_keys[:, None, :, None] * key_width + column_keys[:, None]).flatten(2).flatten(0, 1)
            mask = bias[:, row_offsets[:, None, :, None], column_offsets[:, None]]  # (N, T, T, keys, keys)
            mask = mask.flatten(3).flatten(1, 2)[None]  # fused kernels take four axes only
            at_once = max(1, ELEMENTS_AT_ONCE // (B * keys.shape[1] * N * D))
            for some_queries, some_keys in zip(queries.split(at_once), keys.split(at_once), strict=True):
                x = F.scaled_dot_product_attention(
                    gather(q, some_queries), gather(k, some_keys), gather(v, some_keys), attn_mask=mask, scale=1.0
                )  # (B · tiles, N, T², D)
                results.append(x.transpose(1, 2).reshape(B, -1, N, D))
                places.append(some_queries.flatten())
    order = torch.cat(places).argsort()
    x = torch.cat(results, dim=1).index_select(1, order).unflatten(1, (H, W))
    return x.permute(0, 3, 1, 2, 4)  # (B, N, H, W, D)


def gather(x: Tensor, places: Tensor) -> Tensor:
    """Pixels of x (B, H·W, N, D) at places (tiles, P) → (B · tiles, N, P, D)."""
    tiles, P = places.shape
    return x.index_select(1, places.flatten()).reshape(-1, P, *x.shape[2:]).transpose(1, 2)


def axis_tiles(
    length: int, key_length: int, kernel_size: int, dilation: int, device: torch.device
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The tiles along one axis of a map with so many queries and keys, those with the same windows together.

    Returns:
        For each arrangement of windows three index tensors: positions of the queries (tiles, T); positions of the keys
        any of them sees (tiles, T + K − 1 or fewer); and for each pair of them the place in the relative position bias
        (T, keys), 2K − 1 where the key is not in the query's window.
    """
    # First keys of a tile's windows, counted from its first query → where the tiles with such windows begin.
    origins: dict[tuple[int, ...], list[int]] = {}
    for group in range(min(dilation, length)):
        n, size = len(range(group, length, dilation)), len(range(group, key_length, dilation))
        starts = [min(max(i - kernel_size // 2, 0), size - kernel_size) for i in range(n)]
        T = math.ceil(n / math.ceil(n / TILE))  # no more tiles than with TILE itself, but of nearly equal sizes
        for first in range(0, n, T):
            windows = tuple(start - first for start in starts[first : first + T])
            origins.setdefault(windows, []).append(group + dilation * first)

    tiles = []
    for windows, places in origins.items():
        place = torch.tensor(places, device=device)[:, None]
        start = torch.tensor(windows, device=device)[:, None]
        query = torch.arange(len(windows), device=device)
        key = torch.arange(windows[0], windows[-1] + kernel_size, device=device)
        offset = key - query[:, None] + kernel_size - 1
        offset = offset.where((key >= start) & (key < start + kernel_size), 2 * kernel_size - 1)
        tiles.append((place + dilation * query, place + dilation * key, offset))
    return tiles
