"""How things are timed here: interleaved medians in one process, and what the machine could do at best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib import metadata
from statistics import median

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mask2former.commands.env import processor

PACKAGES = ("torch", "timm", "transformers", "onnxruntime", "openvino", "triton")


def interleaved_medians(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Run every work once to warm up, then all of them in turn, `repeats` times.

    A work may return a dict of the seconds of its parts, or a function that gives one when all work is done; the whole
    is timed here, as part "all". Returns {work: {part: median seconds}}.
    """
    seconds = {name: {} for name in works}
    for round_ in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            result = work()
            synchronise()
            parts = {"all": time.perf_counter() - start}
            result = result() if callable(result) else result
            if isinstance(result, dict):
                parts = result | parts
            if round_:
                for part, value in parts.items():
                    seconds[name].setdefault(part, []).append(value)
    return {name: {part: median(values) for part, values in parts.items()} for name, parts in seconds.items()}


class StageTimer:
    """Seconds spent inside some modules of a model, by forward hooks: `with StageTimer({"backbone": m}) as t: …`.

    On a GPU the stages are timed by events on its stream, so that nothing waits for it: ask for `seconds` later.
    """

    def __init__(self, stages: Mapping[str, torch.nn.Module], device: torch.device):
        self.stages, self.on_gpu = stages, device.type == "cuda"

    def __enter__(self) -> StageTimer:
        self.marks, self.hooks = {name: [] for name in self.stages}, []
        for name, module in self.stages.items():
            self.hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._mark(name)))
            self.hooks.append(module.register_forward_hook(lambda *_, name=name: self._mark(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _mark(self, name: str) -> None:
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        self.marks[name].append(event if self.on_gpu else time.perf_counter())

    def seconds(self) -> dict[str, float]:
        synchronise()
        found = {}
        for name, marks in self.marks.items():
            pairs = zip(marks[::2], marks[1::2], strict=True)
            found[name] = sum(a.elapsed_time(b) / 1000 if self.on_gpu else b - a for a, b in pairs)
        return found


class Clock:
    """Seconds between laps, in which a GPU finishes what it was given."""

    def __init__(self):
        synchronise()
        self.seconds, self.last = {}, time.perf_counter()

    def lap(self, part: str) -> None:
        synchronise()
        self.seconds[part] = time.perf_counter() - self.last
        self.last += self.seconds[part]


def synchronise() -> None:
    """Wait for a GPU, if this process has used one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """The machine's own matrix-product rate, FLOP/s: the best of a few products of two square matrices."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        synchronise()
        start = time.perf_counter()
        a @ b
        synchronise()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def flops_of(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one eager run."""

    def linear(x_shape, *_, out_shape, **__) -> int:
        return 2 * x_shape[-1] * torch.Size(out_shape).numel()

    # oneDNN's linear layer and the fused attention of a CPU are not in PyTorch's own list.
    mapping = {torch.ops.mkldnn._linear_pointwise: linear} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        work()
    return counter.get_total_flops()


def machine(devices: list[torch.device]) -> str:
    """One line: the day, the machine, and the versions that matter."""
    gpus = [torch.cuda.get_device_name(device) for device in devices if device.type == "cuda"]
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    names = ", ".join([processor(), *gpus])
    return f"{date.today()}; {names}; {torch.get_num_threads()} of {os.cpu_count()} threads; {', '.join(versions)}"
