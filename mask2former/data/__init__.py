"""Datasets of photos with segments, and the transforms that make training pictures of them."""

from typing import TYPE_CHECKING

from mask2former.lazy import lazily

if TYPE_CHECKING:
    from mask2former.data.annotation import Annotation
    from mask2former.data.dataset import SegmentationDataset
    from mask2former.data.datasets import open_dataset
    from mask2former.data.kinds import DATA_HELP
    from mask2former.data.transforms import TrainingTransform, training_transform
    from mask2former.errors import DataError
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "mask2former.data.annotation": "Annotation",
            "mask2former.data.dataset": "SegmentationDataset",
            "mask2former.data.datasets": "open_dataset",
            "mask2former.data.kinds": "DATA_HELP",
            "mask2former.data.transforms": "TrainingTransform training_transform",
            "mask2former.errors": "DataError",
        },
    )

__all__ = [
    "DATA_HELP",
    "Annotation",
    "DataError",
    "SegmentationDataset",
    "TrainingTransform",
    "open_dataset",
    "training_transform",
]
