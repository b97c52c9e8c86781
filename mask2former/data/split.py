"""Which photos are for training and which for validation, where the data says so and where it does not.

Where it does not, a fifth is held out: the photos whose hashed names come first, so that it does not depend on their
order. The choice is written down beside the data and read again, so that it stays when photos are added.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from mask2former.data.findings import Findings
from mask2former.data.listing import SPLIT_FILE, SPLITS, Listing
from mask2former.data.wanted import Wanted
from mask2former.errors import DataError
from mask2former.schema import read_json

SEED = 0
HELD_OUT = 0.2  # of the photos


def members(
    listing: Listing, wanted: Wanted, given: Sequence[str | None], ids: Sequence[str], findings: Findings
) -> set[int]:
    """Positions of the photos of a split.

    Arguments:
        wanted: of which `split` and `hold_out` count.
        given: the split that the data gives each photo, None where it gives none.
    """
    split = wanted.split
    if split == "all":
        return set(range(len(ids)))
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: expected train, val, test, or all")
    of_split = {name: {k for k, theirs in enumerate(given) if theirs == name} for name in SPLITS}
    unsplit = {k for k, theirs in enumerate(given) if theirs is None}
    if of_split["val"] and (of_split["train"] or unsplit):
        of_split["train"] |= unsplit
        findings.assume("photos that belong to no split are taken for training", "", len(unsplit))
        return chosen(listing, split, of_split)
    if of_split["test"] and of_split["train"] and split != "test":
        findings.assume("photos of test are held out for validation, as there is no val", "", len(of_split["test"]))
        of_split["val"] = of_split["test"]
        return chosen(listing, split, of_split)
    if split == "test":
        return chosen(listing, split, of_split)
    pool = sorted(unsplit | of_split["train"] | of_split["val"])
    if not pool:
        return chosen(listing, split, of_split)
    if wanted.hold_out == "none" or wanted.hold_out == "kept" and not split_file(listing).is_file():
        findings.conclude("the data is not split, and all of it is taken")
        return set(pool)
    held_out = hold_out(listing, [ids[k] for k in pool], findings)
    val = {k for k in pool if ids[k] in held_out}
    return val if split == "val" else set(pool) - val


def chosen(listing: Listing, split: str, of_split: dict[str, set[int]]) -> set[int]:
    if not of_split[split]:
        there = ", ".join(name for name, photos in of_split.items() if photos)
        raise DataError(listing.place, f"has no photo of the split {split}", f"it has {there or 'none'}; or take all")
    return of_split[split]


def hold_out(listing: Listing, ids: Sequence[str], findings: Findings) -> set[str]:
    """The photos for validation: as written down, or chosen now and written down."""
    if len(ids) < 2:
        raise DataError(
            listing.place,
            f"{len(ids)} photo cannot be split into train and val",
            "take all of it: split='all', or add photos",
        )
    file = split_file(listing)
    if file.is_file():
        kept = read_json(file, dict[str, int | list[str]], lambda problem: DataError(file, problem, "delete the file"))
        val, train = set(kept.get("val", [])), set(kept.get("train", []))
        if val & set(ids) and set(ids) - val:
            findings.assume(f"photos held out for validation, as {file.name} says", "", len(val & set(ids)))
            new = set(ids) - val - train
            findings.assume(f"photos that {file.name} does not name are taken for training", "", len(new))
            return val & set(ids)
    by_hash = sorted(ids, key=lambda name: hashlib.blake2b(f"{SEED} {name}".encode(), digest_size=8).digest())
    val = by_hash[: max(1, round(HELD_OUT * len(ids)))]
    where = f"written to {file.name}"
    try:
        write(file, {"seed": SEED, "val": sorted(val), "train": sorted(set(ids) - set(val))})
    except OSError as error:
        where = f"{file.name} could not be written: {error.strerror}"
    findings.assume(
        f"of {len(ids)} photos held out for validation, as the data is not split (seed {SEED}; {where})", "", len(val)
    )
    return set(val)


def split_file(listing: Listing) -> Path:
    return listing.root / (SPLIT_FILE if not listing.is_file else f"{listing.place.stem}-{SPLIT_FILE}")


def write(file: Path, content: dict) -> None:
    """Whole or not at all, whoever else writes it."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
