"""The command that writes a dataset in another layout."""

from __future__ import annotations

import argparse
from pathlib import Path

from mask2former.commands.options import class_choice, data_options, reading_choices

LAYOUTS = ("coco-instance", "coco-panoptic", "folder", "yolo")


def convert_data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="DATA", help="see below")
    command.add_argument("destination", type=Path, metavar="FOLDER", help="a new folder")
    command.add_argument("--to", choices=LAYOUTS, required=True, help="the layout to write")
    data_options(command)


def convert_data(options: argparse.Namespace) -> int:
    """Write a dataset in another layout: COCO's, a plain folder, or YOLO's.

    Photos are copied, each split into its own place. What the layout cannot hold is said, a line each.
    """
    from mask2former.data.convert import convert_data

    choices = {"classes": class_choice(options.classes), **reading_choices(options)}
    background = options.background or "ignore"
    counts, said = convert_data(options.source, options.destination, options.to, background, **choices)
    for line in said:
        print(f"data: {line}")
    photos = ", ".join(f"{split} {count}" for split, count in counts.items())
    print(f"written to {options.destination}: {photos} photos as {options.to}")
    return 0
