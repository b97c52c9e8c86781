"""Hugging Face's `config.json` and `preprocessor_config.json` read as our configuration, and written from it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mask2former.errors import CheckpointError
from mask2former.modeling.config import Mask2FormerConfig, class_color
from mask2former.schema import convert, short
from mask2former.structures import ClassInfo, Protocol
from oneformer.config import OneFormerConfig
from oneformer.dinat import PRESETS
from weights.class_names import OF_THE_FILES
from weights.hub_schema import HubConfig, HubPreprocessor
from weights.infer import backbone_name, backbone_sizes, text_sizes

# (theirs, ours) for sizes that both name
COMMON = (
    ("num_queries", "num_queries"),
    ("hidden_dim", "hidden_dim"),
    ("num_attention_heads", "num_heads"),
    ("encoder_layers", "encoder_layers"),
    ("encoder_feedforward_dim", "encoder_feedforward_dim"),
    ("dim_feedforward", "decoder_feedforward_dim"),
)
MASK2FORMER = (*COMMON, ("mask_feature_size", "mask_dim"))
ONEFORMER = (
    *COMMON,
    ("mask_dim", "mask_dim"),
    ("task_seq_len", "task_sequence_length"),
    ("query_dec_layers", "class_decoder_layers"),
)
TEXT = (
    ("text_encoder_width", "text_width"),
    ("text_encoder_context_length", "text_context_length"),
    ("text_encoder_num_layers", "text_layers"),
    ("text_encoder_vocab_size", "text_vocabulary"),
    ("text_encoder_proj_layers", "text_projection_layers"),
    ("text_encoder_n_ctx", "text_contexts"),
)
# what theirs could vary and no published model does; (default where a file leaves it out)
FIXED = {
    "mask2former": {
        "pre_norm": False,
        "enforce_input_projection": False,
        "enforce_input_proj": False,
        "activation_function": "relu",
        "common_stride": 4,
    },
    "oneformer": {
        "pre_norm": False,
        "enforce_input_proj": False,
        "use_task_norm": True,
        "norm": "GN",
        "common_stride": 4,
    },
    "swin": {"patch_size": 4, "use_absolute_embeddings": False, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
    "resnet": {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False},
    "convnext": {"patch_size": 4, "hidden_act": "gelu"},
    "dinat": {
        "patch_size": 4,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "layer_scale_init_value": 0.0,
        "layer_norm_eps": 1e-5,
    },
}
# every entry a backbone's sizes need
BACKBONES = {
    "swin": ("embed_dim", "depths", "num_heads", "window_size"),
    "resnet": ("embedding_size", "hidden_sizes", "depths"),
    "convnext": ("hidden_sizes", "depths"),
    "dinat": ("embed_dim", "depths", "num_heads", "kernel_size", "dilations"),
}
# the entry of config.json that is ours: fields that their files have no room for
OWN = "mask2former"
OWN_FIELDS = ("classes", "protocol", "drop_path_rate", "frozen_batch_norm")
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def config_from_hub(
    values: Mapping[str, Any], state: Mapping[str, Tensor], preprocessor: Mapping[str, Any] | None = None
) -> Mask2FormerConfig:
    """Our configuration from the content of their `config.json`, the weights under our names, and the preprocessor's.

    Class names are taken over where `id2label` has them; things, colours, dataset ids and thresholds are in these files
    only where this library wrote them, in an entry of its own.
    Raises ValueError naming missing fields and settings this library does not have.
    """
    values = {k: v for k, v in values.items() if v is not None}
    convert(values, HubConfig, ValueError)
    family, backbone = values.get("model_type"), values.get("backbone_config")
    if family not in ("mask2former", "oneformer"):
        raise ValueError(f"its model_type is {short(family)}; expected 'mask2former' or 'oneformer'")
    if not isinstance(backbone, Mapping) or backbone.get("model_type") not in BACKBONES:
        found = backbone.get("model_type") if isinstance(backbone, Mapping) else values.get("backbone")
        raise ValueError(
            f"its backbone is {short(found)}; expected a backbone_config for one of {', '.join(BACKBONES)}"
        )
    kind, backbone = backbone["model_type"], {k: v for k, v in backbone.items() if v is not None}
    pairs = MASK2FORMER if family == "mask2former" else ONEFORMER
    missing = [name for name, _ in pairs if name not in values] + ["decoder_layers"] * ("decoder_layers" not in values)
    missing += [f"backbone_config.{name}" for name in BACKBONES[kind] if name not in backbone]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    odd = [f"{k}={short(values[k])}" for k, v in FIXED[family].items() if values.get(k, v) != v]
    odd += [f"backbone_config.{k}={short(backbone[k])}" for k, v in FIXED[kind].items() if backbone.get(k, v) != v]
    width = values.get("feature_size" if family == "mask2former" else "conv_dim", values["hidden_dim"])
    if sorted(backbone.get("out_features", STAGES)) != STAGES:
        odd.append(f"backbone_config.out_features={short(backbone['out_features'])}")
    if width != values["hidden_dim"]:
        odd.append(f"a pixel decoder of width {width} and hidden_dim={values['hidden_dim']}")
    if odd:
        raise ValueError(f"this library has no {', '.join(odd)}")
    name, options = backbone_name(_backbone_sizes(backbone))
    fields = {ours: values[theirs] for theirs, ours in pairs} | {
        "backbone": name,
        "backbone_options": options,
        "drop_path_rate": float(backbone.get("drop_path_rate", 0.0)),
        "decoder_layers": values["decoder_layers"] - 1,  # theirs counts predictions
        "protocol": _protocol(preprocessor or {}),
    }
    if "dropout" in values:
        fields["dropout"] = values["dropout"]
    fields |= _classes(values, state)
    fields |= _own_fields(values, fields)
    if family == "mask2former":
        return Mask2FormerConfig(**fields)
    fields |= {ours: values[theirs] for theirs, ours in TEXT if theirs in values}
    if "text_encoder.token_embedding.weight" in state:
        found = text_sizes(state)
        others = [
            f"{theirs}={values[theirs]}" for theirs, ours in TEXT if values.get(theirs, found[ours]) != found[ours]
        ]
        if others:
            raise ValueError(f"it says {', '.join(others)}, the weights {', '.join(f'{k}={found[k]}' for k in found)}")
        fields |= found
    return OneFormerConfig(**fields)


def config_to_hub(config: Mask2FormerConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Their `config.json` for a configuration and its weights under our names."""
    oneformer = config.family == "oneformer"
    if config.encoder_points != 4:
        raise ValueError(
            f"the hub layout has 4 sampling points a head and level, not {config.encoder_points}; write the native "
            "layout instead"
        )
    names = {str(k): c.name for k, c in enumerate(config.classes)}
    values = {
        "architectures": [("OneFormer" if oneformer else "Mask2Former") + "ForUniversalSegmentation"],
        "model_type": config.family,
        "backbone_config": _backbone_config(config, state),
        "id2label": names,
        "label2id": {name: int(k) for k, name in names.items()},
        **{theirs: getattr(config, ours) for theirs, ours in (ONEFORMER if oneformer else MASK2FORMER)},
        "decoder_layers": config.decoder_layers + 1,
        "dropout": config.dropout,
        **FIXED[config.family],
        OWN: {name: value for name, value in config.to_dict().items() if name in OWN_FIELDS},
    }
    if not oneformer:
        values["feature_size"] = config.hidden_dim
        del values["enforce_input_proj"]
        return values
    values |= {theirs: getattr(config, ours) for theirs, ours in TEXT}
    values |= {"conv_dim": config.hidden_dim, "max_seq_len": config.text_context_length}
    values["is_training"] = "text_encoder.token_embedding.weight" in state
    return values


def own_entry(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What this library wrote into their `config.json` beside their fields, unless the classes were changed since."""
    entry, names = values.get(OWN), values.get("id2label")
    classes = entry.get("classes") if isinstance(entry, Mapping) else None
    if not isinstance(classes, list) or not isinstance(names, Mapping):
        return None
    own = [c.get("name") for c in classes if isinstance(c, Mapping)]
    return entry if own == [names.get(str(k)) for k in range(len(names))] else None


def preprocessor_to_hub(config: Mask2FormerConfig) -> dict[str, Any]:
    """Their `preprocessor_config.json`: the test protocol's sizes, mean and standard deviation."""
    protocol = config.protocol
    short, long = protocol.hub_sides or (protocol.short_side, protocol.long_side)
    return {
        "image_processor_type": "Mask2FormerImageProcessor"
        if config.family == "mask2former"
        else "OneFormerImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": short, "longest_edge": long},
        "resample": 2,  # bilinear
        "size_divisor": 32,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in protocol.pixel_mean],
        "image_std": [value / 255 for value in protocol.pixel_std],
        "ignore_index": 255,
        "do_reduce_labels": False,
        "num_labels": config.num_classes,
    }


def _classes(values: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    head = state.get("transformer_decoder.class_head.bias")
    if head is None or head.ndim != 1 or not 2 <= len(head) <= 65537:
        raise ValueError("the weights have no class head")
    count, names = len(head) - 1, values.get("id2label")
    stated = len(names) if names else values.get("num_labels", values.get("num_classes", count))
    if stated != count:
        raise ValueError(f"it says {stated} classes, the weights have {count}")
    if not names:
        return {"num_classes": count}
    try:
        ordered = [str(names[str(k)]).strip() for k in range(count)]
    except KeyError as error:
        raise ValueError(f"id2label has no entry {error} of 0 … {count - 1}") from None
    return {
        "num_classes": count,
        "classes": tuple(ClassInfo(name, True, class_color(k), k) for k, name in enumerate(ordered)),
    }


def _own_fields(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our own entry. Of the protocol, what the preprocessor's file says counts, and stays as it is."""
    entry = own_entry(values)
    if entry is None:
        if OWN in values:
            warnings.warn(
                f"the classes in config.json are no longer those of its entry {OWN!r}, which is left aside: things, "
                "colours and test protocol are the defaults",
                stacklevel=2,
            )
        return {}
    try:
        own = Mask2FormerConfig.from_dict({"num_classes": fields["num_classes"], **entry})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its entry {OWN!r} cannot be read: {error}") from error
    of_the_files = {name: getattr(fields["protocol"], name) for name in OF_THE_FILES}
    return {name: getattr(own, name) for name in OWN_FIELDS} | {"protocol": replace(own.protocol, **of_the_files)}


def _protocol(preprocessor: Mapping[str, Any]) -> Protocol:
    """The default protocol with their size, and their mean and standard deviation as those of pixels 0..255.

    Older files have an integer `size`, the shorter side, and perhaps a `max_size` for the longer one.
    """
    theirs = convert(dict(preprocessor), HubPreprocessor, _wrong)
    rescale = 1.0 if theirs.do_rescale is False else theirs.rescale_factor or 1 / 255
    mean, std = theirs.image_mean, theirs.image_std
    if theirs.do_normalize is False:
        mean, std = 0.0, 1.0
    values = {
        name: tuple(round(x / rescale, 4) for x in (three if isinstance(three, list) else [three] * 3))
        for name, three in (("pixel_mean", mean), ("pixel_std", std))
        if three is not None
    }
    if rescale != 1 / 255 and (mean is None or std is None):
        raise _wrong(f"pixels are scaled by {rescale}, but image_mean or image_std is left out")
    if min(values.get("pixel_std", [1])) < 1e-3:
        raise _wrong(f"image_std is {std} where pixels are scaled by {rescale}, which no photo can be")
    size = theirs.size
    if isinstance(size, int):
        size = {"shortest_edge": size, "longest_edge": theirs.max_size or max(size, 1333)}
    size = {k: v for k, v in (size or {}).items() if v is not None}
    if {"height", "width"} <= size.keys():
        values["hub_size"] = (size["height"], size["width"])
    elif "shortest_edge" in size:
        short_side = size["shortest_edge"]
        long_side = size.get("longest_edge") or min(4 * short_side, 8192)
        values |= {"hub_size": None, "hub_sides": (short_side, long_side)}
        values |= {"short_side": short_side, "long_side": long_side}
    elif size:
        raise _wrong(f"size has {', '.join(map(short, size))}; expected height and width, or shortest_edge")
    try:
        return replace(Protocol(), **values)
    except ValueError as error:
        raise _wrong(str(error)) from None


def _wrong(problem: str) -> CheckpointError:
    return CheckpointError(f"preprocessor_config.json: {problem}")


def _backbone_sizes(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """`infer.backbone_sizes`, from their backbone_config instead of from weights."""
    sizes = {"family": backbone["model_type"], **{name: backbone[name] for name in BACKBONES[backbone["model_type"]]}}
    if sizes["family"] == "swin":
        return sizes | {"mlp_ratio": backbone.get("mlp_ratio", 4.0), "qkv_bias": backbone.get("qkv_bias", True)}
    if sizes["family"] == "dinat":
        return sizes | {"mlp_ratio": backbone.get("mlp_ratio", 3.0)}
    if sizes["family"] == "convnext":
        scaled = backbone.get("layer_scale_init_value", 1e-6) > 0
        return {"family": "convnext", "depths": sizes["depths"], "dims": sizes["hidden_sizes"], "layer_scale": scaled}
    bottleneck = backbone.get("layer_type", "bottleneck") == "bottleneck"
    return {
        "family": "resnet",
        "depths": sizes["depths"],
        "bottleneck": bottleneck,
        "widths": [width // (4 if bottleneck else 1) for width in sizes["hidden_sizes"]],
        "stem_width": sizes["embedding_size"],
    }


def _backbone_config(config: Mask2FormerConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Their backbone_config, from the weights and what those cannot tell."""
    known = config.backbone.startswith(("swin_", "resnet", "convnext_", "dinat"))
    sizes = backbone_sizes(state) if known else {"family": None}
    kind = sizes.pop("family")
    if kind not in BACKBONES:
        raise ValueError(f"the hub layout has no backbone {config.backbone!r}; write the native layout instead")
    if kind == "dinat":
        sizes["dilations"] = config.backbone_options.get("dilations", PRESETS["dinat_large"]["dilations"])
    elif kind == "swin":
        sizes["image_size"] = 32 * sizes["window_size"]
    elif kind == "convnext":
        sizes = {"hidden_sizes": sizes["dims"], "depths": sizes["depths"],
                 "layer_scale_init_value": 1e-6 if sizes["layer_scale"] else 0.0}  # fmt: skip
    else:
        sizes = {
            "embedding_size": sizes["stem_width"],
            "hidden_sizes": [width * (4 if sizes["bottleneck"] else 1) for width in sizes["widths"]],
            "depths": sizes["depths"],
            "layer_type": "bottleneck" if sizes["bottleneck"] else "basic",
        }
    if kind != "resnet":
        sizes["drop_path_rate"] = config.drop_path_rate
    return {"model_type": kind, **sizes, **FIXED[kind], "out_features": STAGES}
