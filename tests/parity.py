"""The parity table: what the proofs of equality compare, measured, and written into docs/parity.md.

python -m tests.parity                       # every comparison, a few minutes; writes the table
python -m tests.parity --only "*resnet*"     # some of them, printed alone

It runs the comparisons of the tests themselves, with their toy networks and their inputs, so the table cannot show
another equality than the tests prove. It lives here and not in `benchmarks`, which installs nothing of the tests and
measures time. Exit code 1: a difference is larger than its bound.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

import weights
from mask2former.kernels import route
from mask2former.structures import TASKS
from tests import (
    test_dinat,
    test_kernels_neighborhood_attention,
    test_losses,
    test_oneformer,
    test_oneformer_losses,
    test_parity_original,
    test_parity_transformers,
)
from tests import toy_transformers as toy
from tests.conftest import SHARED

PAGE = Path(__file__).resolve().parents[1] / "docs/parity.md"
BEGIN, END = "<!-- written by python -m tests.parity -->", "<!-- until here -->"
BOUNDS = {"float64": 1e-9, "float32": 1e-4}
COLUMNS = (("float64", "values"), ("float64", "gradients"), ("float32", "values"), ("float32", "gradients"))
Figures = dict[tuple[str, str], float]  # column → largest relative difference
Compared = Iterable[tuple[str, Tensor, Tensor]]  # (name, ours, theirs)


@dataclass(frozen=True)
class Comparison:
    """A row of the table."""

    network: str
    part: str  # its backbone, or what is compared of it
    reference: str
    proof: str  # the test whose comparison this is
    measure: Callable[[Path], Figures]  # takes an empty folder
    needs_shared: bool = False  # stored outputs of the original code, or a photo that may not be given away

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "-", f"{self.network} {self.part} {self.reference}".lower())


def largest(compared: Compared) -> float:
    """The largest of max |ours − theirs| ÷ max |theirs|; where theirs is zero throughout, ours must be too."""
    found = []
    for name, ours, theirs in compared:
        if theirs.any():
            found.append(toy.relative_difference(ours, theirs))
        else:
            found.append(float("inf") if ours.any() else 0.0)
        if found[-1] != found[-1]:
            raise FloatingPointError(f"{name} is not a number")
    return max(found)  # of nothing: an error


def mask2former_with_transformers(backbone: str) -> Callable[[Path], Figures]:
    def measure(folder: Path) -> Figures:
        theirs = toy.mask2former(test_parity_transformers.BACKBONES[backbone]())
        ours = toy.ours_from(theirs, folder)
        figures = {}
        for dtype in ("float64", "float32"):
            pair = ours.to(getattr(torch, dtype)), theirs.to(getattr(torch, dtype))
            figures[dtype, "values"] = largest(
                row
                for size in test_parity_transformers.SIZES.values()
                for row in test_parity_transformers.stages(*pair, torch.randn(2, 3, *size, dtype=getattr(torch, dtype)))
            )
        pixel_values = torch.randn(1, 3, 64, 96, dtype=torch.float64)
        found = test_parity_transformers.gradients(ours.double(), theirs.double(), pixel_values, folder)
        scale = max(theirs.abs().max() for _, _, theirs in found)
        figures["float64", "gradients"] = max(((a - b).abs().max() / scale).item() for _, a, b in found)
        return figures

    return measure


def published_size(backbone: str) -> Callable[[Path], Figures]:
    def measure(folder: Path) -> Figures:
        pair = test_parity_transformers.published_size(backbone, folder)
        pixel_values = test_parity_transformers.pixels_of(test_parity_transformers.CATS)
        figures = {}
        for dtype in (torch.float32, torch.float64):
            pair = [model.to(dtype) for model in pair]
            stages = test_parity_transformers.stages(*pair, pixel_values.to(dtype))
            figures[str(dtype).removeprefix("torch."), "values"] = largest(stages)
        return figures

    return measure


def mask2former_with_original(folder: Path) -> Figures:
    model = weights.create_model(test_parity_original.FOLDER / "model_final.pkl").eval()
    files = test_parity_original.SIZES
    rows = (row for file in files for row in test_parity_original.stages(model, file))
    return {("float32", "values"): largest(rows)}


def oneformer_with_transformers(backbone: str) -> Callable[[Path], Figures]:
    def measure(folder: Path) -> Figures:
        pair = test_oneformer.transformers_pair(backbone, folder)
        return {
            (dtype, "values"): largest(
                row
                for size in ((64, 96), (97, 131))
                for task in TASKS
                for row in test_oneformer.stages(*(model.to(getattr(torch, dtype)) for model in pair), size, task)
            )
            for dtype in ("float64", "float32")
        }

    return measure


def oneformer_with_original(name: str) -> Callable[[Path], Figures]:
    def measure(folder: Path) -> Figures:
        model = test_oneformer.load_original(name)
        rows = (row for file in ("single", "pair") for row in test_oneformer.stages_of_original(*model, file))
        return {("float32", "values"): largest(rows)}

    return measure


def attention_with_original(folder: Path) -> Figures:
    """DiNAT's attention alone and its module, of which stored outputs in float64 exist."""
    attention, module = test_kernels_neighborhood_attention, test_dinat
    with torch.no_grad():
        rows = [(case, *attention.compared_with_original(case)) for case in attention.FUNCTION_CASES]
        rows += [(case, *module.compared_with_original(case)) for case in module.MODULE_CASES]
    return {("float64", "values"): largest(rows)}


def losses_with_transformers(folder: Path) -> Figures:
    values, gradients = [], []
    for counts in ((3, 5), (9, 0), (0, 0)):
        of_values, of_gradients = test_losses.compared_with_transformers(counts)
        values, gradients = values + of_values, gradients + of_gradients
    return {("float64", "values"): largest(values), ("float64", "gradients"): largest(gradients)}


def contrast_with_transformers(folder: Path) -> Figures:
    value, gradients = test_oneformer_losses.contrast_with_transformers()
    return {
        ("float64", "values"): largest([("contrastive", *value)]),
        ("float64", "gradients"): largest(("gradient", *pair) for pair in gradients),
    }


def losses_with_original(module) -> Callable[[Path], Figures]:
    def measure(folder: Path) -> Figures:
        found = [module.compared_with_authors(case) for case in test_losses.CASES]
        return {
            ("float32", "values"): largest(row for values, _ in found for row in values),
            ("float32", "gradients"): largest(row for _, gradients in found for row in gradients),
        }

    return measure


TRANSFORMERS, ORIGINAL = "transformers", "original code"
COMPARISONS = (
    *(
        Comparison("Mask2Former", part, TRANSFORMERS, "test_parity_transformers.py", mask2former_with_transformers(key))
        for part, key in (("Swin, window 4", "swin_window4"), ("Swin, window 7", "swin_window7"), ("ResNet", "resnet"))
    ),
    *(
        Comparison("Mask2Former", part, TRANSFORMERS, "test_parity_transformers.py", published_size(key), True)
        for part, key in (("Swin-T, published size", "swin_tiny"), ("ResNet-50, published size", "resnet50"))
    ),
    Comparison("Mask2Former", "Swin", ORIGINAL, "test_parity_original.py", mask2former_with_original, True),
    *(
        Comparison("OneFormer", part, TRANSFORMERS, "test_oneformer.py", oneformer_with_transformers(key))
        for part, key in (("Swin", "swin"), ("ResNet", "resnet"), ("ConvNeXt", "convnext"))
    ),
    *(
        Comparison("OneFormer", part, ORIGINAL, "test_oneformer.py", oneformer_with_original(key), True)
        for part, key in (("Swin", "oneformer_swin"), ("DiNAT", "oneformer_dinat"))
    ),
    Comparison("OneFormer", "DiNAT, attention alone", ORIGINAL, "test_dinat.py", attention_with_original, True),
    Comparison("Mask2Former", "losses", TRANSFORMERS, "test_losses.py", losses_with_transformers),
    Comparison("Mask2Former", "losses", ORIGINAL, "test_losses.py", losses_with_original(test_losses), True),
    Comparison("OneFormer", "contrast", TRANSFORMERS, "test_oneformer_losses.py", contrast_with_transformers),
    Comparison(
        "OneFormer", "losses", ORIGINAL, "test_oneformer_losses.py", losses_with_original(test_oneformer_losses), True
    ),
)


def measured(comparison: Comparison) -> Figures:
    """The larger figures of two rounds: with the forms of the operations this machine takes, and the textbook's."""
    figures: Figures = {}
    for forms in ("auto", "textbook"):
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder, route.using(forms):
            for column, value in comparison.measure(Path(folder)).items():
                figures[column] = max(value, figures.get(column, 0.0))
    return figures


def excesses(figures: Figures) -> list[str]:
    """What is larger than its bound, in words."""
    return [
        f"{what} in {dtype}: {value:.3g} > {BOUNDS[dtype]:g}"
        for (dtype, what), value in figures.items()
        if not value <= BOUNDS[dtype]
    ]


def table(rows: Sequence[tuple[Comparison, Figures]]) -> str:
    """Markdown; – where no such comparison is made."""
    head = ["network", "part", "compared with", *(f"{what}, {dtype}" for dtype, what in COLUMNS), "test"]
    lines = [head, ["---"] * 3 + ["---:"] * len(COLUMNS) + ["---"]]
    for comparison, figures in rows:
        cells = [f"{figures[column]:.0e}".replace("0e+00", "0") if column in figures else "–" for column in COLUMNS]
        lines.append([comparison.network, comparison.part, comparison.reference, *cells, f"`{comparison.proof}`"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def heading() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "transformers"))
    processor = torch.backends.cpu.get_cpu_capability()
    return f"{datetime.date.today()}; Python {platform.python_version()}, {versions}; a CPU with {processor}."


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN", help="such as '*resnet*'; prints these rows, writes nothing")
    options = parser.parse_args(arguments)
    wanted = [c for c in COMPARISONS if fnmatch.fnmatch(c.name, options.only or "*")]
    if not wanted:
        parser.error(f"--only {options.only}: expected a pattern for {', '.join(c.name for c in COMPARISONS)}")
    transformers_logging.disable_progress_bar()
    rows, wrong, left_out = [], [], 0
    for comparison in wanted:
        if comparison.needs_shared and not SHARED.is_dir():
            left_out += 1
            continue
        figures = measured(comparison)
        rows.append((comparison, figures))
        wrong += [f"{comparison.name}: {excess}" for excess in excesses(figures)]
        said = ", ".join(f"{what} {value:.2e} ({dtype})" for (dtype, what), value in figures.items())
        print(f"{comparison.name}: {said}", file=sys.stderr, flush=True)
    text = f"{heading()}\n\n{table(rows)}\n"
    print(text, end="")
    if left_out:
        print(f"{left_out} comparisons left out: the folder shared/ with what they need is not beside the project")
    print(*wrong, sep="\n", file=sys.stderr, end="\n" * bool(wrong))
    if not (options.only or wrong or left_out):
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}{END}{rest.partition(END)[2]}", encoding="utf-8")
        print(f"written into {PAGE.name}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
