"""The photos of a folder, and why each other file is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mask2former.inference.photo import FORMATS, UNREADABLE, reads_heif


@dataclass
class PhotoFiles:
    """What a folder holds: photos that are read; photos that are not, each with the reason; other files."""

    photos: list[Path] = field(default_factory=list)
    unreadable: dict[Path, str] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)  # no pictures by their names, hidden files among them

    @classmethod
    def of(cls, folder: Path, recursive: bool = False) -> PhotoFiles:
        """By the names of the files, sorted. Raises OSError where the folder cannot be read."""
        found, reasons = cls(), reasons_by_ending()
        for file in sorted(folder.rglob("*") if recursive else folder.iterdir()):
            if not file.is_file():
                continue
            reason = reasons.get(file.suffix.lower(), "")
            if file.name.startswith(".") or reason == "":  # `._photo.jpg` is macOS's note beside photo.jpg
                found.others.append(file)
            elif reason is None:
                found.photos.append(file)
            else:
                found.unreadable[file] = reason
        return found

    def add(self, more: PhotoFiles) -> None:
        """Take up what is not there yet."""
        self.photos = list(dict.fromkeys([*self.photos, *more.photos]))
        self.unreadable |= more.unreadable
        self.others = list(dict.fromkeys([*self.others, *more.others]))

    def said(self) -> Iterator[str]:
        """What is left out, a line for each reason."""
        for reason, count in Counter(self.unreadable.values()).items():
            first = next(file.name for file, why in self.unreadable.items() if why == reason)
            named = first if count == 1 else f"{count} photos, {first} the first"
            yield f"left out: {named}: {reason}"
        if self.others:
            kinds = Counter(file.suffix.lower() or "no ending" for file in self.others if file.name[0] != ".")
            kinds.update({"hidden": n} if (n := sum(file.name[0] == "." for file in self.others)) else {})
            yield "no photos: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def reasons_by_ending() -> dict[str, str | None]:
    """Why a file of an ending (small letters, with the dot) is not read; None where it is. Others are no pictures."""
    Image.init()
    reasons: dict[str, str | None] = dict(UNREADABLE)
    for name, endings in FORMATS.items():
        reads = name in Image.OPEN if name != "HEIF" else reads_heif()
        missing = "install pillow-heif to read it" if name == "HEIF" else f"this Pillow has no {name}"
        reasons |= dict.fromkeys(endings, None if reads else f"{name}: {missing}")
    return reasons
