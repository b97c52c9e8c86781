"""The class tables of the datasets the published models were trained on."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from mask2former.structures import ClassInfo


def dataset_classes(name: str) -> tuple[ClassInfo, ...]:
    """The classes of a dataset, in the order in which the published models predict them.

    name: one of `dataset_names()`. `ClassInfo.dataset_id` is the id in the dataset's own annotations: COCO category
    ids, ADE20K ids from 0 (ADE20K instance: the same ids, things only), Cityscapes label ids, Mapillary Vistas category
    ids from 1 (`mapillary_vistas_semantic`: the pixel values from 0, the unlabelled 66th included, which is not
    evaluated and which no published model predicts). Raises ValueError for a name that is not there.
    """
    if name not in _tables():
        raise ValueError(f"no class table {name!r}; there are {', '.join(dataset_names())}")
    return tuple(ClassInfo(label, thing, tuple(color), id) for label, thing, color, id in _tables()[name])


def dataset_names() -> tuple[str, ...]:
    """The names `dataset_classes` knows."""
    return tuple(_tables())


@cache
def _tables() -> dict[str, list]:
    return json.loads(files("mask2former.data").joinpath("classes.json").read_text(encoding="utf-8"))
