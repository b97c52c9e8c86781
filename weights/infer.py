"""The configuration of a checkpoint that carries none, read off its names and shapes.

Names are ours (`translate.py` has made them so). What shapes cannot tell is assumed as the papers have it (four
sampling points a head and level, patches of four pixels). DiNAT's dilations should be given; a warning says what is
assumed for them else.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mask2former.modeling.config import Mask2FormerConfig
from oneformer.config import OneFormerConfig
from oneformer.dinat import PRESETS
from weights.translate import backbone_family, model_family
from weights.zoo import CITYSCAPES_DILATIONS

LEVELS, POINTS = 3, 4

# (embed_dim, depths, heads, window) of the Swins that have a timm name of their own
SWINS = {
    "swin_tiny_patch4_window7_224": (96, [2, 2, 6, 2], [3, 6, 12, 24], 7),
    "swin_small_patch4_window7_224": (96, [2, 2, 18, 2], [3, 6, 12, 24], 7),
    "swin_base_patch4_window7_224": (128, [2, 2, 18, 2], [4, 8, 16, 32], 7),
    "swin_base_patch4_window12_384": (128, [2, 2, 18, 2], [4, 8, 16, 32], 12),
    "swin_large_patch4_window7_224": (192, [2, 2, 18, 2], [6, 12, 24, 48], 7),
    "swin_large_patch4_window12_384": (192, [2, 2, 18, 2], [6, 12, 24, 48], 12),
}
# (whether blocks are bottlenecks, blocks a stage)
RESNETS = {
    "resnet18": (False, [2, 2, 2, 2]),
    "resnet34": (False, [3, 4, 6, 3]),
    "resnet50": (True, [3, 4, 6, 3]),
    "resnet101": (True, [3, 4, 23, 3]),
    "resnet152": (True, [3, 8, 36, 3]),
}
DEEP_STEMS = {32: "c", 64: "s"}  # first width of a three-convolution stem → timm's suffix, for the bottleneck ResNets
# (blocks a stage, channels)
CONVNEXTS = {
    "convnext_tiny": ([3, 3, 9, 3], [96, 192, 384, 768]),
    "convnext_small": ([3, 3, 27, 3], [96, 192, 384, 768]),
    "convnext_base": ([3, 3, 27, 3], [128, 256, 512, 1024]),
    "convnext_large": ([3, 3, 27, 3], [192, 384, 768, 1536]),
    "convnext_xlarge": ([3, 3, 27, 3], [256, 512, 1024, 2048]),
}


def infer_config(state: Mapping[str, Tensor], dilations: Sequence[Sequence[int]] | None = None) -> Mask2FormerConfig:
    """The configuration of a native state dict (any tensors with shapes).

    dilations: of DiNAT, one a block, stage by stage; None takes those of the DiNAT-L with these depths and this kernel
        size, with a warning.

    Raises ValueError where an entry that tells a size is not there or tells none, or where layers are left out.
    """
    shape = _Shapes(state)
    family = backbone_family(state)
    if family is None:
        raise ValueError("no entry tells which backbone this is; known are Swin, ResNet, ConvNeXt and DiNAT")
    sizes = backbone_sizes(state)
    if family == "dinat":
        sizes["dilations"] = dilations or default_dilations(sizes["depths"], sizes["kernel_size"])
    backbone, options = backbone_name(sizes)
    hidden_dim = shape("transformer_decoder.class_head.weight", 1)
    encoder_layers = shape.count("pixel_decoder.encoder.")
    found = {
        "backbone": backbone,
        "backbone_options": options,
        "num_classes": shape("transformer_decoder.class_head.weight") - 1,
        "num_queries": shape("transformer_decoder.query_positions"),
        "hidden_dim": hidden_dim,
        "mask_dim": shape("pixel_decoder.mask_projection.weight"),
        "encoder_layers": encoder_layers,
        "decoder_layers": shape.count("transformer_decoder.layers."),
    }
    if encoder_layers:
        rows = shape("pixel_decoder.encoder.0.attention.sampling_offsets.weight")  # heads · levels · points · (x, y)
        found["num_heads"] = rows // (LEVELS * POINTS * 2)
        found["encoder_feedforward_dim"] = shape("pixel_decoder.encoder.0.feedforward.linear1.weight")
    if found["decoder_layers"]:
        found["decoder_feedforward_dim"] = shape("transformer_decoder.layers.0.feedforward.linear1.weight")
    if model_family(state) == "mask2former":
        return Mask2FormerConfig.from_dict(found)
    found["task_sequence_length"] = shape("task_mlp.layers.0.weight", 1)
    found["class_decoder_layers"] = shape.count("transformer_decoder.class_transformer.layers.")
    if "text_encoder.token_embedding.weight" in state:
        found |= text_sizes(state)
    return OneFormerConfig.from_dict(found)


def text_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of OneFormerConfig that describe the text branch of a native state dict."""
    shape = _Shapes(state)
    embedding = "text_encoder.token_embedding.weight"
    return {
        "text_branch": True,
        "text_vocabulary": shape(embedding),
        "text_width": shape(embedding, 1),
        "text_context_length": shape("text_encoder.position_embedding"),
        "text_layers": shape.count("text_encoder.layers."),
        "text_projection_layers": shape.count("text_projector.layers."),
        "text_contexts": shape("text_context"),
    }


def backbone_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes of the backbone of a native state dict; "family" says which. Without DiNAT's dilations."""
    shape = _Shapes(state)
    family = backbone_family(state)
    if family == "swin":
        depths = [shape.count(f"backbone.body.layers.{s}.blocks.") for s in range(4)]
        first = "backbone.body.layers.{}.blocks.0."
        rows = shape(first.format(0) + "attn.relative_position_bias_table")
        width = shape("backbone.body.patch_embed.proj.weight")
        return {
            "family": family,
            "embed_dim": width,
            "depths": depths,
            "num_heads": [shape(first.format(s) + "attn.relative_position_bias_table", 1) for s in range(4)],
            "window_size": (math.isqrt(rows) + 1) // 2,  # (2 · window − 1)² rows
            "mlp_ratio": shape(first.format(0) + "mlp.fc1.weight") / width,
            "qkv_bias": first.format(0) + "attn.qkv.bias" in state,
        }
    if family == "dinat":
        first = "backbone.levels.{}.blocks.0."
        width = shape("backbone.patch_embed.norm.weight")
        return {
            "family": family,
            "embed_dim": width,
            "depths": [shape.count(f"backbone.levels.{s}.blocks.") for s in range(4)],
            "num_heads": [shape(first.format(s) + "attn.relative_position_bias") for s in range(4)],
            "kernel_size": (shape(first.format(0) + "attn.relative_position_bias", 1) + 1) // 2,  # 2 · kernel − 1 rows
            "mlp_ratio": shape(first.format(0) + "mlp.fc1.weight") / width,
        }
    if family == "convnext":
        return {
            "family": family,
            "depths": [shape.count(f"backbone.body.stages_{s}.blocks.") for s in range(4)],
            "dims": [shape(f"backbone.norms.{s}.weight") for s in range(4)],
            "layer_scale": "backbone.body.stages_0.blocks.0.gamma" in state,
        }
    deep = "backbone.body.conv1.6.weight" in state
    return {
        "family": family,
        "depths": [shape.count(f"backbone.body.layer{s}.") for s in range(1, 5)],
        "bottleneck": "backbone.body.layer1.0.conv3.weight" in state,
        "widths": [shape(f"backbone.body.layer{s}.0.conv1.weight") for s in range(1, 5)],
        "stem_width": shape("backbone.body.conv1.0.weight" if deep else "backbone.body.conv1.weight"),
    }


def backbone_name(sizes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The timm model (or DiNAT preset) nearest to some `backbone_sizes`, and the options that make it fit them."""
    sizes = {k: _plain(v) for k, v in sizes.items()}
    options = {k: v for k, v in sizes.items() if k != "family"}
    if sizes["family"] == "swin":
        plain = {"mlp_ratio": 4.0, "qkv_bias": True}
        extra = {k: options[k] for k, value in plain.items() if options[k] != value}
        wanted = (sizes["embed_dim"], sizes["depths"], sizes["num_heads"], sizes["window_size"])
        for name, standard in SWINS.items():
            if wanted == standard:
                return name, extra
        return "swin_tiny_patch4_window7_224", {k: v for k, v in options.items() if k not in plain} | extra
    if sizes["family"] == "dinat":
        return "dinat_large", {k: v for k, v in options.items() if v != _plain(PRESETS["dinat_large"][k])}
    if sizes["family"] == "convnext":
        extra = {} if sizes["layer_scale"] else {"ls_init_value": None}
        for name, standard in CONVNEXTS.items():
            if (sizes["depths"], sizes["dims"]) == standard:
                return name, extra
        return "convnext_tiny", {"depths": sizes["depths"], "dims": sizes["dims"], **extra}
    return _resnet_name(sizes)


def _resnet_name(sizes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    deep = sizes["family"] == "resnet_deep_stem"
    options = {"stem_type": "deep", "stem_width": sizes["stem_width"]} if deep else {}
    if not deep and sizes["stem_width"] != 64:
        raise ValueError(f"a ResNet whose stem has {sizes['stem_width']} channels; only 64 can be built")
    if sizes["widths"] != [64, 128, 256, 512]:
        options["channels"] = sizes["widths"]
    for name, standard in RESNETS.items():
        if (sizes["bottleneck"], sizes["depths"]) == standard:
            suffix = DEEP_STEMS.get(sizes["stem_width"]) if deep and sizes["bottleneck"] and len(options) == 2 else None
            return (name + suffix, {}) if suffix else (name, options)
    return "resnet50" if sizes["bottleneck"] else "resnet18", {"layers": sizes["depths"], **options}


def default_dilations(depths: Sequence[int], kernel_size: int) -> list[list[int]]:
    """The dilations of the DiNAT-L of this kernel size, with a warning: 11 is that of COCO and ADE20K (crops of 640 or
    896 pixels), 7 that of Cityscapes. ValueError where there is none."""
    preset = PRESETS["dinat_large"]
    known = {preset["kernel_size"]: ("COCO and ADE20K", preset["dilations"]), 7: ("Cityscapes", CITYSCAPES_DILATIONS)}
    how = 'backbone_options={"dilations": …} of create_model or dilations=… of convert, one a block, stage by stage'
    if list(depths) != list(preset["depths"]) or kernel_size not in known:
        raise ValueError(
            f"the dilations of a DiNAT with {list(depths)} blocks and kernel size {kernel_size} cannot be read off its "
            f"shapes; give them: {how}"
        )
    datasets, dilations = known[kernel_size]
    dilations = _plain(dilations)
    warnings.warn(
        f"DiNAT's dilations cannot be read off its shapes; those of DiNAT-L for {datasets} are assumed, {dilations}. "
        f"To give others: {how}",
        stacklevel=3,
    )
    return dilations


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON will have them."""
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


class _Shapes:
    """Sides by name, and how many modules are numbered below a prefix."""

    def __init__(self, state: Mapping[str, Tensor]):
        self.state = state

    def __call__(self, name: str, axis: int = 0) -> int:
        if name not in self.state:
            raise ValueError(f"{name} is not there, so this is no Mask2Former or OneFormer this library can build")
        shape = tuple(self.state[name].shape)
        if len(shape) <= axis or (not all(shape) and name != "text_context"):  # one may learn no contexts
            raise ValueError(f"{name} has shape {shape}, which tells no size")
        return shape[axis]

    def count(self, prefix: str) -> int:
        """Layers named `prefix`0, `prefix`1, … without a gap."""
        pattern = re.compile(re.escape(prefix) + r"(0|[1-9][0-9]{0,5})\.")
        numbers = {int(m[1]) for name in self.state if (m := pattern.match(name))}
        if numbers and max(numbers) >= len(numbers):
            raise ValueError(f"the layers {prefix}… go up to {max(numbers)}, but there are {len(numbers)} of them")
        return len(numbers)
