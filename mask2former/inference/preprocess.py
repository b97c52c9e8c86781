"""From a photo to what the network takes, and a record of how to get back.

Shape letters: H × W the photo, h × w the padded input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mask2former.bounds import Count, Deviation, Finite, Side, check_fields, plain, problem_of, shown
from mask2former.inference.photo import MAX_PIXELS
from mask2former.structures import PhotoSizes, Protocol

PRESETS = ("paper", "hub")


@dataclass(frozen=True)
class Preprocess:
    """Resize, normalise, pad.

    A photo is resized to `short_side`, or to less if its other side would exceed `long_side`; or to `exact_size`
    (height, width) whatever its shape; or not at all where `resize` is False. Then it is normalised, and padded with
    the mean colour at the bottom and at the right to the next multiple of `divisor`: of its own size only, because the
    network sees the padding.
    """

    short_side: Side = 800
    long_side: Count = 1333
    exact_size: tuple[Side, Side] | None = None
    mean: tuple[Finite, Finite, Finite] = Protocol.pixel_mean
    std: tuple[Deviation, Deviation, Deviation] = Protocol.pixel_std
    divisor: Count = 32
    resize: bool = True

    def __post_init__(self):
        check_fields(self)
        if self.exact_size and math.prod(self.exact_size) > MAX_PIXELS:
            height, width = self.exact_size
            raise ValueError(f"size={height}x{width}: expected at most {MAX_PIXELS} pixels")

    @classmethod
    def from_protocol(
        cls, protocol: Protocol, preset: str = "paper", size: int | tuple[int, int] | str | None = None
    ) -> Preprocess:
        """As a model was tested.

        preset: "paper" as the papers' scores were taken; "hub" as the checkpoint's `preprocessor_config.json` says,
            for the published ones 384 × 384 whatever the photo's shape, which costs accuracy.
        size: instead of the preset's a short side, with the long side in proportion, or an exact (height, width), or
            "photo" for the photo's own pixels.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset {preset!r}: expected one of {PRESETS}")
        short, long, exact = protocol.short_side, protocol.long_side, None
        if preset == "hub" and protocol.hub_sides is not None:
            short, long = protocol.hub_sides
        elif preset == "hub":
            exact = protocol.hub_size
        kind = tuple[Side, Side] if isinstance(size, tuple | list) else Side | Literal["photo"] | None
        if problem_of(kind, size):
            raise ValueError(
                f"size={shown(size)}: expected a short side, or (height, width), in pixels (1 to 100000), or 'photo'"
            )
        size = plain(size)
        resize = size != "photo"
        if isinstance(size, int):
            short, long, exact = size, round(size * long / short), None
        elif size is not None and resize:
            exact = tuple(size)
        return cls(short, long, exact, protocol.pixel_mean, protocol.pixel_std, resize=resize)

    def sizes(self, photo: tuple[int, int]) -> PhotoSizes:
        """What becomes of a photo of some (height, width)."""
        resized = tuple(photo)
        if self.resize:
            resized = self.exact_size or shortest_edge_size(photo, self.short_side, self.long_side)
        padded = tuple(-(-side // self.divisor) * self.divisor for side in resized)
        return PhotoSizes(tuple(photo), resized, padded)

    def __call__(self, photo: Image.Image) -> tuple[Tensor, PhotoSizes]:
        """An upright RGB photo to (3, h, w) float32 pixel values, and its sizes."""
        sizes = self.sizes((photo.height, photo.width))
        if sizes.resized != sizes.photo:
            # on 8-bit values and with antialiasing, as the published models were trained and tested
            photo = photo.resize(sizes.resized[::-1], Image.Resampling.BILINEAR)
        return self._normalised(photo, sizes), sizes

    def window(self, photo: Image.Image, box: tuple[int, int, int, int], sizes: PhotoSizes) -> Tensor:
        """The pixel values (3, h, w) of a box of the photo, (x0, y0, x1, y1), with sizes of its own; resized together
        with what lies around it, so that its border looks as it would in the whole photo."""
        if sizes.resized == sizes.photo:
            return self._normalised(photo.crop(box), sizes)
        return self._normalised(photo.resize(sizes.resized[::-1], Image.Resampling.BILINEAR, box=box), sizes)

    def _normalised(self, photo: Image.Image, sizes: PhotoSizes) -> Tensor:
        """Resized photo to (3, h, w), normalised and padded."""
        values = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float()  # (3, H, W)
        values = (values - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]
        (height, width), (padded_height, padded_width) = sizes.resized, sizes.padded
        return F.pad(values, (0, padded_width - width, 0, padded_height - height))


def shortest_edge_size(photo: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """The (height, width) with the shorter side `short_side`, or less if the longer one would exceed `long_side`."""
    scale = short_side / min(photo)
    height, width = (short_side if side == min(photo) else scale * side for side in photo)
    if max(height, width) > long_side:
        scale = long_side / max(height, width)
        height, width = height * scale, width * scale
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))
