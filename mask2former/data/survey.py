"""A look at what there is to learn, or to be judged by, before hours are spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import listed
from mask2former.errors import DataError

LOOKED_AT = 100  # photos, spread evenly
LARGE = 0.3  # share of ignored pixels that is said


@dataclass
class Survey:
    """What the annotations of some photos hold for one task."""

    dataset: SegmentationDataset
    task: str
    photos: int = 0  # looked at
    broken: int = 0
    most: int = 0  # segments of one photo
    pixels: int = 0
    ignored: int = 0  # pixels
    of_class: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (K,) pixels that are taught

    def sentences(self) -> list[str]:
        """What is to be said before the work."""
        seen = "" if self.photos + self.broken >= len(self.dataset) else f" in the {self.photos} photos looked at"
        said = []
        chosen = [k for k, c in enumerate(self.dataset.classes) if self.task != "instance" or c.is_thing]
        empty = [self.dataset.classes[k].name for k in chosen if not self.of_class[k]]
        if empty:
            said.append(f"{len(empty)} of {len(chosen)} classes have no pixel{seen}: {listed(empty)}")
        share = self.ignored / max(1, self.pixels)
        if share > LARGE:
            said.append(f"{share:.0%} of the pixels are ignored{seen}, and teach nothing")
        if (empty or share > LARGE) and self.dataset.ignored_hint:
            said.append(self.dataset.ignored_hint)
        return said


def survey(dataset: SegmentationDataset, task: str, photos: int = LOOKED_AT, judged: bool = False) -> Survey:
    """Look at up to so many photos, or on until the first that holds anything for the task.

    judged: look at what the task is judged against, where a dataset has files of its own for that.
    Raises DataError where none does. Photos that cannot be read are passed over; they are reported where they are used.
    """
    found = Survey(dataset, task, of_class=np.zeros(len(dataset.classes), np.int64))
    first = np.unique(np.linspace(0, len(dataset) - 1, min(photos, len(dataset))).round().astype(int)).tolist()
    others = (index for index in range(len(dataset)) if index not in set(first)) if len(first) < len(dataset) else ()
    for index in first:
        look_at(found, index, judged)
    for index in others:
        if found.of_class.any():
            break
        look_at(found, index, judged)
    if not found.of_class.any():
        what = "object" if task == "instance" else "pixel of a class"
        hint = f"{dataset.ignored_hint}; " if dataset.ignored_hint else ""
        raise DataError(
            dataset.name,
            f"no target at all: none of {found.photos} readable photos has a {what} for the {task} task",
            f"{hint}`mask2former inspect` shows what the annotations hold",
        )
    return found


def look_at(found: Survey, index: int, judged: bool) -> None:
    try:
        dataset, task = found.dataset, found.task
        truth = dataset.ground_truth(index, task) if judged else dataset.annotation(index).for_task(task)
        areas = truth.areas()
    except DataError:
        found.broken += 1
        return
    found.photos += 1
    taught = ~truth.is_crowd
    np.add.at(found.of_class, truth.labels[taught], areas[taught])
    found.most = max(found.most, len(areas))
    if found.task != "instance":
        found.pixels += truth.size[0] * truth.size[1]
        found.ignored += int((truth.label_map() < 0).sum())


def require_targets(dataset: SegmentationDataset, tasks: Sequence[str]) -> None:
    """DataError unless at least one photo has something for each of the tasks."""
    for task in tasks:
        survey(dataset, task, 1, judged=True)
