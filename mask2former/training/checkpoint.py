"""Checkpoints of a training run: all that is needed to continue as if it had never stopped.

Random numbers and the order of images are functions of the seed and the step (see `batches`), so that those two are
the state of every generator and of the sampler; the learning rate is a function of the step as well.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from mask2former.bounds import Natural, shown
from mask2former.errors import CheckpointError
from mask2former.finite import is_finite
from mask2former.schema import convert
from mask2former.training.optimizer import AveragedWeights
from mask2former.writing import save_torch

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

    Every process of a run must call this; only the one with `write` touches the disk. Raises FloatingPointError, naming
    one, where weights are not finite, and OSError where the disk will not take them; the old checkpoint then stays.
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
    for part in ("module", "average"):
        if broken := next((name for name, tensor in (state[part] or {}).items() if not is_finite(tensor)), None):
            raise FloatingPointError(
                f"after step {step} the weights are not finite ({broken}), and {path} stays as it is: lower the "
                "learning rate, or check the settings and the data"
            )
    if write:
        save_torch(state, path, state["module"])


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

    Raises CheckpointError for a file that is no such checkpoint, or another network's; ValueError where the run was
    begun with other settings than those that `may_change`.
    """
    state = read_state(path)
    changed = {
        name: (state.settings.get(name), value)
        for name, value in settings.items()
        if name not in may_change and state.settings.get(name) != value
    }
    if changed:
        listed = ", ".join(f"{name} was {old!r} and is {new!r}" for name, (old, new) in changed.items())
        raise ValueError(f"{path} cannot be continued: {listed}. Use the same settings, or start in another folder")
    expected = get_model_state_dict(module, options=WHOLE)
    if expected:  # the first process alone has them where parameters are split
        for part in (state.module, state.average) if average is not None else (state.module,):
            require_same(path, part or {}, expected)
    require_optimizer_of(path, state, get_optimizer_state_dict(module, optimizer, options=WHOLE))
    try:
        if average is not None:
            set_model_state_dict(module, state.average, options=WHOLE)
            average.restart()
        set_model_state_dict(module, state.module, options=WHOLE)
        set_optimizer_state_dict(module, optimizer, state.optimizer, options=WHOLE)
        scaler.load_state_dict(state.scaler)
    except Exception as error:  # what PyTorch raises for another optimiser's state is anything
        raise no_checkpoint(path, f"its optimiser state is of another run ({shown(str(error))})") from error
    return state.step


class State(msgspec.Struct):
    """What a checkpoint holds. Tensors are looked at one by one afterwards."""

    step: Natural
    module: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any] | None
    settings: dict[str, Any]
    config: dict[str, Any] | None


def read_state(path: Path) -> State:
    """A checkpoint's content, of tensors and plain containers alone. Raises CheckpointError saying what is wrong."""
    if not path.is_file():
        raise no_checkpoint(path, "a folder" if path.is_dir() else "no file")
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise no_checkpoint(path, "packed, which a checkpoint is not")
            if broken := archive.testzip():  # PyTorch itself does not look
                raise no_checkpoint(path, f"damaged ({broken} is not as it was written)")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except zipfile.BadZipFile:
        raise no_checkpoint(path, "empty" if not path.stat().st_size else "cut short, or of another kind") from None
    except pickle.UnpicklingError as error:
        raise no_checkpoint(path, "refused: reading it could run code") from error
    except Exception as error:  # a broken file raises nearly anything
        raise no_checkpoint(path, f"damaged ({shown(str(error))})") from error
    state = convert(content, State, lambda problem: no_checkpoint(path, f"not as this library writes it ({problem})"))
    for part in (state.module, state.average or {}):
        if odd := next((name for name, value in part.items() if not isinstance(value, Tensor)), None):
            raise no_checkpoint(path, f"not as this library writes it ({shown(odd)} is no tensor)")
    return state


def require_same(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """CheckpointError unless these are the weights of the same network."""
    lacks = [name for name in expected if name not in found]
    more = [name for name in found if name not in expected]
    other = [name for name in expected if name in found and found[name].shape != expected[name].shape]
    listed = [
        f"{len(names)} {what}, such as {names[0]}"
        for names, what in ((lacks, "are missing"), (more, "are unknown"), (other, "have other shapes"))
        if names
    ]
    if listed:
        raise no_checkpoint(path, f"another network's: of its weights {'; '.join(listed)}")


def require_optimizer_of(path: Path, state: State, expected: Mapping[str, Any]) -> None:
    """CheckpointError unless the optimiser has been at work on the same parameters, in the same groups."""
    try:
        groups, mine = ([sorted(group["params"]) for group in of["param_groups"]] for of in (state.optimizer, expected))
        same = groups == mine and set(state.optimizer["state"]) <= set(expected["state"])
        same = same and bool(state.optimizer["state"]) == bool(state.step)
    except (LookupError, TypeError):
        same = not expected  # the first process alone has it where parameters are split
    if not same and expected:
        raise no_checkpoint(path, "not as this library writes it (its optimiser state is of other parameters)")


def no_checkpoint(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be continued, it is {problem}; put a good copy there, or delete it to begin anew"
    )


def trained_weights(path: Path) -> dict[str, Tensor]:
    """The model's state dict in a checkpoint, the averaged one where there is one, for `model.load_state_dict`."""
    state = read_state(path)
    weights = state.average or state.module
    return {name.removeprefix("model."): tensor for name, tensor in weights.items() if name.startswith("model.")}
