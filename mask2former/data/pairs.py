"""Which picture is a mask, and of which photo: by folder and by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from mask2former.data.findings import Findings, listed
from mask2former.data.listing import OF_NAME, Listing, parent
from mask2former.errors import DataError

MASK_FOLDER = re.compile(
    r"mask|label|annot|segmentation|ground.?truth|(^|[^a-z])(gt|seg|targets?)([^a-z]|$)", re.IGNORECASE
)
MASK_MARK = re.compile(r"[_\-. ](masks?|l|labels?|gt|seg|segmentation|annotation|p|color_?mask|ground_?truth)$", re.I)
PHOTO_MARK = re.compile(r"[_\-. ](sat|image|img|photo|rgb)$", re.I)
MASK_ENDINGS = (".png", ".bmp", ".gif", ".tif", ".tiff", ".jpg", ".jpeg")


def pairs(listing: Listing, findings: Findings, is_mask: Callable[[str], bool] | None = None) -> list[tuple[str, str]]:
    """(photo, mask) of each photo, by name.

    is_mask: says of a file whether it is a mask; by default its folder or the end of its name does.
    """
    is_mask = is_mask or looks_like_mask
    masks: dict[str, list[str]] = {}
    photos = []
    for file in listing.photos:
        if is_mask(file):
            masks.setdefault(bare(file, MASK_MARK), []).append(file)
        else:
            photos.append(file)
    found, alone, used = [], [], set()
    for photo in photos:
        stem = PurePosixPath(photo).stem.lower()
        options = masks.get(stem) or masks.get(bare(photo, MASK_MARK)) or masks.get(bare(photo, PHOTO_MARK)) or []
        options = sorted(options, key=lambda mask: (-likeness(photo, mask), mask))
        if len(options) > 1 and likeness(photo, options[0]) == likeness(photo, options[1]):
            raise DataError(
                listing.root, f"{options[0]} and {options[1]} could both be the mask of {photo}", "leave one of them"
            )
        if options:
            found.append((photo, options[0]))
            used.add(options[0])
        else:
            alone.append(photo)
    if found:
        findings.repair("photos without a mask left out", listed(alone, 3), len(alone))
        unused = [mask for group in masks.values() for mask in group if mask not in used]
        findings.repair("masks without a photo left out", listed(unused, 3), len(unused))
    return found


def looks_like_mask(file: str) -> bool:
    folders = parent(file).split("/")
    return any(MASK_FOLDER.search(folder) for folder in folders) or bool(MASK_MARK.search(PurePosixPath(file).stem))


def bare(file: str, mark: re.Pattern) -> str:
    return mark.sub("", PurePosixPath(file).stem.lower())


def likeness(photo: str, mask: str) -> int:
    """How many folders two files have in common, the words for masks and photos left out; splits count most."""
    ours, theirs = (set(re.split(r"[^a-z0-9]+|annot", parent(file).lower())) for file in (photo, mask))
    splits = {OF_NAME[w] for w in ours if w in OF_NAME}, {OF_NAME[w] for w in theirs if w in OF_NAME}
    return (
        len(ours & theirs)
        + 10 * len(splits[0] & splits[1])
        - 10 * bool(splits[0] and splits[1] and not splits[0] & splits[1])
    )
