"""Images a second of a whole segmentation on a GPU: a photo's tensor in, panoptic segments out, one image at a time.

Swin-L with 200 queries in bfloat16, compiled with CUDA graphs. Random weights find nothing, so that what is
post-processed after the network has run are the predictions of `scene.py`, 30 queries kept. Both sides do the same;
theirs multiplies out all 200 masks in the network, ours those it needs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks import measure, models, postprocessing
from benchmarks.report import Row, at_least, size_text
from benchmarks.settings import Settings

MODEL, PADDED = "mask2former_swin_large", (800, 1344)  # a photo of 800 × 1333, padded
GOAL = at_least(60)


def rows(settings: Settings) -> Iterator[Row | str]:
    """For a GPU only."""
    name, size = ("mask2former_swin_tiny", (384, 384)) if settings.quick else (MODEL, PADDED)
    with models.saved(name) as folder:
        sides = {side: models.load(side, folder, settings.device, torch.bfloat16) for side in ("ours", "transformers")}
    pixel_values = torch.randn(1, 3, *size, device=settings.device, dtype=torch.bfloat16)
    network = torch.compile(sides["ours"], dynamic=False, mode="reduce-overhead")
    ours = postprocessing.ours(size, settings.device)["panoptic"]
    theirs = postprocessing.theirs(size, settings.device)["panoptic"]

    @torch.inference_mode()
    def our_image() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        network(pixel_values)
        ours()

    @torch.inference_mode()
    def their_image() -> None:
        models.run_theirs(sides["transformers"], pixel_values)
        theirs()

    seconds = measure.interleaved_medians({"ours": our_image, "transformers": their_image}, max(settings.repeats, 20))
    rates = {side: 1 / parts["all"] for side, parts in seconds.items()}
    work, label = f"{name}, tensor in, panoptic out", size_text(size)
    part = "bfloat16 compiled, images a second"
    goal = None if settings.quick else GOAL
    yield Row(work, label, part, rates["ours"], goal=goal, kind="figure")
    yield Row(work, label, f"{part} (transformers: eager)", rates["ours"], rates["transformers"], kind="rate")
