"""One training step: forward, loss, backward, AdamW; Swin-T, 12 targets a picture.

Both sides have the same random weights, see the same pictures and targets, and draw as many random points. Peak memory
is measured over two steps, so that gradients and the optimiser's state are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks import measure, models, own_process
from benchmarks.report import Row, at_least, at_most, size_text
from benchmarks.settings import Settings
from mask2former.structures import Targets
from mask2former.training.losses import Criterion
from mask2former.training.processes import checkpoint_activations

MODEL = "mask2former_swin_tiny"
IMAGES, TARGETS, CLASSES = 2, 12, 133
PARTS = ("forward", "loss", "forward and loss", "backward", "AdamW", "all")
GOALS = {
    ("cpu", 512, "float32"): {"all": at_least(3), "peak MiB": at_most(0.5)},
    ("cuda", 1024, "bfloat16"): {"all": at_least(2.5), "peak MiB": at_most(0.5)},
}


def rows(settings: Settings) -> Iterator[Row | str]:
    works = [(256 if settings.quick else 512, "float32", False)]
    if settings.on_gpu and not settings.quick:
        works += [(1024, "bfloat16", False), (1024, "bfloat16", True)]
    with models.saved(MODEL) as folder:
        for work in works:
            yield from step_rows(folder, *work, settings)


def step_rows(folder: str, side: int, precision: str, recompute: bool, settings: Settings) -> Iterator[Row | str]:
    """The step at one size; side: of the square pictures in pixels; recompute: activations, in the backward pass.

    transformers' Mask2Former does not support the latter, so that ours is alone there.
    """
    arguments = {"folder": folder, "side": side, "precision": precision, "recompute": recompute}
    names = ("ours",) if recompute else ("ours", "transformers")
    works = {name: step_of(name, **arguments, device=settings.device) for name in names}
    seconds = measure.interleaved_medians(works, 1 if settings.quick else settings.repeats)
    del works
    seconds["ours"]["forward and loss"] = seconds["ours"]["forward"] + seconds["ours"]["loss"]
    goals = {} if recompute else GOALS.get((settings.device.type, side, precision), {})
    work = f"training step, {precision}" + (", recomputed activations" if recompute else "")
    for part in PARTS:
        mine, other = seconds["ours"][part], seconds.get("transformers", {}).get(part)
        yield Row(work, size_text((side, side), IMAGES), part, mine, other, goals.get(part))
    if settings.quick:
        return
    if settings.on_gpu:
        torch.cuda.empty_cache()
    peaks = {name: own_process.run("benchmarks.training:memory", settings, name=name, **arguments) for name in seconds}
    yield Row(
        work, size_text((side, side), IMAGES), "peak MiB", *peaks.values(), goal=goals.get("peak MiB"), kind="memory"
    )


def step_of(
    name: str, folder: str, side: int, precision: str, recompute: bool, device: torch.device
) -> Callable[[], dict[str, float]]:
    """A function that makes one training step of "ours" or "transformers" and returns its seconds by part."""
    model = models.load(name, folder, device).train().requires_grad_(True)
    pixel_values, targets = batch(side, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.05, fused=True)
    criterion = Criterion(CLASSES).to(device)
    if recompute:
        checkpoint_activations(model)
    loss_of = our_loss if name == "ours" else their_loss

    def step() -> dict[str, float]:
        clock = measure.Clock()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(model, criterion, pixel_values, targets, clock)
        loss.backward()
        clock.lap("backward")
        optimizer.step()
        optimizer.zero_grad()
        clock.lap("AdamW")
        return clock.seconds

    return step


def our_loss(model: nn.Module, criterion: nn.Module, pixel_values, targets, clock: measure.Clock) -> torch.Tensor:
    outputs = model(pixel_values)
    clock.lap("forward")
    loss = criterion(outputs, targets)[1]
    clock.lap("loss")
    return loss


def their_loss(model: nn.Module, _: nn.Module, pixel_values, targets, clock: measure.Clock) -> torch.Tensor:
    """Their forward pass includes the loss."""
    masks, labels = [target.masks.float() for target in targets], [target.labels for target in targets]
    loss = model(pixel_values=pixel_values, mask_labels=masks, class_labels=labels).loss
    clock.lap("forward and loss")
    return loss


def batch(side: int, device: torch.device) -> tuple[torch.Tensor, list[Targets]]:
    """Noise, and smooth random masks of every size."""
    torch.manual_seed(0)
    pixel_values = torch.randn(IMAGES, 3, side, side, device=device)
    coarse = torch.randn(IMAGES, TARGETS, 8, 8)
    masks = nn.functional.interpolate(coarse, (side, side), mode="bicubic") > 0.5
    return pixel_values, [Targets(torch.randint(CLASSES, (TARGETS,)), mask).to(device) for mask in masks]


def memory(device: torch.device, **arguments) -> float:
    """MiB; called in a process of its own."""
    step = step_of(**arguments, device=device)
    return own_process.peak_memory_of(lambda: (step(), step()), device)
