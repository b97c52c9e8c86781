"""3 × 3 convolutions in a quarter of the multiplications (Lavin and Gray 2016), for inference on a CPU.

Winograd's F(4 × 4, 3 × 3): 4 × 4 results need the 6 × 6 values around them. Values and filter are mapped to 36 sums
each, by small fixed matrices; there a convolution is a product of channels at each of the 36, which are mixed back
into the results. In float32 its rounding error is four times that of the plain convolution, 1e-5 of the largest value.

Shape letters: B images, C channels in, O out, H × W the map, t tiles of 4 × 4 results.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILES = 512  # worked on at once
FEWEST_CHANNELS = 64  # below, the mapping there and back costs more than the products save

# The matrices of the paper's §4.3, one dimension of each.
VALUES = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
FILTER = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
          (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
RESULTS = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def convolve_3x3(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """layer(x), (B, C, H, W) → (B, O, H, W), for a 3 × 3 convolution with padding 1; by Winograd where it pays."""
    if not pays(layer, x):
        return layer(x)
    to_sums, filter_to_sums, to_results = matrices(x.dtype)
    weight = filter_to_sums @ layer.weight.permute(2, 3, 1, 0).reshape(9, -1)  # (36, C · O)
    weight = weight.view(36, *layer.weight.shape[1::-1])  # (36, C, O)
    B, C, H, W = x.shape
    down, across = -(-H // 4), -(-W // 4)
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 4 * across + 1 - W, 1, 4 * down + 1 - H))  # (B, 4 · down + 2, …, C)
    out = x.new_empty(B, 4 * down, 4 * across, layer.out_channels)
    step = max(1, TILES // across)
    for image, result in zip(x, out, strict=True):
        for top in range(0, down, step):
            rows = min(step, down - top)
            tiles = image[4 * top : 4 * (top + rows) + 2].unfold(0, 6, 4).unfold(1, 6, 4)  # (rows, across, C, 6, 6)
            sums = to_sums @ tiles.permute(3, 4, 0, 1, 2).reshape(36, -1)  # (36, t · C)
            mixed = torch.bmm(sums.view(36, -1, C), weight)  # (36, t, O)
            found = (to_results @ mixed.flatten(1)).view(4, 4, rows, across, -1)
            result[4 * top : 4 * (top + rows)].view(rows, 4, across, 4, -1).copy_(found.permute(2, 0, 3, 1, 4))
    if layer.bias is not None:
        out += layer.bias
    return out[:, :H, :W].permute(0, 3, 1, 2)


def pays(layer: nn.Conv2d, x: Tensor) -> bool:
    return (
        x.is_cpu
        and x.dtype == layer.weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and type(layer) is nn.Conv2d
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and (layer.kernel_size, layer.stride, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and layer.padding == (1, 1)
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= FEWEST_CHANNELS
    )


@lru_cache
def matrices(dtype: torch.dtype) -> list[Tensor]:
    """Both dimensions of each mapping at once: (36, 36), (36, 9), (16, 36)."""
    sides = (torch.tensor(matrix, dtype=torch.float64) for matrix in (VALUES, FILTER, RESULTS))
    return [torch.kron(side, side).to(dtype) for side in sides]
