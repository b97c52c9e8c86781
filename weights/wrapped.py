"""State dicts as people save them: inside a training run's dict, or under the names a wrapper put before them.

What is known is taken off, with one warning that says so; what is not one of the two networks is named, with the way
out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mask2former.errors import CheckpointError
from mask2former.schema import short

# Where training code keeps the weights, the plainest name first: Detectron2, Lightning, others' loops.
INSIDE = ("model", "state_dict", "model_state_dict", "net", "network", "weights")
COMPILED = "_orig_mod."  # torch.compile, around the whole or a part
AROUND = ("module.", "model.", "net.", "network.")  # DataParallel and DDP; Lightning and other wrappers' attribute
OWN_RUN = {"step", "module", "optimizer", "settings"}  # `checkpoint.pt` of this library's trainer
# Names that tell whose weights these are, and what to do instead.
OTHERS = {
    ".lora_": "adapters (LoRA) that are not merged: merge them (peft: `merge_and_unload()`), then save the model",
    "model.pixel_level_module.": "a transformers model's: take the folder that `model.save_pretrained(FOLDER)` writes",
    "transformer_decoder.class_head.": "this library's own network's: `create_model(…)`, then "
    "`model.load_state_dict(…)`; `save_model(model, FOLDER)` writes what loads by itself",
}


def weights_inside(path: Path, content: Any) -> Mapping[Any, Any]:
    """The state dict in the content of a file. Raises CheckpointError naming what else is there."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    if set(content) >= OWN_RUN:
        raise CheckpointError(
            f"{path} is what a training run needs to continue (`train --resume`); its model is in "
            f"{path.parent / 'model'} once the run has ended"
        )
    for name in INSIDE:
        inside = content.get(name)
        if isinstance(inside, Mapping) and inside and all(isinstance(value, Tensor) for value in inside.values()):
            if name != "model":
                warnings.warn(f"{path}: the weights under {name!r} are read", stacklevel=2)
            return inside
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        kinds = ", ".join(f"{short(name)} ({type(value).__name__})" for name, value in list(content.items())[:10])
        raise CheckpointError(
            f"{path}: expected a dict of tensors, or one under {', '.join(map(repr, INSIDE))}; found "
            f"{kinds or 'nothing'}"
        )
    return content


def unwrapped(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The entries without what wrappers put before their names, said in one warning."""
    taken: list[str] = []
    bare = dict(state)
    if any(COMPILED in name for name in bare):
        bare = _renamed(bare, {name: name.replace(COMPILED, "") for name in bare}, source)
        taken.append(COMPILED)
    while prefix := next((p for p in AROUND if bare and all(name.startswith(p) for name in bare)), None):
        bare = _renamed(bare, {name: name.removeprefix(prefix) for name in bare}, source)
        taken.append(prefix)
    if taken:
        warnings.warn(f"{source}: {', '.join(map(repr, taken))} taken off the names of its entries", stacklevel=2)
    return bare


def require_original(state: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError, with the way out, where names tell that they are not the original code's."""
    for mark, said in OTHERS.items():
        if any(mark in f".{name}" for name in state):
            raise CheckpointError(f"{source}: its names are {said}")


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str], source: str) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for old, new in names.items():
        if new in renamed:
            raise CheckpointError(f"{source}: two entries are {short(new)} without their wrappers' names; keep one")
        renamed[new] = state[old]
    return renamed
