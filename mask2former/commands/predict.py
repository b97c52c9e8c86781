"""The command that segments photos."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from mask2former.commands.options import bytes_of_memory, overwrite_option, photo_size
from mask2former.errors import sentence
from mask2former.writing import is_full

if TYPE_CHECKING:
    from mask2former.inference.photo_files import PhotoFiles
    from mask2former.inference.result_writer import ResultWriter
    from mask2former.inference.segmentation import Segmentation

# Small enough for a first try, and on the hub.
PUBLISHED = {"mask2former": "mask2former_swin_tiny_coco_panoptic", "oneformer": "oneformer_ade20k_swin_tiny"}
UNWRITTEN = 2  # photos whose results may wait to be written while the next are looked at


def predict_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "photos",
        nargs="*",
        metavar="PHOTO",
        help="photos, folders of photos, or patterns like '*.jpg'; default: a photo that comes with the package",
    )
    command.add_argument(
        "--model",
        metavar="NAME|FOLDER|FILE",
        help="published name, hub id, folder, .pkl or .pth; default: the small demonstration model that comes with the "
        "package (a OneFormer: the published Swin-T)",
    )
    command.add_argument(
        "--task", choices=("panoptic", "instance", "semantic", "all"), help="default: the model's first"
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="default: segments, or segments_2, … where an earlier run is there",
    )
    overwrite_option(command)
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
    command.add_argument("--compile", action="store_true", help="run the network through PyTorch's compiler")
    command.add_argument("--batch-size", type=int, default=1, help="photos of equal size that are segmented together")
    command.add_argument(
        "--size",
        type=photo_size,
        metavar="SHORT|HxW|photo",
        help="instead of the preset's size; photo: the photo's own pixels",
    )
    command.add_argument(
        "--memory",
        type=bytes_of_memory,
        metavar="BYTES",
        help="ceiling above the loaded model, such as 4GB or 4GiB: a photo that needs more is segmented in overlapping "
        "windows",
    )
    command.add_argument("--preset", choices=("paper", "hub"), default="paper", help="how photos are resized")
    command.add_argument(
        "--threshold",
        type=float,
        help="least score: of a query (panoptic), of a segment (instance); default: the model's",
    )
    command.add_argument("--classes", metavar="FILE", help="names of the classes, for a checkpoint that has none")


def predict(options: argparse.Namespace) -> int:
    """Segment photos and write what was found.

    A photo that cannot be read, or whose results cannot be written, is reported and does not stop the others; the exit
    code is then 1, as it is where a folder holds photos of a kind that is not read. What an earlier run has left in
    OUTPUT stays: name another folder, or replace it with --overwrite.
    """
    from weights.bundled import PHOTO

    if not options.photos:
        options.photos = [str(PHOTO)]
        print(f"photo: {PHOTO}, which comes with the package")
    if not options.model:
        options.model = default_model(options.family)
    if options.task == "all" and options.formats:
        raise ValueError("--task all writes each task in its own format: leave --format out")
    if options.threshold is not None and options.task == "semantic":
        raise ValueError("--threshold has no meaning for semantic segmentation, where every pixel gets the best class")
    from mask2former.bounds import Count, Share, check_options
    from mask2former.inference.formats import rle_encoder
    from mask2former.inference.result_writer import ResultWriter
    from mask2former.output_folder import free_folder

    check_options(options, {"threshold": Share | None, "batch_size": Count})
    options.output = options.output or free_folder(Path("segments"))
    found = find_photos(options.photos)
    photos, names = found.photos, unique_names(found.photos, options.output)
    formats = options.formats or ([] if options.overlay else None)
    if "coco" in (formats or ()):
        rle_encoder()  # complain before the work, not after it
    overlay = options.overlay or not options.formats
    with ResultWriter(options.output, formats, overlay, overwrite=options.overwrite) as writer:
        try:
            code = predict_into(writer, options, photos, names)
            print("".join(f"{line}\n" for line in found.said()), end="")
            return 1 if found.unreadable else code
        except OSError as error:
            if not is_full(error):
                raise
            there = f"the results of {writer.photos} of {len(photos)} photos are in {options.output}, whole"
            raise OSError(error.errno, f"{error.strerror}; {there}") from error


def predict_into(writer: ResultWriter, options: argparse.Namespace, photos: list[Path], names: list[str]) -> int:
    """The command's work, once it has its folder to itself."""
    import torch
    from tqdm import tqdm

    import weights
    from mask2former.structures import TASKS

    if options.task in TASKS:  # what is about to be written is known before the model is there
        announce(writer, names, [options.task])
    predictor = weights.create_predictor(
        options.model,
        options.classes,
        options.device,
        getattr(torch, options.dtype),
        preset=options.preset,
        size=options.size,
        batch_size=options.batch_size,
        object_mask_threshold=options.threshold,
        score_threshold=options.threshold or 0.0,
        compile=options.compile,
        memory=options.memory,
    )
    task = options.task or predictor.protocol.tasks[0]
    if options.task not in TASKS:
        announce(writer, names, predictor.protocol.tasks if task == "all" else [task])
    seconds, counts, failed, noted = Counter(), Counter(), [], Counter()

    def write(results: dict[str, Segmentation]) -> None:
        start = time.perf_counter()
        writer.add(*results.values())
        for of_task, result in results.items():
            counts.update((of_task, segment.label) for segment in result.segments)
        seconds["writing"] += time.perf_counter() - start

    def wait_for(photo: Path, future: Future[None]) -> None:
        """That one photo's results cannot be written is that photo's error, unless there is no more room at all."""
        try:
            future.result()
        except (OSError, ValueError) as error:
            if is_full(error):
                raise
            failed.append(f"{photo}: {sentence(error)}")

    stream, start = predictor.stream(photos, task), time.perf_counter()
    pen, writing = ThreadPoolExecutor(1, "writer"), deque[tuple[Path, Future[None]]]()  # beside later photos' network
    bar = tqdm(stream, total=len(photos), unit="photo", disable=None)
    try:
        for photo, name, prediction in zip(photos, names, bar, strict=True):
            noted.update(prediction.notes)
            if prediction.error is not None:
                failed.append(sentence(prediction.error))
                continue
            seconds.update(prediction.seconds)
            results = prediction.result if task == "all" else {task: prediction.result}
            for result in results.values():
                result.name = name
            writing.append((photo, pen.submit(write, results)))
            if len(writing) > UNWRITTEN:
                wait_for(*writing.popleft())
        while writing:
            wait_for(*writing.popleft())
    finally:
        pen.shutdown()
        writer.close()  # what is done is done, though a later photo may have exhausted the memory
    print(summary(counts, seconds, len(photos) - len(failed), time.perf_counter() - start, options.output))
    for note, count in noted.items():
        print(f"{count} photo{'s' * (count > 1)}: {note}")
    if failed:
        print(f"{len(failed)} of {len(photos)} photos failed:", *failed, sep="\n  ", file=sys.stderr)
    return 1 if failed else 0


def announce(writer: ResultWriter, names: list[str], tasks: Sequence[str]) -> None:
    """Complain of names that an earlier run has taken before the work; say what is going to be replaced."""
    if replaced := writer.announce(names, tasks):
        print(f"{replaced} files of an earlier run in {writer.path} are replaced")


def default_model(family: str) -> str:
    """The model for somebody who named none, and a word on what it is."""
    from weights.bundled import DEMO

    published = f"--model {PUBLISHED[family]} is a published one, `{family} models` lists all"
    if family != "mask2former":
        print(f"model: {PUBLISHED[family]} (--model takes another; `{family} models` lists the published ones)")
        return PUBLISHED[family]
    print(
        f"model: {DEMO}, a small demonstration model that comes with the package: 4.6 million parameters, trained on "
        f"200 photos, 27 coarse classes; expect mistakes. For real work: {published}"
    )
    return DEMO


def find_photos(arguments: Iterable[str]) -> PhotoFiles:
    """Files as they are named, the pictures in folders, and what patterns match; each once, in order.

    What a folder holds and is not read goes along with the reason. Raises ValueError where a folder holds no picture or
    a pattern matches nothing. A named file need not exist: that is found out when it is read.
    """
    from mask2former.inference.photo_files import PhotoFiles

    found = PhotoFiles()
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = PhotoFiles.of(path)
            if not inside.photos:
                raise ValueError("; ".join([f"{path} holds no picture that is read", *inside.said()]))
            found.add(inside)
        elif has_magic(argument) and not path.exists():
            matches = sorted(Path(match) for match in glob(argument, recursive=True))
            if not matches:
                raise ValueError(f"{argument} matches nothing")
            found.add(PhotoFiles(matches))
        else:
            found.add(PhotoFiles([path]))
    return found


def unique_names(photos: Sequence[Path], folder: Path = Path()) -> list[str]:
    """A name for each photo's results in a folder: its own without the ending, numbered where several would share it,
    and made fit for the name of a file."""
    from mask2former.inference.result_writer import alike, candidates

    names: list[str] = []
    taken: set[str] = set()
    for photo in photos:
        name = next(name for name in candidates(photo.stem, folder) if alike(name) not in taken)
        taken.add(alike(name))
        names.append(name)
    return names


def summary(counts: Counter, seconds: Counter, photos: int, elapsed: float, output: Path) -> str:
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
        # Reading, network, post-processing and writing overlap, so their seconds add up to more than has passed.
        lines.append(f"photos a second: {photos / elapsed:.2f}; of the network alone {photos / seconds['network']:.2f}")
    return "\n".join(lines)
