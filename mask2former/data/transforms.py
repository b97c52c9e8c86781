"""Training pictures: crop, mirror, colour. The photo and its masks go through one and the same window.

The papers' two recipes (Cheng et al. 2022, §4.1): large-scale jitter for COCO (`ScaleJitter`), short-edge resizing
and a random crop with colour distortion for ADE20K and Cityscapes (`ShortEdgeCrop`). All randomness is torch's.
Sizes are (height, width).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torchvision.transforms.v2.functional as F
from PIL import Image
from torch import Tensor

from mask2former.data.annotation import Annotation
from mask2former.data.window import Window
from mask2former.structures import Protocol, Targets

CROP_ATTEMPTS = 10  # for a crop that one class does not fill

Crop = Callable[[Annotation], Window]


class TrainingTransform:
    """(photo, annotation) → (pixel_values (3, H, W) float32, Targets at that size).

    Where the photo does not fill the crop, at the right and at the bottom, pixel values are 0, which is the mean
    colour, as in inference; those pixels belong to no mask.

    Arguments:
        crop: chooses the window.
        flip: how likely a picture is mirrored.
        color: changes the colours of a (3, h, w) uint8 picture, or None.
        task: which segments are the targets: "panoptic", "instance" (things only), "semantic" (one a class).
        pixel_mean, pixel_std: RGB, 0..255, subtracted and divided by.
    """

    def __init__(
        self,
        crop: Crop,
        flip: float = 0.5,
        color: Callable[[Tensor], Tensor] | None = None,
        task: str = "panoptic",
        pixel_mean: Sequence[float] = Protocol.pixel_mean,
        pixel_std: Sequence[float] = Protocol.pixel_std,
    ):
        self.crop, self.flip, self.color, self.task = crop, flip, color, task
        self.mean, self.std = list(pixel_mean), list(pixel_std)

    def __call__(self, photo: Image.Image, annotation: Annotation) -> tuple[Tensor, Targets]:
        annotation = annotation.for_task(self.task)
        window = replace(self.crop(annotation), flip=uniform() < self.flip)
        picture = window.photo(photo)
        if self.color is not None:
            picture = self.color(picture)
        pixel_values = window.pad(F.normalize(picture.float(), self.mean, self.std))
        return pixel_values, annotation.targets(window)


def training_transform(
    recipe: str, size: int | tuple[int, int], task: str = "panoptic", protocol: Protocol | None = None
) -> TrainingTransform:
    """The papers' way to make training pictures.

    Arguments:
        recipe: "coco" (large-scale jitter 0.1–2.0), or "ade20k" or "cityscapes" (short edge 0.5–2.0 × the longer
            side of the crop, at most 4 × that for the long edge; colours distorted).
        size: of the crop, a number or (height, width). The papers': COCO 1024; ADE20K 512 (semantic) or 640;
            Cityscapes (512, 1024).
        protocol: the model's, for mean and standard deviation of the pixels.
    """
    protocol = protocol or Protocol()
    normalise = {"task": task, "pixel_mean": protocol.pixel_mean, "pixel_std": protocol.pixel_std}
    size = (size, size) if isinstance(size, int) else tuple(size)
    if recipe == "coco":
        return TrainingTransform(ScaleJitter(size), **normalise)
    if recipe in ("ade20k", "cityscapes"):
        return TrainingTransform(ShortEdgeCrop(size), color=ColorDistortion(), **normalise)
    raise ValueError(f"recipe {recipe!r}: expected coco, ade20k or cityscapes")


class ScaleJitter:
    """Large-scale jitter (Ghiasi et al. 2021): fit the photo into the crop, scale it by `scales`, crop or pad."""

    def __init__(self, size: tuple[int, int], scales: tuple[float, float] = (0.1, 2.0)):
        self.size, self.scales = size, scales

    def __call__(self, annotation: Annotation) -> Window:
        factor = uniform(*self.scales) * min(c / p for c, p in zip(self.size, annotation.size, strict=True))
        scaled = tuple(max(1, round(p * factor)) for p in annotation.size)
        return Window.crop(annotation.size, scaled, random_corner(scaled, self.size), self.size)


class ShortEdgeCrop:
    """Resize the short edge to one of several lengths, then crop at random.

    Arguments:
        size: of the crop.
        short_edges: lengths to choose from; by default 0.5, 0.6, … 2.0 × the longer side of the crop.
        long_edge: the long edge's limit, which comes first; by default 4 × the longer side of the crop.
        max_class_share: another crop is tried, up to ten times, while one class covers at least this share of the
            annotated pixels, or all of them. 1 takes the first crop (the published recipes).
    """

    def __init__(
        self,
        size: tuple[int, int],
        short_edges: Sequence[int] | None = None,
        long_edge: int | None = None,
        max_class_share: float = 1.0,
    ):
        self.size, self.max_class_share = size, max_class_share
        self.short_edges = short_edges or [int(tenth * 0.1 * max(size)) for tenth in range(5, 21)]
        self.long_edge = long_edge or 4 * max(size)

    def __call__(self, annotation: Annotation) -> Window:
        short = self.short_edges[torch.randint(len(self.short_edges), ()).item()]
        factor = min(short / min(annotation.size), self.long_edge / max(annotation.size))
        scaled = tuple(max(1, round(p * factor)) for p in annotation.size)
        for _ in range(CROP_ATTEMPTS):
            window = Window.crop(annotation.size, scaled, random_corner(scaled, self.size), self.size)
            if self.max_class_share >= 1 or self._is_varied(annotation, window):
                break
        return window

    def _is_varied(self, annotation: Annotation, window: Window) -> bool:
        areas: dict[int, int] = {}
        for label, area in zip(annotation.labels.tolist(), annotation.areas(window).tolist(), strict=True):
            areas[label] = areas.get(label, 0) + area
        total, largest = sum(areas.values()), max(areas.values(), default=0)
        return largest < total and largest < self.max_class_share * total


class ColorDistortion:
    """Photometric distortion (Liu et al. 2016, SSD): each of four changes with probability one half.

    Brightness is shifted by up to ±32 (of 255), contrast and saturation scaled by 0.5–1.5, the hue turned by up to a
    tenth of the circle; the contrast changes before saturation and hue, or after them.
    """

    def __call__(self, picture: Tensor) -> Tensor:
        """(3, h, w) uint8 → the same, other colours."""
        contrast_first = uniform() < 0.5
        if uniform() < 0.5:
            picture = (picture.float() + uniform(-32, 32)).round().clamp(0, 255).to(torch.uint8)
        if contrast_first:
            picture = self._contrast(picture)
        if uniform() < 0.5:
            picture = F.adjust_saturation(picture, uniform(0.5, 1.5))
        if uniform() < 0.5:
            picture = F.adjust_hue(picture, uniform(-0.1, 0.1))
        return picture if contrast_first else self._contrast(picture)

    @staticmethod
    def _contrast(picture: Tensor) -> Tensor:
        # SSD scales the values themselves, which torchvision calls brightness
        return F.adjust_brightness(picture, uniform(0.5, 1.5)) if uniform() < 0.5 else picture


def random_corner(scaled: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The top left of a crop of `size` inside a picture of size `scaled`, every whole pixel equally likely."""
    return tuple(torch.randint(max(0, s - c) + 1, ()).item() for s, c in zip(scaled, size, strict=True))


def uniform(low: float = 0.0, high: float = 1.0) -> float:
    """A number from [low, high), drawn by torch's generator."""
    return low + (high - low) * torch.rand(()).item()
