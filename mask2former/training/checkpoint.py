"""Checkpoints of a training run: all that is needed to continue as if it had never stopped.

Random numbers and the order of images are functions of the seed and the step (see `batches`), so that those two are
the state of every generator and of the sampler; the learning rate is a function of the step as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from mask2former.training.optimizer import AveragedWeights

# Whole tensors by their plain names, whether the run is one process, replicated or sharded: any may continue another.
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save_checkpoint(
    path: Path,
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedWeights | None,
    settings: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    write: bool = True,
) -> None:
    """Write the state after `step` steps to `path`, which always holds either the old checkpoint or the new one.

    Every process of a run must call this; only the one with `write` touches the disk.
    """
    state = {
        "step": step,
        "module": get_model_state_dict(module, options=WHOLE),
        "optimizer": get_optimizer_state_dict(module, optimizer, options=WHOLE),
        "scaler": scaler.state_dict(),
        "average": None,
        "settings": dict(settings),
        "config": config,
    }
    if average is not None:
        with average.applied():  # on a CPU the state holds the parameters themselves, which are about to change back
            held = get_model_state_dict(module, options=WHOLE)
            state["average"] = {name: tensor.clone() for name, tensor in held.items()}
    if write:
        temporary = path.with_name(path.name + ".partial")
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def load_checkpoint(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedWeights | None,
    settings: Mapping[str, Any],
    may_change: frozenset[str],
) -> int:
    """Restore what `save_checkpoint` wrote and return the number of steps done.

    Raises ValueError where the run was begun with other settings than those that `may_change`.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    changed = {
        name: (state["settings"].get(name), value)
        for name, value in settings.items()
        if name not in may_change and state["settings"].get(name) != value
    }
    if changed:
        listed = ", ".join(f"{name} was {old!r} and is {new!r}" for name, (old, new) in changed.items())
        raise ValueError(f"{path} cannot be continued: {listed}. Use the same settings, or start in another folder")
    if average is not None:
        set_model_state_dict(module, state["average"], options=WHOLE)
        average.restart()
    set_model_state_dict(module, state["module"], options=WHOLE)
    set_optimizer_state_dict(module, optimizer, state["optimizer"], options=WHOLE)
    scaler.load_state_dict(state["scaler"])
    return state["step"]


def trained_weights(path: Path) -> dict[str, Tensor]:
    """The model's state dict in a checkpoint, the averaged one where there is one, for `model.load_state_dict`."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = state["average"] or state["module"]
    return {name.removeprefix("model."): tensor for name, tensor in weights.items() if name.startswith("model.")}
