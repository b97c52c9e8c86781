"""The command that measures a model on a dataset."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from mask2former.commands.options import (
    data_options,
    device_or_default,
    first_alone,
    judged_tasks,
    open_data,
    overwrite_option,
    require_folder,
    size,
)

if TYPE_CHECKING:
    from mask2former.output_folder import OutputFolder
    from mask2former.training.processes import Processes


def evaluate_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", required=True, metavar="NAME|FOLDER|FILE", help="published name, hub id, folder, .pkl or .pth"
    )
    command.add_argument("--data", required=True, metavar="DATA", help="see below; the split is val unless it says")
    command.add_argument(
        "--task",
        "--tasks",
        dest="tasks",
        nargs="+",
        choices=("panoptic", "instance", "semantic"),
        help="default: all that the model answers and the data can judge",
    )
    command.add_argument("--output", type=Path, default=Path("evaluation"), metavar="FOLDER")
    overwrite_option(command)
    command.add_argument("--worst", type=int, default=0, metavar="N", help="draw the N worst photos of each task")
    command.add_argument("--limit", type=int, metavar="N", help="only N photos, spread evenly over the dataset")
    command.add_argument("--device", help="default: cuda if there is one, else cpu")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    command.add_argument("--batch-size", type=int, default=1, help="photos of equal size that go together")
    command.add_argument("--size", type=size, metavar="SHORT|HxW", help="instead of the preset's size")
    command.add_argument("--preset", choices=("paper", "hub"), default="paper", help="how photos are resized")
    command.add_argument(
        "--max-detections",
        type=int,
        default=100,
        metavar="N",
        help="a photo, that AP counts, the surest; COCO: 100",
    )
    data_options(command)


def evaluate(options: argparse.Namespace) -> int:
    """Measure a model on a dataset by the official definitions: PQ, mask AP, mIoU.

    OUTPUT holds the numbers as JSON and as a table with a line for each class. `torchrun -m mask2former evaluate …`
    shares the photos among processes. An earlier report in OUTPUT stays: name another folder, or replace it with
    --overwrite.
    """
    from mask2former.bounds import Count, Natural, check_options

    bounds = {"limit": Count | None, "worst": Natural, "batch_size": Count, "max_detections": Count}
    check_options(options, bounds)
    require_folder(options.output)
    from mask2former.evaluation.evaluator import output_folder
    from mask2former.structures import TASKS
    from mask2former.training.processes import Processes

    processes = Processes.join()
    drawn = (options.tasks or TASKS) if options.worst else ()
    folder = output_folder(options.output, drawn, options.overwrite) if processes.is_first else nullcontext()
    with folder:  # before the work
        return evaluate_into(folder if processes.is_first else None, options, processes)


def evaluate_into(folder: OutputFolder | None, options: argparse.Namespace, processes: Processes) -> int:
    """The command's work, once it has its folder to itself, which only the first process writes into."""
    import torch
    from tqdm import tqdm

    import weights
    from mask2former.data.flat import flat_like
    from mask2former.data.inspect import spread
    from mask2former.evaluation.evaluator import check_classes, table
    from mask2former.evaluation.evaluator import evaluate as measure
    from mask2former.inference.predictor import Predictor

    dataset = open_data(options.data, "val", options, hold_out="kept")
    if options.limit:
        dataset = dataset.subset(spread(len(dataset), options.limit))
    with first_alone(processes):
        model = weights.create_model(options.model)
    dataset = flat_like(dataset, model.config.classes, model.config.protocol.tasks)
    try:
        check_classes(model.config.classes, dataset.classes)
    except ValueError as error:
        raise ValueError(f"{error}; here: --classes supercategory, or --classes with the names in that order") from None
    tasks = options.tasks or judged_tasks(model.config.protocol.tasks, dataset)
    predictor = Predictor(
        model,
        processes.device(model.to(device_or_default(options.device))),
        getattr(torch, options.dtype),
        options.preset,
        options.size,
        options.batch_size,
        instances_per_image=max(options.max_detections, model.config.protocol.instances_per_image),
    )
    with tqdm(unit="photo", disable=None if processes.is_first else True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = measure(predictor, dataset, tasks, folder, options.worst, progress, options.max_detections)
    if processes.is_first:
        print(table(report, per_class=True))
        print(f"\nwritten to {options.output}")
    return 0
