"""From a photo in any form to what the network takes, and a record of how to get back.

Shape letters: H × W the photo, h × w the padded input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from mask2former.bounds import Count, Deviation, Finite, Side, check_fields, plain, problem_of, shown
from mask2former.errors import PhotoError
from mask2former.structures import PhotoSizes, Protocol

PRESETS = ("paper", "hub")
MAX_PIXELS = 150_000_000  # of one photo; more is taken for a mistake


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


def read_photo(source: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright 8-bit RGB picture from a path, a PIL image, an (H, W, 3) uint8 array, or a (3, H, W) tensor that is
    uint8 or float from 0 to 1.

    Pictures of any mode are taken: grey, palette, 16 bits (scaled to 8), CMYK, with transparency (over white). Files
    are turned as their EXIF entry says. Raises FileNotFoundError, PermissionError, or PhotoError for what is
    not a photo or has more than `max_pixels`.
    """
    if isinstance(source, str | Path):
        name = str(Path(source))
    elif isinstance(source, Image.Image):
        name = "the PIL image"
    elif isinstance(source, np.ndarray):
        name = "the array"
    elif isinstance(source, Tensor):
        name = "the tensor"
    else:
        raise PhotoError(
            f"a photo is {type(source).__name__}: expected a path, a PIL image, an (H, W, 3) uint8 array, "
            "a (3, H, W) tensor, or a list of these"
        )
    try:
        return _read(source, max_pixels)
    except PhotoError as error:
        raise PhotoError(f"{name} is {error}") from None
    except FileNotFoundError:
        hint = "; download it first" if name.startswith(("http:/", "https:/")) else ""
        raise FileNotFoundError(f"{name}: no such photo{hint}") from None
    except PermissionError as error:
        raise PermissionError(f"{name} may not be read: {error.strerror}") from None
    except UnidentifiedImageError:
        raise PhotoError(f"{name} is not a picture, whatever its name says") from None
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{name} is absurdly large: {error}") from None
    except Exception as error:  # a broken file makes a decoder raise whatever it stumbles over
        raise PhotoError(f"{name} is broken or of an unknown kind: {error}") from error


def _read(source: str | Path | Image.Image | np.ndarray | Tensor, max_pixels: int) -> Image.Image:
    """`read_photo`, with errors that do not name the source."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise PhotoError("a folder: give the photos in it")
        if not path.stat().st_size:
            raise PhotoError("empty (0 bytes)")
        with Image.open(path) as picture:
            return _to_rgb(_checked(picture, max_pixels))
    if isinstance(source, Image.Image):
        return _to_rgb(_checked(source, max_pixels))
    return _checked(_from_array(source) if isinstance(source, np.ndarray) else _from_tensor(source), max_pixels)


def _checked(picture: Image.Image, max_pixels: int) -> Image.Image:
    """The picture itself, of a size to work with; it need not be decoded yet."""
    if picture.width * picture.height > max_pixels:
        raise PhotoError(f"absurdly large, {picture.width} × {picture.height}; shrink it, or raise max_pixels")
    if not picture.width or not picture.height:
        raise PhotoError(f"without a pixel, {picture.width} × {picture.height}")
    return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _from_deep(np.asarray(picture).astype(np.float32), picture.mode)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _from_deep(values: np.ndarray, mode: str) -> Image.Image:
    """Grey (H, W) of more than 8 bits: integers of 16, or what fits in 8; floats from 0 to 1, or to 255."""
    peak = values.max(initial=0)
    full = (1.0 if peak <= 1 else 255.0) if mode == "F" else (255.0 if mode == "I" and peak <= 255 else 65535.0)
    if not np.isfinite(values).all() or values.min(initial=0) < 0 or peak > full:
        raise PhotoError(f"of mode {mode} with values from {values.min():g} to {peak:g}; convert it to 8 bits")
    return Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8)).convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        hint = "; transpose it" if array.ndim == 3 and array.shape[0] == 3 else ""
        raise PhotoError(f"{array.dtype} of shape {array.shape}: expected uint8 (H, W, 3), RGB{hint}")
    if not array.size:
        raise PhotoError(f"without a pixel, of shape {array.shape}")
    return Image.fromarray(array)


def _from_tensor(tensor: Tensor) -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not (tensor.dtype == torch.uint8 or tensor.is_floating_point()):
        hint = "; permute it" if tensor.ndim == 3 and tensor.shape[2] == 3 else ""
        raise PhotoError(
            f"{tensor.dtype} of shape {tuple(tensor.shape)}: expected (3, H, W), RGB, uint8 or float from 0 to 1{hint}"
        )
    if not tensor.numel():
        raise PhotoError(f"without a pixel, of shape {tuple(tensor.shape)}")
    if tensor.is_floating_point():
        low, high = tensor.min().item(), tensor.max().item()
        if not 0 <= low <= high <= 1:  # NaN fails too
            raise PhotoError(f"float with values from {low:g} to {high:g}: expected 0 to 1, not normalised")
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    return Image.fromarray(tensor.permute(1, 2, 0).contiguous().cpu().numpy())
