"""A predictor against a dataset, with the official measure of each task."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from PIL import Image

from mask2former.bounds import Natural, check_arguments
from mask2former.data.annotation import Annotation, lookup
from mask2former.data.contact_sheet import paint
from mask2former.data.dataset import SegmentationDataset
from mask2former.data.findings import listed
from mask2former.data.survey import require_targets
from mask2former.errors import DataError, PhotoError
from mask2former.evaluation.gather import gather_by_image
from mask2former.evaluation.instance import MaskAveragePrecision
from mask2former.evaluation.panoptic import PanopticQuality
from mask2former.evaluation.semantic import MeanIoU
from mask2former.inference.predictor import Predictor
from mask2former.inference.segmentation import Segmentation
from mask2former.output_folder import OutputFolder
from mask2former.structures import TASKS, ClassInfo
from mask2former.unfinished import remove
from mask2former.writing import as_json, as_picture, as_text, longest_name, safe_name, write_bytes, write_together

MEASURE = {"panoptic": "PQ", "instance": "AP", "semantic": "IoU"}  # of a class
METRICS = {"panoptic": PanopticQuality, "instance": MaskAveragePrecision, "semantic": MeanIoU}
PAGE = 640  # pixels along the longer side of a drawn photo
REPORT = ("evaluation.json", "evaluation.txt")
AHEAD = 4  # photos and annotations read while the network works


def evaluate(
    predictor: Predictor,
    dataset: SegmentationDataset,
    tasks: Sequence[str] | None = None,
    output: OutputFolder | Path | str | None = None,
    worst: int = 0,
    progress: Callable[[int, int], None] | None = None,
    max_detections: int = 100,
) -> dict[str, Any]:
    """Segment every photo of a dataset and measure the result; under torchrun the processes share the photos.

    Arguments:
        dataset: its transform is not used; its classes must be the model's, in the same order.
        tasks: by default those that the annotations can judge. Several cost one run of the network.
        output: a folder for evaluation.json, evaluation.txt and the pictures; written by the first process, which
            raises FileExistsError first of all where there are such already (an `OutputFolder` has been asked before).
        worst: for each task draw so many of the photos it did worst on: truth on the left, prediction on the right.
        progress: called after each photo with how many are done and how many this process has to do.
        max_detections: of a photo, that AP counts; COCO's is 100.

    Returns {"dataset", "photos", "notes", task: what the task's metric computes}; every process gets all of it. Values
    are 0..1, None where there is nothing to judge. The notes say what keeps the numbers from saying what they seem to.
    Photos that cannot be used raise DataError, unless the dataset was opened with `skip_bad`.
    Raises DataError where no photo has anything to judge a task by, ValueError where the classes differ, the
    annotations cannot judge a task, or a photo would count twice.
    """
    check_arguments({"worst": Natural}, {"worst": worst})
    tasks = tuple(tasks or dataset.tasks)
    if not set(tasks) <= set(dataset.tasks):
        raise ValueError(f"tasks {tasks}: {dataset.name} can judge {dataset.tasks}")
    check_classes(predictor.classes, dataset.classes)
    check_photos(dataset)
    require_targets(dataset, tasks)
    rank, processes = place_among_processes()
    with output_folder(output, tasks if worst else ()) if output is not None and rank == 0 else nullcontext() as folder:
        report, metrics = measure(predictor, dataset, tasks, rank, processes, progress, max_detections)
        scores = {task: metric.image_scores() for task, metric in metrics.items()} if worst else {}
        if folder is not None:
            contents = as_json(report, indent=1), as_text(table(report, per_class=True))
            write_together(folder.path, dict(zip(REPORT, contents, strict=True)))
            for task, of_image in scores.items():
                draw_worst(predictor, dataset, task, of_image, worst, folder.path / worst_folder(task))
    return report


def output_folder(output: OutputFolder | Path | str, drawn: Iterable[str] = (), overwrite: bool = False) -> Any:
    """The folder that a report goes into, with pictures of some tasks' worst photos; as it is where it is held already.

    In a `with` it raises FileExistsError where an earlier report is there, unless `overwrite`.
    """
    if isinstance(output, OutputFolder):
        return nullcontext(output)
    return OutputFolder(output, [*REPORT, *map(worst_folder, drawn)], overwrite)


def worst_folder(task: str) -> str:
    return f"worst_{task}"


def measure(
    predictor: Predictor,
    dataset: SegmentationDataset,
    tasks: Sequence[str],
    rank: int,
    processes: int,
    progress: Callable[[int, int], None] | None,
    max_detections: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report, and the metric of each task."""
    metrics = {task: METRICS[task](dataset.classes) for task in TASKS if task in tasks}
    if "instance" in metrics:
        metrics["instance"].max_detections = max_detections
    mine = range(rank, len(dataset), processes)
    truths: deque[tuple[int, dict[str, Annotation]]] = deque()  # of the photos that the predictor has taken
    read = partial(read_pair, dataset, tasks=tuple(metrics))
    left_out: list[str] = []  # broken photos

    def photos() -> Iterator[Image.Image]:
        for index, pair in zip(mine, read_ahead(partial(or_error, dataset, read), mine), strict=True):
            if isinstance(pair, DataError):
                left_out.append(str(pair))
                continue
            truths.append((index, pair[1]))
            yield pair[0]

    for done, prediction in enumerate(predictor.stream(photos(), list(metrics)), start=1):
        index, truth = truths.popleft()
        if prediction.error is not None:
            kind = PhotoError if isinstance(prediction.error, PhotoError) else ValueError
            raise kind(f"photo {dataset.image_id(index)!r}: {prediction.error}") from prediction.error
        for task, metric in metrics.items():
            add(metric, dataset.image_id(index), prediction.result[task], truth[task])
        if progress is not None:
            progress(done + len(left_out), len(mine))
    broken = [reason for of_process in gather_by_image({rank: left_out}).values() for reason in of_process]
    report = {"dataset": dataset.name, "photos": len(dataset) - len(broken)}
    report |= {t: m.compute() for t, m in metrics.items()}
    report["notes"] = [f"a broken photo was left out: {reason}" for reason in broken] + notes_of(report, metrics)
    return report, metrics


def add(metric: Any, image_id: int | str, result: Segmentation, truth: Annotation) -> None:
    """Hand one photo's prediction to the metric of its task, in the metric's own terms."""
    labels = np.array([segment.label_id for segment in result.segments], np.int64)
    if isinstance(metric, MaskAveragePrecision):
        masks = (result.mask(n) for n in range(len(labels)))
        metric.update(image_id, masks, labels, [segment.score for segment in result.segments], truth)
    elif isinstance(metric, PanopticQuality):
        ids = [segment.id for segment in result.segments]
        metric.update(image_id, lookup(result.segmentation, ids, range(1, len(ids) + 1)), labels, truth)
    else:
        metric.update(image_id, result.segmentation, truth.label_map())


def or_error(dataset: SegmentationDataset, read: Callable[[int], Any], index: int) -> Any:
    """What `read` gives, or its DataError where the dataset goes past broken photos."""
    try:
        return read(index)
    except DataError as error:
        if dataset.skipped is None:
            raise
        dataset.skipped.add(error)
        return error


def notes_of(report: dict[str, Any], metrics: dict[str, Any]) -> list[str]:
    """What a reader of the report must know: classes that no mean goes over, and what the metrics say themselves."""
    notes = []
    for task, metric in metrics.items():
        rows = report[task]["classes"]
        absent = [row["name"] for row in rows if row[MEASURE[task]] is None]
        if absent:
            judged = len(rows) - len(absent)
            notes.append(f"{task}: means go over {judged} of {len(rows)} classes; nothing to judge of {listed(absent)}")
        notes += metric.notes() if hasattr(metric, "notes") else []
    return notes


def read_pair(
    dataset: SegmentationDataset, index: int, tasks: tuple[str, ...]
) -> tuple[Image.Image, dict[str, Annotation]]:
    """A photo and its ground truth for each task, which must have one size: DataError says which file has another."""
    truth = {task: dataset.ground_truth(index, task) for task in tasks}
    sizes = {tuple(annotation.size) for annotation in truth.values()}
    photos = [dataset.photo(index, size) for size in sizes]
    return photos[0], truth


def check_photos(dataset: SegmentationDataset) -> None:
    """ValueError where a photo would be counted twice, as the same id or as the same file."""
    for what, name in (("id", dataset.image_id), ("file", dataset.photo_path)):
        seen: set[object] = set()
        for index in range(len(dataset)):
            if (value := name(index)) in seen:
                raise ValueError(
                    f"{dataset.name}: the photo {value} is there twice, by its {what}: it would count twice; "
                    "remove one of the two, or name each part of the data once"
                )
            seen.add(value)


def read_ahead(read: Callable[[int], Any], indices: Iterable[int]) -> Iterator[Any]:
    """read(index) for each index, in order, a few of them in advance in a thread."""
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(1) as reader:
        for index in indices:
            waiting.append(reader.submit(read, index))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def check_classes(of_model: Sequence[ClassInfo], of_dataset: Sequence[ClassInfo]) -> None:
    """A model and a dataset must number the same classes alike. Names may differ in spelling, not in place."""
    if len(of_model) != len(of_dataset):
        raise ValueError(
            f"the model knows {len(of_model)} classes, the dataset has {len(of_dataset)}: open the dataset with the "
            "classes the model was trained on (classes=…)"
        )
    theirs = {c.name: k for k, c in enumerate(of_dataset)}
    for k, c in enumerate(of_model):
        if theirs.get(c.name, k) != k:
            raise ValueError(
                f"class {k} of the model is {c.name!r}, which is class {theirs[c.name]} of the dataset: "
                "open the dataset with its classes in the model's order (classes=[names])"
            )


def place_among_processes() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def headline(report: dict[str, Any]) -> dict[str, float]:
    """The means of a report that could be computed, by names such as "panoptic/PQ": for logs."""
    return {
        f"{task}/{name}": value
        for task in TASKS
        for name, value in report.get(task, {}).items()
        if isinstance(value, float)
    }


def table(report: dict[str, Any], per_class: bool = False) -> str:
    """The report for people, in per cent; with `per_class` a line for each class."""
    lines = [f"{report['dataset']}: {report['photos']} photos"]
    for task in TASKS:
        if task not in report:
            continue
        values, classes = report[task], report[task]["classes"]
        means = [(name, value) for name, value in values.items() if name != "classes"]
        lines += ["", task, "  " + "  ".join(f"{name} {percent(value).strip()}" for name, value in means)]
        if per_class and classes:
            columns = [name for name in classes[0] if name not in ("name", "is_thing")]
            width = max(5, *(len(row["name"]) for row in classes))
            lines.append(f"  {'class':{width}}" + "".join(f"{name:>14}" for name in columns))
            for row in classes:
                cells = (str(v) if isinstance(v := row[name], int) else percent(v) for name in columns)
                lines.append(f"  {row['name']:{width}}" + "".join(f"{cell:>14}" for cell in cells))
    lines += ["", *(f"note: {note}" for note in report["notes"])] if report.get("notes") else []
    return "\n".join(lines)


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def draw_worst(
    predictor: Predictor,
    dataset: SegmentationDataset,
    task: str,
    scores: dict[int | str, float],
    worst: int,
    folder: Path,
) -> None:
    """The photos with the lowest scores as pictures, truth beside prediction, the score in the name."""
    remove(folder)  # an earlier run's, whose names are others
    folder.mkdir()
    indices = {dataset.image_id(index): index for index in range(len(dataset))}
    for rank, image_id in enumerate(sorted(scores, key=scores.__getitem__)[:worst], start=1):
        photo, truths = read_pair(dataset, indices[image_id], (task,))
        truth = paint(photo, truths[task], dataset.classes, PAGE)
        found = predictor(photo, task=task).overlay()  # as wide as the photo, with a legend below
        found = found.resize((truth.width, round(found.height * truth.width / found.width)))
        page = Image.new("RGB", (2 * truth.width + 8, max(truth.height, found.height)), "white")
        page.paste(truth, (0, 0))
        page.paste(found, (truth.width + 8, 0))
        name = safe_name(f"{rank:02d}_{100 * scores[image_id]:.1f}_{image_id}", longest_name(folder) - 4)
        write_bytes(folder / f"{name}.png", as_picture(page))
