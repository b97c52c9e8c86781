"""Several datasets as one, such as the train and the validation split of a small one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mask2former.data.annotation import Annotation
from mask2former.data.dataset import SegmentationDataset


class JoinedDataset(SegmentationDataset):
    """The photos of all parts, one after another. Raises ValueError where the parts' classes differ, or there are none.

    It can teach and judge what all parts can; pictures are cropped as the first part's are.
    """

    def __init__(self, parts: Sequence[SegmentationDataset]):
        if not parts:
            raise ValueError("no dataset to join: expected at least one")
        names = [[(c.name, c.is_thing) for c in part.classes] for part in parts]
        for part, theirs in zip(parts, names, strict=True):
            if theirs != names[0]:
                raise ValueError(
                    f"{parts[0].name} and {part.name} have different classes ({len(names[0])} and {len(theirs)}): "
                    "expected the same names in the same order, which `classes` can choose"
                )
        self.parts = list(parts)
        self.recipe = parts[0].recipe
        self.tasks = tuple(task for task in parts[0].tasks if all(task in part.tasks for part in parts))
        records = ((number, index) for number, part in enumerate(parts) for index in range(len(part)))
        self.notes = tuple(note for part in parts for note in part.notes)
        super().__init__(" + ".join(p.name for p in parts), parts[0].classes, records, parts[0].transform)

    def image_id(self, index: int) -> str:
        """Numbered by part, since two parts may call different photos the same."""
        number, _ = self.records[index]
        part, index = self.of_part(index)
        return f"{number}:{part.image_id(index)}"

    def photo_path(self, index: int) -> Path:
        part, index = self.of_part(index)
        return part.photo_path(index)

    def annotation(self, index: int) -> Annotation:
        part, index = self.of_part(index)
        return part.annotation(index)

    def ground_truth(self, index: int, task: str) -> Annotation:
        part, index = self.of_part(index)
        return part.ground_truth(index, task)

    def problems(self, index: int) -> list[str]:
        part, index = self.of_part(index)
        return part.problems(index)

    def of_part(self, index: int) -> tuple[SegmentationDataset, int]:
        number, index = self.records[index]
        return self.parts[number], index
