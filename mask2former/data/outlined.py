"""Photos with outlines, whatever tool wrote them: what a reader hands over, and the dataset made of it.

A reader of a format yields a `Drawn` for each photo. Finding the photo, cleaning its outlines, one table of classes
over all splits, and the split itself are the same for all formats and happen here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mask2former.data.annotation import Shapes
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.exif import oriented_size
from mask2former.data.files import open_image
from mask2former.data.findings import Findings, listed
from mask2former.data.label_space import LEFT_OUT, LabelSpace
from mask2former.data.listing import Listing
from mask2former.data.rings import clean_outline, decoded, inside, placed, runs_of
from mask2former.data.split import members
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError
from mask2former.modeling.config import class_color
from mask2former.structures import ClassInfo


@dataclass
class Object:
    """One object as a file has it."""

    label: str
    outline: Any  # rings or a run-length encoding: see `rings.clean_outline`
    where: str  # for messages
    crowd: bool = False
    unit: bool = False  # coordinates are shares of width and height
    cutout: tuple[np.ndarray, int, int] | None = None  # a mask (h, w) bool, left, top instead of an outline
    holes: list[list[float]] | None = None  # rings cut out of the outline
    area: float | None = None


@dataclass
class Drawn:
    """One photo as a file has it."""

    name: str  # as written
    file: str  # that says so, relative
    size: tuple[int, int] | None = None  # H, W; None: the photo's own
    objects: list[Object] = field(default_factory=list)
    split: str | None = None
    near: tuple[str, ...] = ()  # folders to look for the photo in
    identity: int | str | None = None


@dataclass
class Contents:
    """What a reader makes of a folder. classes: the table, None: the names that occur, in alphabetical order."""

    photos: Iterable[Drawn]
    classes: Sequence[str] | None = None
    supercategories: dict[str, str] | None = None
    colors: dict[str, tuple[int, int, int]] | None = None


class OutlinedPhotos(SegmentationDataset):
    """The instance task: every class is a thing, each object has an outline of its own, and they may overlap."""

    tasks = ("instance",)

    def __init__(
        self,
        listing: Listing,
        contents: Contents,
        wanted: Wanted,
        findings: Findings,
    ):
        self.root, self.exif, split = listing.root, wanted.exif, wanted.split
        photos = list(contents.photos)
        table = table_of(contents, photos)
        position = {c.name: k for k, c in enumerate(table)}
        coarse = contents.supercategories or {}
        groups = {k: coarse[c.name] for k, c in enumerate(table) if c.name in coarse}
        self.space = LabelSpace.choose(table, wanted.classes, groups if len(groups) == len(table) else None)
        if not photos:
            raise DataError(listing.place, f"{findings.tool}, but no photo in it", "check that the export is whole")
        found = self._find(listing, photos, findings)
        ids = identities(list(found))
        chosen = members(listing, wanted, [d.split for d in found.values()], ids, findings)
        records = self._records(
            [(ids[k], *pair) for k, pair in enumerate(found.items()) if k in chosen], position, findings
        )
        name = f"{listing.place} {split}" if split != "all" else str(listing.place)
        super().__init__(name, self.space.classes, records, wanted.transform)

    def _records(
        self, chosen: Sequence[tuple[str, str, Drawn]], position: dict[str, int], findings: Findings
    ) -> Iterator[tuple[Any, ...]]:
        """Id, photo, size and objects of each photo, one after another: all at once would be much memory."""
        for name, file, drawn in chosen:
            try:
                size = drawn.size or self._size(file, drawn.objects)
            except DataError as error:
                if not findings.skip_bad:
                    raise
                findings.repair("broken photos skipped", error.file.name)
                continue
            yield name, file, size, [o for one in drawn.objects if (o := self._object(one, size, position, findings))]

    def _size(self, file: str, objects: list[Object]) -> tuple[int, int]:
        """H, W of a photo whose annotation does not say it: upright, unless outlines fit it only as it is stored."""
        self.tells_sizes = False
        with open_image(self.root / file) as image:
            size, stored = oriented_size(image, self.exif), (image.height, image.width)
        if size == stored or self.exif != "auto":
            return size
        height, width = reach([decoded(one.outline) for one in objects if not one.unit])
        beyond = height > size[0] + 1 or width > size[1] + 1
        return stored if beyond and height <= size[1] + 1 and width <= size[0] + 1 else size

    def _find(self, listing: Listing, photos: list[Drawn], findings: Findings) -> dict[str, Drawn]:
        """Photo, relative → what is drawn in it; entries of one photo are put together."""
        found: dict[str, Drawn] = {}
        missing = []
        for drawn in photos:
            file = listing.find(drawn.name, str(PurePosixPath(drawn.file).parent), findings, drawn.near)
            if file is None:
                missing.append(drawn.name)
            elif file in found and found[file].file != drawn.file:
                raise DataError(
                    listing.place,
                    f"{file} is described by {found[file].file} and by {drawn.file}",
                    f"remove one of the two, or name the file to use: --data {listing.root / drawn.file}",
                )
            elif file in found:
                findings.repair("entries of a photo that another entry describes too, put together", file)
                found[file].objects += drawn.objects
            else:
                found[file] = drawn
        if missing and (not findings.skip_bad or not found):
            raise DataError(
                listing.place,
                f"{len(missing)} of {len(photos)} photos are not in the folder: {listed(missing)}",
                "put them there, or go on without them: --skip-bad",
            )
        findings.repair("photos that are not there left out", listed(missing, 3), len(missing))
        unnamed = [file for file in listing.photos if file not in found]
        findings.assume("pictures that no annotation names are not read", listed(unnamed, 2), len(unnamed))
        return found

    def _object(
        self, one: Object, size: tuple[int, int], position: dict[str, int], findings: Findings
    ) -> tuple[int, list[Any], bool, float | None] | None:
        """Class, shapes, is crowd, area; None where there is nothing to draw."""
        if one.cutout is not None:
            mask, left, top = one.cutout
            mask = placed(np.asarray(mask, bool), left, top, size)
            if not mask.any():
                findings.repair("masks without a pixel left out", one.where)
                return None
            shape: Any = runs_of(mask)
        else:
            shape = clean_outline(one.outline, size, findings, one.where, one.unit)
            if shape is None:
                return None
            if one.holes:
                shape = with_holes(shape, one.holes, size)
        return position[one.label], [shape], one.crowd, one.area

    def image_id(self, index: int) -> int | str:
        return self.records[index][0]

    def photo_path(self, index: int) -> Path:
        return self.root / self.records[index][1]

    def annotation(self, index: int) -> Shapes:
        _, _, size, objects = self.records[index]
        kept = [(label, *o[1:]) for o in objects if (label := self.space.labels[o[0]]) != LEFT_OUT]
        labels, shapes, crowds, areas = (list(column) for column in zip(*kept, strict=True)) if kept else ([],) * 4
        known = np.array([np.nan if area is None else area for area in areas], np.float64)
        annotation = Shapes(
            np.array(labels, np.int64),
            np.ones(len(labels), bool),
            np.array(crowds, bool),
            tuple(tuple(s) for s in shapes),
            known,
            tuple(size),
        )
        if np.isnan(known).any():
            known[np.isnan(known)] = annotation.areas()[np.isnan(known)]
        return annotation


def reach(outlines: Sequence[Any]) -> tuple[float, float]:
    """How far down and to the right outlines go; what is no ring of numbers is passed over."""
    down = right = 0.0
    for ring in (ring for outline in outlines if isinstance(outline, list) for ring in outline):
        if isinstance(ring, list) and len(ring) > 1 and all(isinstance(x, int | float) for x in ring):
            down, right = max(down, *ring[1::2]), max(right, *ring[::2])
    return down, right


def with_holes(shape: Any, holes: list[list[float]], size: tuple[int, int]) -> dict[str, Any]:
    return runs_of(inside(shape, size) & ~inside(holes, size))


def table_of(contents: Contents, photos: Sequence[Drawn]) -> tuple[ClassInfo, ...]:
    names = contents.classes
    if names is None:
        names = sorted({one.label for drawn in photos for one in drawn.objects})
    colors = contents.colors or {}
    return tuple(ClassInfo(name, True, tuple(colors.get(name) or class_color(k)), k) for k, name in enumerate(names))


def identities(files: Sequence[str]) -> list[str]:
    """A name for each photo: its file's without ending where that is unique, else with its folders."""
    stems = [PurePosixPath(file).stem for file in files]
    times: dict[str, int] = {}
    for stem in stems:
        times[stem] = times.get(stem, 0) + 1
    return [stem if times[stem] == 1 else file.replace("/", "_") for stem, file in zip(stems, files, strict=True)]
