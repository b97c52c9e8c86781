"""Models by name: published ones, hub repositories, local folders and original files, all through the same door."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch

from mask2former.inference.predictor import Predictor
from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.model import Mask2Former
from oneformer.dinat import PRESETS
from oneformer.model import OneFormer
from weights.bundled import DEMO, DEMO_FOLDER
from weights.checkpoint import (
    CONFIGS,
    Checkpoint,
    build_model,
    has_text_branch,
    read_checkpoint,
    read_config,
    says_everything,
    write_native,
)
from weights.class_names import Classes, are_named, class_list, complete
from weights.download import hub_folder, original_file
from weights.finite import check_finite
from weights.queries import with_queries
from weights.translate import CRITERION, TEXT_BRANCH, check_entries
from weights.zoo import PublishedModel, find_model, guess_model, nearest_models

if TYPE_CHECKING:
    from typing_extensions import Unpack

CLASS_HEAD = "transformer_decoder.class_head."


class PredictorSettings(TypedDict, total=False):
    """What `create_predictor` hands on to `Predictor`, which says what each means."""

    preset: str
    size: int | tuple[int, int] | str | None
    batch_size: int
    object_mask_threshold: float | None
    overlap_threshold: float | None
    instances_per_image: int | None
    score_threshold: float
    max_pixels: int
    memory: int | None
    compile: bool | str


def create_model(
    source: str | Path,
    pretrained: bool | Literal["backbone"] = True,
    num_classes: int | None = None,
    classes: Classes | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    **config_fields: Any,
) -> Mask2Former | OneFormer:
    """A Mask2Former or OneFormer in evaluation mode.

    source: a name of `list_models()`, "mask2former_compact_demo" (the small model that comes with the package), a hub
        id, a local folder (ours or Hugging Face's), or an original .pkl or .pth.
    pretrained: True for the source's weights; False for fresh ones, which needs no download for a published name;
        "backbone" for fresh ones but timm's ImageNet weights in the backbone.
    num_classes, classes: other classes than the checkpoint's (`classes`: see `class_names.class_list`). The class head
        is then fresh, and a warning says so. Naming the classes of a checkpoint that names none keeps its head.
    config_fields: fields of the configuration to change, such as `dropout`; with another `num_queries` the checkpoint's
        queries are kept, as many as fit, and repeated for more, which a warning says; `backbone_options` are laid over
        the source's own (an original DiNAT's `dilations` come this way); `text_branch=True` keeps OneFormer's
        training-only text branch (fresh, with a warning, where the checkpoint has none).

    Raises ValueError for unknown names and fields, FileNotFoundError, and CheckpointError for what cannot be believed
    of a file, with the list of entries if weights do not fit, and for weights that `dtype` cannot hold.
    """
    if pretrained not in (True, False, "backbone"):
        raise ValueError(f"pretrained={pretrained!r}: expected True, False or 'backbone'")
    path, row = _resolve(source, download=pretrained is True)
    if pretrained is True:
        checkpoint = _read(path, row, config_fields)
        config = checkpoint.config
    else:
        config = (
            row.config
            if path is None
            else _completed(read_config(path, _dilations(path, row, config_fields)), path, row)
        )
    if config.family == "oneformer":
        config_fields = {"text_branch": False, **config_fields}
    config = _changed(config, _given_classes(num_classes, classes), config_fields)
    model = build_model(config, pretrained == "backbone")
    if pretrained is True:
        if dtype in (torch.float16, torch.bfloat16):
            check_finite(str(source), checkpoint.state, dtype)
        _load_weights(model, checkpoint, str(source))
        model.origin = row.name if row else None
    return model.to(device, dtype).eval()


def create_predictor(
    source: str | Path,
    classes: Classes | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    **settings: Unpack[PredictorSettings],
) -> Predictor:
    """Photos in, segments out: a model with its weights, inside a `Predictor`.

    source, classes: as in `create_model`. device: None takes a GPU if there is one. settings: what `Predictor` takes,
        such as `preset`, `size` and thresholds. Raises as `create_model`.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Predictor(create_model(source, classes=classes, device=device, dtype=dtype), **settings)


def save_model(model: Mask2Former | OneFormer, folder: str | Path) -> None:
    """Write a model as `config.json` and `model.safetensors` under our names; `create_model(folder)` reads it back."""
    write_native(Checkpoint(model.config, dict(model.state_dict()), "the model"), folder)


def load_checkpoint(
    source: str | Path, classes: Classes | None = None, dilations: Sequence[Sequence[int]] | None = None
) -> Checkpoint:
    """Everything a source has, the text branch and the loss's temperature included, under our names.

    classes: names for the classes of a checkpoint. dilations: of an original DiNAT that is no published one, one a
    block, stage by stage. Raises as `create_model`, and ValueError for a wrong number of classes.
    """
    path, row = _resolve(source)
    checkpoint = _read(path, row, {"backbone_options": {"dilations": dilations}} if dilations else {})
    if classes is not None:
        named = class_list(classes)
        if len(named) != checkpoint.config.num_classes:
            raise ValueError(f"{len(named)} classes are named but {source} has {checkpoint.config.num_classes}")
        checkpoint.config = replace(checkpoint.config, classes=named)
    return checkpoint


def family_of(source: str | Path) -> str | None:
    """mask2former or oneformer (or what a folder names instead), where that shows without weights or a download."""
    config, row = Path(source).expanduser() / "config.json", find_model(str(source))
    if config.is_file():
        with contextlib.suppress(ValueError, AttributeError):  # what is wrong with the file is said when it is read
            values = json.loads(config.read_text(encoding="utf-8"))
            return values.get("family", values.get("model_type"))
    return row.family if row else None


def _load_weights(model: Mask2Former | OneFormer, checkpoint: Checkpoint, source: str) -> None:
    """Fill a model; what its configuration has changed or added over the checkpoint's stays fresh, with a warning."""
    state = {name: tensor for name, tensor in checkpoint.state.items() if not name.startswith(CRITERION)}
    fresh = ()
    old, new = checkpoint.config.num_queries, model.config.num_queries
    if old != new:
        state = with_queries(state, new, has_task_token=model.config.family == "oneformer")
        done = f"the first {new} are kept" if new < old else f"{new - old} are repeats of them"
        warnings.warn(f"{source} has {old} queries, the model {new}: {done}; train before use", stacklevel=3)
    if model.config.num_classes != checkpoint.config.num_classes or _renames(checkpoint.config, model.config):
        fresh += (CLASS_HEAD,)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(CLASS_HEAD)}
        warnings.warn(
            f"the class head of {source} is fresh, for {model.config.num_classes} other classes; train before use",
            stacklevel=3,
        )
    text_wanted = model.config.family == "oneformer" and model.config.text_branch
    if text_wanted and not has_text_branch(state):
        fresh += TEXT_BRANCH
        warnings.warn(f"{source} has no text branch; a fresh one was made, train before use", stacklevel=3)
    if not text_wanted:
        dropped = [name for name in state if name.startswith(TEXT_BRANCH)]
        state = {name: tensor for name, tensor in state.items() if not name.startswith(TEXT_BRANCH)}
        if dropped:
            prefixes = ", ".join(prefix for prefix in TEXT_BRANCH if any(name.startswith(prefix) for name in dropped))
            warnings.warn(
                f"{source}: left out the {len(dropped)} entries that only training needs ({prefixes}); "
                "text_branch=True keeps them",
                stacklevel=3,
            )
    check_entries(source, state, model.state_dict(), lambda name: name.startswith(fresh))
    model.load_state_dict(state, strict=False)


def _resolve(source: str | Path, download: bool = True) -> tuple[Path | None, PublishedModel | None]:
    """The local path of a source, and its row in the zoo. Without download, a published model's path may be None."""
    path = Path(source).expanduser().absolute()
    if path.exists():
        return path, None
    if str(source) == DEMO:
        return DEMO_FOLDER, None
    row = find_model(str(source))
    if row is not None:
        if not download:
            return None, row
        return (hub_folder(row.hub_id) if row.hub_id else original_file(row.url, row.md5_prefix)), row
    name = str(source)
    if isinstance(source, Path) or name.startswith((".", "/", "~")) or Path(name).suffix in (".pkl", ".pth", ".pt"):
        raise FileNotFoundError(f"{source} does not exist")
    near = f"; the nearest published ones are {', '.join(nearest_models(name))}" if nearest_models(name) else ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        try:
            return hub_folder(name), None
        except (FileNotFoundError, ConnectionError) as error:
            raise type(error)(f"{error}{near}") from error
    raise ValueError(
        f"{name!r} is no published model, hub id, folder or file{near}; weights.list_models() has all published names"
    )


def _read(path: Path, row: PublishedModel | None, config_fields: dict[str, Any]) -> Checkpoint:
    checkpoint = read_checkpoint(path, _dilations(path, row, config_fields))
    checkpoint.config = _completed(checkpoint.config, path, row)
    return checkpoint


def _dilations(path: Path, row: PublishedModel | None, config_fields: dict[str, Any]) -> Sequence[Sequence[int]] | None:
    """DiNAT's dilations as given, or those of the published model it is or is named after."""
    options, published = config_fields.get("backbone_options") or {}, row or guess_model(str(path))
    if published is not None:
        options = {**PRESETS.get(published.config.backbone, {}), **published.config.backbone_options, **options}
    return options.get("dilations")


def _completed(config: Mask2FormerConfig, path: Path, row: PublishedModel | None) -> Mask2FormerConfig:
    """Classes and protocol filled in, unless the files are of our writing: those say everything."""
    return config if says_everything(path) else complete(config, row, guess_model(str(path)))


def _given_classes(num_classes: int | None, classes: Classes | None) -> dict[str, Any]:
    if classes is None:
        return {} if num_classes is None else {"num_classes": num_classes, "classes": ()}
    listed = class_list(classes)
    if num_classes not in (None, len(listed)):
        raise ValueError(f"num_classes={num_classes} but {len(listed)} classes are named; give one of the two")
    return {"num_classes": len(listed), "classes": listed}


def _changed(config: Mask2FormerConfig, given: dict[str, Any], config_fields: dict[str, Any]) -> Mask2FormerConfig:
    """The configuration with other classes and fields. ValueError for a field it does not have."""
    known = [f.name for f in fields(CONFIGS[config.family]) if f.name not in ("num_classes", "classes")]
    for name in config_fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(known)}"
            raise ValueError(f"a {config.family} configuration has no field {name!r}{hint}")
    if given.get("num_classes") == config.num_classes and not given["classes"]:
        given = {}
    if "backbone_options" in config_fields and "backbone" not in config_fields:
        options = {**config.backbone_options, **config_fields["backbone_options"]}
        config_fields = {**config_fields, "backbone_options": options}
    return replace(config, **given, **config_fields)


def _renames(old: Mask2FormerConfig, new: Mask2FormerConfig) -> bool:
    """Whether the new classes are other ones, rather than names for a checkpoint that had none."""
    return are_named(old.classes) and [c.name for c in old.classes] != [c.name for c in new.classes]
