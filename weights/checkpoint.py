"""Checkpoints on disk in three layouts, each read strictly and written whole or not at all.

native    a folder: our `config.json` and `model.safetensors` under our names
hub       a folder: Hugging Face's `config.json` and `model.safetensors`, shards, or `pytorch_model.bin`
original  a file: Detectron2's `.pkl`, or a `.pth`
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mask2former.errors import CheckpointError
from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.model import Mask2Former
from mask2former.schema import read_settings, short
from mask2former.unfinished import clear_unfinished
from mask2former.writing import save_torch, written
from oneformer.config import OneFormerConfig
from oneformer.model import OneFormer
from weights.backbone_options import check_backbone
from weights.finite import check_finite
from weights.hub_config import config_from_hub, config_to_hub, own_entry, preprocessor_to_hub
from weights.hub_schema import HubProcessor
from weights.infer import infer_config
from weights.keys_huggingface import TOKENIZER_FILES
from weights.keys_original import VERSIONS
from weights.model_folder import CONFIG, WEIGHTS, size_of, write_folder
from weights.pairing import ENTRY, require_pair
from weights.pickle_reader import read_pickle, regular_file, write_pickle
from weights.tensor_files import read_safetensors, read_torch_state, read_weights, safetensors_files, safetensors_shapes
from weights.translate import (
    CRITERION,
    TEXT_BRANCH,
    Layout,
    backbone_family,
    check_entries,
    layout_for,
    model_family,
)
from weights.wrapped import require_original, unwrapped

CONFIGS: dict[str, type[Mask2FormerConfig]] = {"mask2former": Mask2FormerConfig, "oneformer": OneFormerConfig}
NETWORKS: dict[str, type[Mask2Former] | type[OneFormer]] = {"mask2former": Mask2Former, "oneformer": OneFormer}
ORIGINAL_SUFFIXES = (".pkl", ".pth", ".pt")
READ_SUFFIXES = (*ORIGINAL_SUFFIXES, ".ckpt")  # PyTorch Lightning's
MOST_LAYERS, MOST_NUMBERS = 1000, 10**10  # of a configuration without weights to compare with


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

    dilations: of DiNAT, for an original file; see `infer_config`. Raises FileNotFoundError, and CheckpointError for
    what cannot be read, for numbers that are not finite, and with the list of all entries that are unknown, missing,
    misshapen or of another type.
    """
    path, layout = Path(path), layout_of(path)
    if layout == "original":
        checkpoint = _read_original(path, dilations)
        check_finite(str(path), checkpoint.state)
        return checkpoint
    values = _read_json(path / "config.json")
    checkpoint = _read_native(path, values) if layout == "native" else _read_hub(path, values)
    check_finite(str(path), checkpoint.state)
    return replace(checkpoint, tokenizer=_tokenizer(path))


def read_config(path: Path | str, dilations: Sequence[Sequence[int]] | None = None) -> Mask2FormerConfig:
    """The configuration alone; of a native folder without reading more of its weights, if there, than the header."""
    path = Path(path)
    if layout_of(path) == "native":
        config = _native_config(path, _read_json(path / "config.json"))
        weights = path / "model.safetensors"
        shapes = safetensors_shapes(weights) if weights.is_file() else None
        skeleton = _skeleton(config, shapes, path / "config.json").state_dict()
        if shapes is not None:
            check_entries(str(path), shapes, skeleton, optional=_of_the_criterion)
        elif (count := sum(tensor.numel() for tensor in skeleton.values())) > MOST_NUMBERS:
            raise CheckpointError(f"{path / 'config.json'} describes a network of {count} weights; is that meant?")
        return config
    return read_checkpoint(path, dilations).config


def says_everything(path: Path | str) -> bool:
    """Whether the files at a path say all of a configuration: ours do, and the hub's where this library wrote them."""
    layout = layout_of(path)
    return layout == "native" or (layout == "hub" and own_entry(_read_json(Path(path) / "config.json")) is not None)


def layout_of(path: Path | str) -> Literal["native", "hub", "original"]:
    """Which layout a folder or file has. Raises FileNotFoundError, and CheckpointError if it has none of the three."""
    path = Path(path)
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            raise CheckpointError(
                f"{path} holds an adapter (LoRA), no model: merge it first (peft: `merge_and_unload()`), then save that"
            )
        values = _read_json(path / "config.json")
        if "family" in values:
            return "native"
        if "model_type" in values:
            return "hub"
        raise CheckpointError(
            f"{path / 'config.json'} is neither this library's (no 'family') nor Hugging Face's (no 'model_type')"
        )
    regular_file(path)
    if path.suffix not in READ_SUFFIXES:
        alone = "; of a .safetensors take the folder that it lies in, with its config.json" * (
            path.suffix == ".safetensors"
        )
        raise CheckpointError(f"{path}: expected a folder, or a file ending in {', '.join(READ_SUFFIXES)}{alone}")
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
    config, (theirs, values) = checkpoint.config, in_hub_layout(checkpoint)
    others = {"preprocessor_config.json": preprocessor_to_hub(config)}
    write_folder(Path(folder), theirs, values, others, checkpoint.tokenizer)


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
    expected = _skeleton(config, state, folder / CONFIG).state_dict()
    check_entries(str(folder), state, expected, optional=_of_the_criterion)
    return Checkpoint(config, state, str(folder))


def _native_config(folder: Path, values: dict[str, Any]) -> Mask2FormerConfig:
    family = values["family"]
    if not isinstance(family, str) or family not in CONFIGS:
        raise CheckpointError(f"{folder / 'config.json'}: family is {short(family)}; expected one of {list(CONFIGS)}")
    try:
        return CONFIGS[family].from_dict({name: value for name, value in values.items() if name != ENTRY})
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error


def _of_the_criterion(name: str) -> bool:
    return name == f"{CRITERION}logit_scale"


def _read_hub(folder: Path, values: dict[str, Any]) -> Checkpoint:
    if not isinstance(values.get("model_type"), str) or values["model_type"] not in CONFIGS:
        raise CheckpointError(
            f"{folder / CONFIG}: its model_type is {short(values.get('model_type'))}; expected "
            f"{' or '.join(map(repr, CONFIGS))}"
        )
    backbone = values.get("backbone_config")
    kind = backbone.get("model_type") if isinstance(backbone, dict) else "of an unknown kind"
    for file in safetensors_files(folder):
        require_pair(folder / CONFIG, values, file)
    theirs = unwrapped(read_weights(folder), str(folder))
    try:
        layout = layout_for("hub", str(values["model_type"]), str(kind))
        state, _ = layout.to_native(theirs)
        config = config_from_hub(values, state, _preprocessor(folder))
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    return _checked(config, state, theirs, layout, folder / "config.json")


def _preprocessor(folder: Path) -> dict[str, Any] | None:
    """The settings of pre-processing, which newer files keep among those of a whole processor."""
    path, newer = folder / "preprocessor_config.json", folder / "processor_config.json"
    if path.is_file():
        return _read_json(path)
    if newer.is_file():
        return read_settings(
            newer, HubProcessor, lambda problem: CheckpointError(f"{newer}: {problem}")
        ).image_processor
    return None


def _read_original(path: Path, dilations: Sequence[Sequence[int]] | None) -> Checkpoint:
    theirs = unwrapped(read_pickle(path) if path.suffix == ".pkl" else read_torch_state(path), str(path))
    require_original(theirs, str(path))
    family, backbone = model_family(theirs), backbone_family(theirs)
    if backbone is None:
        first = ", ".join(map(short, list(theirs)[:3]))
        raise CheckpointError(
            f"{path}: its names tell no backbone ({first}, …); expected Mask2Former's or OneFormer's original names"
        )
    try:
        layout = layout_for("original", family, backbone)
        state, _ = layout.to_native(theirs)
        config = infer_config(state, dilations)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return _checked(config, state, theirs, layout, path)


def _checked(
    config: Mask2FormerConfig, state: dict[str, Tensor], theirs: Mapping[str, Tensor], layout: Layout, file: Path
) -> Checkpoint:
    """Compare, under their names, what is there with what the configuration's network has."""
    source = str(file.parent if file.name == "config.json" else file)
    expected = layout.from_native(_skeleton(config, theirs, file).state_dict())
    check_entries(source, theirs, expected, optional=layout.is_redundant)
    return Checkpoint(config, state, source)


def _skeleton(config: Mask2FormerConfig, entries: Mapping[str, Tensor] | None, file: Path) -> nn.Module:
    """The network without memory for its weights: names and shapes.

    entries: of the file, so that no network is begun that has more layers than they are. file: for the message. Raises
    CheckpointError for a backbone no file may ask for, and where no network can be built.
    """
    layers = config.encoder_layers + config.decoder_layers
    if isinstance(config, OneFormerConfig):
        layers += config.class_decoder_layers + config.text_branch * (
            config.text_layers + config.text_projection_layers
        )
    most = MOST_LAYERS if entries is None else len(entries)
    if layers > most:
        raise CheckpointError(f"{file}: a network of {layers} layers, but the weights have {most} entries")
    try:
        check_backbone(config, most)
        with torch.device("meta"):
            return build_model(config)
    except Exception as error:  # timm's raise anything for arguments that do not fit together
        raise CheckpointError(f"{file}: no network can be built from it: {error}") from error


def _tokenizer(folder: Path) -> tuple[Path, ...]:
    """The files that go along; not what a link brings in from elsewhere, unless from the blobs of a hub's cache."""
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    inside = (folder.resolve(), folder.resolve().parents[1] / "blobs") if files else ()
    foreign = [file for file in files if not any(file.resolve().is_relative_to(place) for place in inside)]
    if foreign:
        listed = ", ".join(f"{file.name} → {file.resolve()}" for file in foreign)
        warnings.warn(f"{folder}: links out of the folder are not carried along ({listed})", stacklevel=3)
    return tuple(file for file in files if file not in foreign)


def _read_json(path: Path) -> dict[str, Any]:
    return read_settings(path, dict[str, Any], lambda problem: CheckpointError(f"{path}: {problem}"))
