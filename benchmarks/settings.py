"""What a run of the benchmarks was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """The same for every part of a run."""

    device: torch.device = torch.device("cpu")
    quick: bool = False  # small sizes
    repeats: int = 5  # timed runs of each side
    threads: int = 1  # of the CPU, on both sides
    force_bfloat16: bool = False  # also on a CPU that has no instructions for it

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def no_bfloat16(self) -> str:
        """Why bfloat16 is not timed here; empty where it is."""
        if self.on_gpu or self.force_bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return ""
        return (
            "bfloat16 is not timed: this CPU has no instructions for its matrix products (--force-bf16 does it anyway)"
        )
