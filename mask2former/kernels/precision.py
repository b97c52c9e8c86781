"""Arithmetic that half precision cannot hold: done in at least float32, whatever the rest is done in."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half types, else the type itself."""
    return torch.promote_types(dtype, torch.float32)


def without_autocast(like: Tensor) -> torch.autocast:
    """A context in which autocast of a tensor's device is off."""
    return torch.autocast(like.device.type, enabled=False)


def exactly(module: nn.Module, x: Tensor) -> Tensor:
    """module(x), read and mixed in at least float32, then rounded to the type of the module's weights."""
    weight = next(module.parameters())
    exact = at_least_float32(weight.dtype)
    parameters = {name: parameter.to(exact) for name, parameter in module.named_parameters()}
    with without_autocast(weight):
        y: Tensor = torch.func.functional_call(module, parameters, x.to(exact))
    return y.to(weight.dtype)
