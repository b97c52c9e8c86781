"""COCO's panoptic format: JSON, and one PNG of segment ids a photo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

from mask2former.data.annotation import Annotation, IdMap, values_in
from mask2former.data.coco_file import (
    LISTED,
    REMEDY,
    Category,
    CategoryId,
    CategoryList,
    Id,
    Image,
    ImageList,
    label_space,
    read_coco,
    require_unique,
)
from mask2former.data.coco_instance import CocoInstance
from mask2former.data.dataset import SegmentationDataset, Transform
from mask2former.data.files import check_name, read_map
from mask2former.data.label_space import LEFT_OUT
from mask2former.errors import DataError
from mask2former.schema import Flag, Name, decode_json

SegmentId = Annotated[int, msgspec.Meta(ge=1, le=256**3 - 1)]  # R + 256 G + 65536 B; 0 is void


class SegmentInfo(msgspec.Struct, gc=False):
    id: SegmentId
    category_id: CategoryId
    iscrowd: Flag | None = None


class PanopticEntry(msgspec.Struct, gc=False):
    image_id: Id
    file_name: Name
    segments_info: msgspec.Raw  # of SegmentInfo; decoded photo by photo, for memory


class PanopticFile(msgspec.Struct, gc=False):
    images: list[Image]
    categories: list[Category]
    annotations: list[PanopticEntry]


DECODER = msgspec.json.Decoder(list[SegmentInfo])


def decode_segments(text: msgspec.Raw, file: Path, place: str) -> list[SegmentInfo]:
    try:
        return DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # said by the slower way, with the place
        return decode_json(text, list[SegmentInfo], lambda problem: DataError(file, problem, REMEDY), place)


class CocoPanoptic(SegmentationDataset):
    """The panoptic format (Kirillov et al. 2019; the COCO, ADE20K and Mapillary panoptic releases).

    Arguments:
        photos: folder of the photos.
        annotations: JSON file with images, annotations (`segments_info` each) and categories (`isthing` each).
        maps: folder of the PNG files, id = R + 256 G + 65536 B, 0 = void; default: the JSON's name without ".json".
        classes: see `LabelSpace.choose`; "supercategory" gives COCO's 27.
        instances: JSON file with the official instance ground truth of the same photos, against which mask AP is
            then measured; without it the thing segments serve.
    """

    def __init__(
        self,
        photos: Path | str,
        annotations: Path | str,
        maps: Path | str | None = None,
        classes: str | Sequence[str] | None = None,
        transform: Transform | None = None,
        instances: Path | str | None = None,
    ):
        self.photos, self.file = Path(photos), Path(annotations)
        self.maps = Path(maps) if maps is not None else self.file.with_suffix("")
        for folder in (self.photos, self.maps):
            if not folder.is_dir():
                raise DataError(folder, "no such folder", "say where the photos and the panoptic PNG files lie")
        content = read_coco(self.file, PanopticFile)
        if not content.annotations:
            raise DataError(self.file, "has no annotation", "expected one for each photo")
        images, categories = ImageList(self.file, content.images), CategoryList(self.file, content.categories)
        positions = [
            images.position(entry.image_id, f"$.annotations[{number}]")
            for number, entry in enumerate(content.annotations)
        ]
        require_unique(self.file, "annotations", "image_id", positions)
        require_unique(self.file, "annotations", "file_name", [entry.file_name for entry in content.annotations])
        records = (
            self._record(content.images[position], categories, number, content.annotations[number])
            for number, position in enumerate(positions)
        )
        super().__init__(str(self.file), (), records, transform)
        self.space, notes = label_space(self.file, content.categories, classes, categories.used)
        self.instances = instances
        self._official: tuple[CocoInstance, dict[Any, int]] | None = None  # read when first asked for
        self.classes = self.space.classes
        notes += images.notes()
        if left := len(content.images) - len(self):
            notes.append(f"{left} of {len(content.images)} images have no annotation and are left out")
        self.notes = tuple(f"{self.file}: {note}" for note in notes)

    def _record(self, image: Image, categories: CategoryList, number: int, entry: PanopticEntry) -> tuple[Any, ...]:
        """The image's id, photo, PNG, size, and id, category, is crowd of each segment."""
        place = f"$.annotations[{number}]"
        check_name(entry.file_name, self.file, f"{place}.file_name")
        segments, seen = [], set()
        for k, segment in enumerate(decode_segments(entry.segments_info, self.file, f"{place}.segments_info")):
            category = categories.number(segment.category_id, place, k)
            segments.append((segment.id, category, bool(segment.iscrowd)))
            seen.add(segment.id)
        if len(seen) < len(segments):
            require_unique(self.file, f"annotations[{number}].segments_info", "id", [s for s, _, _ in segments])
        size = (image.height, image.width) if image.height and image.width else None
        return image.id, image.file_name, entry.file_name, size, segments

    def image_id(self, index: int) -> int | str:
        return self.records[index][0]

    def photo_path(self, index: int) -> Path:
        return self.photos / self.records[index][1]

    def annotation(self, index: int) -> IdMap:
        _, _, file_name, size, segments_info = self.records[index]
        path = self.maps / file_name
        values = read_map(path, size, f"{self.file.name} says")
        self._compare(path, {segment for segment, _, _ in segments_info}, set(values_in(values)) - {0})
        segments = []
        for segment, category, is_crowd in segments_info:
            label = self.space.label(category, self.file, f"segment {segment} of {file_name}")
            if label != LEFT_OUT:
                segments.append((segment, label, self.classes[label].is_thing, is_crowd))
        return IdMap.from_values(values, segments)

    def _compare(self, path: Path, listed: set[int], drawn: set[int]) -> None:
        """DataError unless the PNG has the segments that the JSON lists, and no others."""
        if unlisted := sorted(drawn - listed):
            raise DataError(
                path,
                f"{len(unlisted)} ids, {unlisted[:LISTED]}, are not in its segments_info",
                f"add them to {self.file.name}, or set their pixels to 0, which is void",
            )
        if undrawn := sorted(listed - drawn):
            raise DataError(
                path,
                f"has no pixel of {len(undrawn)} segments of its segments_info, {undrawn[:LISTED]}",
                f"it may be another photo's or a file in grey; otherwise remove them from {self.file.name}",
            )

    def ground_truth(self, index: int, task: str) -> Annotation:
        if task != "instance" or self.instances is None:
            return super().ground_truth(index, task)
        if self._official is None:
            official = CocoInstance(self.photos, self.instances, self.space)
            self._official = official, {official.image_id(i): i for i in range(len(official))}
        official, positions = self._official
        if self.image_id(index) not in positions:
            raise DataError(official.file, f"no image {self.image_id(index)}", "use the file of the same photos")
        return official.annotation(positions[self.image_id(index)])
