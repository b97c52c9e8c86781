"""Cityscapes: leftImg8bit photos with gtFine label and instance ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mask2former.data.annotation import IdMap, values_in
from mask2former.data.classes import dataset_classes
from mask2former.data.dataset import SegmentationDataset, Transform
from mask2former.data.files import list_files, read_map, unique_stems
from mask2former.data.label_space import LEFT_OUT, LabelSpace
from mask2former.errors import DataError

LABEL_IDS = range(34)  # 19 of them are evaluated; the rest is void
LICENSE_PLATE = (255, 65535)  # label id −1 as 8 and 16 bits hold it; void
INSTANCES_OF_CLASS = 1000  # instance n of class c has the id 1000 c + n


class Cityscapes(SegmentationDataset):
    """leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with gtFine/SPLIT/CITY/*_gtFine_{instanceIds,labelIds}.png.

    In the instance ids a value below 1000 is a class without telling its instances apart: stuff, or a group of
    things, which is a crowd.

    Arguments:
        with_instances: read instanceIds; False reads labelIds, for the semantic task alone.
    """

    recipe = "cityscapes"

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        classes: str | Sequence[str] | None = None,
        transform: Transform | None = None,
        with_instances: bool = True,
    ):
        folder = Path(folder)
        self.photos, self.maps = folder / "leftImg8bit" / split, folder / "gtFine" / split
        self.with_instances = with_instances
        if not with_instances:
            self.tasks = ("semantic",)
        self.space = LabelSpace.choose(dataset_classes("cityscapes"), classes)
        photos = list_files(self.photos, ("_leftImg8bit.png",), "*/*")
        unique_stems(self.photos, photos)
        records = [path.relative_to(self.photos).as_posix().removesuffix("_leftImg8bit.png") for path in photos]
        super().__init__(f"{folder} {split}", self.space.classes, records, transform)

    def image_id(self, index: int) -> str:
        return Path(self.records[index]).name

    def photo_path(self, index: int) -> Path:
        return self.photos / f"{self.records[index]}_leftImg8bit.png"

    def annotation(self, index: int) -> IdMap:
        kind = "instanceIds" if self.with_instances else "labelIds"
        path = self.maps / f"{self.records[index]}_gtFine_{kind}.png"
        values = read_map(path)
        segments = []
        for value in values_in(values):
            label_id = value // INSTANCES_OF_CLASS if value >= INSTANCES_OF_CLASS else value
            if value in LICENSE_PLATE:
                continue
            if label_id not in LABEL_IDS:
                raise DataError(path, f"holds the value {value}", "expected Cityscapes' own ids (not trainIds)")
            label = self.space.labels.get(label_id, LEFT_OUT)
            if label == LEFT_OUT:
                continue
            is_thing = self.classes[label].is_thing
            is_group = self.with_instances and is_thing and value < INSTANCES_OF_CLASS
            segments.append((value, label, is_thing, is_group))
        return IdMap.from_values(values, segments)
