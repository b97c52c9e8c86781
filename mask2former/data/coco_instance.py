"""COCO's instance format: JSON with polygons or run-length encodings, which may overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from mask2former.data.annotation import Shapes
from mask2former.data.coco_file import (
    Category,
    CategoryId,
    CategoryList,
    Id,
    Image,
    ImageList,
    Side,
    label_space,
    read_coco,
    require_unique,
)
from mask2former.data.dataset import SegmentationDataset, Transform
from mask2former.data.label_space import LEFT_OUT, LabelSpace
from mask2former.data.outline import Outline, check_polygons, read_outline
from mask2former.errors import DataError
from mask2former.schema import Flag


class SizedImage(Image, kw_only=True, gc=False):
    height: Side
    width: Side


class InstanceEntry(msgspec.Struct, gc=False):
    image_id: Id
    category_id: CategoryId
    id: Id | None = None
    iscrowd: Flag | None = None
    area: Annotated[float, msgspec.Meta(ge=0)] | None = None  # pixels; mask AP sorts objects into sizes by it
    segmentation: msgspec.Raw = msgspec.Raw()


class InstanceFile(msgspec.Struct, gc=False):
    images: list[SizedImage]
    categories: list[Category]
    annotations: list[InstanceEntry]


class CocoInstance(SegmentationDataset):
    """The instance format: things only, each as polygons or RLE, which may overlap; crowds as RLE.

    What is wrong with one outline is that photo's error when it is read. It is counted when the file is opened.

    Arguments:
        photos: folder of the photos.
        annotations: JSON file with images, annotations and categories.
        classes: see `LabelSpace.choose`, or a ready LabelSpace.
    """

    tasks = ("instance",)

    def __init__(
        self,
        photos: Path | str,
        annotations: Path | str,
        classes: str | Sequence[str] | LabelSpace | None = None,
        transform: Transform | None = None,
    ):
        self.photos, self.file = Path(photos), Path(annotations)
        if not self.photos.is_dir():
            raise DataError(self.photos, "no such folder", "say where the photos lie")
        content = read_coco(self.file, InstanceFile)
        images = ImageList(self.file, content.images)
        categories = CategoryList(self.file, content.categories)
        require_unique(self.file, "annotations", "id", [a.id for a in content.annotations if a.id is not None])
        image_of = np.fromiter(  # an array, since there may be a million
            (images.position(a.image_id, place_of(position)) for position, a in enumerate(content.annotations)),
            np.int64,
            len(content.annotations),
        )
        audit = Audit()
        records = self._records(content, image_of, categories, audit)
        super().__init__(str(self.file), (), records, transform)
        if isinstance(classes, LabelSpace):
            self.space, notes = classes, []
        else:
            self.space, notes = label_space(self.file, content.categories, classes, categories.used, things_only=True)
        self.classes = self.space.classes
        self.notes = tuple(f"{self.file}: {note}" for note in [*notes, *images.notes(), *audit.notes()])

    def _records(
        self, content: InstanceFile, image_of: np.ndarray, categories: CategoryList, audit: Audit
    ) -> Iterator[tuple[Any, ...]]:
        """Id, photo, size and objects of each image; an object is its place in the list, id, category, is crowd, area
        and outline, which stays JSON."""
        order = np.argsort(image_of, kind="stable")
        ends = np.cumsum(np.bincount(image_of, minlength=len(content.images))).tolist()
        for image, start, end in zip(content.images, [0, *ends], ends, strict=False):
            size, objects = (image.height, image.width), []
            for position in order[start:end].tolist():
                a = content.annotations[position]
                place = place_of(position)
                category = categories.number(a.category_id, place)
                if a.area is not None and a.area > size[0] * size[1]:
                    raise DataError(
                        self.file,
                        f"{place}.area: {a.area:g} pixels of a photo of {size[1]}×{size[0]}",
                        "correct the area, or leave it out: it is then counted",
                    )
                outline = bytes(a.segmentation)
                audit.look_at(outline, size, place)
                objects.append((position, a.id, category, bool(a.iscrowd), a.area, outline))
            yield image.id, image.file_name, size, objects

    def image_id(self, index: int) -> int | str:
        return self.records[index][0]

    def photo_path(self, index: int) -> Path:
        return self.photos / self.records[index][1]

    def annotation(self, index: int) -> Shapes:
        _, file_name, size, objects = self.records[index]
        labels, crowds, areas, shapes = [], [], [], []
        for position, name, category, is_crowd, area, outline in objects:
            where = f"annotation {'without id' if name is None else name} of {file_name}"
            label = self.space.label(category, self.file, where)
            if label == LEFT_OUT:
                continue
            place = f"{place_of(position)}.segmentation"
            shapes.append((read_outline(outline, size, place, self._fault(where)),))
            labels.append(label)
            crowds.append(is_crowd)
            areas.append(np.nan if area is None else area)
        annotation = Shapes(
            np.array(labels, np.int64), np.ones(len(labels), bool), np.array(crowds, bool), tuple(shapes),
            np.array(areas, np.float64), size,
        )  # fmt: skip
        unknown = np.isnan(annotation.recorded_areas)  # optional in practice; mask AP needs it
        if unknown.any():
            annotation.recorded_areas[unknown] = annotation.areas()[unknown]
        return annotation

    def _fault(self, where: str) -> Callable[[str, str], DataError]:
        return lambda problem, remedy: DataError(self.file, f"{where}: {problem}", remedy)

    def problems(self, index: int) -> list[str]:
        _, file_name, (height, width), objects = self.records[index]
        found = []
        if len({(category, outline) for _, _, category, _, _, outline in objects}) < len(objects):
            found.append(f"{self.file}: {file_name} has the same object twice; remove one of them")
        audit = Audit()
        for position, *_, outline in objects:
            audit.look_at(outline, (height, width), place_of(position))
        if audit.beyond:
            found.append(
                f"{self.file}: {file_name} has polygons beyond its {width}×{height} pixels; "
                "they were drawn at another size"
            )
        return found


DECODER = msgspec.json.Decoder(Outline)


class Audit:
    """What is to be said of all outlines when a file is opened: a look at each, without drawing any."""

    def __init__(self):
        self.unusable: list[str] = []  # one line each
        self.beyond = 0

    def look_at(self, outline: bytes, size: tuple[int, int], place: str) -> None:
        """A run-length encoding is only compared with the size: decoding it takes long."""
        try:
            shape = DECODER.decode(outline)
            if isinstance(shape, list):
                self.beyond += check_polygons(shape, size, place, lambda problem, _: ValueError(problem))
            elif shape.size != size:
                raise ValueError("of another size")
        except (ValueError, RecursionError):
            self.unusable.append(place)

    def notes(self) -> list[str]:
        notes = []
        if self.unusable:
            notes.append(
                f"{len(self.unusable)} outlines cannot be used, the first {self.unusable[0]}.segmentation: their "
                "photos will be refused; `inspect` says why, and data named without a kind is read with repairs"
            )
        if self.beyond:
            notes.append(f"{self.beyond} polygon outlines reach beyond their photo and are cut off at its edge")
        return notes


def place_of(position: int) -> str:
    return f"$.annotations[{position}]"
