"""From a quarter to 16 megapixels: is time linear in the picture's size, and what does a large photo need?

Ours only, Swin-T, each size in a process of its own, which keeps freed memory as our commands do. Then a whole photo of
16 megapixels goes through the predictor at its own size, photo in, panoptic segments out. Its random weights would find
nothing; so that post-processing has work, every query is kept that names a class, which is more than a trained network
has.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch

from benchmarks import measure, models, own_process
from benchmarks.report import Row, at_most, size_text
from benchmarks.settings import Settings
from mask2former.allocator import keep_freed_memory

MODEL = "mask2former_swin_tiny"
SIZES = ((416, 608), (864, 1152), (1728, 2304), (3456, 4608))  # 0.25, 1, 4, 16 megapixels
LARGE = 8e6  # pixels, from which a CPU runs once after warming up: such a run takes minutes
GOAL = at_most(24)


def rows(settings: Settings) -> Iterator[Row | str]:
    if settings.quick:
        yield "scaling is left out of a quick run: every size takes a process of its own"
        return
    dtype = "bfloat16" if settings.on_gpu else "float32"
    rates = {}
    with models.saved(MODEL) as folder:
        for size in SIZES:
            megapixels, label = size[0] * size[1] / 1e6, size_text(size)
            found = own_process.run(
                "benchmarks.scaling:network",
                settings,
                folder=folder,
                size=size,
                dtype=dtype,
                repeats=settings.repeats,
            )
            rates[megapixels] = found["seconds"] / megapixels
            yield Row(MODEL, label, f"{dtype} network", found["seconds"])
            yield Row(MODEL, label, f"{dtype} network, seconds a megapixel", rates[megapixels])
            yield Row(MODEL, label, f"{dtype} network, peak MiB", found["peak"], kind="memory")
            yield Row(MODEL, label, f"{dtype} network, peak MiB a megapixel", found["peak"] / megapixels, kind="memory")
        growth = rates[max(rates)] / min(rates.values())
        part = f"{dtype} seconds a megapixel: at the largest ÷ the least (1: linear)"
        yield Row(MODEL, "all of these", part, growth, kind="figure")
        size = SIZES[-1]
        photo = own_process.run("benchmarks.scaling:whole_photo", settings, folder=folder, size=size, dtype=dtype)
        label, work = size_text(size), f"{MODEL}, photo in, panoptic out"
        yield Row(work, label, f"{dtype} all", photo["seconds"])
        yield Row(work, label, f"{dtype} segments", photo["segments"], kind="figure")
        where = "the GPU" if settings.on_gpu else "the whole process"
        yield Row(work, label, f"{dtype} peak GB of {where}", photo["peak"] / 1e9, goal=GOAL, kind="figure")


def network(device: torch.device, folder: str, size: tuple[int, int], dtype: str, repeats: int) -> dict[str, float]:
    """Seconds and peak MiB above the loaded model; called in a process of its own."""
    keep_freed_memory()
    model = models.load("ours", folder, device, getattr(torch, dtype))
    pixel_values = torch.randn(1, 3, *size).to(device, getattr(torch, dtype))
    peak = own_process.peak_memory_of(lambda: models.run_ours(model, pixel_values), device)  # warms up, too
    seconds = []
    for _ in range(1 if size[0] * size[1] > LARGE and device.type == "cpu" else repeats):
        start = time.perf_counter()
        models.run_ours(model, pixel_values)
        measure.synchronise()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "peak": peak}


def whole_photo(device: torch.device, folder: str, size: tuple[int, int], dtype: str) -> dict[str, float]:
    """Seconds, segments, and the peak in bytes with weights and libraries; called in a process of its own."""
    from PIL import Image

    from mask2former.inference.predictor import Predictor
    from weights.bundled import PHOTO

    keep_freed_memory()
    model = models.load("ours", folder, device)
    predictor = Predictor(
        model, device, getattr(torch, dtype), size=tuple(size), object_mask_threshold=0.0, overlap_threshold=0.0
    )
    with Image.open(PHOTO) as picture:
        photo = picture.convert("RGB").resize(tuple(size)[::-1])
    start = time.perf_counter()
    result = predictor(photo, task="panoptic")
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else own_process.peak_of_process()
    return {"seconds": seconds, "peak": peak, "segments": len(result.segments)}
