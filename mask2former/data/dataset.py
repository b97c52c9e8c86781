"""What all datasets have in common: photos with annotations, read one at a time."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mask2former.data.annotation import Annotation
from mask2former.data.files import read_photo
from mask2former.data.skipped import SkippedPhotos
from mask2former.errors import DataError
from mask2former.structures import TASKS, ClassInfo, Targets

MOST_IN_A_ROW = 100  # broken photos, beyond which data is not merely damaged
Transform = Callable[[Image.Image, Annotation], tuple[Tensor, Targets]]


class SegmentationDataset(Dataset[tuple[Any, Any]]):
    """Photos and what is in them.

    `dataset[i]` is (photo, annotation), an RGB picture and an `Annotation` whose masks are still compressed; with a
    `transform` it is what that makes of the two, as training wants it (`transforms.TrainingTransform`).
    A format is a subclass that lists its photos and reads the annotation of one.
    """

    tasks: tuple[str, ...] = TASKS  # what the annotations can teach and judge
    notes: tuple[str, ...] = ()  # what was repaired, left out or assumed when it was opened, counted, a sentence each
    ignored_hint = ""  # what to do where much is ignored that was not meant to be
    tells_sizes = True  # whether annotations say themselves how large their photo is
    exif = "auto"  # how photos that EXIF turns were annotated: see `exif`
    skipped: SkippedPhotos | None = None  # where photos that cannot be used are listed and gone past; None: they raise
    recipe = "coco"  # how the papers crop this dataset for training: see `transforms.training_transform`

    def __init__(
        self,
        name: str,
        classes: tuple[ClassInfo, ...],
        records: Iterable[Any],
        transform: Transform | None = None,
    ):
        self.name = name  # for messages
        self.classes = classes
        self.records = PackedRecords(records)
        self.transform = transform

    def image_id(self, index: int) -> int | str:
        """What the dataset calls this photo, unique within it."""
        raise NotImplementedError

    def photo_path(self, index: int) -> Path:
        raise NotImplementedError

    def annotation(self, index: int) -> Annotation:
        """The ground truth of one photo. Raises DataError naming a bad file."""
        raise NotImplementedError

    def ground_truth(self, index: int, task: str) -> Annotation:
        """What one task is judged against. Datasets with separate official files for a task read those."""
        return self.annotation(index).for_task(task)

    def problems(self, index: int) -> list[str]:
        """What is wrong with one annotation that does not keep it from being used, a sentence each naming the file."""
        return []

    def photo(self, index: int, size: tuple[int, int] | None = None) -> Image.Image:
        """The photo in RGB; with `size` (H, W) it must have that size."""
        return read_photo(self.photo_path(index), size, self.exif)

    def subset(self, indices: Sequence[int]) -> SegmentationDataset:
        """The same dataset with only these photos, in this order."""
        part = copy.copy(self)
        part.records = PackedRecords(self.records[i] for i in indices)
        return part

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: photo {index} of {len(self)}")
        if self.skipped is None:
            return self.item(index)
        for step in range(min(MOST_IN_A_ROW, len(self))):  # the first usable photo takes the place of a broken one
            try:
                return self.item((index + step) % len(self))
            except DataError as error:
                self.skipped.add(error)
                last = error
        raise last

    def item(self, index: int) -> tuple[Any, Any]:
        """What `dataset[index]` is. Raises DataError for a photo that cannot be used."""
        annotation = self.annotation(index)
        photo = self.photo(index, annotation.size)
        return (photo, annotation) if self.transform is None else self.transform(photo, annotation)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}: {len(self)} photos, {len(self.classes)} classes)"


class PackedRecords(Sequence[Any]):
    """A list kept as one byte array.

    Reading a Python list touches the reference counts of its items, so that every worker process would in time own
    a copy of all annotations; an array is shared.
    """

    def __init__(self, records: Iterable[Any]):
        packed, ends = bytearray(), [0]
        for record in records:
            packed += pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(packed))
        self._ends = np.array(ends)
        self._bytes = np.frombuffer(packed, np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        return pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())
