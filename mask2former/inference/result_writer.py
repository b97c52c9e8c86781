"""Results as files in a folder: each photo's pictures as they come, one JSON file about all of them at the end."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from mask2former.inference.formats import FORMATS, image_id_of, panoptic_json, rle_encoder
from mask2former.output_folder import OutputFolder
from mask2former.structures import TASKS, ClassInfo
from mask2former.unfinished import remove
from mask2former.writing import as_json, as_picture, is_full, longest_name, safe_name, write_together

FORMAT_OF_TASK = {"panoptic": "panoptic", "instance": "coco", "semantic": "semantic"}
PICTURES = ("panoptic", "semantic")  # formats of which each photo has one
TABLES = ("coco", "panoptic")  # formats that have one JSON file for all photos
NUMBERED = 8  # bytes kept for the number of a name that several photos share


class Result(Protocol):
    """What is written: a `Segmentation`."""

    name: str
    task: str
    classes: Sequence[ClassInfo]

    @property
    def size(self) -> tuple[int, int]: ...
    def overlay(self) -> Image.Image: ...
    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]: ...
    def to_panoptic(self, image_id: int | str, file_name: str) -> tuple[Image.Image, dict[str, Any]]: ...
    def to_semantic(self) -> Image.Image: ...


class ResultWriter:
    """`with ResultWriter(folder) as writer: writer.add(result)`: nothing is there in part, or takes another's name.

    NAME.TASK.jpg is the overlay, NAME.panoptic.png and NAME.semantic.png the formats of those names; panoptic.json and
    coco.json are about all of them. NAME is the photo's, made fit for a file and numbered where another photo has it.
    The folder is this writer's alone until the block ends.
    """

    def __init__(
        self,
        folder: str | Path,
        formats: Sequence[str] | None = None,
        overlay: bool = True,
        alone: bool = False,
        overwrite: bool = False,
        wait: float = 0.0,
    ):
        """
        Args:
            formats: some of FORMATS for every result; None for that of its task, where what it needs is installed.
            alone: for one photo only, whose JSON files are NAME.panoptic.json and NAME.coco.json.
            overwrite: replace what is there under the same names; by default the photo's name is numbered instead, or
                `announce` raises FileExistsError.
            wait: seconds to wait for somebody else who writes into the folder.
        """
        if unknown := [name for name in formats or () if name not in FORMATS]:
            raise ValueError(f"format {unknown[0]!r}: expected some of {FORMATS}")
        self.formats, self.overlay, self.alone, self.overwrite = formats, overlay, alone, overwrite
        self.prefix = ""
        self.path = Path(folder)
        self.folder = OutputFolder(folder, (), overwrite, wait)
        self.coco: list[dict[str, Any]] | None = None
        self.panoptic: dict[str, Any] | None = None
        self.names: dict[int | str, str] = {}  # image id → the photo's name
        self.written: list[Path] = []
        self._announced: set[str] = set()
        self._taken: set[str] = set()
        self._photos: list[tuple[list[Path], int, int]] = []  # of each its pictures, and how much came before it

    def __enter__(self) -> ResultWriter:
        self.folder.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.__exit__()

    def announce(self, names: Iterable[str], tasks: Sequence[str]) -> int:
        """Say which photos are to come, so that a name taken by an earlier run is found out before the work.

        Raises FileExistsError for it, unless overwriting. Returns how many files are going to be replaced.
        """
        wanted = {form for task in tasks for form in self._formats(task)}
        tables = [self._table(form) for form in TABLES if form in wanted]
        announced = [*tables, *(file for name in names for file in self._files(name, tasks))]
        self.folder.announce(announced)
        self._announced = {alike(file) for file in announced}
        for table in set(tables) & set(self.folder.replaced):  # it is about pictures that are about to be replaced
            remove(self.path / table)
        return len(self.folder.replaced)

    def add(self, *results: Result) -> None:
        """Write the pictures of one photo, results of different tasks, all or none."""
        name = self._free_name(results[0].name, [result.task for result in results])
        self.prefix = f"{name}." if self.alone else ""
        image_id = image_id_of(name)
        if self.names.setdefault(image_id, name) != name:
            image_id = name  # 1 and 01 are two photos
        pictures: dict[str, bytes] = {}
        coco: list[dict[str, Any]] = []
        tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for result in results:
            formats = self._formats(result.task)
            if self.overlay:
                pictures[f"{name}.{result.task}.jpg"] = as_picture(result.overlay(), "JPEG", quality=92)
            if "coco" in formats:
                coco += result.to_coco(image_id)
            if "panoptic" in formats:
                picture, annotation = result.to_panoptic(image_id, f"{name}.panoptic.png")
                # maps of ids are small even with little compression, which is several times faster
                pictures[annotation["file_name"]] = as_picture(picture, "PNG", compress_level=1)
                height, width = result.size
                image = {"id": image_id, "file_name": annotation["file_name"], "height": height, "width": width}
                tables.append((image, annotation))
            if "semantic" in formats:
                pictures[f"{name}.semantic.png"] = as_picture(result.to_semantic(), "PNG", compress_level=1)
        paths = write_together(self.path, pictures)
        counts = len(self.coco or ()), len(self.panoptic["images"]) if self.panoptic else 0
        self._photos.append((paths, *counts))
        self.written += paths
        if any("coco" in self._formats(result.task) for result in results):
            self.coco = self.coco or []
            self.coco += coco
        for image, annotation in tables:
            self.panoptic = self.panoptic or panoptic_json(results[0].classes)
            self.panoptic["images"].append(image)
            self.panoptic["annotations"].append(annotation)

    @property
    def photos(self) -> int:
        """How many photos' results are there."""
        return len(self._photos)

    def close(self) -> list[Path]:
        """Write the JSON files. Returns all that was written.

        Where the disk is too full for them, the last photos' results make room, so that what is there is whole; an
        OSError then says how many photos that are.
        """
        given_up = 0
        while True:
            try:
                tables = ((self._table(form), getattr(self, form)) for form in TABLES)
                contents = {name: as_json(table) for name, table in tables if table is not None}
                self.written += write_together(self.path, contents)
                break
            except OSError as error:
                if self.alone or not is_full(error) or not self._photos:
                    for path in self.written if self.alone else ():
                        remove(path)
                    raise
                for _ in range(max(1, len(self._photos) // 8)):
                    self._give_up_last()
                    given_up += 1
                reason = error
        if given_up:
            raise OSError(
                reason.errno,
                f"{reason.strerror}; the last {given_up} photos' results were given up to make room",
            )
        return self.written

    def _give_up_last(self) -> None:
        paths, coco, panoptic = self._photos.pop()
        for path in paths:
            remove(path)
        self.written = [path for path in self.written if path not in paths]
        if self.coco is not None:
            del self.coco[coco:]
        if self.panoptic is not None:
            del self.panoptic["images"][panoptic:], self.panoptic["annotations"][panoptic:]

    def _formats(self, task: str) -> Sequence[str]:
        return formats_of(task) if self.formats is None else self.formats

    def _table(self, form: str) -> str:
        return f"{self.prefix}{form}.json"

    def _files(self, name: str, tasks: Iterable[str]) -> list[str]:
        """The files that a photo of that name has to itself."""
        formats = {form for task in tasks for form in self._formats(task)}
        files = [f"{name}.{task}.jpg" for task in tasks] if self.overlay else []
        files += [f"{name}.{form}.png" for form in PICTURES if form in formats]
        return files + [f"{name}.{form}.json" for form in TABLES if form in formats and self.alone]

    def _free_name(self, name: str, tasks: Sequence[str]) -> str:
        """The photo's own name if it can be had, else one like it that no earlier photo has."""
        for candidate in candidates(name, self.path):
            files = self._files(candidate, tasks)
            mine = {alike(file) for file in (*files, *(f"{candidate}.{task}" for task in tasks))}
            others = [file for file in files if alike(file) not in self._announced and (self.path / file).exists()]
            if not mine & self._taken and (self.overwrite or not others):
                self._taken |= mine
                return candidate
        raise AssertionError  # there is no end of candidates


def candidates(name: str, folder: Path) -> Iterable[str]:
    """Names for the files of a photo: its own, then numbered; all fit for a file in the folder."""
    longest = longest_name(folder) - max(len(f".{part}.json") for part in (*TASKS, *FORMATS))
    yield safe_name(name, longest)
    number = 1
    while True:
        number += 1
        yield f"{safe_name(name, longest - NUMBERED)}_{number}"


def formats_of(task: str) -> list[str]:
    """A task's own format; none, with a warning, where COCO's needs a library that is not installed."""
    wanted = FORMAT_OF_TASK[task]
    if wanted == "coco":
        try:
            rle_encoder()
        except ImportError as error:
            warnings.warn(f"coco.json is left out: {error}", stacklevel=2)
            return []
    return [wanted]


def alike(name: str) -> str:
    """What some file systems do not tell apart: capitals, and the two spellings of letters with accents."""
    return unicodedata.normalize("NFC", name).casefold()
