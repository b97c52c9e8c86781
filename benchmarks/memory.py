"""Peak memory of one inference, above the loaded model, each side in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks import models, own_process
from benchmarks.network import CASES, GPU_CASES
from benchmarks.report import Row, at_most, size_text
from benchmarks.settings import Settings

GOALS = {
    ("mask2former_swin_tiny", (800, 1088), "cpu"): at_most(0.6),
    ("mask2former_swin_tiny", (800, 1088), "cuda"): at_most(0.5),
}


def rows(settings: Settings) -> Iterator[Row | str]:
    cases = [(case.name, case.size) for case in (GPU_CASES if settings.on_gpu else CASES)]
    if settings.quick:
        cases = [("mask2former_swin_tiny", (384, 384))]
    for name, size in cases:
        for dtype in ("float32", "bfloat16") if settings.on_gpu else ("float32",):
            yield row(name, size, dtype, settings)


def row(name: str, size: tuple[int, int], dtype: str, settings: Settings) -> Row:
    peaks, goal = {}, GOALS.get((name, size, settings.device.type))
    with models.saved(name) as folder:
        for side in ("ours", "transformers") if "dinat" not in name else ("ours",):
            peaks[side] = own_process.run(
                "benchmarks.memory:inference", settings, folder=folder, side=side, size=size, dtype=dtype
            )
    return Row(
        name, size_text(size), f"{dtype} peak MiB", peaks["ours"], peaks.get("transformers"), goal, kind="memory"
    )


def inference(device: torch.device, folder: str, side: str, size: tuple[int, int], dtype: str) -> float:
    """MiB; called in a process of its own."""
    model = models.load(side, folder, device, getattr(torch, dtype))
    pixel_values = torch.randn(1, 3, *size).to(device, getattr(torch, dtype))
    run = models.run_ours if side == "ours" else models.run_theirs
    return own_process.peak_memory_of(lambda: run(model, pixel_values), device)
