"""Reading a dataset's files, and saying which one is bad."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mask2former.data.exif import as_stored
from mask2former.errors import DataError, PhotoError
from mask2former.inference import photo as photos
from mask2former.inference.photo import MAX_PIXELS

LOSSLESS = ("PNG", "BMP")  # kinds of picture that keep the values of a mask, and that PIL does not stretch


def list_files(folder: Path, endings: tuple[str, ...], pattern: str = "*") -> list[Path]:
    """The files of a folder with these endings (small letters or capitals), by name. DataError where there is none."""
    if not folder.is_dir():
        raise DataError(folder, "no such folder", "check the folder and the split")
    found = [path for path in folder.glob(pattern) if path.name.lower().endswith(tuple(e.lower() for e in endings))]
    files = sorted(path for path in found if path.name[0] != ".")
    if len(files) < len(found):
        count = len(found) - len(files)
        warnings.warn(f"{folder}: {count} hidden files, such as a Mac's companions (._NAME), passed over", stacklevel=2)
    if not files:
        raise DataError(
            folder, f"holds no file {pattern} ending in {' or '.join(endings)}", "check the folder and the split"
        )
    return files


def read_photo(path: Path, size: tuple[int, int] | None = None, exif: str = "auto") -> Image.Image:
    """An RGB photo as the predictor would see it: upright, unless only unturned it has the `size` (H, W) wanted.

    exif: "auto"; "auto-stored", as stored unless only upright it has the size; "upright" or "stored" whatever the size.

    Raises DataError where it cannot be read or has another size.
    """
    image = read_image(path)
    try:
        first, second = (True, False) if exif.endswith("stored") else (False, True)  # as stored?
        photo = photos.read_photo(as_stored(image) if first else image)
        if exif.startswith("auto") and size is not None and photo.size[::-1] != tuple(size):
            other = photos.read_photo(as_stored(image) if second else image)
            photo = other if other.size[::-1] == tuple(size) else photo
    except PhotoError as error:
        raise DataError(path, f"not a usable photo ({error})", "replace it or remove its entry") from error
    if size is not None and photo.size[::-1] != tuple(size):
        raise DataError(
            path,
            f"the photo is {photo.width}×{photo.height}, its annotation {size[1]}×{size[0]}",
            "annotations must be made at the photo's own size; re-export them or replace the photo",
        )
    return photo


def read_image(path: Path) -> Image.Image:
    """A picture as the file has it, pixels loaded. Raises DataError where it is missing, broken or too large."""
    return load(path, open_image(path))


def mode_of(path: Path) -> str:
    """The mode of a picture, by its header."""
    with open_image(path) as image:
        return image.mode


def load(path: Path, image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # a broken file makes a decoder raise whatever it stumbles over
        raise DataError(path, f"not a readable picture ({error})", "replace it or remove its entry") from error
    return image


def open_image(path: Path) -> Image.Image:
    """A picture of which only the header has been read: its size and mode."""
    try:
        if not path.is_file() and path.exists():
            raise DataError(path, "is no file", "put the picture there")  # a named pipe would be waited for
        image = Image.open(path)
    except FileNotFoundError:
        raise DataError(path, "no such file", "put it there or remove its entry from the annotations") from None
    except DataError:
        raise
    except Exception as error:
        raise DataError(path, f"not a readable picture ({error})", "replace it or remove its entry") from error
    if not 0 < image.width * image.height <= MAX_PIXELS:
        raise DataError(path, f"{image.width}×{image.height} pixels", f"expected at most {MAX_PIXELS}: shrink it")
    return image


def read_map(path: Path, size: tuple[int, int] | None = None, whose: str = "") -> np.ndarray:
    """An annotation picture as (H, W) integers: a grey or palette value as it is, a colour as R + 256 G + 65536 B.

    Arguments:
        size: (H, W) that it must have, which is compared before any pixel is read.
        whose: who says so, for the message.

    Raises DataError for a picture whose values are not those that were drawn: compressed with losses, partly
    transparent, of several pages, or in colours of 16 bits.
    """
    image = open_image(path)
    if size is not None and image.size[::-1] != tuple(size):
        raise DataError(
            path,
            f"the picture is {image.width}×{image.height}, {whose} {size[1]}×{size[0]}",
            "annotations must be made at the photo's own size; re-export them",
        )
    if image.format not in LOSSLESS or getattr(image, "n_frames", 1) > 1:
        pages = f" of {image.n_frames} pages" if getattr(image, "n_frames", 1) > 1 else ""
        raise DataError(path, f"a picture in {image.format}{pages}", "save masks as PNG, which keeps every value")
    depth = check_png(path) if image.format == "PNG" else 8
    if depth == 16 and image.mode in ("RGB", "RGBA"):
        raise DataError(path, "a picture of 16 bits a colour", "expected 8- or 16-bit grey, palette or 8-bit RGB")
    image = load(path, image)
    if image.mode == "RGBA" and image.getextrema()[3] != (255, 255):
        raise DataError(path, "a picture that is partly transparent", "save it in RGB, void as black")
    if image.mode in ("RGB", "RGBA"):
        return (np.asarray(image.convert("RGBA")).view("<u4")[..., 0] & 0xFFFFFF).astype(np.int32)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise DataError(path, f"a picture of mode {image.mode}", "expected 8- or 16-bit grey, palette or RGB")
    if image.mode == "L" and depth < 8:
        values = values // (255 // (2**depth - 1))  # PIL stretches grey of 2 and 4 bits to 0 … 255
    if values.min() < 0:
        raise DataError(path, f"holds the value {values.min()}", "class and segment numbers start at 0")
    return values


def check_png(path: Path) -> int:
    """Bits of each channel: PIL reads pictures of 2, 4 and 16 bits as if they had 8.

    DataError where a part of the file is not what its checksum says; PIL leaves that unchecked for the pixels, so that
    a flipped bit gives other classes.
    """
    content = path.read_bytes()
    start = 8  # after the signature; a part is its length, kind, data and checksum
    while start + 12 <= len(content):
        end = start + 8 + int.from_bytes(content[start : start + 4], "big")
        checksum = content[end : end + 4]
        if len(checksum) < 4 or zlib.crc32(content[start + 4 : end]) != int.from_bytes(checksum, "big"):
            raise DataError(path, f"damaged at byte {start}: a checksum is wrong", "copy or write the file anew")
        if content[start + 4 : start + 8] == b"IEND":
            return content[24]
        start = end + 4
    raise DataError(path, "cut off: it has no end", "copy or write the file anew")


def check_name(name: str, file: Path, place: str) -> None:
    """DataError for the name of a file, as another file gives it at `place`, that leads out of its folder."""
    if name[0] not in "/\\" and ":" not in name[:2] and ".." not in name and "\0" not in name:
        return
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or parts[0][1:2] == ":" or ".." in parts or "\0" in name:
        raise DataError(
            file,
            f"{place}: {name!r} leads out of its folder",
            "give names within the folder, and name the folder that holds all of them",
        )


def unique_stems(folder: Path, files: Sequence[Path]) -> list[str]:
    """The names without endings. DataError where two are the same: a mask is found by name, and a photo counts once."""
    stems = [path.stem for path in files]
    if len(set(stems)) < len(stems):
        twice = next(stem for k, stem in enumerate(stems) if stem in stems[:k])
        raise DataError(folder, f"several photos are named {twice}", "rename them: a mask is found by name")
    return stems
