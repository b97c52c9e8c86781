"""AdamW as the papers set it (Cheng et al. 2022, §4.1), the learning rate over time, and the average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

PAPER_BATCH = 16  # images a step, for which the papers' learning rate 1e-4 holds
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
# Embeddings kept as plain parameters. The pixel decoder's level embedding is decayed, as in the authors' code.
UNDECAYED = (
    "relative_position_bias_table",
    "transformer_decoder.query_features",
    "transformer_decoder.query_positions",
    "transformer_decoder.level_embedding",
    "text_context",
)


def parameter_groups(
    module: nn.Module, lr: float = 1e-4, weight_decay: float = 0.05, backbone_multiplier: float = 0.1
) -> list[dict]:
    """Groups for an optimiser: the backbone learns more slowly, norms and embeddings do not decay.

    `module` is the model, or whatever contains it (its criterion included). Frozen parameters are left out.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    seen = set()
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(prefix, recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            backbone = "backbone" in name.split(".")
            decayed = not isinstance(owner, (*NORMS, nn.Embedding)) and not name.endswith(UNDECAYED)
            groups.setdefault((backbone, decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": lr * (backbone_multiplier if backbone else 1),
            "weight_decay": weight_decay if decayed else 0.0,
        }
        for (backbone, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def scaled_lr(images_per_step: int, paper_lr: float = 1e-4) -> float:
    """The linear rule: half the images a step, half the learning rate."""
    return paper_lr * images_per_step / PAPER_BATCH


def lr_factor(
    step: int,
    steps: int,
    schedule: str = "poly",
    warmup: int = 0,
    power: float = 0.9,
    milestones: Sequence[float] = (327778 / 368750, 355092 / 368750),
) -> float:
    """What to multiply the learning rate by at `step` of `steps`, both counted in optimiser steps from 0.

    "poly": (1 − step / steps) ** power, the papers' choice for ADE20K and Cityscapes. "step": a tenth from each of
    the `milestones` on, shares of all steps, their choice for COCO. "constant": 1. Over the first `warmup` steps the
    factor also rises linearly; the papers use none.
    """
    warm = min(1.0, (step + 1) / (warmup + 1))
    if schedule == "poly":
        return warm * max(0.0, 1 - step / steps) ** power
    if schedule == "step":
        return warm * 0.1 ** sum(step >= milestone * steps for milestone in milestones)
    if schedule == "constant":
        return warm
    raise ValueError(f"schedule {schedule!r}: expected 'poly', 'step' or 'constant'")


class AveragedWeights:
    """The exponential moving average of a module's parameters, from the moment this is made."""

    def __init__(self, module: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay}: expected more than 0 and less than 1, such as 0.9999")
        self.decay = decay
        self.parameters = list(module.parameters())
        self.restart()

    def restart(self) -> None:
        """Begin anew from the module's present parameters."""
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self.average, self.parameters, 1 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's parameters and the average; a second call undoes the first."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            held = parameter.clone()
            parameter.copy_(average)
            average.copy_(held)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module holds the average."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
