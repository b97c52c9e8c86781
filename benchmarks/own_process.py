"""A measurement in a process of its own, where nothing else has touched the memory; and how peak memory is read.

`run("benchmarks.memory:inference", …)` starts a Python that calls that function and prints what it returns as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


def run(function: str, settings: Settings, **arguments: Any) -> Any:
    """What `module:function` returns (JSON types only), called with a device and these arguments.

    Raises RuntimeError with the end of what it complained of if it fails.
    """
    said = json.dumps({"device": str(settings.device), **arguments})
    command = [sys.executable, "-m", "benchmarks.own_process", function, said]
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    if done.returncode:
        reason = done.stderr.strip()[-2000:] or f"exit code {done.returncode} without a word (out of memory?)"
        raise RuntimeError(f"{function}({said}) failed: {reason}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_memory_of(work: Callable[[], object], device: torch.device) -> float:
    """MiB by which a work raises this process's memory at its peak (on a GPU: the device's)."""
    if device.type == "cuda":
        torch.cuda.synchronize()
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


def peak_of_process() -> float:
    """Bytes that this process has held at most, weights and libraries included."""
    try:
        return _status_kib("VmHWM") * 1024  # a process that was started by another may have inherited its `ru_maxrss`
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    module, name = sys.argv[1].split(":")
    keywords = json.loads(sys.argv[2])
    keywords["device"] = torch.device(keywords["device"])
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print("\n" + json.dumps(getattr(importlib.import_module(module), name)(**keywords)))
