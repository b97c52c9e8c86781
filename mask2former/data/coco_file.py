"""What COCO's two formats have in common: images and categories, declared; and what refers to what, checked once.

Admitted beyond the official layout, because tools write it: ids as text (of the same digits as the number they stand
for elsewhere in the file), a missing `area` or `iscrowd`, keys of one's own. Nothing else is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from mask2former.data.classes import dataset_classes
from mask2former.data.files import check_name
from mask2former.data.label_space import Color, LabelSpace, check_table
from mask2former.errors import DataError
from mask2former.inference.photo import MAX_PIXELS
from mask2former.modeling.config import class_color
from mask2former.schema import Flag, Int64, Name, read_json
from mask2former.structures import ClassInfo

LISTED = 5  # of many in a message
REMEDY = "expected COCO's format: correct the entry, or export the file anew"

T = TypeVar("T")
Id = Int64 | Name
Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_PIXELS)]
CategoryId = Int64 | Annotated[str, msgspec.Meta(pattern=r"^(0|-?[1-9][0-9]{0,17})$")]


class Image(msgspec.Struct, gc=False):
    """height and width: the panoptic format, whose PNG files have a size, can do without."""

    id: Id
    file_name: Name
    height: Side | None = None
    width: Side | None = None


class Category(msgspec.Struct, gc=False):
    id: CategoryId
    name: Name
    isthing: Flag | None = None  # the instance format does not need it
    color: Color | None = None
    supercategory: str | None = None


def read_coco(file: Path, kind: type[T]) -> T:
    """A COCO file by its declaration. Raises DataError naming the entry, or FileNotFoundError."""
    return read_json(file, kind, lambda problem: DataError(file, problem, REMEDY))


def number(identity: Id) -> Id:
    """Under which an id is found: as a number where it is the text of one."""
    if isinstance(identity, str) and identity.isascii() and identity.isdecimal() and identity == str(int(identity)):
        return int(identity)
    return identity


class ImageList:
    """The images of a file by their ids, each with an id and a name of its own; which of them an annotation is of.

    Raises DataError for two images of one id or one file name, sizes out of bounds, and names that lead elsewhere.
    """

    def __init__(self, file: Path, images: Sequence[Image]):
        if not images:
            raise DataError(file, "lists no image", "expected one entry for each photo")
        self.file = file
        ids = [number(image.id) for image in images]
        require_unique(file, "images", "id", ids)
        require_unique(file, "images", "file_name", [image.file_name for image in images])
        self.positions = {identity: position for position, identity in enumerate(ids)}
        self.as_text = {k for k, image in enumerate(images) if isinstance(image.id, str)}
        self.mixed = 0  # annotations that write the id of their image otherwise than the image does
        for position, image in enumerate(images):
            check_name(image.file_name, file, f"$.images[{position}].file_name")
            if (image.height or 1) * (image.width or 1) > MAX_PIXELS:
                raise DataError(
                    file,
                    f"$.images[{position}]: {image.width}×{image.height} pixels",
                    f"expected at most {MAX_PIXELS}: correct height and width",
                )

    def position(self, image_id: Id, place: str) -> int:
        """Of the image that an annotation names."""
        position = self.positions.get(image_id if type(image_id) is int else number(image_id))
        if position is None:
            raise DataError(
                self.file,
                f"{place}.image_id: annotation of image {image_id!r}, which is not under images",
                "add the image or remove the annotation",
            )
        self.mixed += isinstance(image_id, str) != (position in self.as_text)
        return position

    def notes(self) -> list[str]:
        return [
            f"{self.mixed} annotations write the id of their image as text, the image as a number, or the reverse"
        ] * (self.mixed > 0)


def require_unique(file: Path, entries: str, field: str, values: Sequence[Id]) -> None:
    """DataError, with the places, where two entries of a list have the same value."""
    if len(set(values)) == len(values):
        return
    first: dict[Id, int] = {}
    for position, value in enumerate(values):
        if first.setdefault(value, position) != position:
            raise DataError(
                file,
                f"$.{entries}[{position}].{field}: {value!r}, which $.{entries}[{first[value]}] has already",
                f"each of {entries} needs a {field} of its own: rename or remove one, or merge the two",
            )


def label_space(
    file: Path,
    categories: Sequence[Category],
    choice: str | Sequence[str] | None,
    used: Mapping[int, int],
    things_only: bool = False,
) -> tuple[LabelSpace, list[str]]:
    """Category ids → contiguous label ids, in the order of the file's `categories`; and what was repaired.

    used: how many annotations each category id has. Of two categories with one name, such as a root and its only
    child, one without any is left out.
    """
    notes = []
    if as_text := sum(isinstance(c.id, str) for c in categories):
        notes.append(f"{as_text} categories have their id as text, which is read as a number")
    lacking = next((k for k, c in enumerate(categories) if c.isthing is None), None)
    if lacking is not None and not things_only:
        raise DataError(
            file, f"$.categories[{lacking}]: no isthing", 'give each category "isthing": 1 (countable) or 0 (stuff)'
        )
    times = Counter(c.name for c in categories)
    twins = {c.name for c in categories if times[c.name] > 1 and used[int(c.id)]}
    left_out = [c for c in categories if c.name in twins and not used[int(c.id)]]
    if left_out:
        names = ", ".join(f"{c.name} ({c.id})" for c in left_out[:LISTED])
        notes.append(f"{len(left_out)} categories without annotations are left out, as others have their name: {names}")
    kept = [c for c in categories if c not in left_out]
    official = {c.name: c.color for c in dataset_classes("coco_panoptic")}
    table = tuple(
        ClassInfo(
            c.name,
            things_only or bool(c.isthing),
            tuple(c.color or official.get(c.name) or class_color(position)),
            int(c.id),
        )
        for position, c in enumerate(kept)
    )
    check_table(file, table, "$.categories[{}]")
    coarse = {int(c.id): c.supercategory for c in kept if c.supercategory}
    return LabelSpace.choose(table, choice, coarse if len(coarse) == len(table) else None), notes


class CategoryList:
    """The ids of a file's categories, and which of them annotations use."""

    def __init__(self, file: Path, categories: Sequence[Category]):
        self.file = file
        ids = [int(c.id) for c in categories]
        require_unique(file, "categories", "id", ids)
        self.used = dict.fromkeys(ids, 0)

    def number(self, category: int | str, place: str, segment: int | None = None) -> int:
        """The category of an annotation, or of one of its segments. DataError where there is no such category."""
        found = category if type(category) is int else int(category)
        if found not in self.used:
            place += "" if segment is None else f".segments_info[{segment}]"
            raise DataError(
                self.file,
                f"{place}.category_id: of category {category!r}, which is not in the class table",
                "add the category to the table or correct the annotation",
            )
        self.used[found] += 1
        return found
