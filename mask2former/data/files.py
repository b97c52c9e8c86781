"""Reading a dataset's files, and saying which one is bad."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mask2former.errors import DataError, PhotoError
from mask2former.inference import photo as photos


def list_files(folder: Path, endings: tuple[str, ...], pattern: str = "*") -> list[Path]:
    """The files of a folder with these endings (small letters or capitals), by name. DataError where there is none."""
    if not folder.is_dir():
        raise DataError(folder, "no such folder", "check the folder and the split")
    files = sorted(
        path for path in folder.glob(pattern) if path.name.lower().endswith(tuple(e.lower() for e in endings))
    )
    if not files:
        raise DataError(
            folder, f"holds no file {pattern} ending in {' or '.join(endings)}", "check the folder and the split"
        )
    return files


def read_photo(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """An RGB photo as the predictor would see it: upright, unless only unturned it has the `size` (H, W) wanted.

    Raises DataError where it cannot be read or has another size.
    """
    image = read_image(path)
    try:
        photo = photos.read_photo(image)
        if size is not None and photo.size[::-1] != tuple(size) == image.size[::-1]:
            image.getexif().pop(ExifTags.Base.Orientation, None)
            photo = photos.read_photo(image)
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
    """A picture as the file has it, pixels loaded. Raises DataError where it is missing or broken."""
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise DataError(path, "no such file", "put it there or remove its entry from the annotations") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(path, f"not a readable picture ({error})", "replace it or remove its entry") from error
    return image


def read_map(path: Path) -> np.ndarray:
    """An annotation picture as (H, W) integers: a grey or palette value as it is, a colour as R + 256 G + 65536 B."""
    image = read_image(path)
    if image.mode in ("RGB", "RGBA"):
        return (np.asarray(image.convert("RGBA")).view("<u4")[..., 0] & 0xFFFFFF).astype(np.int32)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise DataError(path, f"a picture of mode {image.mode}", "expected 8- or 16-bit grey, palette or RGB")
    return values


def read_json(file: Path, lists: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A JSON object with these lists, whose entries are objects with these fields of these types.

    DataError says which entry lacks what.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(file, "no such file", "check the folder and the split") from None
    except ValueError as error:
        raise DataError(file, f"no valid JSON ({error})", "write it anew") from error
    missing = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise DataError(file, f"has no list {' nor '.join(missing)}", "expected COCO's format")
    for key, fields in lists.items():
        for position, entry in enumerate(content[key]):
            found = entry if isinstance(entry, dict) else {}
            wrong = [name for name, kind in fields.items() if not isinstance(found.get(name), kind)]
            if wrong:
                raise DataError(
                    file,
                    f"entry {position} of {key} has no {', '.join(wrong)} that can be used: {json.dumps(entry)[:80]}",
                    f"expected COCO's format, where {key} have {', '.join(fields)}",
                )
    return content
