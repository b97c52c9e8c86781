"""Checkpoints on disk in three layouts, each read strictly and written whole or not at all.

native    a folder: our `config.json` and `model.safetensors` under our names
hub       a folder: Hugging Face's `config.json` and `model.safetensors`, shards, or `pytorch_model.bin`
original  a file: Detectron2's `.pkl`, or a `.pth`
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.model import Mask2Former
from oneformer.config import OneFormerConfig
from oneformer.model import OneFormer
from weights.hub_config import config_from_hub, config_to_hub, own_entry, preprocessor_to_hub
from weights.infer import infer_config
from weights.keys_huggingface import TOKENIZER_FILES
from weights.keys_original import VERSIONS
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

CONFIGS: dict[str, type[Mask2FormerConfig]] = {"mask2former": Mask2FormerConfig, "oneformer": OneFormerConfig}
NETWORKS: dict[str, type[Mask2Former] | type[OneFormer]] = {"mask2former": Mask2Former, "oneformer": OneFormer}
ORIGINAL_SUFFIXES = (".pkl", ".pth", ".pt")
# which reading and running a model here does without, and OneFormer's processor elsewhere does not
# weights in other forms: who finds them beside a new model.safetensors might read them instead
OTHER_WEIGHTS = ("model.safetensors.index.json", "model-*-of-*.safetensors", "pytorch_model*.bin*")


@dataclass
class Checkpoint:
    """Weights under our names, with what they are the weights of."""

    config: Mask2FormerConfig
    state: dict[str, Tensor]  # the network's entries, and for OneFormer `criterion.logit_scale`
    source: str  # where it came from, for messages
    tokenizer: tuple[Path, ...] = ()  # files of a source folder that go along into another folder


def build_model(config: Mask2FormerConfig, pretrained_backbone: bool = False) -> Mask2Former | OneFormer:
    """The network of a configuration, fresh. pretrained_backbone: timm's ImageNet weights for that part."""
    return NETWORKS[config.family](config, pretrained_backbone)


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


def says_everything(path: Path | str) -> bool:
    """Whether the files at a path say all of a configuration: ours do, and the hub's where this library wrote them."""
    layout = layout_of(path)
    return layout == "native" or (layout == "hub" and own_entry(_read_json(Path(path) / "config.json")) is not None)


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
    """Write our own layout into a folder, made if need be."""
    config = checkpoint.config
    if config.family == "oneformer":
        config = replace(config, text_branch=has_text_branch(checkpoint.state))

    def write(temporary: Path) -> None:
        _write_safetensors(checkpoint.state, temporary)
        _write_json(config.to_dict(), temporary / "config.json")

    _write_folder(Path(folder), write, checkpoint.tokenizer)


def write_hub(checkpoint: Checkpoint, folder: Path | str) -> None:
    """Write a folder that transformers loads with nothing missing and nothing left over."""
    config, (theirs, values) = checkpoint.config, in_hub_layout(checkpoint)

    def write(temporary: Path) -> None:
        _write_safetensors(theirs, temporary)
        _write_json(values, temporary / "config.json")
        _write_json(preprocessor_to_hub(config), temporary / "preprocessor_config.json")

    _write_folder(Path(folder), write, checkpoint.tokenizer)


def in_hub_layout(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The hub's weights and `config.json`. Raises ValueError for a network that this layout does not have."""
    config, state = checkpoint.config, checkpoint.state
    values = config_to_hub(config, state)
    return layout_for("hub", config.family, backbone_family(state) or config.backbone).from_native(state), values


def write_original(checkpoint: Checkpoint, path: Path | str) -> None:
    """Write a `.pkl` as Detectron2 keeps it, or a `.pth`; the original code reads both."""
    path = Path(path)
    if path.suffix not in ORIGINAL_SUFFIXES:
        raise ValueError(f"{path}: an original file must end in {', '.join(ORIGINAL_SUFFIXES)}")
    config = checkpoint.config
    layout = layout_for("original", config.family, backbone_family(checkpoint.state) or config.backbone)
    theirs = layout.from_native(checkpoint.state)

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == ".pkl":
            write_pickle(temporary, theirs, VERSIONS)
        else:
            model = OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in theirs.items())
            model._metadata = dict(VERSIONS)
            torch.save({"model": model}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def has_text_branch(state: Mapping[str, Tensor]) -> bool:
    """Whether a native state dict has the branch that only OneFormer's training needs."""
    return any(name.startswith(TEXT_BRANCH) for name in state)


def _read_native(folder: Path, values: dict[str, Any]) -> Checkpoint:
    config = _native_config(folder, values)
    state = read_safetensors(folder / "model.safetensors")
    expected = _skeleton(config).state_dict()
    check_entries(str(folder), state, expected, optional=lambda name: name.startswith(CRITERION))
    return Checkpoint(config, state, str(folder))


def _native_config(folder: Path, values: dict[str, Any]) -> Mask2FormerConfig:
    if values["family"] not in CONFIGS:
        raise ValueError(f"{folder / 'config.json'}: family is {values['family']!r}; expected one of {list(CONFIGS)}")
    try:
        return CONFIGS[values["family"]].from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error


def _read_hub(folder: Path, values: dict[str, Any]) -> Checkpoint:
    theirs = _read_hub_weights(folder)
    preprocessor = folder / "preprocessor_config.json"
    kind = (values.get("backbone_config") or {}).get("model_type", "of an unknown kind")
    try:
        layout = layout_for("hub", str(values["model_type"]), kind)
        state, _ = layout.to_native(theirs)
        config = config_from_hub(values, state, _read_json(preprocessor) if preprocessor.is_file() else None)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    return _checked(config, state, theirs, layout, str(folder))


def _read_hub_weights(folder: Path) -> dict[str, Tensor]:
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch)):
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
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


def _write_safetensors(state: Mapping[str, Tensor], folder: Path) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)  # safetensors makes files that nobody else may read


def _write_json(values: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_folder(folder: Path, write: Callable[[Path], None], carried: Sequence[Path]) -> None:
    """Let `write` fill a temporary folder inside, then move its files up, with copies of the carried ones."""
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    # inside, because the folder may be the only place one can write to, or a file system of its own
    temporary = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        write(temporary)
        for file in carried:
            shutil.copyfile(file, temporary / file.name)
        for file in sorted(temporary.iterdir()):
            file.replace(folder / file.name)
        for pattern in OTHER_WEIGHTS:
            for file in folder.glob(pattern):
                file.unlink()
    finally:
        shutil.rmtree(temporary)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()
