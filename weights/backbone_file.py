"""A file with the ImageNet weights of a backbone, into a model: for machines that cannot download timm's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from mask2former.errors import CheckpointError
from weights.finite import check_finite
from weights.tensor_files import read_safetensors, read_torch_state
from weights.translate import tensor_kind

COUNTER = "num_batches_tracked"  # of a batch norm: its momentum is fixed, so that nothing reads it


def load_backbone(model: nn.Module, path: str | Path) -> None:
    """Fill the backbone of a Mask2Former or OneFormer from the state dict of the whole timm network, head and all.

    path: a .safetensors, or a .pth or .pt without code. Its entries are found by timm's names or, where a .pth has none
        of them, one to one by order: other implementations of a network list the same parts in the same order.

    Raises CheckpointError where entries are unknown, missing, misshapen, no floats or not finite, and ValueError where
    the backbone is not one of timm's.
    """
    config = model.config
    if not hasattr(model.backbone, "body"):
        raise ValueError(f"backbone {config.backbone!r} is not one of timm's, so that no timm weights fit it")
    with torch.device("meta"):
        names = without_counters(timm.create_model(config.backbone, **config.backbone_options).state_dict())
    read = read_safetensors if Path(path).suffix == ".safetensors" else read_torch_state
    found = without_counters(read(Path(path)))
    if not names.keys() & found.keys():
        found = renamed_by_order(names, found, path, config.backbone)
    unknown = sorted(found.keys() - names.keys())
    if unknown:
        raise CheckpointError(f"{path}: {len(unknown)} entries are none of {config.backbone}'s: {listed(unknown)}")
    # Among the maps' names some dots have become underscores
    found = {flat(name): tensor for name, tensor in found.items()}
    wanted = model.backbone.body.state_dict()
    missing = [name for name in without_counters(wanted) if flat(name) not in found]
    if missing:
        raise CheckpointError(f"{path} lacks {len(missing)} entries of {config.backbone}: {listed(missing)}")
    state = {name: found.get(flat(name), tensor) for name, tensor in wanted.items()}
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if state[name].shape != tensor.shape
    ]
    if misshapen:
        raise CheckpointError(f"{path} does not fit {config.backbone}: {listed(misshapen)}")
    kinds = [f"{name} {t.dtype}" for name, t in state.items() if tensor_kind(t) != tensor_kind(wanted[name])]
    if kinds:
        raise CheckpointError(f"{path}: entries of another type than {config.backbone}'s: {listed(kinds)}")
    check_finite(str(path), {name: tensor for name, tensor in state.items() if flat(name) in found})
    model.backbone.body.load_state_dict(state)


def renamed_by_order(
    names: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | Path, backbone: str
) -> dict[str, Tensor]:
    """The entries of `found` under the `names` in the same places.

    Raises ValueError where number, shapes, or what an entry is (weight, bias, running_mean, …) differ.
    """
    problem = f"{path} has none of timm's names for {backbone} (the first are {listed(list(names))})"
    if Path(path).suffix == ".safetensors":
        raise CheckpointError(f"{problem}, and a .safetensors keeps no order to go by: rename its entries")
    if len(names) != len(found):
        raise CheckpointError(f"{problem}, and {len(found)} entries instead of its {len(names)}")
    for (name, expected), (theirs, tensor) in zip(names.items(), found.items(), strict=True):
        if tensor.shape != expected.shape or kind(theirs) != kind(name):
            raise CheckpointError(
                f"{problem}, and by order {theirs} {tuple(tensor.shape)} stands where {name} {tuple(expected.shape)} "
                "is expected"
            )
    return dict(zip(names, found.values(), strict=True))


def kind(name: str) -> str:
    return name.rpartition(".")[2]


def without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith(COUNTER)}


def flat(name: str) -> str:
    return name.replace(".", "_")


def listed(items: list[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
