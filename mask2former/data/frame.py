"""In which frame a dataset's photos were annotated, upright or as stored, where EXIF turns some: see `exif`."""

from __future__ import annotations

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.exif import QUARTER_TURNS, orientation
from mask2former.data.files import open_image
from mask2former.errors import DataError

LOOKED_AT = 500  # photos


def settle_frame(dataset: SegmentationDataset) -> list[str]:
    """Decide, of a dataset opened with the frame "auto", in which its annotations were drawn; what is to be said.

    Photos whose sizes tell decide for those whose sizes do not. Up to `LOOKED_AT` photos are looked at.
    """
    told: dict[str, list[str]] = {"upright": [], "stored": []}
    open_question = []
    for index in range(0, len(dataset), max(1, len(dataset) // LOOKED_AT)):
        path = dataset.photo_path(index)
        try:
            with open_image(path) as image:
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
        f"{len(open_question)} photos are turned by EXIF in a way that does not change their size, so that it does not "
        f"show how they were annotated ({open_question[0]}): {why}; if their masks look wrong: exif='stored' "
        "(--exif stored)"
    ]
