"""Photos, whole and hostile: files of every encoder cut, flipped and relabelled, arrays of any type and shape."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

from mask2former.errors import PhotoError
from mask2former.inference.photo import FORMATS, MAX_PIXELS, UNREADABLE, open_photo

ENCODERS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000", "TGA", "PCX", "ICO", "SGI")
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16", "LA")
DTYPES = (np.uint8, np.int64, np.float32, np.float64, np.bool_, np.uint16, np.complex64, object)
ODD = (None, 3, 0.5, b"photo", ["a.jpg"], {}, "", "\0", "no/such/photo.jpg", "https://a.b/c.jpg", "/", "x" * 5000)


def check_file(random: Random, folder: Path) -> str:
    """A picture of a real encoder, perhaps hurt, under a right or wrong ending: "read" or "refused", or a fault."""
    content, encoder, size = encoded(random)
    hurt = random.random() < 0.8
    if hurt:
        content = hurt_bytes(content, random)
    endings = [e for known in FORMATS.values() for e in known] + list(UNREADABLE) + ["", ".txt", ".npy"]
    ending = FORMATS[encoder][0] if random.random() < 0.6 else random.choice(endings)
    path = folder / f"photo{ending}"
    path.write_bytes(content)
    outcome = judged(path)
    if not hurt and ending not in UNREADABLE:
        assert outcome != "refused", f"a whole {encoder} photo under {ending!r} was refused"
        assert outcome == size, f"a {encoder} photo of {size} was read as {outcome}"
    return "refused" if outcome == "refused" else "read"


def check_object(random: Random, folder: Path) -> str:
    """What a program may hand over instead of a path."""
    shape = tuple(random.choice((0, 1, 2, 3, 4, 5, 16)) for _ in range(random.randrange(5)))
    kind = random.randrange(4)
    if kind == 0:
        return "refused" if judged(random.choice(ODD)) == "refused" else "read"
    made = np.random.default_rng(random.randrange(2**32)).standard_normal(shape) * random.choice((0, 1, 300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array: Any = np.array(made).astype(random.choice(DTYPES))
    if kind == 1:
        return "refused" if judged(array) == "refused" else "read"
    if kind == 2 and array.dtype != object and array.dtype != np.uint16:
        values = torch.from_numpy(np.ascontiguousarray(array))
        if values.numel() and random.random() < 0.3 and values.is_floating_point():
            values.view(-1)[0] = random.choice((float("nan"), float("inf"), 2.0, -1.0))
        return "refused" if judged(values) == "refused" else "read"
    size = random.choice(((0, 0), (0, 5), (5, 0), (1, 1), (7, 5)))
    return "refused" if judged(Image.new(random.choice(MODES), size)) == "refused" else "read"


def judged(source: Any) -> Any:
    """The (width, height) that was read, or "refused". Whatever else happens is a fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture, notes = open_photo(source)
    except (PhotoError, FileNotFoundError, PermissionError) as error:
        assert "\n" not in str(error).strip() and 0 < len(str(error)) < 1000, f"no sentence: {str(error)[:200]!r}"
        return "refused"
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {str(error)[:300]} for {str(source)[:80]!r}") from error
    assert picture.mode == "RGB" and 0 < picture.width * picture.height <= MAX_PIXELS
    np.asarray(picture)
    assert all(isinstance(note, str) and note for note in notes)
    return picture.size


def encoded(random: Random) -> tuple[bytes, str, tuple[int, int]]:
    """The bytes of a picture, its encoder, and its (width, height)."""
    encoder, size = random.choice(ENCODERS), (random.randint(8, 40), random.randint(8, 40))
    values = np.random.default_rng(random.randrange(2**32)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    mode = random.choice(MODES)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"sizes": [size]} if encoder == "ICO" else {}
    try:
        deep = np.random.default_rng(0).integers(0, 4000, size[::-1], dtype=np.uint16)
        made = Image.fromarray(deep) if mode == "I;16" else picture.convert(mode)
        made.save(buffer, format=encoder, **options)
    except (OSError, ValueError, KeyError):  # the encoder has no such mode
        buffer = io.BytesIO()
        picture.save(buffer, format=encoder, **options)
    return buffer.getvalue(), encoder, size


def hurt_bytes(content: bytes, random: Random) -> bytes:
    """Cut, overwritten, repeated, or with a number of the header changed."""
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        if not data:
            break
        place, kind = random.randrange(len(data)), random.randrange(6)
        if kind == 0:
            del data[place:]
        elif kind == 1:
            data[place] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
        elif kind == 2:
            data[place:place] = bytes(random.randrange(256) for _ in range(random.randint(1, 40)))
        elif kind == 3:
            start = random.randrange(min(len(data), 64))
            data[start : start + 4] = random.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\1\0\0")
            )
        elif kind == 4:
            del data[place : place + random.randint(1, 40)]
        else:
            data += data[place:]
    return bytes(data)
