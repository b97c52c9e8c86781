"""What a training run says while it runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from mask2former.writing import append_line, write_bytes


class Log:
    """Progress bar, `metrics.jsonl`, and TensorBoard if asked for; silent in all processes but the first."""

    def __init__(self, output: Path, start: int, steps: int, tensorboard: bool, enabled: bool):
        self.enabled, self.start, self.steps = enabled, start, steps
        self.path, self.writer, self.bar = output / "metrics.jsonl", None, None
        self.clock, self.last = time.perf_counter(), start
        if not enabled:
            return
        write_bytes(self.path, b"".join(self._kept(start)))
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(output, purge_step=start + 1)

    def _kept(self, start: int) -> list[bytes]:
        """The lines up to the checkpoint; those after it will be written again, and one that a kill has cut short is
        one of them. Raises ValueError for a file that is no log."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        kept = []
        for number, line in enumerate(lines, start=1):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            try:
                if int(json.loads(line)["step"]) <= start:
                    kept.append(line)
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                raise ValueError(
                    f"{self.path}, line {number} is not what a run logs ({type(error).__name__}: {error}); move that "
                    "file elsewhere"
                ) from error
        return kept

    def progress(self, steps: range) -> tqdm:
        self.bar = tqdm(steps, initial=self.start, total=self.steps, unit="step", disable=not self.enabled)
        return self.bar

    def say(self, text: str) -> None:
        if self.enabled:
            tqdm.write(text)

    def losses(self, step: int, values: Mapping[str, float], lr: float, grad_norm: float) -> None:
        seconds = (time.perf_counter() - self.clock) / max(1, step - self.last)
        self.clock, self.last = time.perf_counter(), step
        if self.enabled:
            self.bar.set_postfix(loss=f"{values['loss']:.3f}")
        self.write(step, {**values, "lr": lr, "grad_norm": grad_norm, "seconds_per_step": seconds})

    def scores(self, step: int, values: Mapping[str, float]) -> None:
        self.say(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        self.write(step, values)
        self.clock, self.last = time.perf_counter(), step

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if not self.enabled:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        append_line(self.path, json.dumps({"step": step, **finite}))
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
