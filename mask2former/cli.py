"""The command line. Each command is two functions: what it takes, and what it does.

The heavy parts are imported inside the commands, so that --help, --version and a wrong option answer at once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from mask2former.allocator import keep_freed_memory
from mask2former.commands.convert_data import convert_data, convert_data_options
from mask2former.commands.env import env, env_options
from mask2former.commands.evaluate import evaluate, evaluate_options
from mask2former.commands.inspect import inspect, inspect_options
from mask2former.commands.options import device_or_default
from mask2former.commands.predict import predict, predict_options
from mask2former.commands.train import train, train_options
from mask2former.commands.verify import verify, verify_options
from mask2former.errors import sentence
from mask2former.version import __version__
from mask2former.writing import is_full

# What PyTorch says, in an exception of no kind of its own, when there is no more memory
NO_MEMORY = r"out of (shared )?memory|can't allocate memory|not enough memory|ALLOC_FAILED|killed by signal"


def main(arguments: Sequence[str] | None = None, family: str = "mask2former") -> int:
    """Run a command; returns the exit code: 0 all done, 1 some photos failed, 2 nothing could be done, 130 interrupted.

    family: mask2former or oneformer, whichever program was called; it decides the defaults alone.
    """
    try:
        try:
            return answer(parsed(parser_of(family), arguments))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # now, when its failing can still be said
    except KeyboardInterrupt:
        print(f"{family}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has had enough of it
        silence(sys.stdout)
        return 141
    except Exception as error:
        if (said := what_to_mend(error)) is None:
            raise  # a fault of ours: with the traceback
        print(f"{family}: {said}", file=sys.stderr)
        silence(sys.stdout, unless_it_works=True)
        return 2


def parser_of(family: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        family,
        description="Universal image segmentation: Mask2Former and OneFormer.",
        epilog=f"`{family} COMMAND --help` says what a command takes.",
    )
    parser.add_argument("--version", action="version", version=f"{family} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    for name, (options_of, run) in COMMANDS.items():
        command = commands.add_parser(name, help=run.__doc__.splitlines()[0], description=run.__doc__)
        command.set_defaults(run=run, family=family, command=command)
        options_of(command)
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; a wrong one gets its command's usage and the nearest that there is."""
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.command.error(unknown_arguments(unknown, options.command))
    return options


def answer(options: argparse.Namespace) -> int:
    """Do what the options say."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what a terminal has no letters for
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if hasattr(options, "device"):
        if options.device:
            check_device(options.device)
        if device_or_default(options.device) == "cpu" and not getattr(options, "memory", None):
            keep_freed_memory()
    return options.run(options)


def what_to_mend(error: Exception) -> str | None:
    """A sentence on what the user can mend; None for what he cannot, which is a fault of the program."""
    if is_full(error) and error.filename is None and error.strerror == os.strerror(error.errno):
        return f"the standard output cannot be written: {error.strerror}"  # of a file we would have said which
    if isinstance(error, ValueError | OSError | ImportError | FloatingPointError):
        return sentence(error)
    text = str(error).partition("\n")[0]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or re.search(NO_MEMORY, text):
        return (
            f"out of memory ({text or 'of this process'}): take a smaller --size, --batch-size or model, another "
            "--device, or for predict a ceiling with --memory"
        )
    return None


def silence(stream: TextIO | None, unless_it_works: bool = False) -> None:
    """Nobody reads what is still to come, and its failing must not be said again when the program ends."""
    if stream is None:
        return
    try:
        if unless_it_works:
            stream.flush()
            return
    except OSError:
        pass
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def unknown_arguments(unknown: Sequence[str], command: argparse.ArgumentParser) -> str:
    """What to say about arguments that a command does not take."""
    known = [name for action in command._actions for name in action.option_strings if name.startswith("--")]
    near = [match for word in unknown for match in difflib.get_close_matches(word.partition("=")[0], known, 1)]
    hint = f"did you mean {' and '.join(near)}?" if near else f"`{command.prog} --help` lists what it takes"
    return f"unrecognized arguments: {' '.join(unknown)}; {hint}"


def check_device(name: str) -> None:
    """ValueError, with what there is, unless PyTorch can compute on a device."""
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--device {name}: expected one of {', '.join(there)}, which this machine has; {reason}"
        ) from None


def convert_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", help="published name, hub id, folder, .pkl or .pth")
    command.add_argument("destination", help="a folder; for `original` a file ending in .pkl or .pth")
    command.add_argument("--to", choices=("native", "hub", "original"), required=True, help="the layout to write")
    command.add_argument("--classes", metavar="FILE", help="names of the classes, for a checkpoint that has none")
    command.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: what the weights are")


def convert(options: argparse.Namespace) -> int:
    """Write a checkpoint in another layout: ours, Hugging Face's, or the original code's."""
    import torch

    from weights.conversion import convert

    dtype = getattr(torch, options.dtype) if options.dtype else None
    place = Path(options.destination)
    replaced = place.is_file() or (place / "config.json").is_file()
    convert(options.source, options.destination, options.to, options.classes, dtype=dtype)
    print(f"written to {options.destination}" + ", in place of the model that was there" * replaced)
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
    "convert-data": (convert_data_options, convert_data),
    "convert": (convert_options, convert),
    "models": (models_options, models),
    "env": (env_options, env),
    "verify": (verify_options, verify),
}
