"""The command line. Each command is two functions: what it takes, and what it does."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from mask2former.commands.evaluate import evaluate, evaluate_options
from mask2former.commands.inspect import inspect, inspect_options
from mask2former.commands.options import size
from mask2former.commands.train import train, train_options

# Imports of the heavy parts are inside the commands, so that --help answers at once.


def main(arguments: Sequence[str] | None = None, family: str = "mask2former") -> int:
    """Run a command; returns the exit code: 0 all done, 1 some photos failed, 2 nothing could be done.

    family: mask2former or oneformer, whichever program was called; it decides the defaults alone.
    """
    parser = argparse.ArgumentParser(family, description="Universal image segmentation: Mask2Former and OneFormer.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (options_of, run) in COMMANDS.items():
        command = commands.add_parser(name, help=run.__doc__.splitlines()[0], description=run.__doc__)
        command.set_defaults(run=run, family=family)
        options_of(command)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError) as error:  # what the user can mend
        print(f"{family}: {error}", file=sys.stderr)
        return 2


def predict_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "photos", nargs="*", metavar="PHOTO", help="photos, folders of photos, or patterns like '*.jpg'"
    )
    command.add_argument("--model", metavar="NAME|FOLDER|FILE", help="published name, hub id, folder, .pkl or .pth")
    command.add_argument(
        "--task", choices=("panoptic", "instance", "semantic", "all"), help="default: the model's first"
    )
    command.add_argument("--output", type=Path, default=Path("segments"), metavar="FOLDER", help="default: segments")
    command.add_argument("--overlay", action="store_true", help="write the photo with its segments painted on")
    command.add_argument(
        "--format",
        dest="formats",
        action="append",
        choices=("coco", "panoptic", "semantic"),
        help="write results as COCO's JSON, panoptic PNG and JSON, or semantic PNG; may be repeated "
        "(with neither this nor --overlay: the overlay and the task's own format)",
    )
    command.add_argument("--device", help="default: cuda if there is one, else cpu")
    command.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the network"
    )
    command.add_argument("--batch-size", type=int, default=1, help="photos of equal size that are segmented together")
    command.add_argument("--size", type=size, metavar="SHORT|HxW", help="instead of the preset's size")
    command.add_argument("--preset", choices=("paper", "hub"), default="paper", help="how photos are resized")
    command.add_argument(
        "--threshold",
        type=float,
        help="least score: of a query (panoptic), of a segment (instance); default: the model's",
    )
    command.add_argument("--classes", metavar="FILE", help="names of the classes, for a checkpoint that has none")


def predict(options: argparse.Namespace) -> int:
    """Segment photos and write what was found.

    A photo that cannot be read is reported and does not stop the others.
    """
    if not options.photos:
        raise ValueError(f"no photo given: {options.family} predict PHOTO... --model NAME --output FOLDER")
    if not options.model:
        raise ValueError(f"no model given: --model NAME; `{options.family} models` lists the published ones")
    if options.task == "all" and options.formats:
        raise ValueError("--task all writes each task in its own format: leave --format out")
    if options.threshold is not None and options.task == "semantic":
        raise ValueError("--threshold has no meaning for semantic segmentation, where every pixel gets the best class")
    photos = find_photos(options.photos)
    names = unique_names(photos)

    from tqdm import tqdm

    from mask2former.inference.formats import ResultWriter, rle_encoder

    predictor = create_predictor(options)
    task = options.task or predictor.protocol.tasks[0]
    formats = options.formats or ([] if options.overlay else None)
    if "coco" in (formats or ()):
        rle_encoder()  # complain before the work, not after it
    writer = ResultWriter(options.output, formats, options.overlay or not options.formats)
    seconds, counts, failed = Counter(), Counter(), []
    stream = predictor.stream(photos, task)
    for name, prediction in zip(names, tqdm(stream, total=len(photos), unit="photo", disable=None), strict=True):
        if prediction.error is not None:
            failed.append(f"{prediction.source}: {prediction.error}")
            continue
        seconds.update(prediction.seconds)
        results = prediction.result if task == "all" else {task: prediction.result}
        for of_task, result in results.items():
            result.name, start = name, time.perf_counter()
            writer.add(result)
            seconds["writing"] += time.perf_counter() - start
            counts.update((of_task, segment.label) for segment in result.segments)
    writer.close()
    print(summary(counts, seconds, len(photos) - len(failed), options.output))
    if failed:
        print(f"{len(failed)} of {len(photos)} photos failed:", *failed, sep="\n  ", file=sys.stderr)
    return 1 if failed else 0


def convert_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", help="published name, hub id, folder, .pkl or .pth")
    command.add_argument("destination", help="a folder; for `original` a file ending in .pkl or .pth")
    command.add_argument("--to", choices=("native", "hub", "original"), required=True, help="the layout to write")
    command.add_argument("--classes", metavar="FILE", help="names of the classes, for a checkpoint that has none")


def convert(options: argparse.Namespace) -> int:
    """Write a checkpoint in another layout: ours, Hugging Face's, or the original code's."""
    from weights.convert import convert

    convert(options.source, options.destination, options.to, options.classes)
    print(f"written to {options.destination}")
    return 0


def models_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("pattern", nargs="?", help="such as '*swin_tiny*'; default: all of the program's family")


def models(options: argparse.Namespace) -> int:
    """List the published models."""
    from weights.zoo import ZOO, list_models

    names = list_models(options.pattern or f"{options.family}*")
    if not names:
        raise ValueError(f"no published model matches {options.pattern!r}; patterns are like '*swin_tiny*'")
    rows = [("name", "dataset", "tasks", "published scores", "licence of the weights")]
    for model in (ZOO[name] for name in names):
        scores = ", ".join(f"{measure} {value:g}" for measure, value in model.scores.items())
        rows.append((model.name, model.dataset, " ".join(model.tasks), scores, model.weight_licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


COMMANDS = {
    "predict": (predict_options, predict),
    "evaluate": (evaluate_options, evaluate),
    "train": (train_options, train),
    "inspect": (inspect_options, inspect),
    "convert": (convert_options, convert),
    "models": (models_options, models),
}


def create_predictor(options: argparse.Namespace) -> Any:
    import torch

    import weights
    from mask2former.inference.predictor import Predictor

    model = weights.create_model(options.model, classes=options.classes)
    return Predictor(
        model,
        options.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        getattr(torch, options.dtype),
        options.preset,
        options.size,
        options.batch_size,
        object_mask_threshold=options.threshold,
        score_threshold=options.threshold or 0.0,
    )


def find_photos(arguments: Iterable[str]) -> list[Path]:
    """Files as they are named, the pictures in folders, and what patterns match; each once, in order.

    Raises ValueError where a folder holds no picture or a pattern matches nothing. A named file need not exist: that
    is found out when it is read.
    """
    from PIL import Image

    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    photos: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in endings and file.is_file())
            if not found:
                raise ValueError(f"{path} holds no picture")
        elif has_magic(argument) and not path.exists():
            found = sorted(Path(match) for match in glob(argument, recursive=True))
            if not found:
                raise ValueError(f"{argument} matches nothing")
        else:
            found = [path]
        photos.update(dict.fromkeys(found))
    return list(photos)


def unique_names(photos: Sequence[Path]) -> list[str]:
    """A name for each photo's results: its own without the ending, numbered where several would share it."""
    names: list[str] = []
    taken: set[str] = set()
    for photo in photos:
        name, number = photo.stem, 1
        while name.lower() in taken:  # some file systems do not tell capitals apart
            number += 1
            name = f"{photo.stem}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def summary(counts: Counter, seconds: Counter, photos: int, output: Path) -> str:
    """How many segments of which class, and where the time went."""
    lines = []
    for task in dict.fromkeys(task for task, _ in counts):
        of_task = [(label, count) for (name, label), count in counts.most_common() if name == task]
        width = max(len(label) for label, _ in of_task)
        lines.append(f"{task}: {sum(count for _, count in of_task)} segments")
        lines += [f"  {label:{width}}  {count}" for label, count in of_task]
    if photos:
        parts = ", ".join(f"{name} {value / photos:.3f}" for name, value in seconds.items())
        lines.append(f"{photos} photo{'s' * (photos > 1)} in {output}; seconds a photo: {parts}")
    return "\n".join(lines)
