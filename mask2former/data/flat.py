"""Semantic and panoptic targets from outlines: one class at each pixel, though outlines overlap.

The rule: where objects overlap, the smaller one is on top; of equal ones the one later in the file. Crowds lie below
all. What no outline covers is a class of its own, "background", or is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mask2former.data.annotation import Annotation, IdMap
from mask2former.data.dataset import SegmentationDataset
from mask2former.structures import TASKS, ClassInfo

BACKGROUND = "background"


class FlatDataset(SegmentationDataset):
    """A dataset of outlines for all three tasks. The instance task is judged by the outlines themselves.

    Arguments:
        outlines: a dataset of the instance task.
        background: "class": pixels of no object are the class "background", stuff, which is the last one unless the
            dataset has a class of that name; "ignore": they teach nothing and are not judged.
    """

    tasks = TASKS

    def __init__(self, outlines: SegmentationDataset, background: str = "class"):
        if background not in ("class", "ignore"):
            raise ValueError(f"background={background!r}: expected 'class' or 'ignore'")
        self.outlines, self.recipe, self.exif = outlines, outlines.recipe, outlines.exif
        self.skipped = outlines.skipped
        classes, self.background = list(outlines.classes), None
        if background == "class":
            named = [k for k, c in enumerate(classes) if c.name.lower() == BACKGROUND]
            self.background = named[0] if named else len(classes)
            if named:
                classes[named[0]] = replace(classes[named[0]], is_thing=False)
            else:
                classes.append(
                    ClassInfo(BACKGROUND, False, (0, 0, 0), max((c.dataset_id for c in classes), default=0) + 1)
                )
        rest = f"the class {BACKGROUND}" if background == "class" else "ignored"
        self.notes = (
            *outlines.notes,
            f"one class a pixel is made of outlines: the smaller is on top, what none covers is {rest}",
        )
        super().__init__(outlines.name, tuple(classes), range(len(outlines)), outlines.transform)

    def image_id(self, index: int) -> int | str:
        return self.outlines.image_id(self.records[index])

    def photo_path(self, index: int) -> Path:
        return self.outlines.photo_path(self.records[index])

    def problems(self, index: int) -> list[str]:
        return self.outlines.problems(self.records[index])

    def ground_truth(self, index: int, task: str) -> Annotation:
        if task == "instance":
            truth = self.outlines.ground_truth(self.records[index], task)
            if self.background is None or self.background >= len(self.outlines.classes):
                return truth
            things = np.flatnonzero(truth.labels != self.background)
            group = np.full(len(truth.labels), -1)
            group[things] = np.arange(len(things))
            return truth.regroup(group, truth.labels[things], truth.is_thing[things], truth.is_crowd[things])
        return self.annotation(index).for_task(task)

    def annotation(self, index: int) -> IdMap:
        outlines = self.outlines.annotation(self.records[index])
        areas = outlines.areas()
        order = sorted(range(len(areas)), key=lambda k: (not outlines.is_crowd[k], -areas[k], k))
        segment_map = np.zeros(outlines.size, np.int32)
        for k in order:  # one at a time: all of a photo's masks would be much memory
            segment_map[outlines.masks(np.array([k]))[0].numpy()] = k + 1
        segments = [
            (
                k + 1,
                int(outlines.labels[k]),
                bool(self.classes[outlines.labels[k]].is_thing),
                bool(outlines.is_crowd[k]),
            )
            for k in order
        ]
        if self.background is not None:
            segment_map[segment_map == 0] = len(areas) + 1
            segments.append((len(areas) + 1, self.background, False, False))
        drawn = set(np.unique(segment_map).tolist())
        return IdMap.from_values(segment_map, [s for s in segments if s[0] in drawn])


def flat_for(dataset: SegmentationDataset, tasks: Sequence[str] | None, background: str | None) -> SegmentationDataset:
    """The dataset, made flat where it has outlines alone and these tasks, or a `background`, ask for more."""
    if dataset.tasks == ("instance",) and (background is not None or set(tasks or ()) - {"instance"}):
        return FlatDataset(dataset, background or "class")
    return dataset


def flat_like(
    dataset: SegmentationDataset, classes: Sequence[ClassInfo], answered: Sequence[str]
) -> SegmentationDataset:
    """The dataset as a model with these classes and tasks can be judged by: flat if that is what the model learned."""
    if dataset.tasks != ("instance",):
        return dataset
    if len(classes) == len(dataset.classes) + 1 and classes[-1].name == BACKGROUND:
        return FlatDataset(dataset, "class")
    return FlatDataset(dataset, "ignore") if "instance" not in answered else dataset
