"""Which classes a dataset is opened with: all of its own, some of them, or coarser ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec

from mask2former.errors import DataError
from mask2former.structures import ClassInfo

LEFT_OUT = -1  # the label id of a category that exists but was not chosen: its pixels are void


Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
Color = tuple[Byte, Byte, Byte]  # red, green, blue


@dataclass(frozen=True)
class LabelSpace:
    """The classes in label id order, and the label id of every category the annotation files may name."""

    classes: tuple[ClassInfo, ...]
    labels: Mapping[int, int]  # dataset id → label id or LEFT_OUT

    def label(self, dataset_id: int, file: Path, where: str) -> int:
        """The label id of a category, LEFT_OUT where it was not chosen; DataError where there is no such category."""
        label = self.labels.get(dataset_id)
        if label is None:
            raise DataError(
                file,
                f"{where} is of category {dataset_id}, which is not in the class table",
                "add the category to the table or correct the annotation",
            )
        return label

    @classmethod
    def choose(
        cls,
        table: Sequence[ClassInfo],
        choice: str | Sequence[str] | None = None,
        supercategories: Mapping[int, str] | None = None,
    ) -> LabelSpace:
        """Turn a dataset's own table into the classes asked for.

        Arguments:
            table: the dataset's classes; each one's `dataset_id` is how its files name it.
            choice: None for all classes, "supercategory" for the coarse ones, or the names wanted, in that order.
            supercategories: dataset id → name of the coarse class it belongs to, where the dataset has such.

        Raises ValueError naming the classes that do not exist.
        """
        if choice is None:
            return cls(tuple(table), {c.dataset_id: k for k, c in enumerate(table)})
        if choice == "supercategory":
            if not supercategories:
                raise ValueError("classes='supercategory': this dataset names no supercategories; leave classes out")
            return cls._coarse(table, supercategories)
        names = [choice] if isinstance(choice, str) else list(choice)
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"classes={names!r}: expected names of classes")
        unknown = [name for name in names if name not in {c.name for c in table}]
        if unknown or not names or len(set(names)) < len(names):
            some = ", ".join(c.name for c in table[:8]) + (", …" if len(table) > 8 else "")
            wrong = unknown or [name for k, name in enumerate(names) if name in names[:k]]
            raise ValueError(f"classes={names!r}: expected different names out of {len(table)} ({some}); not {wrong}")
        chosen = [next(c for c in table if c.name == name) for name in names]
        labels = {c.dataset_id: LEFT_OUT for c in table} | {c.dataset_id: k for k, c in enumerate(chosen)}
        return cls(tuple(chosen), labels)

    @classmethod
    def _coarse(cls, table: Sequence[ClassInfo], supercategories: Mapping[int, str]) -> LabelSpace:
        """One class a supercategory, in order of appearance, coloured like its first member."""
        rows: dict[str, int] = {}
        classes, labels = [], {}
        for member in table:
            name = supercategories[member.dataset_id]
            row = rows.setdefault(name, len(classes))
            if row == len(classes):
                classes.append(replace(member, name=name, dataset_id=row + 1))
            elif classes[row].is_thing != member.is_thing:
                raise ValueError(f"supercategory {name!r} holds things and stuff: give each kind its own name")
            labels[member.dataset_id] = row
        return cls(tuple(classes), labels)


def check_table(file: Path, table: Sequence[ClassInfo], entry: str = "$[{}]", first: int = 0) -> None:
    """DataError unless there is a class, and each has an id and a name of its own.

    entry, first: how the file's entries are named in a message, and the number of the first.
    """
    if not table:
        raise DataError(file, "no class", "name at least one")
    for field, say in (("dataset_id", "id"), ("name", "name")):
        seen: dict[object, int] = {}
        for position, c in enumerate(table, start=first):
            value = getattr(c, field)
            if seen.setdefault(value, position) != position:
                raise DataError(
                    file,
                    f"{entry.format(position)}: the {say} {value!r}, which {entry.format(seen[value])} has already",
                    f"give each class a {say} of its own, or merge the two",
                )
