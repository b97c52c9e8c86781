"""Which part of a photo a training picture shows, and how the photo and its masks are brought there alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """A box of the photo, resampled to `height × width`, perhaps mirrored, in the top left corner of a canvas.

    What the box does not fill of the canvas, at the right and at the bottom, is padding: it shows no photo and
    belongs to no mask. That is also where a photo is padded for inference.
    """

    box: tuple[float, float, float, float]  # left, top, right, bottom in pixels of the photo; within the photo
    height: int  # pixels the box is resampled to
    width: int
    canvas: tuple[int, int]  # height and width of the result, at least the above
    flip: bool = False  # mirrored left to right, before it is padded

    @classmethod
    def whole(cls, height: int, width: int) -> Window:
        """The photo as it is."""
        return cls((0.0, 0.0, float(width), float(height)), height, width, (height, width))

    @classmethod
    def crop(
        cls, photo: tuple[int, int], scaled: tuple[int, int], corner: tuple[int, int], canvas: tuple[int, int]
    ) -> Window:
        """A crop of the size of `canvas`, its top left at `corner`, out of the photo resized to `scaled`.

        All four are (vertical, horizontal). The photo is only resampled where the crop shows it.
        """
        height, width = (min(a - b, c) for a, b, c in zip(scaled, corner, canvas, strict=True))
        y, x = (p / s for p, s in zip(photo, scaled, strict=True))  # photo pixels in a scaled one
        right, bottom = min((corner[1] + width) * x, photo[1]), min((corner[0] + height) * y, photo[0])
        return cls((corner[1] * x, corner[0] * y, right, bottom), height, width, canvas)

    def photo(self, photo: Image.Image) -> Tensor:
        """The box of an RGB photo, resampled bilinearly with antialiasing: (3, height, width) uint8, not padded."""
        part = photo.resize((self.width, self.height), Image.Resampling.BILINEAR, box=self.box)
        part = F.pil_to_tensor(part)
        return F.horizontal_flip(part) if self.flip else part

    def index_map(self, index_map: np.ndarray) -> np.ndarray:
        """The box of an (H, W) int32 map of ids, each the nearest pixel's: (height, width) int32, not padded."""
        if self.box != (0, 0, self.width, self.height):
            image = Image.fromarray(index_map)
            index_map = np.asarray(image.resize((self.width, self.height), Image.Resampling.NEAREST, box=self.box))
        return index_map[:, ::-1] if self.flip else index_map

    def polygon(self, polygon: list[float]) -> np.ndarray | None:
        """x, y, x, y, … in pixels of the photo → the same in pixels of the box; None where it cannot reach the box."""
        left, top, right, bottom = self.box
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        low, high = points.min(axis=0), points.max(axis=0)
        if low[0] >= right or low[1] >= bottom or high[0] <= left or high[1] <= top:
            return None
        points = (points - (left, top)) * (self.width / (right - left), self.height / (bottom - top))
        if self.flip:
            points[:, 0] = self.width - points[:, 0]
        return points.ravel()

    def pad(self, picture: Tensor) -> Tensor:
        """(…, height, width) → (…, H, W) of the canvas; the new pixels are 0 (False)."""
        if (self.height, self.width) == self.canvas:
            return picture
        padded = picture.new_zeros(*picture.shape[:-2], *self.canvas)
        padded[..., : self.height, : self.width] = picture
        return padded

    def masks(self, index_map: np.ndarray, indices: np.ndarray) -> Tensor:
        """Where an (H, W) int32 map of the photo holds each of N values: (N, H, W) bool of the canvas."""
        part = self.index_map(index_map) == indices.astype(index_map.dtype)[:, None, None]
        return self.pad(torch.from_numpy(part))
