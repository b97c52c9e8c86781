"""The network as a predictor runs it: for one task or several, compiled or not, and timed.

Shape letters: B photos, h × w the padded input.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from mask2former.structures import Outputs

CUDA_GRAPHS = "reduce-overhead"  # the compiler's mode that replays a whole graph of kernels as one


def run_network(
    model: nn.Module, pixel_values: Tensor, tasks: Sequence[str], mode: str | None = None
) -> dict[str, Outputs]:
    """The outputs for each task, of pixel values (B, 3, h, w).

    A Mask2Former answers all tasks with the same; a OneFormer has its decoder run for each, and backbone and pixel
    decoder once. mode: what the network was compiled with, if it was.
    """
    if mode == CUDA_GRAPHS:
        torch.compiler.cudagraph_mark_step_begin()
    if model.config.family != "oneformer":
        return dict.fromkeys(tasks, _kept(model(pixel_values), mode))
    if len(tasks) == 1:
        return {tasks[0]: _kept(model(pixel_values, task=tasks[0]), mode)}
    mask_features, levels = model.pixel_decoder(model.backbone(pixel_values))
    tokens = {task: model.task_token(task, len(pixel_values)) for task in tasks}
    return {
        task: _kept(model.transformer_decoder(levels, mask_features, token), mode) for task, token in tokens.items()
    }


def compile_network(model: nn.Module, mode: str | None = None) -> None:
    """Compile backbone, pixel decoder and transformer decoder, in place and each without a graph break.

    A first size is compiled for itself, which takes about a minute; the second makes PyTorch compile once more, for any
    size. mode: of `torch.compile`.
    """
    for part in (model.backbone, model.pixel_decoder, model.transformer_decoder):
        part.compile(fullgraph=True, mode=mode)


def _kept(outputs: Outputs, mode: str | None) -> Outputs:
    """The outputs, in memory that the next run of a CUDA graph does not write to."""
    if mode != CUDA_GRAPHS:
        return outputs
    copies = {name: getattr(outputs, name).clone() for name in ("class_logits", "mask_embeddings", "mask_features")}
    return replace(outputs, **copies, auxiliary=(), contrastive_logits=None)


class Clock:
    """Times the network on any device, where a GPU is not waited for; runs from its creation to `stop`."""

    def __init__(self, device: torch.device):
        self.start, self.end = time.perf_counter(), 0.0
        self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self.device = device
        if self.events:
            self.events[0].record(torch.cuda.current_stream(device))

    def stop(self) -> None:
        self.end = time.perf_counter()
        if self.events:
            self.events[1].record(torch.cuda.current_stream(self.device))

    def seconds(self) -> float:
        """How long it ran; waits for the device to get there."""
        if not self.events:
            return self.end - self.start
        self.events[1].synchronize()
        return self.events[0].elapsed_time(self.events[1]) / 1000

    @contextmanager
    def beside(self) -> Iterator[None]:
        """In here a GPU's work comes after what was timed, and beside, not after, the next batch's network."""
        if not self.events:
            yield
            return
        stream = torch.cuda.Stream(self.device)
        stream.wait_event(self.events[1])
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()  # only then may the outputs go
