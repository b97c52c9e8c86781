"""Published weights held against figures that others took with them: whether download, reader and network are right.

`real_weights.json` has the figures, the photo they belong to, and where they come from. The logits are compared at the
input's size that each row names, to which the photo is stretched and not padded, as transformers' processors do it;
what a model trained on COCO finds in the photo is counted after the published test protocol's own pre-processing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mask2former.errors import PhotoError
from mask2former.inference.photo import read_photo
from mask2former.inference.predictor import Predictor
from mask2former.inference.preprocess import Preprocess
from mask2former.structures import Protocol
from weights.checkpoint import CONFIGS
from weights.download import original_file
from weights.load import create_model
from weights.zoo import find_model, guess_model

FILE = Path(__file__).with_name("real_weights.json")
SURE = 0.5  # the score from which an instance counts as found


@dataclass(frozen=True)
class Figure:
    """One number: as it was recorded, and as it comes out here."""

    name: str
    expected: float
    found: float
    tolerance: float

    @property
    def difference(self) -> float:
        return abs(self.found - self.expected)

    @property
    def agrees(self) -> bool:
        return self.difference <= self.tolerance  # NaN does not


@dataclass(frozen=True)
class Verification:
    """What came out for one model. notes: sentences on what the figures do not say."""

    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    @property
    def differing(self) -> list[Figure]:
        return [figure for figure in self.figures if not figure.agrees]


def verify(source: str | Path, photo: str | Path | None = None) -> Verification:
    """Load a model on the CPU in float32 and compare what it gives with the figures recorded for it.

    source: as in `create_model`; a file or folder is known by its name, such as `mask2former-swin-small-coco-instance`.
    photo: a file that holds the photo of the figures; by default it is downloaded, and kept as weights are.

    Raises ValueError for a model without figures, naming those that have some; FileNotFoundError and ConnectionError
    where the model or the photo cannot be had; and as `create_model` for weights that do not fit.
    """
    known = json.loads(FILE.read_text(encoding="utf-8"))
    row = find_model(str(source)) or guess_model(str(source))
    name = row.hub_id if row is not None and row.hub_id else str(source)
    recorded = next((model for model in known["models"] if model["id"] == name), None)
    counted = row is not None and row.dataset == "coco"
    if recorded is None and not counted:
        raise ValueError(f"no figures are recorded for {source}; {_those_with_figures(known)}")
    if recorded is not None and recorded["family"] not in CONFIGS:
        raise ValueError(
            f"{source} is a {recorded['family']}, which this library has not; {_those_with_figures(known)}"
        )
    picture, notes = _photo(known["photo"], photo)
    model = create_model(source)
    figures: list[Figure] = []
    if recorded is not None:
        figures += _logits(model, picture, recorded, known["tolerance"])
    else:
        notes.append(f"no logits are recorded for {source}, so what it finds is all; {_those_with_figures(known)}")
    if counted:
        figures += _objects(model, picture, known["photo"]["objects"])
    return Verification(tuple(figures), tuple(notes))


def pixel_values(picture: Image.Image, size: tuple[int, int], protocol: Protocol) -> Tensor:
    """(1, 3, height, width): the photo stretched to a size and not padded, as transformers' Pillow processors do it.

    The preset "hub" is the same wherever a hub repository names a height and a width. Where it names sides, that preset
    keeps the papers' way, rounding and padding, while transformers cuts off fractions of a pixel and, if a size_divisor
    is given, stretches up to its next multiple.
    """
    preprocess = Preprocess(exact_size=size, mean=protocol.pixel_mean, std=protocol.pixel_std, divisor=1)
    return preprocess(picture)[0][None]


def _logits(model: nn.Module, picture: Image.Image, recorded: Mapping[str, Any], tolerance: float) -> Iterator[Figure]:
    values = pixel_values(picture, tuple(recorded["input"][2:]), model.config.protocol)
    with torch.inference_mode():
        outputs = model(values, task=recorded["task"]) if "task" in recorded else model(values)
    for name, logits in (("mask_logits", outputs.mask_logits[0, 0]), ("class_logits", outputs.class_logits[0])):
        place = "0, 0" if name == "mask_logits" else "0"
        for (i, j), expected in np.ndenumerate(np.array(recorded[name])):
            yield Figure(f"{name}[{place}, {i}, {j}]", float(expected), logits[i, j].item(), tolerance)


def _objects(model: nn.Module, picture: Image.Image, expected: Mapping[str, int]) -> Iterator[Figure]:
    result = Predictor(model)(picture)
    sure = [segment for segment in result.segments if result.task != "instance" or segment.score >= SURE]
    found = Counter(segment.label for segment in sure)
    for label, count in expected.items():
        yield Figure(f"number of {label}s ({result.task})", count, found[label], 0)


def _photo(known: Mapping[str, Any], path: str | Path | None) -> tuple[Image.Image, list[str]]:
    """The picture, and what there is to say about it."""
    file = original_file(known["url"]) if path is None else Path(path)
    try:
        picture = read_photo(file)
    except PhotoError as error:
        if path is not None:
            raise
        file.unlink()  # a gateway's page, say
        raise ConnectionError(f"{known['url']} did not send a photo ({error}); give a copy with --photo") from error
    if [picture.height, picture.width] != known["size"]:
        raise ValueError(
            f"{file} has {picture.height} × {picture.width} pixels: expected {known['name']}, "
            f"{' × '.join(map(str, known['size']))}, from {known['url']}"
        )
    if hashlib.sha256(np.asarray(picture).tobytes()).hexdigest() == known["sha256"]:
        return picture, []
    return picture, [f"the pixels of {file} are not exactly those that the figures were taken with; logits may differ"]


def _those_with_figures(known: Mapping[str, Any]) -> str:
    logits = ", ".join(model["id"] for model in known["models"] if model["family"] in CONFIGS)
    return f"logits are recorded for {logits}; for every published model of COCO the objects in the photo are known"
