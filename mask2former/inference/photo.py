"""Photos as people have them, read as upright 8-bit RGB: the border at which a picture enters.

`FORMATS` is what is read of files. Whatever is concluded or left out on the way (the page of a TIFF, the true depth of
a 16-bit file) is a note, in one sentence; what cannot be read right is a PhotoError that says why and what to do.

Shape letters: H × W the photo.
"""

from __future__ import annotations

import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, TiffTags, UnidentifiedImageError
from torch import Tensor

from mask2former.errors import PhotoError
from mask2former.inference.deep_photo import BITS, from_deep, from_deep_color

Photo = str | Path | Image.Image | NDArray[np.uint8] | Tensor  # what `read_photo` takes
MAX_PIXELS = 150_000_000  # of one photo; more is taken for a mistake

# Pillow's names of the formats that are read, with the endings of their files. Formats that Pillow hands to another
# program (EPS to Ghostscript), or knows by name only, are not among them.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".mpo",),  # JPEG with further pictures behind the first, as phones write it
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),  # by pillow-heif, where it is installed
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga",),
    "PSD": (".psd",),  # the flattened picture
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb"),
    "PCX": (".pcx",),
    "ICO": (".ico",),
}
# Endings of what is a photo, or looks like one to its owner, and is not read.
RAW = ".cr2 .cr3 .nef .nrw .arw .srf .dng .raf .orf .rw2 .pef .srw .x3f .raw"
UNREADABLE = {
    **dict.fromkeys(
        RAW.split(),
        "a camera's raw file: develop it to JPEG, PNG or TIFF first",
    ),
    **dict.fromkeys((".eps", ".ps", ".svg", ".svgz", ".pdf", ".ai", ".wmf", ".emf"), "a drawing: render it first"),
    **dict.fromkeys((".jxl",), "JPEG XL, which Pillow does not read: convert it"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"), "a video: take its frames"),
}
RAW_TAGS = (50706, 33421)  # DNGVersion, CFARepeatPatternDim: a camera's raw file, whose first page is a thumbnail
LONGEST_NAME = 400  # characters of a path in a message
BANDS = 277  # SamplesPerPixel
REDUCED = 254  # NewSubfileType, whose first bit says that a page is another one's thumbnail


class PhotoWarning(UserWarning):
    """What was concluded about a photo, or left out of it."""


def read_photo(source: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """`open_photo` without its notes, which are given as PhotoWarnings."""
    picture, notes = open_photo(source, max_pixels)
    for note in notes:
        warnings.warn(f"{name_of(source)}: {note}", PhotoWarning, stacklevel=2)
    return picture


def open_photo(source: Any, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, list[str]]:
    """An upright 8-bit RGB picture from a path, a PIL image, an (H, W, 3) uint8 array, or a (3, H, W) tensor that is
    uint8 or float from 0 to 1; and what was concluded on the way, a sentence each.

    Pictures of any mode are taken: grey, palette, CMYK, CIELAB, with transparency (over white), of 10 to 16 bits
    (scaled to 8 by the depth that the file says, or that its values have). Files are turned as their EXIF entry says;
    of a TIFF the largest page is read, of an animation the first frame. Colour profiles are ignored, as in the papers'
    code.
    Raises FileNotFoundError, PermissionError, or PhotoError for what is not a photo or has more than `max_pixels`.
    """
    notes: list[str] = []
    name = name_of(source)
    try:
        return _read(source, max_pixels, notes), notes
    except PhotoError as error:
        raise PhotoError(f"{name} is {error}") from None
    except FileNotFoundError:
        hint = "; download it first" if name.startswith(("http:/", "https:/")) else ""
        raise FileNotFoundError(f"{name}: no such photo{hint}") from None
    except PermissionError as error:
        raise PermissionError(f"{name} may not be read: {error.strerror}") from None
    except UnidentifiedImageError:
        raise PhotoError(f"{name} is {_unidentified(Path(source))}") from None
    except Image.DecompressionBombError as error:
        raise PhotoError(f"{name} is absurdly large: {error}") from None
    except Exception as error:  # a broken file makes a decoder raise whatever it stumbles over
        said = str(getattr(error, "strerror", None) or error)[
            :LONGEST_NAME
        ]  # a system's error holds the path once more
        raise PhotoError(f"{name} is broken or of an unknown kind: {said}") from error


def name_of(source: Any) -> str:
    """What a photo is called in messages. Raises PhotoError for what cannot be one."""
    if isinstance(source, str | Path):
        name = str(Path(source))
        return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    for kind, name in ((Image.Image, "the PIL image"), (np.ndarray, "the array"), (Tensor, "the tensor")):
        if isinstance(source, kind):
            return name
    raise PhotoError(
        f"a photo is {type(source).__name__}: expected a path, a PIL image, an (H, W, 3) uint8 array, "
        "a (3, H, W) tensor, or a list of these"
    )


def reads_heif() -> bool:
    """Whether HEIC and HEIF photos can be read: pillow-heif is installed; it is made known to Pillow."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    if "HEIF" not in Image.OPEN:
        register_heif_opener()
    return True


def _read(source: str | Path | Image.Image | np.ndarray | Tensor, max_pixels: int, notes: list[str]) -> Image.Image:
    """`open_photo`, with errors that do not name the source."""
    if isinstance(source, str | Path):
        path = Path(source)
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PhotoError("a folder: give the photos in it")
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError("no regular file: give a picture's")
        if not status.st_size:
            raise PhotoError("empty (0 bytes)")
        if why := UNREADABLE.get(path.suffix.lower()):
            raise PhotoError(why)
        reads_heif()
        Image.init()
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            _turn_to_page(picture, notes)
            return _to_rgb(_checked(picture, max_pixels), notes)
    if isinstance(source, Image.Image):
        return _to_rgb(_checked(source, max_pixels), notes)
    return _checked(_from_array(source) if isinstance(source, np.ndarray) else _from_tensor(source), max_pixels)


def _checked(picture: Image.Image, max_pixels: int) -> Image.Image:
    """The picture itself, of a size to work with; it need not be decoded yet."""
    if picture.width * picture.height > max_pixels:
        raise PhotoError(f"absurdly large, {picture.width} × {picture.height}; shrink it, or raise max_pixels")
    if not picture.width or not picture.height:
        raise PhotoError(f"without a pixel, {picture.width} × {picture.height}")
    return picture


def _turn_to_page(picture: Image.Image, notes: list[str]) -> None:
    """To the largest page of a TIFF; other files stay at their first frame."""
    if picture.format == "TIFF" and any(tag in picture.tag_v2 for tag in RAW_TAGS):
        raise PhotoError(UNREADABLE[".dng"])
    count = getattr(picture, "n_frames", 1)
    if count <= 1 or picture.format in ("MPO", "PSD"):  # behind it are a phone's map of depths, or layers
        return
    if picture.format != "TIFF":
        notes.append(f"the first of {count} frames is read")
        return
    areas = []
    for page in range(count):
        picture.seek(page)
        areas.append(picture.width * picture.height * (not picture.tag_v2.get(REDUCED, 0) & 1))
    largest = areas.index(max(areas))
    picture.seek(largest)
    same = areas.count(areas[largest])
    notes.append(f"page {largest + 1} of {count} is read, " + ("the largest" if same == 1 else "the first so large"))


def _to_rgb(picture: Image.Image, notes: list[str]) -> Image.Image:
    color = from_deep_color(picture, notes)
    if color is not None:
        return color
    depth, bands = 0, 0
    if picture.format == "TIFF":
        depth, bands = picture.tag_v2.get(BITS, (0,))[0], picture.tag_v2.get(BANDS, 1)
    if bands > 3 and picture.mode in ("RGB", "RGBX"):
        notes.append(f"the first three of {bands} bands are read, as red, green and blue")
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F" or picture.mode.startswith("I"):
        return from_deep(np.asarray(picture).astype(np.float32), picture.mode, depth, notes)
    if picture.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, *profiles, outputMode="RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


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


def _unidentified(path: Path) -> str:
    """What a file is that Pillow does not open, told by its first bytes."""
    with open(path, "rb") as file:
        head = file.read(64)
        brand = head[8:12] if head[4:8] == b"ftyp" else b""
        if brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
            return "a HEIC photo: install pillow-heif to read it (pip install pillow-heif)"
        if brand in (b"avif", b"avis"):
            return "an AVIF photo, which this Pillow does not read: take Pillow 11.3 or newer"
        if brand:
            return UNREADABLE[".mp4"]
        if head.startswith((b"%PDF", b"%!PS", b"<svg", b"\xc5\xd0\xd3\xc6")):
            return UNREADABLE[".pdf"]
        if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
            return UNREADABLE[".jxl"]
        if head[:4] in (b"II*\0", b"MM\0*"):
            return _unknown_tiff(file, head)
    return "not a picture, whatever its name says"


def _unknown_tiff(file: Any, head: bytes) -> str:
    """Which samples a TIFF has that Pillow does not open."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head[:8])
        file.seek(tags.next)
        tags.load(file)
        bands, bits = int(tags.get(BANDS, 1)), tags.get(BITS, (1,))
        kind = {1: "unsigned", 2: "signed", 3: "float"}.get(tags.get(339, (1,))[0], "of an unknown kind")
    except Exception:
        return "a broken TIFF"
    compression = TiffTags.lookup(259).enum and tags.get(259, 1)
    said = f"a TIFF of {bands} band{'s' * (bands > 1)} of {bits[0]} bits, {kind}, compression {compression}"
    if bands > 4:
        return f"{said}: which are red, green and blue cannot be told; write those three as a picture of their own"
    return f"{said}, which Pillow does not read: convert it to 8 bits a band"
