"""Our own plain folder, images/ and masks/ with classes.txt or classes.json, recognised and opened without options."""

from __future__ import annotations

from mask2former.data.binary import class_names, is_binary, values_of
from mask2former.data.binary import open_export as open_binary
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import Findings
from mask2former.data.folder import FolderDataset
from mask2former.data.joined import JoinedDataset
from mask2former.data.listing import Listing, parent, split_of
from mask2former.data.mapped import BACKGROUND_NAMES
from mask2former.data.mask_numbers import SAID
from mask2former.data.split import members
from mask2former.data.wanted import Wanted

KIND = "folder"


def recognise(listing: Listing) -> str | None:
    if listing.is_file or not {"classes.txt", "classes.json"} & listing.present:
        return None
    folders = {part for folder in listing.folders for part in folder.split("/")}
    return "a plain folder" if {"images", "masks"} <= folders else None


def open_export(listing: Listing, wanted: Wanted, findings: Findings) -> SegmentationDataset:
    masks = [file for file in listing.photos if "masks" in parent(file).split("/")]
    values = values_of(listing, masks)
    as_text = "classes.json" not in listing.present
    names = class_names(listing)
    if len(names) <= 2 and is_binary(values) and (255 in values or len(names) == 1 and as_text):
        if 255 in values:
            findings.conclude("255 in the masks is a class and not `ignore`, as 0 is the only other value")
        return open_binary(listing, wanted, findings)
    background = wanted.background
    if as_text and background is None:
        background = background_of(names, values, findings)
    folders = split_folders_of(listing)
    chosen = list(folders.values()) if wanted.split == "all" else [folders.get(wanted.split, folders.get("train"))]
    parts = [FolderDataset(listing.root, f or "all", wanted.classes, background, wanted.transform) for f in chosen]
    for part in parts:
        if part.scheme in SAID:
            findings.repair(SAID[part.scheme], "", len(part))
            part.notes = tuple(note for note in part.notes if SAID[part.scheme] not in note)
    dataset = parts[0] if len(parts) == 1 else JoinedDataset(parts)
    if wanted.split == "all" or wanted.split in folders and len(folders) > 1:
        return dataset
    ids = [str(dataset.image_id(k)) for k in range(len(dataset))]
    kept = members(listing, wanted, [None] * len(ids), ids, findings)
    part = dataset.subset(sorted(kept))
    part.name = f"{listing.place} {wanted.split}"
    return part


def split_folders_of(listing: Listing) -> dict[str | None, str | None]:
    """Split → the name of its folder, {"val": "valid"}; {None: None} of a folder that is not split."""
    found: dict[str | None, str | None] = {}
    for file in listing.photos:
        parts = file.split("/")[:-1]
        if "images" in parts:
            split = split_of(file)
            found[split] = next((part for part in parts if split and split_of(f"{part}/") == split), None)
    if None in found and len(found) > 1:
        del found[None]  # `FolderDataset` reads the folders of splits alone
    if "test" in found and "val" not in found:
        found["val"] = found.pop("test")
    return found


def background_of(names: list[str], values: set[int], findings: Findings) -> str:
    """Whether 0 is the first class of classes.txt or no class, as `FolderDataset` wants it."""
    numbers = {value // 1000 if value >= 1000 else value for value in values} - {255}
    if names[0].lower() in BACKGROUND_NAMES or len(names) not in numbers:
        findings.conclude(f"0 in the masks is the first class, {names[0]} (--background ignore: 0 is no class)")
        return "class"
    findings.conclude(f"1 in the masks is the first class, {names[0]}, and 0 is ignored (--background class: 0 is)")
    return "ignore"
