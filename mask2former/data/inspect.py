"""An audit of a dataset before anyone trains on it: what is in it, what is wrong with it, what to change."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mask2former.bounds import Count, Natural, check_arguments
from mask2former.data.contact_sheet import contact_sheet
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.datasets import open_dataset
from mask2former.errors import DataError
from mask2former.output_folder import OutputFolder
from mask2former.writing import as_json, as_picture, as_text, write_together

TINY = 64  # pixels: a smaller segment covers less than four pixels of the network's mask features
FEW = 10  # segments of a class
QUERIES = 100  # of a published model


@dataclass
class ClassCount:
    """How often one class occurs."""

    name: str
    is_thing: bool
    segments: int = 0
    photos: int = 0
    crowds: int = 0
    pixels: int = 0


@dataclass
class Inspection:
    """What `inspect` found; `text()` is for people, `asdict` for programs."""

    dataset: str
    photos: int  # in the dataset
    inspected: int  # of them, spread evenly
    classes: list[ClassCount]
    pixels: int = 0
    unlabelled: int = 0  # pixels in no segment
    without_segments: int = 0  # photos
    empty: int = 0  # segments without a pixel
    tiny: int = 0  # segments of fewer than TINY pixels
    most_segments: int = 0  # in one photo
    sizes: list[tuple[int, int]] = field(default_factory=list)  # height, width of each photo
    notes: list[str] = field(default_factory=list)  # what was repaired, left out or assumed when it was opened
    problems: list[str] = field(default_factory=list)  # one a bad file
    advice: list[str] = field(default_factory=list)

    @property
    def unlabelled_share(self) -> float:
        return self.unlabelled / max(1, self.pixels)

    def text(self, problems: int = 10) -> str:
        """The report on a page; at most this many of the problems."""
        lines = [f"{self.dataset}: {self.photos} photos, {self.inspected} of them inspected", *self.notes]
        if self.sizes:
            short, long = (np.sort(np.array(self.sizes), axis=1)[:, k] for k in (0, 1))
            lines.append(
                f"sizes: short side {short.min()}–{short.max()} (median {np.median(short):.0f}), "
                f"long side {long.min()}–{long.max()} pixels"
            )
        lines.append(
            f"unlabelled pixels {self.unlabelled_share:.1%}; photos without a segment {self.without_segments}; "
            f"empty masks {self.empty}; masks under {TINY} pixels {self.tiny}; "
            f"most segments in a photo {self.most_segments}"
        )
        occurring = sorted((c for c in self.classes if c.segments or c.crowds), key=lambda c: -c.pixels)
        width = max([5, *(len(c.name) for c in occurring)])
        lines += ["", f"{'class':{width}}  kind   segments   photos   crowds   pixels"]
        for c in occurring:
            kind, share = "thing" if c.is_thing else "stuff", c.pixels / max(1, self.pixels)
            lines.append(f"{c.name:{width}}  {kind} {c.segments:10d} {c.photos:8d} {c.crowds:8d} {share:8.2%}")
        if self.problems:
            lines += ["", f"{len(self.problems)} problems:", *(f"  {p}" for p in self.problems[:problems])]
            if len(self.problems) > problems:
                lines.append(f"  … and {len(self.problems) - problems} more")
        lines += ["", "what to change:", *(f"  * {a}" for a in self.advice or ["nothing found"])]
        return "\n".join(lines)


def inspect_dataset(
    spec: str,
    output: Path | str,
    split: str = "train",
    classes: str | Sequence[str] | None = None,
    background: str | None = None,
    photos: int = 1000,
    samples: int = 16,
    strict: bool = False,
    skip_bad: bool = False,
    exif: str = "auto",
) -> Inspection:
    """Audit a dataset named as `open_dataset` has it, and write what was found into the folder `output`.

    Writes inspection.txt, inspection.json and samples.png, a contact sheet of `samples` photos, in place of an earlier
    report. Raises FileExistsError while another process writes into the folder.
    """
    check_arguments({"photos": Count, "samples": Natural}, {"photos": photos, "samples": samples})
    with OutputFolder(output) as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # they are the report's notes
            dataset = open_dataset(spec, split, classes, background, None, strict, skip_bad, exif)
        report = inspect(dataset, photos)
        contents = {
            "inspection.txt": as_text(report.text(problems=len(report.problems))),
            "inspection.json": as_json(asdict(report), indent=1),
            "samples.png": as_picture(draw_samples(dataset, samples)),
        }
        write_together(folder.path, contents)
    return report


def inspect(dataset: SegmentationDataset, photos: int = 1000) -> Inspection:
    """Read up to so many photos, spread evenly over the dataset, with their annotations, and count."""
    indices = spread(len(dataset), photos)
    report = Inspection(
        dataset.name,
        len(dataset),
        len(indices),
        [ClassCount(c.name, c.is_thing) for c in dataset.classes],
        notes=list(dataset.notes),
    )
    for index in indices:
        try:
            annotation = dataset.annotation(index)
            report.problems += dataset.problems(index)
            dataset.photo(index, annotation.size)
        except DataError as error:
            report.problems.append(str(error))
            continue
        report.sizes.append(tuple(annotation.size))
        areas = annotation.areas()
        report.pixels += annotation.size[0] * annotation.size[1]
        report.unlabelled += int((annotation.label_map() < 0).sum())
        report.without_segments += not (areas > 0).any()
        report.empty += int((areas == 0).sum())
        report.tiny += int(((areas > 0) & (areas < TINY)).sum())
        report.most_segments = max(report.most_segments, len(areas))
        for label in np.unique(annotation.labels):
            chosen, count = annotation.labels == label, report.classes[label]
            count.segments += int((chosen & ~annotation.is_crowd).sum())
            count.crowds += int((chosen & annotation.is_crowd).sum())
            count.photos += 1
            count.pixels += int(areas[chosen].sum())
    report.advice = advise(report, dataset)
    return report


def advise(report: Inspection, dataset: SegmentationDataset) -> list[str]:
    """What the numbers say should be changed, most urgent first."""
    advice = []
    segments = sum(c.segments for c in report.classes)

    def named(counts: Sequence[ClassCount]) -> str:
        return ", ".join(c.name for c in counts[:8]) + (f" and {len(counts) - 8} more" if len(counts) > 8 else "")

    if report.problems:
        advice.append(
            f"repair the {len(report.problems)} problems listed above: training stops at a file it cannot use"
        )
    if not segments:
        return [*advice, "no segment was found: check that photos and annotations belong together"]
    if missing := [c for c in report.classes if not c.segments]:
        seen = "" if report.inspected == report.photos else " in the photos inspected"
        advice.append(f"{len(missing)} classes do not occur{seen} ({named(missing)}): add photos or leave them out")
    if few := [c for c in report.classes if 0 < c.segments < FEW]:
        advice.append(f"{len(few)} classes occur fewer than {FEW} times ({named(few)}): expect little of them")
    if "semantic" in dataset.tasks and report.unlabelled_share > 0.3:
        advice.append(
            f"{report.unlabelled_share:.0%} of the pixels teach nothing: label them, and if they are a background that "
            "should be predicted, make it a class (background='class' for a plain folder)"
        )
    if report.empty:
        advice.append(f"{report.empty} masks have no pixel: remove them, or draw them again if an export lost them")
    if report.tiny > 0.1 * segments:
        advice.append(
            f"{report.tiny} of {segments} masks have fewer than {TINY} pixels: train on larger crops, "
            "or remove specks that are slips of the pen"
        )
    if report.without_segments > 0.2 * report.inspected:
        advice.append(
            f"{report.without_segments} of {report.inspected} photos have no segment: "
            "right if nothing is there, otherwise annotate or remove them"
        )
    if report.most_segments > QUERIES * 0.8:
        advice.append(
            f"a photo has {report.most_segments} segments and a published model {QUERIES} queries: "
            f"use num_queries ≥ {report.most_segments * 5 // 4}"
        )
    if not any(c.is_thing for c in report.classes) and "instance" in dataset.tasks:
        advice.append("every class is stuff, so nothing is counted one by one: mark countable classes as things")
    return advice


def draw_samples(dataset: SegmentationDataset, samples: int = 16) -> Image.Image:
    """A contact sheet of photos spread evenly over the dataset; those that cannot be read are left out."""
    drawn = []
    for index in spread(len(dataset), samples):
        with contextlib.suppress(DataError):
            annotation = dataset.annotation(index)
            drawn.append((str(dataset.image_id(index)), dataset.photo(index, annotation.size), annotation))
    return contact_sheet(drawn, dataset.classes)


def spread(total: int, wanted: int) -> list[int]:
    """Up to so many of 0 … total − 1, at even distances."""
    return np.unique(np.linspace(0, total - 1, min(total, wanted)).round().astype(int)).tolist() if total else []
