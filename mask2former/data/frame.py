"""In which frame a dataset's photos were annotated, upright or as stored, where EXIF turns some: see `exif`."""

from __future__ import annotations

import numpy as np

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.exif import QUARTER_TURNS, orientation
from mask2former.data.files import open_image, read_photo
from mask2former.errors import DataError

LOOKED_AT = 500  # photos
COMPARED = 20  # photos
CLEARLY = 1.5  # times the contrast along the edges of masks
OTHER = {"upright": "stored", "stored": "upright"}


def settle_frame(dataset: SegmentationDataset) -> list[str]:
    """Decide, of a dataset opened with the frame "auto", in which its annotations were drawn; what is to be said.

    Photos whose sizes tell decide for those whose sizes do not; where there are none, the edges of masks do, which lie
    on edges of the photo. Up to `LOOKED_AT` photos are looked at.
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
            size = tuple(dataset.annotation(index).size)
            upright = (image.width, image.height) if turn in QUARTER_TURNS else (image.height, image.width)
            shown = size != upright or turn in QUARTER_TURNS and dataset.tells_sizes
            if not shown or image.width == image.height:
                open_question.append(index)
                continue
        except DataError:  # said when it is read
            continue
        stored = (image.height, image.width)
        told["stored" if size == stored else "upright"].append(path.name)
    if told["stored"] and not told["upright"]:
        dataset.exif = "auto-stored"
        return [
            f"{len(told['stored'])} photos turned by EXIF were annotated on their stored pixels, as their sizes show "
            f"({told['stored'][0]}), so all are read as stored; exif='upright' says otherwise"
        ]
    if not open_question:
        return []
    names = [dataset.photo_path(index).name for index in open_question[:1]]
    if told["upright"] and not told["stored"]:
        frame, why = "upright", f"like {told['upright'][0]}, whose size shows it"
    else:
        better = fitting(dataset, open_question[:COMPARED])
        frame, why = (better, "as the edges of their masks show") if better else ("upright", "as they are shown")
    if frame == "stored":
        dataset.exif = "auto-stored"
    return [
        f"{len(open_question)} photos are turned by EXIF, and no size shows how they were annotated ({names[0]}): they "
        f"are read as {frame}, {why}; if their masks look wrong: exif='{OTHER[frame]}' (--exif {OTHER[frame]})"
    ]


def fitting(dataset: SegmentationDataset, indices: list[int]) -> str | None:
    """The frame in which the edges of masks lie on edges of the photos; None where neither does clearly."""
    steps = {"upright": 0.0, "stored": 0.0}
    for index in indices:
        try:
            annotation = dataset.annotation(index)
            photos = {frame: read_photo(dataset.photo_path(index), None, frame) for frame in steps}
        except DataError:
            continue
        if any(photo.size[::-1] != tuple(annotation.size) for photo in photos.values()):
            continue
        labels = annotation.label_map()
        for frame, photo in photos.items():
            grey = np.asarray(photo.convert("L"), np.float64)
            for axis in (0, 1):
                edges = np.diff(labels, axis=axis) != 0
                if edges.any():
                    steps[frame] += np.abs(np.diff(grey, axis=axis))[edges].mean()
    best = max(steps, key=steps.__getitem__)
    return best if steps[best] > CLEARLY * steps[OTHER[best]] else None
