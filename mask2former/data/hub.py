"""Datasets of Hugging Face's `datasets`: a column of photos and one of label maps. Needs the extra `hf`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask2former.data.annotation import IdMap, values_in
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.exif import as_stored
from mask2former.data.findings import Findings
from mask2former.data.label_space import LEFT_OUT, LabelSpace
from mask2former.data.mapped import BACKGROUND_NAMES
from mask2former.data.split import HELD_OUT, SEED
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError
from mask2former.inference import photo as photos
from mask2former.modeling.config import class_color
from mask2former.structures import ClassInfo

PHOTOS = ("image", "pixel_values", "img", "photo")
LABELS = ("label", "annotation", "mask", "labels", "segmentation_mask", "semantic_segmentation", "seg_map")
NAMES = {"train": ("train", "training"), "val": ("validation", "val", "valid", "test"), "test": ("test",)}
IGNORE = 255


class HubDataset(SegmentationDataset):
    """The semantic task. Pixel values are class numbers from 0; 255 is ignored, and 0 too if a table says so.

    Arguments:
        name: a dataset on the hub, or a folder that `save_to_disk` wrote.
        names: class names in the order of the values; default: id2label.json, or the features' own.
    """

    tasks = ("semantic",)

    def __init__(self, name: str, wanted: Wanted, findings: Findings):
        rows, split, held_out = load_rows(name, wanted, findings)
        self.rows, self.source = rows, f"hf:{name}"
        self.photo_column, self.label_column = columns(name, rows)
        table = class_names(name, rows, self.label_column)
        if table is None:
            found: set[int] = set()
            for k in range(0, len(rows), max(1, len(rows) // 200)):
                found.update(values_in(self._values(k)))
            table = {value: f"class {value}" for value in sorted(found - {IGNORE})}
            findings.conclude(f"{len(table)} classes are called after their numbers, as nothing names them")
        if wanted.background == "ignore":
            table = {value: label for value, label in table.items() if label.lower() not in BACKGROUND_NAMES}
        classes = tuple(ClassInfo(n, False, class_color(k), value) for k, (value, n) in enumerate(table.items()))
        self.space = LabelSpace.choose(classes, wanted.classes)
        super().__init__(f"hf:{name} {split}", self.space.classes, held_out or range(len(rows)), wanted.transform)

    def image_id(self, index: int) -> int:
        return self.records[index]

    def photo_path(self, index: int) -> Path:
        return Path(f"{self.records[index]}")

    def photo(self, index: int, size: tuple[int, int] | None = None) -> Image.Image:
        picture = self._picture(self.records[index], self.photo_column)
        photo = photos.read_photo(as_stored(picture) if self.exif == "stored" else picture)
        if size is not None and photo.size[::-1] != tuple(size):
            place = f"{self.source} row {self.records[index]}"
            raise DataError(place, f"the photo is {photo.size}, its labels {size[::-1]}", "make them of one size")
        return photo

    def _picture(self, row: int, column: str) -> Image.Image:
        value = self.rows[row][column]
        try:
            if isinstance(value, dict):
                value = Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"])
            value.load()
        except Exception as error:
            raise DataError(
                f"{self.source} row {row}", f"{column}: no readable picture ({error})", "leave the row out"
            ) from error
        return value

    def _values(self, row: int) -> np.ndarray:
        picture = self._picture(row, self.label_column)
        values = np.asarray(picture)
        if values.ndim == 3 and (values[..., :1] == values[..., :3]).all():
            values = values[..., 0]  # grey saved in colour
        if values.ndim != 2 or values.dtype.kind not in "iub":
            raise DataError(
                f"{self.source} row {row}",
                f"{self.label_column}: a picture of mode {picture.mode}",
                "expected class numbers in one channel",
            )
        return values.astype(np.int32)

    def annotation(self, index: int) -> IdMap:
        values, segments = self._values(self.records[index]), []
        for value in values_in(values):
            if value not in self.space.labels:
                if value == IGNORE:
                    continue
                raise DataError(
                    f"{self.source} row {index}", f"holds the value {value}", f"{len(self.classes)} classes are named"
                )
            label = self.space.labels[value]
            if label != LEFT_OUT:
                segments.append((value, label, False, False))
        return IdMap.from_values(values, segments)


def library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("hf:NAME needs the package datasets: pip install 'mask2former-oneformer[hf]'") from error
    return datasets


def load_rows(name: str, wanted: Wanted, findings: Findings) -> tuple[Any, str, list[int] | None]:
    """The rows of a split, its name, and which of them where the dataset has only one split."""
    datasets = library()
    try:
        whole = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name)
    except Exception as error:  # of whatever the library stumbles over
        raise DataError(f"hf:{name}", f"cannot be loaded ({str(error).splitlines()[0]})", "check its name") from error
    split = wanted.split
    if not isinstance(whole, dict):
        whole = {"train": whole}
    findings.tool = "Hugging Face dataset"
    if split == "all":
        return datasets.concatenate_datasets(list(whole.values())), "all", None
    there = next((n for n in NAMES.get(split, (split,)) if n in whole), None)
    if len(whole) == 1 and split in ("train", "val"):
        rows = next(iter(whole.values()))
        if wanted.hold_out == "none":
            findings.conclude("the data is not split, and all of it is taken")
            return rows, split, None
        order = np.random.default_rng(SEED).permutation(len(rows))
        held = max(1, round(HELD_OUT * len(rows)))
        findings.conclude(
            f"{held} of {len(rows)} rows are held out for validation, as there is one split (seed {SEED})"
        )
        return rows, split, sorted(order[:held].tolist() if split == "val" else order[held:].tolist())
    if there is None:
        raise DataError(f"hf:{name}", f"no split {split}", f"it has {', '.join(whole)}: hf:{name}:SPLIT")
    return whole[there], there, None


def columns(name: str, rows: Any) -> tuple[str, str]:
    found = [next((c for c in wanted if c in rows.column_names), None) for wanted in (PHOTOS, LABELS)]
    if None in found:
        raise DataError(
            f"hf:{name}",
            f"columns {', '.join(rows.column_names)}",
            "expected pictures in `image` and label maps in `label` or `annotation`: rename_column",
        )
    return found[0], found[1]


def class_names(name: str, rows: Any, column: str) -> dict[int, str] | None:
    """Value → name, by id2label.json beside the data (of the hub's repository, or in the folder)."""
    file = Path(name) / "id2label.json"
    if not Path(name).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            file = Path(hf_hub_download(name, "id2label.json", repo_type="dataset"))
        except (HfHubHTTPError, LocalEntryNotFoundError):
            return None
    if not file.is_file():
        return None
    table: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return {int(value): str(label) for value, label in sorted(table.items(), key=lambda item: int(item[0]))}


def is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file()
