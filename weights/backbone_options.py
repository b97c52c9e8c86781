"""What a file may say about a backbone: its name in timm, and options by name and type.

Options go to timm as keyword arguments, and some of timm's make it read other files, or run what is in them. So only
those are admitted that describe an architecture, with typed values. Who builds a configuration in Python may pass any.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mask2former.modeling.config import Layers, Mask2FormerConfig, Share, Size
from mask2former.schema import convert, short
from oneformer.dinat import PRESETS

NAME = r"[A-Za-z][A-Za-z0-9_]{0,99}(\.[A-Za-z0-9_]{1,99})?"  # no address, no path; timm's names of weights have a dot
WINDOW = 32  # the largest published window is 12; memory grows with its fourth power
PHOTO = 2048  # pixels a side: a DiNAT's neighborhood reaches no further, on a map of any stride
STRIDES = (4, 8, 16, 32)

Ratio = Annotated[float, Meta(gt=0, le=64)]
Sizes = Annotated[list[Size], Meta(min_length=1, max_length=16)]
Depths = Annotated[list[Layers], Meta(min_length=1, max_length=16)]
Dilations = Annotated[list[list[Size]], Meta(min_length=4, max_length=4)]
Small = Annotated[float, Meta(ge=0, le=1)]
Activation = Literal["relu", "relu6", "leaky_relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "hard_swish", "mish"]


class BackboneOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Every option that is admitted."""

    # Swin, DiNAT
    embed_dim: Size | UnsetType = UNSET
    depths: Depths | UnsetType = UNSET  # ConvNeXt too
    num_heads: Sizes | UnsetType = UNSET
    head_dim: Size | None | UnsetType = UNSET
    window_size: Annotated[int, Meta(ge=1, le=WINDOW)] | UnsetType = UNSET
    mlp_ratio: Ratio | UnsetType = UNSET
    qkv_bias: bool | UnsetType = UNSET
    kernel_size: Annotated[int, Meta(ge=3, le=WINDOW)] | UnsetType = UNSET
    dilations: Dilations | UnsetType = UNSET
    # ResNet
    layers: Depths | UnsetType = UNSET
    channels: Sizes | UnsetType = UNSET
    stem_type: Literal["", "deep", "deep_tiered", "patch", "overlap", "overlap_tiered"] | UnsetType = UNSET
    stem_width: Size | UnsetType = UNSET
    cardinality: Size | UnsetType = UNSET
    base_width: Size | UnsetType = UNSET
    avg_down: bool | UnsetType = UNSET
    replace_stem_pool: bool | UnsetType = UNSET
    block_reduce_first: Annotated[int, Meta(ge=1, le=16)] | UnsetType = UNSET
    down_kernel_size: Annotated[int, Meta(ge=1, le=15)] | UnsetType = UNSET
    # ConvNeXt
    dims: Sizes | UnsetType = UNSET
    kernel_sizes: Annotated[int, Meta(ge=1, le=WINDOW)] | Sizes | UnsetType = UNSET
    ls_init_value: Small | None | UnsetType = UNSET
    conv_mlp: bool | UnsetType = UNSET
    conv_bias: bool | UnsetType = UNSET
    use_grn: bool | UnsetType = UNSET
    norm_eps: Small | None | UnsetType = UNSET
    # EfficientNet and its kin
    stem_size: Size | UnsetType = UNSET
    stem_kernel_size: Annotated[int, Meta(ge=1, le=15)] | UnsetType = UNSET
    fix_stem: bool | UnsetType = UNSET
    num_features: Size | UnsetType = UNSET
    act_layer: Activation | UnsetType = UNSET
    # dropout, in training alone
    drop_rate: Share | UnsetType = UNSET
    proj_drop_rate: Share | UnsetType = UNSET
    attn_drop_rate: Share | UnsetType = UNSET


def check_backbone(config: Mask2FormerConfig, most: int) -> None:
    """Raise ValueError unless a file may say this of its backbone, in no more than `most` layers."""
    if not re.fullmatch(NAME, config.backbone):
        raise ValueError(f"backbone is {short(config.backbone)}: expected the plain name of a timm model or a DiNAT")
    options = dict(config.backbone_options)
    refused = sorted(set(options) - set(BackboneOptions.__struct_fields__), key=str)
    if refused:
        raise ValueError(
            f"backbone_options has {', '.join(map(short, refused[:5]))}: refused, because options go to the code that "
            f"builds the backbone, and a file may only describe an architecture: "
            f"{', '.join(BackboneOptions.__struct_fields__)}. For others build the model in Python and load its weights"
        )
    admitted = convert(options, BackboneOptions, lambda problem: ValueError(f"backbone_options: {problem}"))
    for name in ("depths", "layers"):
        depths = getattr(admitted, name)
        if depths is not UNSET and sum(depths) > most:
            raise ValueError(f"backbone_options.{name}={short(depths)}, but the weights have {most} entries")
    if admitted.dilations is not UNSET:
        kernel = PRESETS["dinat_large"]["kernel_size"] if admitted.kernel_size is UNSET else admitted.kernel_size
        for stride, stage in zip(STRIDES, admitted.dilations, strict=True):
            if max(stage, default=1) * kernel * stride > PHOTO:
                raise ValueError(
                    f"backbone_options.dilations has {max(stage)} at stride {stride}: with a kernel of {kernel} that "
                    f"reaches beyond {PHOTO} pixels"
                )
