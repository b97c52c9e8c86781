"""Masks are compared at random points, not at every pixel (Cheng et al. 2022, §3.3, after PointRend).

Shape letters: L predictions of one forward pass, N masks, P points, C channels, H × W any map.
Coordinates are (x, y) in [0, 1] over the whole map, so that they mean the same in a target at the input's size and in
a prediction at a quarter of it. Outside of the map every value is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Points:
    """All random coordinates that one image's losses use; `draw` makes them, a caller may supply them."""

    matching: Tensor  # (L, P, 2), one set for all masks of a prediction
    oversampled: Tensor  # (L, N, P · oversample_ratio, 2), the most uncertain of which are kept
    uniform: Tensor  # (L, N, P − kept, 2), kept as they are

    @classmethod
    def draw(
        cls,
        predictions: int,
        masks: int,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> Points:
        uniform = num_points - int(importance_sample_ratio * num_points)
        counts = (num_points,), (masks, int(num_points * oversample_ratio)), (masks, uniform)
        return cls(*(random_points((predictions, *count, 2), device, generator) for count in counts))

    def require(self, predictions: int, masks: int) -> None:
        """Raise ValueError unless these are the points of so many predictions and masks."""
        shapes = [tuple(x.shape) for x in (self.matching, self.oversampled, self.uniform)]
        (L, _, _), *both = shapes
        if predictions != L or any(shape[:2] != (predictions, masks) for shape in both):
            raise ValueError(
                f"points of shapes {shapes} for {predictions} predictions and {masks} masks: expected "
                f"({predictions}, P, 2), ({predictions}, {masks}, O, 2), ({predictions}, {masks}, U, 2)"
            )

    def to(self, device: torch.device, dtype: torch.dtype) -> Points:
        return Points(*(x.to(device, dtype) for x in (self.matching, self.oversampled, self.uniform)))


def random_points(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Uniform in [0, 1), float32.

    On a CPU by NumPy's SFC64, seeded by the generator: twice as fast as PyTorch's, and there are ten million a picture.
    """
    if device.type != "cpu":
        return torch.rand(shape, device=device, generator=generator)
    seed = torch.randint(2**62, (), generator=generator).item()
    return torch.from_numpy(np.random.Generator(np.random.SFC64(seed)).random(shape, dtype=np.float32))


@torch.no_grad()
def uncertain_points(logits: Tensor, oversampled: Tensor, uniform: Tensor, num_points: int) -> Tensor:
    """The oversampled points whose logits are nearest to 0, filled up to `num_points` with the uniform ones.

    `logits` (N, H, W), `oversampled` (N, O, 2), `uniform` (N, U, 2) → (N, num_points, 2).
    """
    distance = sample_maps(logits, oversampled).abs()  # (N, O)
    kept = smallest(distance, num_points - uniform.shape[1])
    return torch.cat([oversampled.gather(1, kept[..., None].expand(-1, -1, 2)), uniform], dim=1)


def smallest(x: Tensor, count: int) -> Tensor:
    """Where the `count` smallest values of each row lie, in no order: (N, O) → (N, count) int64.

    On a CPU by NumPy, whose selection is three times as fast as PyTorch's.
    """
    if not x.is_cpu or not 0 < count < x.shape[1]:
        return x.topk(count, dim=1, largest=False, sorted=False).indices
    return torch.from_numpy(np.argpartition(x.numpy(), count - 1, axis=1)[:, :count])


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Every map at its own points, bilinearly: (N, H, W), (N, P, 2) → (N, P)."""
    grid = (2 * points).sub_(1)[:, :, None]  # (N, P, 1, 2)
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, :, 0]


def sample_rows(table: Tensor, size: tuple[int, int], points: Tensor) -> Tensor:
    """Many channels at the same points: `table` (H · W, C) holds a map row by row, `points` (P, 2) → (P, C).

    A point is a weighted sum of four rows, which `embedding_bag` gathers and adds in one pass; ten times faster on a
    CPU than `grid_sample` of the same (C, H, W) map.
    """
    indices, weights = bilinear_corners(points, *size)
    return F.embedding_bag(indices, table, mode="sum", per_sample_weights=weights)


def bilinear_corners(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four pixels around each point, as row-major positions (P, 4), and their weights (P, 4), 0 outside."""
    scale = points.new_tensor((width, height))
    position = points * scale - 0.5
    first = position.floor()
    pixel = torch.stack([first, first + 1], dim=-1)  # (P, 2, 2): x or y, left or right of the point
    weight = 1 - (position[..., None] - pixel).abs()
    weight = weight * ((pixel >= 0) & (pixel < scale[:, None]))
    x, y = pixel.clamp(min=0).minimum(scale[:, None] - 1).int().unbind(-2)
    indices = y[..., :, None] * width + x[..., None, :]  # (P, 2, 2)
    weights = weight[..., 1, :, None] * weight[..., 0, None, :]
    return indices.flatten(-2), weights.flatten(-2)
