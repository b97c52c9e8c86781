"""Hugging Face's `config.json` and `preprocessor_config.json` declared, as far as they mean something here.

Their files have many more, which are ignored, and leave out what is a default of theirs; null is the same as left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mask2former.modeling.config import Layers, Share, Size
from mask2former.structures import Name, Side
from weights.backbone_options import WINDOW, Depths, Dilations, Ratio, Sizes

Deviation = Annotated[float, Meta(gt=0, le=1e5)]
Mean = Annotated[float, Meta(ge=-1e5, le=1e5)]


class HubBackbone(msgspec.Struct):
    """`backbone_config`; which fields must be there depends on `model_type` (`hub_config.BACKBONES`)."""

    model_type: str | None = None
    embed_dim: Size | None = None
    depths: Depths | None = None
    num_heads: Sizes | None = None
    window_size: Annotated[int, Meta(ge=1, le=WINDOW)] | None = None
    kernel_size: Annotated[int, Meta(ge=3, le=WINDOW)] | None = None
    dilations: Dilations | None = None
    embedding_size: Size | None = None
    hidden_sizes: Sizes | None = None
    layer_type: Literal["basic", "bottleneck"] | None = None
    mlp_ratio: Ratio | None = None
    qkv_bias: bool | None = None
    layer_scale_init_value: Annotated[float, Meta(ge=0, le=1)] | None = None
    drop_path_rate: Share | None = None
    out_features: list[str] | None = None


class HubConfig(msgspec.Struct):
    """`config.json` of either family."""

    model_type: str | None = None
    backbone: Any = None
    backbone_config: HubBackbone | None = None
    num_queries: Size | None = None
    hidden_dim: Size | None = None
    num_attention_heads: Size | None = None
    encoder_layers: Layers | None = None
    encoder_feedforward_dim: Size | None = None
    decoder_layers: Annotated[int, Meta(ge=1, le=1001)] | None = None  # predictions, one more than layers
    dim_feedforward: Size | None = None
    mask_feature_size: Size | None = None
    feature_size: Size | None = None
    mask_dim: Size | None = None
    conv_dim: Size | None = None
    dropout: Share | None = None
    id2label: dict[str, Name | int] | None = None
    num_labels: Size | None = None
    num_classes: Size | None = None
    task_seq_len: Size | None = None
    query_dec_layers: Layers | None = None
    text_encoder_width: Size | None = None
    text_encoder_context_length: Size | None = None
    text_encoder_num_layers: Layers | None = None
    text_encoder_vocab_size: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    text_encoder_proj_layers: Layers | None = None
    text_encoder_n_ctx: Layers | None = None


class HubPreprocessor(msgspec.Struct):
    """`preprocessor_config.json`. A pixel becomes (pixel · rescale_factor − image_mean) / image_std."""

    size: Side | dict[str, Side | None] | None = None
    max_size: Side | None = None
    image_mean: Mean | Annotated[list[Mean], Meta(min_length=3, max_length=3)] | None = None
    image_std: Deviation | Annotated[list[Deviation], Meta(min_length=3, max_length=3)] | None = None
    do_rescale: bool | None = None
    rescale_factor: Annotated[float, Meta(ge=1e-6, le=1e6)] | None = None
    do_normalize: bool | None = None


class HubProcessor(msgspec.Struct):
    """`processor_config.json`, which newer transformers write instead for a whole processor."""

    image_processor: dict[str, Any] | None = None
