"""Which way a photo was turned when it was annotated: cameras store it as it came and say beside it how to turn it.

Some tools draw on the upright photo, as it is shown, others on the pixels as they are stored. The sizes tell the two
apart for quarter turns of photos that are no squares; for half turns, mirrors and squares nothing in a file does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import ExifTags, Image

if TYPE_CHECKING:
    pass

FRAMES = ("auto", "upright", "stored")
QUARTER_TURNS = (5, 6, 7, 8)
CARRIERS = ("JPEG", "MPO", "WEBP", "TIFF", "PNG")  # formats that can carry the entry


def orientation(image: Image.Image) -> int:
    """EXIF's number: 1 upright, 3 a half turn, 2 and 4 mirrored, 5 to 8 with a quarter turn."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # asking would decode all pixels
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1) if image.format in CARRIERS else 1
    except Exception:  # a broken entry is none
        return 1
    return turn if turn in range(1, 9) else 1


def as_stored(image: Image.Image) -> Image.Image:
    """The picture without its entry: as it is stored."""
    image.load()
    bare = image.copy()
    bare.getexif().pop(ExifTags.Base.Orientation, None)
    bare.info.pop("exif", None)
    return bare


def oriented_size(image: Image.Image, frame: str) -> tuple[int, int]:
    """H, W of a picture, upright or, in the frame "stored", as it is stored."""
    size = image.height, image.width
    return size[::-1] if frame != "stored" and orientation(image) in QUARTER_TURNS else size
