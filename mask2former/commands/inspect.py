"""The command that audits a dataset before anyone trains on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from mask2former.commands.options import class_choice, data_options, reading_choices, require_folder


def inspect_options(command: argparse.ArgumentParser) -> None:
    data = command.add_mutually_exclusive_group(required=True)
    data.add_argument("data", metavar="DATA", nargs="?", help="see below")
    data.add_argument("--data", dest="data_option", metavar="DATA", help="the same")
    command.add_argument("--output", type=Path, default=Path("inspection"), metavar="FOLDER")
    command.add_argument("--limit", type=int, default=1000, metavar="N", help="photos to read, spread evenly")
    command.add_argument("--samples", type=int, default=16, metavar="N", help="photos on the contact sheet")
    data_options(command)


def inspect(options: argparse.Namespace) -> int:
    """Audit a dataset: classes, sizes, broken files, and what to change.

    OUTPUT holds the report as text and JSON and a contact sheet of annotated photos, in place of an earlier one. The
    exit code is 1 where files are broken.
    """
    from mask2former.bounds import Count, Natural, check_options
    from mask2former.data.datasets import is_bare
    from mask2former.data.inspect import inspect_dataset

    check_options(options, {"limit": Count, "samples": Natural})
    require_folder(options.output)
    options.data = options.data or options.data_option
    again = (options.output / "inspection.txt").exists()
    report = inspect_dataset(
        options.data,
        options.output,
        "all" if is_bare(options.data) else "train",
        classes=class_choice(options.classes),
        background=options.background,
        photos=options.limit,
        samples=options.samples,
        **reading_choices(options),
    )
    print(report.text())
    place = "in place of an earlier report: " if again else ""
    print(f"\nwritten to {options.output}: {place}inspection.txt, inspection.json, samples.png")
    return 1 if report.problems else 0
