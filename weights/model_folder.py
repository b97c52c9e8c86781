"""A model as a folder of files: written beside the old ones, then moved in their place so that none are mixed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mask2former.errors import sentence
from mask2former.output_folder import OutputFolder
from mask2former.unfinished import remove, unfinished_name
from mask2former.writing import as_json, write_bytes, written
from weights.pairing import ENTRY, weights_id

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# weights in other forms: who finds them beside a new model.safetensors might read them instead
OTHER_WEIGHTS = ("model.safetensors.index.json", "model-*-of-*.safetensors", "pytorch_model*.bin*")


def write_folder(
    folder: Path,
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
    carried: Sequence[Path],
) -> None:
    """Weights, config.json, other JSON files by name and copies of the carried ones, in place of those that are there.

    All is written into a temporary folder first, inside, because the folder may be the only place one can write to, or
    a file system of its own. Then the weights are moved up, and config.json last: whoever is killed in between leaves
    weights whose id it does not have (see `pairing`).
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    config = {**config, ENTRY: weights_id(state)}
    with OutputFolder(folder):
        temporary = folder / unfinished_name()
        try:
            temporary.mkdir()
            _write_safetensors(state, temporary / WEIGHTS, config[ENTRY])
            for name, values in {**others, CONFIG: config}.items():
                write_bytes(temporary / name, as_json(values, indent=2, ensure_ascii=False))
            for file in carried:
                write_bytes(temporary / file.name, file.read_bytes())
            for file in sorted(temporary.iterdir(), key=lambda file: (file.name == CONFIG, file.name != WEIGHTS)):
                file.replace(folder / file.name)
        except OSError as error:
            raise OSError(error.errno, f"the model cannot be written into {folder}: {sentence(error)}") from error
        finally:
            remove(temporary)
        for pattern in OTHER_WEIGHTS:
            for file in folder.glob(pattern):
                file.unlink()


def _write_safetensors(state: Mapping[str, Tensor], path: Path, number: str) -> None:
    with written(path, size_of(state)) as temporary:
        save_file(dict(state), temporary, metadata={"format": "pt", ENTRY: number})
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # safetensors makes files that nobody else may read


def size_of(state: Mapping[str, Tensor]) -> int:
    """Bytes that the tensors of a state dict take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
