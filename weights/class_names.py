"""Which classes a checkpoint was trained on, where its own files do not say everything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mask2former.data.classes import dataset_classes, dataset_names
from mask2former.modeling.config import Mask2FormerConfig, class_color
from mask2former.schema import convert, read_settings, short
from mask2former.structures import Byte, ClassInfo, Id, Name
from weights.zoo import TESTS, PublishedModel

OF_THE_FILES = ("pixel_mean", "pixel_std", "hub_size", "hub_sides")  # of a protocol, what a checkpoint's own files say
MOST_CLASSES = 65536
Classes = str | Path | Sequence[str | ClassInfo]  # the name of a class table, a JSON file, names, or ClassInfos


class NamedClass(msgspec.Struct, forbid_unknown_fields=True):
    """A class as a file says it; a colour and an id are made up where they are left out."""

    name: Annotated[Name, Meta(min_length=1)]
    is_thing: bool = True
    color: tuple[Byte, Byte, Byte] | None = None
    dataset_id: Id | None = None


def class_list(classes: Classes) -> tuple[ClassInfo, ...]:
    """What a caller gives for classes, as ClassInfos.

    A string is the name of a dataset's table (`mask2former.data.classes.dataset_names()`) or the path of a JSON file: a
    list of names, or of objects with the fields of ClassInfo. Names alone become things with the VOC colours. Raises
    ValueError where a name is said twice or a value is of another type, FileNotFoundError for a path that is not there.
    """
    if isinstance(classes, str) and classes in dataset_names():
        return dataset_classes(classes)
    if isinstance(classes, str | Path):
        path = Path(classes)
        if not path.is_file():
            raise FileNotFoundError(f"classes={str(classes)!r} is neither a JSON file nor one of {dataset_names()}")
        kind = list[str | dict[str, Any]]
        listed = _named(read_settings(path, kind, lambda problem: ValueError(f"{path}: {problem}")), f"{path}: ")
        _once([c.dataset_id for c in listed], f"{path}: dataset_id")
        return listed
    return _named(list(classes), "")


def _named(classes: list[Any], where: str) -> tuple[ClassInfo, ...]:
    if not 1 <= len(classes) <= MOST_CLASSES:
        count = len(classes) or "the list is empty: no"
        raise ValueError(f"{where}{count} classes; expected 1 to {MOST_CLASSES}")
    listed = []
    for k, item in enumerate(classes):
        if not isinstance(item, ClassInfo):
            given = {"name": item} if isinstance(item, str) else item
            if not isinstance(given, dict):
                raise ValueError(f"{where}class {k} is {short(item)}: expected a name, or an object with a name")
            one = convert(given, NamedClass, lambda problem, k=k: ValueError(f"{where}class {k}: {problem}"))
            number = k if one.dataset_id is None else one.dataset_id
            item = ClassInfo(one.name, one.is_thing, one.color or class_color(k), number)
        listed.append(item)
    _once([c.name for c in listed], f"{where}the name")
    return tuple(listed)


def _once(values: list[Any], what: str) -> None:
    first: dict[Any, int] = {}
    for k, value in enumerate(values):
        if first.setdefault(value, k) != k:
            raise ValueError(f"{what} {short(value)} is that of classes {first[value]} and {k}; give each its own")


def are_named(classes: Sequence[ClassInfo]) -> bool:
    """Whether these are real names, and not the numbered ones of a checkpoint that has none."""
    return not all(re.fullmatch(r"(class |LABEL_)\d+", c.name) for c in classes)


def complete(
    config: Mask2FormerConfig, row: PublishedModel | None = None, guess: PublishedModel | None = None
) -> Mask2FormerConfig:
    """Fill in things, colours, dataset ids and test protocol.

    row: the published model it is. guess: the one its file or folder is named after, which counts if the classes have
    no names or most agree. Else a dataset's table is taken for the checkpoint's own if most names agree, and the
    checkpoint's spelling stays. The checkpoint's mean, standard deviation and sizes for the preset "hub" stay always.
    Nothing changes where none of this is known.
    """
    own = {field: getattr(config.protocol, field) for field in OF_THE_FILES}
    named = are_named(config.classes)
    if row is None and guess is not None and (not named or _agree(config.classes, guess.config.classes)):
        row = guess
    if row is not None and row.config.num_classes == config.num_classes:
        return replace(config, classes=row.config.classes, protocol=replace(row.config.protocol, **own))
    for test, (table, protocol) in TESTS.items():
        family, known = "oneformer" if test.startswith("oneformer") else "mask2former", dataset_classes(table)
        if named and family == config.family and _agree(config.classes, known):
            classes = tuple(replace(b, name=a.name) for a, b in zip(config.classes, known, strict=True))
            return replace(config, classes=classes, protocol=replace(protocol, **own))
    return config


def _agree(classes: Sequence[ClassInfo], known: Sequence[ClassInfo]) -> bool:
    """Whether there are as many, and most have the same name in the same place."""
    if len(classes) != len(known):
        return False
    same = [_spelling(a.name) == _spelling(b.name) for a, b in zip(classes, known, strict=True)]
    return sum(same) > len(same) / 2


def _spelling(name: str) -> str:
    """A name for comparison: the first of several synonyms, lower case, nothing but letters and digits."""
    return re.sub(r"[^a-z0-9]", "", name.split(",")[0].lower())
