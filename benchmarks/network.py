"""The network's time: whole and by stage, eager and compiled, float32 and bfloat16, and its distance to the limit.

On a CPU every form of ours stands beside transformers' eager float32. On a GPU both sides have the same type, and each
mode of the compiler stands beside transformers' eager network and, where it can be compiled, beside that as well.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks import measure, models
from benchmarks.report import Goal, Row, at_least, at_most, size_text
from benchmarks.settings import Settings

LIMIT = at_most(1.3)  # × the time that the FLOPs take at the machine's own matrix rate
GPU_MODES = {"compiled": None, "compiled with CUDA graphs": "reduce-overhead"}


@dataclass(frozen=True)
class Case:
    """A model at a size (height, width). goals: by form of ours, the least ratio to transformers on a CPU."""

    name: str
    size: tuple[int, int]
    forms: Sequence[str] = ("float32 eager",)
    goals: Mapping[str, Goal] = field(default_factory=dict)
    limit: Goal | None = None


FLOAT32 = ("float32 eager", "float32 compiled")
ALL_FORMS = (*FLOAT32, "bfloat16 eager", "bfloat16 compiled")
SWIN_TINY_GOALS = dict(zip(ALL_FORMS, map(at_least, (2.2, 2.7, 4, 4)), strict=True))
CASES = (
    Case("mask2former_swin_tiny", (384, 384), limit=LIMIT),
    Case("mask2former_swin_tiny", (800, 1088), ALL_FORMS, SWIN_TINY_GOALS, LIMIT),
    Case("mask2former_resnet50", (384, 384), limit=LIMIT),
    Case("mask2former_resnet50", (800, 1088), limit=LIMIT),
    Case("mask2former_swin_large", (800, 1333), FLOAT32, dict.fromkeys(FLOAT32, at_least(2)), LIMIT),
    Case("oneformer_swin_tiny", (640, 640), limit=LIMIT),
    Case("oneformer_swin_large", (640, 640), FLOAT32, dict.fromkeys(FLOAT32, at_least(2.2)), LIMIT),
    Case("oneformer_dinat_large", (640, 640), limit=LIMIT),
)
QUICK = (Case("mask2former_swin_tiny", (384, 384)), Case("oneformer_swin_tiny", (256, 256)))
GPU_CASES = (
    Case("mask2former_swin_tiny", (800, 1088)),
    Case("mask2former_swin_large", (800, 1333)),
    Case("oneformer_swin_large", (640, 640)),
)


def rows(settings: Settings) -> Iterator[Row | str]:
    if settings.on_gpu:
        for case in GPU_CASES[:1] if settings.quick else GPU_CASES:
            for dtype in (torch.float32, torch.bfloat16):
                for images in (1, 8):
                    try:
                        yield from gpu_rows(case, dtype, images, settings)
                    except torch.cuda.OutOfMemoryError:
                        yield f"{case.name}, {dtype}, {images} images: not enough memory on this GPU for all forms"
                    _forget()
        return
    if settings.no_bfloat16:
        yield settings.no_bfloat16
    for case in QUICK if settings.quick else CASES:
        yield from cpu_rows(case, settings)
        _forget()


def cpu_rows(case: Case, settings: Settings) -> Iterator[Row | str]:
    """Every form of ours against transformers' eager float32, in turn."""
    with models.saved(case.name) as folder:
        ours, theirs = (models.load(side, folder) for side in ("ours", "transformers"))
        forms = [form for form in case.forms if "bfloat16" not in form or not settings.no_bfloat16]
        halved = models.load("ours", folder, dtype=torch.bfloat16) if "bfloat16 eager" in forms else None
    pixel_values = torch.randn(1, 3, *case.size)
    works: dict[str, Callable] = {}
    if theirs is not None:
        works["transformers"] = lambda: models.run_theirs(theirs, pixel_values)
    for form in forms:
        dtype, mode = form.split()
        model, pixels = (halved, pixel_values.bfloat16()) if dtype == "bfloat16" else (ours, pixel_values)
        works[form] = _work("ours", model, pixels, mode)
    seconds = measure.interleaved_medians(works, settings.repeats)

    size, reference = size_text(case.size), seconds.get("transformers", {})
    for stage in models.STAGES:
        yield Row(case.name, size, stage, seconds["float32 eager"][stage], reference.get(stage))
    for form in forms:
        beside = "" if form == "float32 eager" or not reference else " (transformers: float32 eager)"
        yield Row(case.name, size, form + beside, seconds[form]["all"], reference.get("all"), case.goals.get(form))
    flops = measure.flops_of(lambda: ours(pixel_values).mask_logits)
    for form in forms:
        dtype = getattr(torch, form.split()[0])
        limit = flops / measure.matrix_rate(settings.device, dtype)
        other = reference["all"] / limit if reference and form == "float32 eager" else None
        part = f"{form} ÷ FLOPs at the matrix rate"
        yield Row(case.name, size, part, seconds[form]["all"] / limit, other, case.limit, "figure")
    if theirs is None:
        yield f"{case.name} has no comparator: current transformers cannot run it."


def gpu_rows(case: Case, dtype: torch.dtype, images: int, settings: Settings) -> Iterator[Row | str]:
    """Both sides in one type, for a batch: eager by stage, and every mode of the compiler."""
    with models.saved(case.name) as folder:
        sides = {side: models.load(side, folder, settings.device, dtype) for side in ("ours", "transformers")}
    pixel_values = torch.randn(images, 3, *case.size, device=settings.device, dtype=dtype)
    works, kind = {}, str(dtype).removeprefix("torch.")
    for side, model in sides.items():
        works[f"{side} eager"] = _work(side, model, pixel_values, "eager")
        for mode, argument in GPU_MODES.items():
            work = _work(side, model, pixel_values, "compiled", argument)
            try:
                work()  # a network that the compiler refuses must not end the others
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                first_line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                yield f"{case.name}, {kind}, {images} images: {side} {mode} does not run: {first_line}"
                continue
            works[f"{side} {mode}"] = work
    seconds = measure.interleaved_medians(works, settings.repeats)

    size, eager = size_text(case.size, images), seconds["transformers eager"]
    for stage in models.STAGES:
        yield Row(case.name, size, f"{kind} {stage}", seconds["ours eager"][stage], eager[stage])
    for mode in ("eager", *GPU_MODES):
        mine, same = seconds.get(f"ours {mode}"), seconds.get(f"transformers {mode}")
        if mine is None:
            continue
        beside = "" if mode == "eager" else " (transformers: eager)"
        yield Row(case.name, size, f"{kind} {mode}{beside}", mine["all"], eager["all"])
        if mode != "eager" and same is not None:
            yield Row(case.name, size, f"{kind} {mode} (transformers too)", mine["all"], same["all"])
    flops = measure.flops_of(lambda: sides["ours"](pixel_values).mask_logits)
    limit = flops / measure.matrix_rate(settings.device, dtype)
    for mode in ("eager", *GPU_MODES):
        if f"ours {mode}" in seconds:
            part = f"{kind} {mode} ÷ FLOPs at the matrix rate"
            yield Row(case.name, size, part, seconds[f"ours {mode}"]["all"] / limit, kind="figure")


def _work(side: str, model: nn.Module, pixel_values: Tensor, form: str, mode: str | None = None) -> Callable:
    """One run of a side, eager or compiled."""
    if form == "compiled":
        compiled = models.compiled_ours if side == "ours" else models.compiled_theirs
        return compiled(model, pixel_values, mode)
    run = models.run_ours if side == "ours" else models.run_theirs
    return lambda: run(model, pixel_values)


def _forget() -> None:
    """Let go of compiled networks and their memory before the next."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
