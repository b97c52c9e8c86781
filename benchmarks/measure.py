"""How things are measured here: interleaved medians in one process, peak memory in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch


def interleaved_medians(works: Mapping[str, Callable[[], object]], repeats: int) -> dict:
    """Run every work once to warm up, then all of them in turn, `repeats` times.

    A work may return a dict, the seconds of its parts; the whole is timed here, as part "all".
    Returns {work: {part: median seconds}}.
    """
    seconds = {name: {} for name in works}
    for round_ in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            result = work()
            _synchronise()
            parts = dict(result) if isinstance(result, dict) else {}
            parts["all"] = time.perf_counter() - start
            if round_:
                for part, value in parts.items():
                    seconds[name].setdefault(part, []).append(value)
    return {name: {part: median(values) for part, values in parts.items()} for name, parts in seconds.items()}


class StageTimer:
    """Seconds spent inside some modules of a model, by forward hooks: `with StageTimer({"backbone": m}) as t: …`."""

    def __init__(self, stages: Mapping[str, torch.nn.Module]):
        self.stages, self.seconds = stages, {}

    def __enter__(self) -> StageTimer:
        self.seconds, self.started, self.hooks = dict.fromkeys(self.stages, 0.0), {}, []
        for name, module in self.stages.items():
            self.hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self._start(name)))
            self.hooks.append(module.register_forward_hook(lambda *_, name=name: self._stop(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _start(self, name: str) -> None:
        _synchronise()
        self.started[name] = time.perf_counter()

    def _stop(self, name: str) -> None:
        _synchronise()
        self.seconds[name] += time.perf_counter() - self.started[name]


def peak_memory_of(work: Callable[[], object]) -> float:
    """MiB by which a work raises this process's memory at its peak (on CUDA: the device's)."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    except OSError:
        before_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_peak) / 1024
    before = _status_kib("VmRSS")
    work()
    return (_status_kib("VmHWM") - before) / 1024


def in_own_process(script: str, *arguments: str) -> float:
    """Run `script` again with these arguments and read the number it prints on its last line."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def matrix_rate(dtype: torch.dtype = torch.float32, size: int = 2048) -> float:
    """The machine's own matrix-product rate, FLOP/s: the best of a few products of two size × size matrices."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        _synchronise()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def flops_of(work: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one run."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def machine() -> str:
    """One line naming the machine and the versions that matter."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    versions = [f"torch {torch.__version__}"]
    for package in ("timm", "transformers"):
        if package in sys.modules:
            versions.append(f"{package} {sys.modules[package].__version__}")
    return f"{name}, {torch.get_num_threads()} threads, Python {platform.python_version()}, {', '.join(versions)}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats with three significant figures or two decimals."""
    text = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(header[i]), *(len(row[i]) for row in text)) for i in range(len(header))]
    lines = [[name.ljust(width) for name, width in zip(header, widths, strict=True)], ["-" * width for width in widths]]
    lines += [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in text]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parser(description: str) -> argparse.ArgumentParser:
    """What every benchmark here understands."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--repeats", type=int, default=5, help="timed runs of each side (default 5)")
    arguments.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of both sides")
    arguments.add_argument("--quick", action="store_true", help="small sizes, few repeats: under two minutes")
    return arguments


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return str(value)
