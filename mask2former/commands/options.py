"""What the commands that work on data have in common: how a dataset, a size, a device are named."""

from __future__ import annotations

import argparse
import inspect
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mask2former.data.kinds import DATA_HELP

if TYPE_CHECKING:
    from mask2former.data.dataset import SegmentationDataset
    from mask2former.training.processes import Processes


def data_options(command: argparse.ArgumentParser) -> None:
    """How a dataset is opened, and in the help what DATA may be."""
    command.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="only these classes, in this order, or `supercategory` for COCO's coarse ones; default: the dataset's own",
    )
    command.add_argument(
        "--background",
        choices=("class", "ignore"),
        help="whether what belongs to no object is a class, or is ignored: of outlines, and of masks with classes.txt",
    )
    command.add_argument("--strict", action="store_true", help="refuse data that has to be repaired to be read")
    command.add_argument("--skip-bad", action="store_true", help="go on over broken photos, and list them")
    command.add_argument(
        "--exif",
        choices=("auto", "upright", "stored"),
        default="auto",
        help="how photos that EXIF turns were annotated: as shown, or as stored; auto: as their sizes tell",
    )
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.description = inspect.cleandoc(command.description or "")
    command.epilog = f"DATA is one of\n{DATA_HELP}"


def open_data(
    spec: str | Sequence[str], split: str, options: argparse.Namespace, hold_out: str = "make"
) -> SegmentationDataset:
    """Open data as the options say. What was concluded, repaired or assumed is printed, a line each."""
    from mask2former.data.datasets import open_dataset
    from mask2former.training.processes import Processes

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = open_dataset(
            spec,
            split,
            class_choice(options.classes),
            options.background,
            hold_out=hold_out,
            **reading_choices(options),
        )
    said = [str(w.message) for w in caught if w.category is UserWarning]
    for other in (w for w in caught if w.category is not UserWarning):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if Processes.join().is_first:
        for note in dict.fromkeys([*dataset.notes, *said]):
            print(f"data: {note}", flush=True)
    return dataset


def reading_choices(options: argparse.Namespace) -> dict[str, bool | str]:
    """What `open_dataset` is told about data that is not tidy."""
    return {"strict": options.strict, "skip_bad": options.skip_bad, "exif": options.exif}


def overwrite_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier run has left in OUTPUT under the same names"
    )


def class_choice(names: Sequence[str] | None) -> str | list[str] | None:
    """What `--classes` says, as `open_dataset` takes it."""
    return "supercategory" if names == ["supercategory"] else names


def size(text: str) -> int | tuple[int, int]:
    """640, or 384x384 (height × width)."""
    from mask2former.bounds import Side, problem_of, shown

    try:
        sides = tuple(int(side) for side in text.lower().replace("×", "x").split("x"))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2) or any(problem_of(Side, side) for side in sides):
        raise argparse.ArgumentTypeError(
            f"{shown(text)}: expected one side like 640, or HEIGHTxWIDTH like 384x384, of at most 100000 pixels"
        )
    return sides if len(sides) == 2 else sides[0]


def photo_size(text: str) -> int | tuple[int, int] | str:
    """As `size`, or "photo" for the photo's own pixels."""
    if text.lower() == "photo":
        return "photo"
    try:
        return size(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or photo for its own pixels") from None


def bytes_of_memory(text: str) -> int:
    """4000000000, 4GB, or 4GiB; also MB and MiB, and fractions such as 1.5GB."""
    from mask2former.bounds import shown

    units = {"": 1, "B": 1, "MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
    found = re.fullmatch(r"([\d.]+) *([A-Z]*)", text.strip().upper())
    try:
        number = round(float(found[1]) * units[found[2]])
    except (TypeError, ValueError, KeyError, OverflowError):
        number = 0
    if not 1 <= number < 2**63:
        raise argparse.ArgumentTypeError(
            f"{shown(text)}: expected bytes, or a number with MB, GB, MiB or GiB, like 4GB"
        )
    return number


def device_or_default(name: str | None) -> str:
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def judged_tasks(answered: tuple[str, ...], dataset: SegmentationDataset) -> list[str]:
    """The tasks that a model answers and that a dataset can judge; ValueError where there is none."""
    tasks = [task for task in answered if task in dataset.tasks]
    if not tasks:
        raise ValueError(
            f"the model answers {', '.join(answered)}, but {dataset.name} can judge {', '.join(dataset.tasks)} alone"
        )
    return tasks


@contextmanager
def first_alone(processes: Processes) -> Iterator[None]:
    """The first process of each machine goes through the block before the others do, for it may have to download."""
    import torch.distributed as dist

    if processes.count > 1 and processes.local_rank:
        dist.barrier()
    yield
    if processes.count > 1 and not processes.local_rank:
        dist.barrier()


def require_folder(output: Path) -> None:
    """ValueError unless this is a folder, or can become one."""
    there = next((path for path in (output, *output.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise ValueError(f"--output {output}: {there} is a file; name a folder, which is made where there is none")
