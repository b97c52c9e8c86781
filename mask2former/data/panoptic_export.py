"""COCO panoptic files under any name: the JSON with `segments_info`, its folder of PNG files and the photos found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mask2former.data.coco_export import near
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.dataset import SegmentationDataset, Transform
from mask2former.data.findings import Findings, listed
from mask2former.data.joined import JoinedDataset
from mask2former.data.listing import Listing, parent, plainly, split_of
from mask2former.data.split import members
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError

KIND = "coco-panoptic"


def files(listing: Listing) -> list[str]:
    found = []
    for file in listing.some_json():
        if {"images", "categories", "annotations"} <= listing.keys(file):
            with (listing.root / file).open("rb") as text:
                if any(b'"segments_info"' in part for part in iter(lambda: text.read(1 << 24), b"")):
                    found.append(file)
    return found


def recognise(listing: Listing) -> str | None:
    return "COCO panoptic" if files(listing) else None


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    found = files(listing)
    splits = {file: split_of(f"{file[:-5]}/") for file in found}
    if len(found) > 1 and None in splits.values():
        raise DataError(listing.place, f"several panoptic files: {listed(found)}", "name the one to use: --data FILE")
    chosen = [file for file in found if wanted.split == "all" or splits[file] == wanted.split]
    if chosen and (wanted.split != "train" or len(found) > 1):
        parts = [open_file(listing, file, wanted, findings) for file in chosen]
        return parts[0] if len(parts) == 1 else JoinedDataset(parts)
    if len(found) > 1:
        raise DataError(listing.place, f"no panoptic file of the split {wanted.split}", f"it has {listed(found)}")
    whole = open_file(listing, found[0], wanted, findings)
    ids = [str(whole.image_id(k)) for k in range(len(whole))]
    part = whole.subset(sorted(members(listing, wanted, [None] * len(ids), ids, findings)))
    part.name = f"{listing.place} {wanted.split}"
    return part


def open_file(listing: Listing, file: str, wanted: Wanted, findings: Findings) -> CocoPanoptic:
    maps = maps_of(listing, file)
    instances = listing.root / parent(file) / PurePosixPath(file).name.replace("panoptic_", "instances_")
    official = instances if instances.is_file() and instances.name != PurePosixPath(file).name else None
    return FoundPanoptic(listing, file, listing.root / maps, wanted.classes, wanted.transform, official, findings)


def maps_of(listing: Listing, file: str) -> str:
    """The folder of the PNG files: named like the JSON, or the one that holds the first file named in it."""
    beside = file[: -len(".json")]
    if beside in listing.folders:
        return beside
    from mask2former.data.coco_panoptic import PanopticFile

    first = listing.json(file, PanopticFile).annotations[:1]
    name = first[0].file_name if first else ""
    folders = {parent(f) for f in listing.files if f.endswith("/" + name)}
    if len(folders) != 1:
        raise DataError(
            listing.root / file,
            f"found {len(folders)} folders with {name!r}",
            f"name the folder of PNG files {Path(beside).name}",
        )
    return folders.pop()


class FoundPanoptic(CocoPanoptic):
    """`CocoPanoptic` whose photos lie anywhere in a folder."""

    def __init__(
        self,
        listing: Listing,
        file: str,
        maps: Path,
        classes: str | Sequence[str] | None,
        transform: Transform | None,
        instances: Path | None,
        findings: Findings,
    ):
        super().__init__(listing.root, listing.root / file, maps, classes, transform, instances)
        folder = str(PurePosixPath(file).parent)
        inside = maps.relative_to(listing.root).as_posix()
        self.found: list[str] = []
        missing = []
        for record in self.records:
            photo = listing.find(record[1], folder, findings, near(file))
            if photo is not None and parent(photo) == inside:  # the PNG of ids, which has the photo's name
                others = [p for p in listing.by_stem[plainly(PurePosixPath(photo).stem)] if parent(p) != inside]
                photo = others[0] if len(others) == 1 else None
            missing += [record[1]] * (photo is None)
            self.found.append(photo or record[1])
        if missing:
            raise DataError(
                self.file, f"{len(missing)} photos are not in the folder: {listed(missing)}", "put them there"
            )
        self.names = dict(zip((record[1] for record in self.records), self.found, strict=True))

    def photo_path(self, index: int) -> Path:
        return self.photos / self.names[self.records[index][1]]
