"""One training step against transformers: forward, loss, backward, AdamW. One command, one table.

    python benchmarks/training.py             # Swin-T, 2 × 512 × 512, 12 targets each; about five minutes on two cores
    python benchmarks/training.py --quick     # 2 × 256 × 256, under two minutes

Both sides have the same random weights, see the same pictures and targets, draw as many random points, run in one
process in turn, and are warmed up; medians. Peak memory is measured in a process of its own for each side, over two
steps, so that gradients and the optimiser's state are in it. On a GPU also 1024 × 1024 in bfloat16 (autocast), with
and without recomputed activations.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure
from benchmarks.inference import transformers_model
from mask2former.structures import Targets
from mask2former.training.losses import Criterion
from mask2former.training.processes import checkpoint_activations

MODEL = "mask2former_swin_tiny"
IMAGES, TARGETS, CLASSES = 2, 12, 133
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batch(side: int) -> tuple[torch.Tensor, list[Targets]]:
    """Noise, and smooth random masks of every size."""
    torch.manual_seed(0)
    pixel_values = torch.randn(IMAGES, 3, side, side, device=DEVICE)
    coarse = torch.randn(IMAGES, TARGETS, 8, 8)
    masks = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic") > 0.5
    return pixel_values, [Targets(torch.randint(CLASSES, (TARGETS,)), mask).to(DEVICE) for mask in masks]


def models() -> dict[str, torch.nn.Module]:
    """Both sides with the same weights, in training mode."""
    import weights

    theirs = transformers_model(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = weights.create_model(folder)
    return {name: model.to(DEVICE).train() for name, model in {"ours": ours, "transformers": theirs}.items()}


def step_of(name: str, model: torch.nn.Module, side: int, precision: str, recompute: bool) -> Callable[[], dict]:
    """A function that makes one training step and returns its seconds by part."""
    pixel_values, targets = batch(side)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.05)
    criterion = Criterion(CLASSES).to(DEVICE)
    if recompute:
        if name == "ours":
            checkpoint_activations(model)
        else:
            model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = {
        "pixel_values": pixel_values,
        "mask_labels": [target.masks.float() for target in targets],
        "class_labels": [target.labels for target in targets],
    }

    def step() -> dict[str, float]:
        clock = Clock()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision == "bf16"):
            if name == "ours":
                outputs = model(pixel_values)
                clock.lap("forward")
                loss = criterion(outputs, targets)[1]
                clock.lap("loss")
            else:  # its forward pass includes the loss
                loss = model(**inputs).loss
                clock.lap("forward and loss")
        loss.backward()
        clock.lap("backward")
        optimizer.step()
        optimizer.zero_grad()
        clock.lap("AdamW")
        return clock.seconds

    return step


class Clock:
    """Seconds between laps."""

    def __init__(self):
        self.seconds, self.last = {}, time.perf_counter()

    def lap(self, part: str) -> None:
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[part] = time.perf_counter() - self.last
        self.last += self.seconds[part]


def rows(side: int, precision: str, recompute: bool, repeats: int) -> list[list[object]]:
    works = {name: step_of(name, model, side, precision, recompute) for name, model in models().items()}
    seconds = measure.interleaved_medians(works, repeats)
    ours, theirs = seconds["ours"], seconds["transformers"]
    ours["forward and loss"] = ours["forward"] + ours["loss"]
    arguments = ("--memory", "--size", str(side), "--precision", precision, *(["--recompute"] if recompute else []))
    for name, parts in seconds.items():
        parts["peak MiB"] = measure.in_own_process(__file__, *arguments, "--side", name)
    work = f"{IMAGES} × {side}², {precision}" + (", recomputed activations" if recompute else "")
    made = []
    for part in ("forward", "loss", "forward and loss", "backward", "AdamW", "all", "peak MiB"):
        mine, other = ours[part], theirs.get(part)
        made.append(
            [work, part, mine, "–" if other is None else other, "–" if other is None else f"{other / mine:.2f}×"]
        )
    return made


def main() -> None:
    arguments = measure.parser(__doc__.splitlines()[0])
    arguments.add_argument("--size", type=int, help="side of the pictures (default 512; on a GPU 1024 as well)")
    arguments.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    arguments.add_argument("--recompute", action="store_true", help="recompute activations in the backward pass")
    arguments.add_argument("--memory", action="store_true", help="print the peak memory of one side, and nothing else")
    arguments.add_argument("--side", choices=("ours", "transformers"))
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        model = models()[options.side]
        step = step_of(options.side, model, options.size, options.precision, options.recompute)
        print(measure.peak_memory_of(lambda: (step(), step())))
        return

    if options.size or options.quick:
        works = [(options.size or 256, options.precision, options.recompute)]
    else:
        works = [(512, "fp32", False)]
        if DEVICE.type == "cuda":
            works += [(1024, "bf16", False), (1024, "bf16", True)]
    made = [row for work in works for row in rows(*work, 2 if options.quick else options.repeats)]
    print(measure.machine())
    print(measure.table(["step", "part (seconds)", "ours", "transformers", "ratio"], made))


if __name__ == "__main__":
    main()
