"""What a training run says while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm


class Log:
    """Progress bar, `metrics.jsonl`, and TensorBoard if asked for; silent in all processes but the first."""

    def __init__(self, output: Path, start: int, steps: int, tensorboard: bool, enabled: bool):
        self.enabled, self.start, self.steps = enabled, start, steps
        self.path, self.writer, self.bar = output / "metrics.jsonl", None, None
        self.clock, self.last = time.perf_counter(), start
        if not enabled:
            return
        output.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        # Lines after the checkpoint will be written again; a line cut short by a kill is one of them.
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start]
        self.path.write_text("".join(kept))
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(output, purge_step=start + 1)

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
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
