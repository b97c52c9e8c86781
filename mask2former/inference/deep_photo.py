"""Photos of more than 8 bits a channel, brought to 8 by the depth they really have.

A sensor's 10, 12 or 14 bits often come in a 16-bit file. Taken for 16 bits they are black. Where the file does not say
how many it holds, it is the least of these depths that its largest value fits in, and a note says so.

Shape letters: H × W the photo.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mask2former.errors import PhotoError

DEPTHS = (8, 10, 12, 14, 16)
FULL = 65535
BITS, COMPRESSION, PLANES = 258, 259, 284  # tags of a TIFF


def from_deep(values: np.ndarray, mode: str, depth: int, notes: list[str]) -> Image.Image:
    """Grey (H, W) float32: integers of up to 16 bits; floats from 0 to 1, or to 255.

    mode: Pillow's, "F" for floats. depth: bits that the file says it has, 0 if it does not.
    """
    peak = float(values.max(initial=0))
    if mode == "F":
        full = 1.0 if peak <= 1 else 255.0
    else:
        full = float(2**depth - 1) if 8 < depth < 16 else depth_of(peak, notes)
    if not np.isfinite(values).all() or values.min(initial=0) < 0 or peak > full:
        raise PhotoError(f"of mode {mode} with values from {values.min():g} to {peak:g}; convert it to 8 bits")
    return Image.fromarray(np.rint(values * (255 / full)).astype(np.uint8)).convert("RGB")


def from_deep_color(picture: Image.Image, notes: list[str]) -> Image.Image | None:
    """An opened file of 16 bits a colour, where Pillow's reading of it would not do; else None.

    Pillow reads the high bytes: too little where fewer than 15 bits are used. And of an uncompressed TIFF with one
    plane a colour it reads other bytes.
    """
    is_tiff, is_png = picture.format == "TIFF", picture.format == "PNG"
    deep = is_tiff and max(picture.tag_v2.get(BITS, (8,))) == 16
    deep = deep or (is_png and any("16" in str(part) for tile in picture.tile for part in tile))
    if not deep or picture.mode not in ("RGB", "RGBA", "RGBX"):
        return None
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    if is_tiff and picture.tag_v2.get(PLANES, 1) == 2 and picture.tag_v2.get(COMPRESSION, 1) == 1:
        values = read_tiff(picture)
    else:
        page = picture.tell()
        picture.load()
        if np.asarray(picture.convert("RGB")).max(initial=0) > 63:  # more than 14 bits
            return None
        values = read_tiff(picture, page) if is_tiff else read_png(picture.filename)
    full = depth_of(float(values[..., :3].max(initial=0)), notes)
    color = Image.fromarray(np.rint(values[..., :3] * (255 / full)).astype(np.uint8))
    color.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(color)


def depth_of(peak: float, notes: list[str]) -> float:
    """The largest value of the least depth that `peak` fits in."""
    depth = next((depth for depth in DEPTHS if peak < 2**depth), 16)
    if depth < 16 and peak:
        notes.append(f"of 16 bits, with values up to {peak:g}: read as {depth} bits")
    return float(2**depth - 1) if peak else FULL


def read_png(path: Any) -> np.ndarray:
    """(H, W, 3 or 4) of 16 bits. Raises PhotoError where torchvision no longer decodes pictures."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from torchvision.io import ImageReadMode, decode_image, read_file

            values = decode_image(read_file(str(path)), ImageReadMode.UNCHANGED)  # (channels, H, W)
    except ImportError:
        raise PhotoError(
            "a PNG of 16 bits a colour, of which Pillow reads the high byte alone: convert it to 8"
        ) from None
    return values.int().permute(1, 2, 0).numpy()


def read_tiff(picture: Image.Image, page: int = -1) -> np.ndarray:
    """(H, W, channels) of 16 bits, of a page, or the one that is open. Raises PhotoError without tifffile."""
    try:
        from tifffile import TiffFile
    except ImportError:
        raise PhotoError(
            "a TIFF of 16 bits a colour, of which Pillow reads the high byte alone: install tifffile to read it, or "
            "convert it to 8 bits"
        ) from None
    with TiffFile(picture.filename) as file:
        values = file.pages[picture.tell() if page < 0 else page].asarray()
    return values if values.shape[-1] in (3, 4) else np.moveaxis(values, 0, -1)
