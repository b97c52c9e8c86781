"""What ties a config.json to the weights beside it: one id in both, so that two models are not taken for one.

The id is a digest of the weights. It stands in config.json and among the metadata of the safetensors file. A writer
that was killed between two files leaves a new id in the weights and another in the config, or none. Who re-saves a
folder with other software leaves no id in the weights, and is believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mask2former.errors import CheckpointError

ENTRY = "weights_id"  # of config.json, and of the metadata


def weights_id(state: Mapping[str, Tensor]) -> str:
    """32 digits that are the same for the same weights alone. state: on the CPU, contiguous."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(state.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def require_pair(config: Path, values: Mapping[str, Any], weights: Path) -> None:
    """CheckpointError where a safetensors file has an id and its config.json, read as `values`, none or another."""
    try:
        with safe_open(weights, "pt") as file:
            found = (file.metadata() or {}).get(ENTRY)
    except (SafetensorError, OSError):
        return  # who reads it says what is wrong
    if found is not None and values.get(ENTRY) != found:
        raise CheckpointError(
            f"{config} and {weights} belong to two different models, as when writing them was interrupted; write the "
            "folder anew (convert, save_model, or train --resume)"
        )
