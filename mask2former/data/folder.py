"""A plain folder of photos and masks, for data of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from mask2former.data.annotation import IdMap, values_in
from mask2former.data.dataset import SegmentationDataset, Transform
from mask2former.data.files import list_files, mode_of, read_map, unique_stems
from mask2former.data.label_space import LEFT_OUT, Color, LabelSpace, check_table
from mask2former.data.mask_numbers import GREY_IN_COLOUR, SAID, in_scheme, scheme_of
from mask2former.errors import DataError
from mask2former.inference.photo_files import PhotoFiles, reasons_by_ending
from mask2former.modeling.config import class_color
from mask2former.schema import Flag, Name, read_json
from mask2former.structures import ClassInfo

IGNORE = 255  # in an 8-bit mask, unless the class table has it
INSTANCES_OF_CLASS = 1000  # instance n of class c has the id 1000 c + n, as in Cityscapes
REMEDY = (
    "add the class, or correct the mask (a grey picture saved in colour, or one drawn in display colours, "
    "has such values: save class numbers in one 8-bit channel)"
)
SHALLOW = ("1", "L", "P")  # modes of a mask whose 8 bits leave no room for instances
TABLE = 'expected [{"id": 1, "name": "fig", "isthing": 1}, …] with ids from 0 to 999'


class FolderClass(msgspec.Struct):
    """An entry of classes.json."""

    id: Annotated[int, msgspec.Meta(ge=0, lt=INSTANCES_OF_CLASS)]
    name: Name
    isthing: Flag
    color: Color | None = None


class FolderDataset(SegmentationDataset):
    """images/NAME.jpg with masks/NAME.png and classes.txt or classes.json; with or without train/ and val/ around.

    A mask's value is a class number, or 1000 × class number + instance number (16-bit grey, or colour with
    R + 256 G + 65536 B) to tell things of one class apart. 255 in an 8-bit mask is ignored.

    The class numbers come from
    * classes.json: a list of {"id": 1, "name": "fig", "isthing": 1, "color": [r, g, b]}, the colour optional. Pixels
      of value 0 are ignored unless a class has the id 0.
    * classes.txt: one name a line, "sky, stuff" or "fig, thing" to say which it is (by default things where the masks
      can tell instances apart, stuff where they cannot, and the value 0 is stuff). Whether the first line belongs to
      the value 0 or 1 is what `background` says.

    8-bit masks cannot tell instances apart, so they serve the semantic task only.

    Arguments:
        split: "train", "val", … where the folder (or its images/ and masks/) has folders of that name; "all" for one
            that is not split.
        background: for classes.txt: "class", value 0 is the first class, which is learned like any other; "ignore",
            value 0 is no class, so that its pixels teach nothing, and value 1 is the first class.
    """

    ignored_hint = (
        "255 in 8-bit masks is ignored; if it is a class of yours, as in masks of 0 and 255, name the folder alone "
        "(--data FOLDER), or save masks with class numbers"
    )

    def __init__(
        self,
        folder: Path | str,
        split: str = "all",
        classes: str | Sequence[str] | None = None,
        background: str | None = None,
        transform: Transform | None = None,
    ):
        folder = Path(folder)
        self.photos, self.maps = split_folders(folder, split)
        reasons = reasons_by_ending()
        photos = list_files(self.photos, tuple(ending for ending, reason in reasons.items() if reason is None))
        left_out = tuple(f"{self.photos}: {line}" for line in PhotoFiles.of(self.photos).said() if line[:4] == "left")
        self.notes = left_out
        names = unique_stems(self.photos, photos)
        masks = {path.stem: path for path in self.maps.glob("*.png") if path.name[0] != "."}
        files = [masks[name] for name in names if name in masks]
        grey = scheme_of(files, ()) == GREY_IN_COLOUR
        if grey or mode_of(self.maps / f"{names[0]}.png") in SHALLOW:
            self.tasks = ("semantic",)
        if unused := masks.keys() - set(names):
            self.notes += (f"{self.maps}: {len(unused)} masks have no photo, such as {min(unused)}.png",)
        self.table_file, table = read_class_table(folder, background, things="instance" in self.tasks)
        self.scheme = GREY_IN_COLOUR if grey else scheme_of(files, {c.dataset_id for c in table})
        if self.scheme in SAID:
            self.notes += (f"{self.maps}: {SAID[self.scheme]}",)
        self.space = LabelSpace.choose(table, classes)
        super().__init__(f"{folder} {split}", self.space.classes, (path.name for path in photos), transform)

    def image_id(self, index: int) -> str:
        return Path(self.records[index]).stem

    def photo_path(self, index: int) -> Path:
        return self.photos / self.records[index]

    @property
    def _counts_things(self) -> bool:
        return "instance" in self.tasks

    def annotation(self, index: int) -> IdMap:
        path = self.maps / f"{self.image_id(index)}.png"
        values = in_scheme(read_map(path), self.scheme)
        segments = []
        for value in values_in(values):
            is_instance = value >= INSTANCES_OF_CLASS
            number = value // INSTANCES_OF_CLASS if is_instance else value
            if number not in self.space.labels:
                if number == 0 or (number == IGNORE and values.dtype == np.uint8):
                    continue
                raise DataError(path, f"holds the value {value}, which is no class of {self.table_file}", REMEDY)
            label = self.space.labels[number]
            if label != LEFT_OUT and self.classes[label].is_thing and values.dtype == np.uint8 and self._counts_things:
                raise DataError(
                    path,
                    f"an 8-bit mask with the class {self.classes[label].name}, whose things other masks tell apart",
                    "save all masks with 16 bits or in colour, as 1000 × class + instance",
                )
            if label != LEFT_OUT:
                segments.append((value, label, self.classes[label].is_thing, False))
        return IdMap.from_values(values, segments)


def read_class_table(folder: Path, background: str | None, things: bool) -> tuple[Path, tuple[ClassInfo, ...]]:
    """The file that names the classes and what it says; `dataset_id` is the number in the masks.

    things: what a class of classes.txt is by default.
    """
    if background not in (None, "class", "ignore"):
        raise ValueError(f"background={background!r}: expected 'class' or 'ignore'")
    file = folder / "classes.json"
    if file.is_file():
        if background is not None:
            raise ValueError(f"background={background!r}: {file} says itself whether 0 is a class; leave it out")
        entries = read_json(file, list[FolderClass], lambda problem: DataError(file, problem, TABLE))
        table = tuple(
            ClassInfo(entry.name, bool(entry.isthing), tuple(entry.color or class_color(k)), entry.id)
            for k, entry in enumerate(entries)
        )
        check_table(file, table)
        return file, table
    file = folder / "classes.txt"
    if not file.is_file():
        raise DataError(file, "no such file, and no classes.json", "write one class name a line")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(file, f"no UTF-8 text ({error})", "save it as UTF-8, one class name a line") from None
    if background is None:
        raise ValueError(
            f"{file} does not say what the mask value 0 is: background='class' if it is the first class "
            f"({lines[0] if lines else '…'!r}), 'ignore' if it is none and the first class is 1"
        )
    first = 0 if background == "class" else 1
    table = tuple(class_from_line(line, k, k + first, things) for k, line in enumerate(lines))
    check_table(file, table, "class {}", 1)
    if table[-1].dataset_id >= INSTANCES_OF_CLASS:
        raise DataError(file, f"{len(table)} classes", f"expected class numbers below {INSTANCES_OF_CLASS}")
    return file, table


def class_from_line(line: str, position: int, number: int, things: bool) -> ClassInfo:
    name, _, kind = (part.strip() for part in line.rpartition(","))
    if kind not in ("thing", "stuff") or not name:
        name, kind = line, "thing" if things and number else "stuff"
    return ClassInfo(name, kind == "thing", class_color(position), number)


def split_folders(folder: Path, split: str) -> tuple[Path, Path]:
    """Where the photos and the masks of a split lie."""
    if not folder.is_dir():
        raise DataError(folder, "no such folder", "check its name, and that you are where it starts from")
    for photos, maps in (
        (folder / split / "images", folder / split / "masks"),
        (folder / "images" / split, folder / "masks" / split),
    ):
        if photos.is_dir() and maps.is_dir():
            return photos, maps
    if split == "all" and (folder / "images").is_dir() and (folder / "masks").is_dir():
        return folder / "images", folder / "masks"
    raise DataError(
        folder,
        f"no {split}/images with {split}/masks, nor images/{split} with masks/{split}",
        "make these folders, or take split 'all' (folder:FOLDER:all) if images/ and masks/ are not split",
    )
