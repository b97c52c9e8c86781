"""Datasets of photos with segments, and the transforms that make training pictures of them."""

from mask2former.data.dataset import SegmentationDataset
from mask2former.data.datasets import DATA_HELP, open_dataset
from mask2former.data.transforms import TrainingTransform, training_transform
from mask2former.errors import DataError

__all__ = [
    "DATA_HELP",
    "DataError",
    "SegmentationDataset",
    "TrainingTransform",
    "open_dataset",
    "training_transform",
]
