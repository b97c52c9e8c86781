"""A compact network of either family, small enough to be trained and run without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from mask2former.modeling.config import Mask2FormerConfig
from mask2former.structures import ClassInfo, Protocol
from weights.checkpoint import CONFIGS

COMPACT = "compact"  # what the command line calls it

SIZES = {
    "backbone": "tf_efficientnet_lite0",
    "num_queries": 60,
    "hidden_dim": 128,
    "mask_dim": 128,
    "num_heads": 8,
    "encoder_layers": 3,
    "encoder_feedforward_dim": 512,
    "decoder_layers": 3,
    "decoder_feedforward_dim": 512,
}
PROTOCOL = Protocol("", short_side=384, long_side=640, object_mask_threshold=0.5, overlap_threshold=0.6)


def compact_config(family: str, classes: Sequence[ClassInfo]) -> Mask2FormerConfig:
    """family: mask2former (4.6 million parameters) or oneformer."""
    return CONFIGS[family](**SIZES, num_classes=len(classes), classes=tuple(classes), protocol=PROTOCOL)
