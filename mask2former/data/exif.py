"""Which way a photo was turned when it was annotated: cameras store it as it came and say beside it how to turn it.

Some tools draw on the upright photo, as it is shown, others on the pixels as they are stored. The sizes tell the two
apart for quarter turns of photos that are no squares; for half turns, mirrors and squares nothing in a file does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import ExifTags, Image

from mask2former.errors import DataError

if TYPE_CHECKING:
    from mask2former.data.dataset import SegmentationDataset

FRAMES = ("auto", "upright", "stored")
QUARTER_TURNS = (5, 6, 7, 8)
CARRIERS = ("JPEG", "MPO", "WEBP", "TIFF", "PNG")  # formats that can carry the entry
LOOKED_AT = 500  # photos


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


def settle_frame(dataset: SegmentationDataset) -> list[str]:
    """Decide, of a dataset opened with the frame "auto", in which its annotations were drawn; what is to be said.

    Photos whose sizes tell decide for those whose sizes do not. Up to `LOOKED_AT` photos are looked at.
    """
    from mask2former.data.files import open_image

    told: dict[str, list[str]] = {"upright": [], "stored": []}
    open_question = []
    for index in range(0, len(dataset), max(1, len(dataset) // LOOKED_AT)):
        path = dataset.photo_path(index)
        try:
            image = open_image(path)
            turn = orientation(image)
            if turn == 1:
                continue
            if turn not in QUARTER_TURNS or image.width == image.height:
                open_question.append(path.name)
                continue
            size = tuple(dataset.annotation(index).size)
        except DataError:  # said when it is read
            continue
        stored = (image.height, image.width)
        told["stored" if size == stored else "upright"].append(path.name)
    if told["stored"] and told["upright"]:
        if not open_question:
            return []
        why = f"some were annotated as stored ({told['stored'][0]}), others upright ({told['upright'][0]})"
    elif told["stored"]:
        dataset.exif = "auto-stored"
        return [
            f"{len(told['stored'])} photos turned by EXIF were annotated on their stored pixels, as their sizes show "
            f"({told['stored'][0]}), so all are read as stored; exif='upright' says otherwise"
        ]
    else:
        why = "taken as annotated upright, as they are shown"
        why += f", like {told['upright'][0]}" if told["upright"] else ""
    if not open_question:
        return []
    return [
        f"{len(open_question)} photos are turned by EXIF in a way that does not change their size, so that it does not show "
        f"how they were annotated ({open_question[0]}): {why}; if their masks look wrong: exif='stored' (--exif stored)"
    ]
