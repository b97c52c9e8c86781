"""Checkpoints on disk in three layouts, each read strictly and written whole or not at all.

native    a folder: our `config.json` and `model.safetensors` under our names
hub       a folder: Hugging Face's `config.json` and `model.safetensors`, shards, or `pytorch_model.bin`
original  a file: Detectron2's `.pkl`, or a `.pth`
"""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.model import Mask2Former
from mask2former.unfinished import clear_unfinished
from mask2former.writing import save_torch, written
from oneformer.config import OneFormerConfig
from oneformer.model import OneFormer
from weights.hub_config import config_from_hub, config_to_hub, preprocessor_to_hub
from weights.infer import infer_config
from weights.keys_huggingface import TOKENIZER_FILES
from weights.keys_original import VERSIONS
from weights.model_folder import CONFIG, WEIGHTS, size_of, write_folder
from weights.pairing import ENTRY, require_pair
from weights.pickle_reader import read_pickle, write_pickle
from weights.translate import (
    CRITERION,
    TEXT_BRANCH,
    Layout,
    backbone_family,
    check_entries,
    layout_for,
    model_family,
)

CONFIGS = {"mask2former": Mask2FormerConfig, "oneformer": OneFormerConfig}
ORIGINAL_SUFFIXES = (".pkl", ".pth", ".pt")


@dataclass
class Checkpoint:
    """Weights under our names, with what they are the weights of."""

    config: Mask2FormerConfig
    state: dict[str, Tensor]  # the network's entries, and for OneFormer `criterion.logit_scale`
    source: str  # where it came from, for messages
    tokenizer: tuple[Path, ...] = ()  # files of a source folder that go along into another folder


def build_model(config: Mask2FormerConfig, pretrained_backbone: bool = False) -> nn.Module:
    """The network of a configuration, fresh. pretrained_backbone: timm's ImageNet weights for that part."""
    return {"mask2former": Mask2Former, "oneformer": OneFormer}[config.family](config, pretrained_backbone)


def read_checkpoint(path: Path | str, dilations: Sequence[Sequence[int]] | None = None) -> Checkpoint:
    """Read a folder or file of any of the three layouts, whatever text branch it has included.

    dilations: of DiNAT, for an original file; see `infer_config`. Raises FileNotFoundError, ValueError for what cannot
    be read, and CheckpointError with the list of all entries that are unknown, missing or misshapen.
    """
    path, layout = Path(path), layout_of(path)
    if layout == "original":
        return _read_original(path, dilations)
    values = _read_json(path / "config.json")
    checkpoint = _read_native(path, values) if layout == "native" else _read_hub(path, values)
    return replace(checkpoint, tokenizer=tuple(path / name for name in TOKENIZER_FILES if (path / name).is_file()))


def read_config(path: Path | str, dilations: Sequence[Sequence[int]] | None = None) -> Mask2FormerConfig:
    """The configuration alone; of a native folder without touching its weights."""
    if layout_of(path) == "native":
        return _native_config(Path(path), _read_json(Path(path) / "config.json"))
    return read_checkpoint(path, dilations).config


def layout_of(path: Path | str) -> Literal["native", "hub", "original"]:
    """Which layout a folder or file has. Raises FileNotFoundError, and ValueError if it has none of the three."""
    path = Path(path)
    if path.is_dir():
        values = _read_json(path / "config.json")
        if "family" in values:
            return "native"
        if "model_type" in values:
            return "hub"
        raise ValueError(
            f"{path / 'config.json'} is neither this library's (no 'family') nor Hugging Face's (no 'model_type')"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.suffix not in ORIGINAL_SUFFIXES:
        raise ValueError(f"{path}: expected a folder, or an original file ending in {', '.join(ORIGINAL_SUFFIXES)}")
    return "original"


def write_native(checkpoint: Checkpoint, folder: Path | str) -> None:
    """Write our own layout into a folder, made if need be.

    Raises FileExistsError while another process writes into it, OSError where the disk will not take it; what was there
    then stays.
    """
    config = checkpoint.config
    if config.family == "oneformer":
        config = replace(config, text_branch=has_text_branch(checkpoint.state))

    write_folder(Path(folder), checkpoint.state, config.to_dict(), {}, checkpoint.tokenizer)


def write_hub(checkpoint: Checkpoint, folder: Path | str) -> None:
    """Write a folder that transformers loads with nothing missing and nothing left over."""
    config, state = checkpoint.config, checkpoint.state
    layout = layout_for("hub", config.family, backbone_family(state) or config.backbone)
    theirs, values = layout.from_native(state), config_to_hub(config, state)
    others = {"preprocessor_config.json": preprocessor_to_hub(config)}
    write_folder(Path(folder), theirs, values, others, checkpoint.tokenizer)


def write_original(checkpoint: Checkpoint, path: Path | str) -> None:
    """Write a `.pkl` as Detectron2 keeps it, or a `.pth`; the original code reads both."""
    path = Path(path)
    if path.suffix not in ORIGINAL_SUFFIXES:
        raise ValueError(f"{path}: an original file must end in {', '.join(ORIGINAL_SUFFIXES)}")
    config = checkpoint.config
    layout = layout_for("original", config.family, backbone_family(checkpoint.state) or config.backbone)
    theirs = layout.from_native(checkpoint.state)

    path.parent.mkdir(parents=True, exist_ok=True)
    clear_unfinished(path.parent)  # that of processes which no longer run; others may be at work there
    if path.suffix == ".pkl":
        with written(path, size_of(theirs)) as temporary:
            write_pickle(temporary, theirs, VERSIONS)
    else:
        model = OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in theirs.items())
        model._metadata = dict(VERSIONS)
        save_torch({"model": model}, path, model)


def has_text_branch(state: Mapping[str, Tensor]) -> bool:
    """Whether a native state dict has the branch that only OneFormer's training needs."""
    return any(name.startswith(TEXT_BRANCH) for name in state)


def _read_native(folder: Path, values: dict[str, Any]) -> Checkpoint:
    config = _native_config(folder, values)
    require_pair(folder / CONFIG, values, folder / WEIGHTS)
    state = read_safetensors(folder / WEIGHTS)
    expected = _skeleton(config).state_dict()
    check_entries(str(folder), state, expected, optional=lambda name: name.startswith(CRITERION))
    return Checkpoint(config, state, str(folder))


def _native_config(folder: Path, values: dict[str, Any]) -> Mask2FormerConfig:
    if values["family"] not in CONFIGS:
        raise ValueError(f"{folder / 'config.json'}: family is {values['family']!r}; expected one of {list(CONFIGS)}")
    try:
        return CONFIGS[values["family"]].from_dict({name: value for name, value in values.items() if name != ENTRY})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error


def _read_hub(folder: Path, values: dict[str, Any]) -> Checkpoint:
    theirs = _read_hub_weights(folder, values)
    preprocessor = folder / "preprocessor_config.json"
    kind = (values.get("backbone_config") or {}).get("model_type", "of an unknown kind")
    try:
        layout = layout_for("hub", str(values["model_type"]), kind)
        state, _ = layout.to_native(theirs)
        config = config_from_hub(values, state, _read_json(preprocessor) if preprocessor.is_file() else None)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    return _checked(config, state, theirs, layout, str(folder))


def _read_hub_weights(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch)):
        if (folder / name).is_file():
            require_pair(folder / CONFIG, config, folder / name)
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
            for shard in shards:
                require_pair(folder / CONFIG, config, folder / shard)
            return {key: tensor for shard in shards for key, tensor in read(folder / shard).items()}
    raise FileNotFoundError(f"{folder} has neither model.safetensors nor pytorch_model.bin, whole or in shards")


def _read_original(path: Path, dilations: Sequence[Sequence[int]] | None) -> Checkpoint:
    if path.suffix == ".pkl":
        theirs = read_pickle(path)
    else:
        content = read_torch(path)
        theirs = content.get("model", content)
        if not isinstance(theirs, dict) or not all(isinstance(value, Tensor) for value in theirs.values()):
            raise ValueError(f"{path}: expected a dict of tensors, or one under 'model'")
    family, backbone = model_family(theirs), backbone_family(theirs)
    if backbone is None:
        raise ValueError(f"{path}: its names tell no backbone; expected Mask2Former's or OneFormer's original names")
    layout = layout_for("original", family, backbone)
    state, _ = layout.to_native(theirs)
    try:
        config = infer_config(state, dilations)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _checked(config, state, theirs, layout, str(path))


def _checked(
    config: Mask2FormerConfig, state: dict[str, Tensor], theirs: Mapping[str, Tensor], layout: Layout, source: str
) -> Checkpoint:
    """Compare, under their names, what is there with what the configuration's network has."""
    expected = layout.from_native(_skeleton(config).state_dict())
    check_entries(source, theirs, expected, optional=layout.is_redundant)
    return Checkpoint(config, state, source)


def _skeleton(config: Mask2FormerConfig) -> nn.Module:
    """The network without memory for its weights: names and shapes."""
    with torch.device("meta"):
        return build_model(config)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: broken or truncated ({error}); get it again") from error


def read_torch(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} cannot be read as plain tensors, and reading it in another way could run code: {error}"
        ) from error
    except Exception as error:  # a broken file raises nearly anything
        raise ValueError(f"{path}: broken or truncated ({error}); get it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    return content
