"""The command that holds a published model against recorded figures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def verify_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="published name, hub id, or a folder or file named after one")
    command.add_argument(
        "--photo", type=Path, metavar="FILE", help="a copy of the figures' photo; default: download it"
    )


def verify(options: argparse.Namespace) -> int:
    """Check a published model's weights: load them and compare with figures that others recorded.

    The figures are logits that the model gave for a well-known photo of two cats and two remotes, and, for models of
    COCO, how many of these it finds. Computed on the CPU in float32. The exit code is 1 where a figure differs.
    """
    from weights.verify import verify

    verification = verify(options.model, options.photo)
    for note in verification.notes:
        print(f"note: {note}", file=sys.stderr)
    width = max(len(figure.name) for figure in verification.figures)
    print(f"{'figure':{width}}  {'expected':>9}  {'found':>9}  difference")
    for figure in verification.figures:
        said = f"{figure.name:{width}}  {figure.expected:9.6g}  {figure.found:9.6g}  {figure.difference:10.2g}"
        print(said if figure.agrees else f"{said}  more than {figure.tolerance:g}")
    differing, count = verification.differing, len(verification.figures)
    if differing:
        names = ", ".join(figure.name for figure in differing)
        print(
            f"{options.family}: {len(differing)} of {count} figures of {options.model} differ: {names}", file=sys.stderr
        )
        return 1
    print(f"all {count} figures of {options.model} are as recorded")
    return 0
