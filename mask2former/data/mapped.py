"""Photos with a picture of classes each, in numbers, colours, or 0 and 255; perhaps with one of objects too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mask2former.data.annotation import IdMap, values_in
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.files import load, mode_of, open_image, read_map
from mask2former.data.findings import Findings
from mask2former.data.label_space import LEFT_OUT, LabelSpace
from mask2former.data.listing import Listing, split_of
from mask2former.data.outlined import identities
from mask2former.data.split import members
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError
from mask2former.modeling.config import class_color
from mask2former.structures import ClassInfo

GREY = 0x010101  # R = G = B
VOID_NAMES = ("void", "unlabelled", "unlabeled", "ignore", "__ignore__", "ignored", "unknown")
BACKGROUND_NAMES = ("background", "_background_", "__background__", "bg", "other", "others", "none")


class MappedPhotos(SegmentationDataset):
    """The semantic task; with a picture of objects for each photo, all three tasks.

    Arguments:
        triples: photo, picture of classes, picture of objects or None, relative to the listing's root.
        values: value in the picture of classes → name of the class; None for what is ignored.
        as_colors: values are colours, R + 256 G + 65536 B; otherwise what a grey or palette picture holds.
        splits: of each photo; by default what its path says.
    """

    def __init__(
        self,
        listing: Listing,
        triples: Sequence[tuple[str, str, str | None]],
        values: Mapping[int, str | None],
        as_colors: bool,
        wanted: Wanted,
        findings: Findings,
        splits: Sequence[str | None] | None = None,
    ):
        self.root, self.as_colors, self.exif = listing.root, as_colors, wanted.exif
        with_objects = all(objects is not None for _, _, objects in triples)
        if not with_objects:
            self.tasks = ("semantic",)
        names = list(dict.fromkeys(name for name in values.values() if name is not None))
        background = next((name for name in names if name.lower() in BACKGROUND_NAMES), None)
        if wanted.background == "ignore" and background is not None:
            names.remove(background)
        colors = {name: rgb(v) if as_colors else None for v, name in values.items()}
        table = tuple(
            ClassInfo(name, with_objects and name != background, colors[name] or class_color(k), k)
            for k, name in enumerate(names)
        )
        self.values = {v: names.index(name) if name in names else None for v, name in values.items()}
        self.space = LabelSpace.choose(table, wanted.classes)
        ids = identities([photo for photo, _, _ in triples])
        splits = splits if splits is not None else [split_of(photo) for photo, _, _ in triples]
        chosen = members(listing, wanted, splits, ids, findings)
        records = [(ids[k], *triple) for k, triple in enumerate(triples) if k in chosen]
        name = f"{listing.place} {wanted.split}" if wanted.split != "all" else str(listing.place)
        super().__init__(name, self.space.classes, records, wanted.transform)

    def image_id(self, index: int) -> str:
        return self.records[index][0]

    def photo_path(self, index: int) -> Path:
        return self.root / self.records[index][1]

    def annotation(self, index: int) -> IdMap:
        _, _, mask, objects = self.records[index]
        path = self.root / mask
        values = read_values(path, self.as_colors)
        found = values_in(values)
        if unknown := [value for value in found if value not in self.values]:
            shown = [str(rgb(value)) if self.as_colors else str(value) for value in unknown[:5]]
            what = "colours" if self.as_colors else "values"
            raise DataError(
                path,
                f"{len(unknown)} {what} that are no class, such as {', '.join(shown)}, "
                f"at {np.isin(values, unknown).mean():.2%} of its pixels",
                "add them to the table of classes; if edges were smoothed or compressed, export it anew as PNG",
            )
        if objects is not None:
            return self._with_objects(values, self.root / objects)
        segments = []
        for value in found:
            label = self._label(value)
            if label != LEFT_OUT:
                segments.append((value, label, False, False))
        return IdMap.from_values(values, segments)

    def _label(self, value: int) -> int:
        number = self.values[value]
        return LEFT_OUT if number is None else self.space.labels[number]

    def _with_objects(self, classes: np.ndarray, path: Path) -> IdMap:
        """Things by the picture of objects, each of the class that most of it has; stuff by that of classes."""
        objects = read_values(path, self.as_colors)
        if objects.shape != classes.shape:
            raise DataError(path, f"of the size {objects.shape}", f"expected that of the classes, {classes.shape}")
        present = values_in(classes)
        combined, segments = np.zeros(classes.shape, np.int32), []
        for value in present:  # stuff first; things over it
            label = self._label(value)
            if label != LEFT_OUT and not self.space.classes[label].is_thing:
                segments.append((len(segments) + 1, label, False, False))
                combined[classes == value] = len(segments)
        for thing in values_in(objects):
            inside = objects == thing
            labels = [(np.count_nonzero(classes[inside] == value), value) for value in present]
            _, value = max(labels)
            label = self._label(value)
            if thing == 0 or label == LEFT_OUT or not self.space.classes[label].is_thing:
                continue  # background, or the void line around things
            segments.append((len(segments) + 1, label, True, False))
            combined[inside & (classes == value)] = len(segments)
        return IdMap.from_values(combined, segments)


def read_values(path: Path, as_colors: bool) -> np.ndarray:
    """(H, W) integers: colours as R + 256 G + 65536 B, or numbers, also where a grey picture was saved in colour."""
    if not as_colors:
        values = read_map(path)
        if is_grey(path) and not (values % GREY).any():
            return values // GREY
        return values
    if mode_of(path) == "P":
        colors = np.asarray(load(path, open_image(path)).convert("RGBA")).view("<u4")[..., 0] & 0xFFFFFF
        return colors.astype(np.int32)
    values = read_map(path)
    return values.astype(np.int32) * GREY if mode_of(path) in ("L", "1", "I;16", "I") else values


def is_grey(path: Path) -> bool:
    return mode_of(path) in ("RGB", "RGBA")


def packed(color: Sequence[int]) -> int:
    red, green, blue = color
    return red + 256 * green + 65536 * blue


def rgb(value: int) -> tuple[int, int, int]:
    return value & 255, value >> 8 & 255, value >> 16


def void_or(name: str, findings: Findings) -> str | None:
    """None for the name of what is no class, which is said."""
    if name.strip().lower() in VOID_NAMES:
        findings.assume("classes by their name taken for no class, and ignored", name)
        return None
    return name
