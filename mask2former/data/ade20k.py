"""ADE20K as in ADEChallengeData2016: semantic label maps, and the panoptic files made from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mask2former.data.annotation import Annotation, IdMap, values_in
from mask2former.data.classes import dataset_classes
from mask2former.data.coco_instance import CocoInstance
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.dataset import SegmentationDataset, Transform
from mask2former.data.files import list_files, read_map, unique_stems
from mask2former.data.label_space import LEFT_OUT, LabelSpace
from mask2former.errors import DataError

SPLITS = {"train": "training", "val": "validation"}


class Ade20kSemantic(SegmentationDataset):
    """images/{training,validation}/*.jpg with annotations/{training,validation}/*.png.

    In the PNG files 0 is everything outside the 150 classes, which is ignored, and k is class k − 1.
    """

    tasks = ("semantic",)
    recipe = "ade20k"

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        classes: str | Sequence[str] | None = None,
        transform: Transform | None = None,
    ):
        folder = Path(folder)
        self.photos, self.maps = (folder / kind / split_folder(split) for kind in ("images", "annotations"))
        self.space = LabelSpace.choose(dataset_classes("ade20k"), classes)
        photos = list_files(self.photos, (".jpg",))
        unique_stems(self.photos, photos)
        super().__init__(f"{folder} {split}", self.space.classes, (path.name for path in photos), transform)

    def image_id(self, index: int) -> str:
        return Path(self.records[index]).stem

    def photo_path(self, index: int) -> Path:
        return self.photos / self.records[index]

    def annotation(self, index: int) -> IdMap:
        return read_label_map(self.maps / f"{self.image_id(index)}.png", self.space)


class Ade20kPanoptic(CocoPanoptic):
    """images/{training,validation}/*.jpg with ade20k_panoptic_{train,val}.json and the PNG folder of that name.

    The official protocol judges the semantic task by annotations/ and the instance task by ade20k_instance_*.json;
    they are used where the folder has them.
    """

    recipe = "ade20k"

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        classes: str | Sequence[str] | None = None,
        transform: Transform | None = None,
    ):
        folder = Path(folder)
        instances = folder / f"ade20k_instance_{split}.json"
        super().__init__(
            folder / "images" / split_folder(split),
            folder / f"ade20k_panoptic_{split}.json",
            classes=classes,
            transform=transform,
            instances=instances if instances.is_file() else None,
        )
        self.label_maps = folder / "annotations" / split_folder(split)

    def ground_truth(self, index: int, task: str) -> Annotation:
        path = self.label_maps / f"{self.photo_path(index).stem}.png"
        if task == "semantic" and path.is_file():
            return read_label_map(path, self.space)
        return super().ground_truth(index, task)


class Ade20kInstance(CocoInstance):
    """images/{training,validation}/*.jpg with ade20k_instance_{train,val}.json."""

    recipe = "ade20k"

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        classes: str | Sequence[str] | None = None,
        transform: Transform | None = None,
    ):
        folder = Path(folder)
        photos, file = folder / "images" / split_folder(split), folder / f"ade20k_instance_{split}.json"
        super().__init__(photos, file, classes, transform)


def split_folder(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"ADE20K split {split!r}: expected one of {tuple(SPLITS)}")
    return SPLITS[split]


def read_label_map(path: Path, space: LabelSpace) -> IdMap:
    """A label map in which 0 is void and k is the class with dataset id k − 1; one segment a class."""
    values = read_map(path)
    segments = []
    for value in values_in(values):
        if value == 0:
            continue
        if value - 1 not in space.labels:
            raise DataError(
                path, f"holds the value {value}", f"ADE20K has 0 … {len(space.labels)}; use the official annotations"
            )
        label = space.labels[value - 1]
        if label != LEFT_OUT:
            segments.append((value, label, space.classes[label].is_thing, False))
    return IdMap.from_values(values, segments)
