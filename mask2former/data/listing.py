"""What lies in a folder of data, looked through once; and finding a photo in it by the name that a tool wrote down."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

import msgspec

from mask2former.data.findings import Findings
from mask2former.errors import DataError
from mask2former.inference.photo_files import reasons_by_ending
from mask2former.schema import read_json

T = TypeVar("T")
SPLIT_FILE = "mask2former-split.json"  # our own: see `split`
LOOKED_AT = 12  # JSON files of a folder
MOST = 2_000_000  # files
UPLOAD_MARK = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded photo


class Listing:
    """The files of a folder, or of the one an annotation file lies in; hidden ones and Mac companions are passed over.

    place: a folder, or one annotation file, which is then the only one that is looked at.
    """

    def __init__(self, place: Path | str):
        self.place = Path(place)
        if not self.place.exists():
            raise DataError(
                self.place, "no such file or folder", "check its name, and that you are where it starts from"
            )
        self.is_file = self.place.is_file()
        self.root = self.place.parent if self.is_file else self.place
        self._keys: dict[str, frozenset[str]] = {}
        self.files, self.companions = walked(self.root)
        while not self.is_file and (only := {file.partition("/")[0] for file in self.files}) and len(only) == 1:
            inner = self.root / only.pop()  # as an archive unpacks: FOLDER/dataset/…
            if not inner.is_dir() or inner.name.lower() in OF_NAME:
                break
            self.root = inner
            self.files = [file.partition("/")[2] for file in self.files]
        if self.is_file and not self.photos and self.root.resolve().parent != self.root.resolve():
            self.root = self.root.resolve().parent  # of annotations/FILE, whose photos lie beside annotations/
            self.files, self.companions = walked(self.root)
            del self.photos
        self.only = self.place.resolve().relative_to(self.root.resolve()).as_posix() if self.is_file else None

    def ending(self, *endings: str) -> list[str]:
        """Files that may be annotations: with these endings; of a FILE that was named, it alone."""
        if self.is_file:
            return [self.only] if self.only.lower().endswith(endings) else []
        return [name for name in self.files if name.lower().endswith(endings) and not name.endswith(SPLIT_FILE)]

    def text(self, file: str) -> str:
        """DataError unless it is UTF-8."""
        try:
            return (self.root / file).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(self.root / file, f"no UTF-8 text ({error})", "save it as UTF-8") from None

    def json(self, file: str, kind: type[T]) -> T:
        remedy = "export it anew, or take the file out of the folder"
        return read_json(self.root / file, kind, lambda problem: DataError(self.root / file, problem, remedy))

    def keys(self, file: str) -> frozenset[str]:
        """Names of what a JSON file holds at its top; none where it is no object, or broken."""
        if file not in self._keys:
            try:
                top = self.json(file, dict[str, msgspec.Raw])
            except DataError:
                top = {}
            self._keys[file] = frozenset(top)
        return self._keys[file]

    def some_json(self) -> list[str]:
        """JSON files to look into, a few of each folder."""
        of_folder = grouped(self.ending(".json"), parent)
        return [file for files in of_folder.values() for file in files[:LOOKED_AT]]

    def named(self, name: str) -> list[str]:
        """Files of this very name, in any folder."""
        return [file for file in self.files if file.rpartition("/")[2] == name]

    @cached_property
    def folders(self) -> set[str]:
        return {str(PurePosixPath(file).parent) for file in self.files}

    @cached_property
    def photos(self) -> list[str]:
        """Pictures that are read."""
        return [file for file in self.files if self._reasons.get(ending_of(file), "") is None]

    @cached_property
    def unreadable(self) -> dict[str, str]:
        """Photos of kinds that are not read → why."""
        reasons = {file: self._reasons.get(ending_of(file)) for file in self.files}
        return {file: reason for file, reason in reasons.items() if reason}

    @cached_property
    def _reasons(self) -> dict[str, str | None]:
        return reasons_by_ending()

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Photos by the last part of their name, in small letters."""
        return grouped(self.photos, lambda file: plainly(file.rpartition("/")[2]))

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        return grouped(self.photos, lambda file: plainly(PurePosixPath(file).stem))

    @cached_property
    def present(self) -> set[str]:
        return set(self.files)

    def find(self, written: str, base: str, findings: Findings, near: Sequence[str] = ()) -> str | None:
        """The photo that a tool calls `written`, relative to the root; None where there is none.

        Arguments:
            base: folder of the file that says so, relative.
            near: folders to look in first.
        Raises DataError where several photos could be meant.
        """
        name = written.replace("\\", "/")
        clean = str(PurePosixPath(name)) if name else ""
        for folder in (base, *near, ".", "images", f"{base}/images"):
            tried = posixpath.normpath(f"{folder}/{clean}")
            if not clean.startswith("/") and tried in self.present:
                if name != written:
                    findings.repair("paths with back slashes", written)
                return tried
        found = self._by_name(unquote(clean.split("?d=")[-1]), base, near, findings, written)
        return found

    def _by_name(self, name: str, base: str, near: Sequence[str], findings: Findings, written: str) -> str | None:
        last = name.rpartition("/")[2]
        tries = [
            (self.by_name.get(plainly(last), []), "paths found by file name"),
            (self.by_name.get(plainly(UPLOAD_MARK.sub("", last)), []), "photos found without the mark of their upload"),
            (self.by_stem.get(plainly(PurePosixPath(last).stem), []), "photos found under another ending"),
        ]
        for found, how in tries:
            if found:
                findings.repair(how, written)
                return self._nearest(found, name, base, near)
        return None

    def _nearest(self, found: list[str], name: str, base: str, near: Sequence[str]) -> str:
        """Of several photos of one name the one whose path ends most like the written one."""

        def likeness(file: str) -> tuple[int, bool, bool]:
            theirs, ours = file.split("/")[::-1], name.split("/")[::-1]
            same = next((k for k, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a.lower() != b.lower()), 99)
            folder = str(PurePosixPath(file).parent)
            return same, any(folder == n for n in near), base != "." and folder.startswith(base)

        ranked = sorted(found, key=likeness, reverse=True)
        if len(ranked) > 1 and likeness(ranked[0]) == likeness(ranked[1]):
            raise DataError(
                self.root, f"{name} could be {ranked[0]} or {ranked[1]}", "write its folder into the annotations"
            )
        return ranked[0]


def walked(root: Path) -> tuple[list[str], int]:
    """The files below a folder, relative, with forward slashes, in order; and how many companions of a Mac's there are
    (._NAME, __MACOSX), which are not among them, nor is anything hidden."""
    files, companions = [], 0
    for folder, folders, names in os.walk(root, followlinks=True):
        companions += "__MACOSX" in folders
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__MACOSX")
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in sorted(names):
            if name.startswith("."):
                companions += name.startswith("._")
            else:
                files.append(name if inside == "." else f"{inside}/{name}")
        if len(files) > MOST:
            raise DataError(root, f"more than {MOST} files", "name the folder of one dataset")
    return files, companions


def ending_of(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def plainly(name: str) -> str:
    """A name as it is compared: small letters, and accents in one of the two ways that systems write them."""
    return unicodedata.normalize("NFC", name).lower()


def grouped(files: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(key(file), []).append(file)
    return groups


def parent(file: str) -> str:
    """The folder of a relative path, "." for the root."""
    return str(PurePosixPath(file).parent)


SPLITS = {
    "train": ("train", "training", "trn", "tr"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
OF_NAME = {word: split for split, words in SPLITS.items() for word in words}


def split_of(path: str) -> str | None:
    """The split that a path speaks of, "valid/images/a.jpg" → "val"; the part nearest to the root decides."""
    parts = path.lower().split("/")
    for part in parts[:-1]:
        for word in re.split(r"[^a-z]+", part):
            if word in OF_NAME:
                return OF_NAME[word]
    return None
