"""DiNAT, the dilated neighborhood attention transformer (Hassani and Shi 2022), in plain PyTorch.

Parameters, S = 0…3 the stage, J the block in it:
    patch_embed.proj.{0,1}, patch_embed.norm
    levels.S.blocks.J.{norm1, attn.{qkv, relative_position_bias, proj}, norm2, mlp.{fc1, fc2}}
    levels.S.downsample.{reduction, norm} for S < 3, norms.S

Shape letters: B images, C channels, H × W the map, N heads, D = C / N, K kernel size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from mask2former.kernels.feed_forward import feed_forward
from mask2former.kernels.linear import linear
from mask2former.kernels.neighborhood_attention import neighborhood_attention

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
