"""Every size the paper varies, in one frozen, flat, commented dataclass; counts are true counts (nine layers is 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from mask2former.structures import ClassInfo, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Mask2FormerConfig:
    """Sizes of a Mask2Former (Cheng et al. 2022, §4.1), its classes, and how it is tested."""

    backbone: str = "swin_tiny_patch4_window7_224"  # a timm model name
    backbone_options: Mapping[str, Any] = field(default_factory=dict)  # arguments over the timm model's own
    drop_path_rate: float = 0.0  # stochastic depth in the backbone, training only (the paper's Swin: 0.3)
    frozen_batch_norm: bool = True  # batch norms of the backbone keep their statistics and their scale
    num_classes: int = 133  # K; the class head has one more output, "no object"
    num_queries: int = 100  # Q
    hidden_dim: int = 256  # width of pixel decoder and transformer decoder
    mask_dim: int = 256  # channels of mask features and mask embeddings
    num_heads: int = 8  # of every attention
    encoder_layers: int = 6  # deformable layers of the pixel decoder
    encoder_feedforward_dim: int = 1024
    encoder_points: int = 4  # sampling points a head and level
    decoder_layers: int = 9  # transformer decoder layers; predictions are one more
    decoder_feedforward_dim: int = 2048
    dropout: float = 0.0  # of pixel decoder and transformer decoder, training only
    classes: tuple[ClassInfo, ...] = ()  # K of them, or empty: then they are called "class 0", "class 1", …
    protocol: Protocol = Protocol()

    family = "mask2former"  # written beside the weights; no field

    def __post_init__(self):
        for name in ("num_classes", "num_queries", "hidden_dim", "mask_dim", "num_heads", "encoder_feedforward_dim",
                     "encoder_points", "decoder_feedforward_dim"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.encoder_layers < 0 or self.decoder_layers < 0:
            raise ValueError(f"encoder_layers={self.encoder_layers}, decoder_layers={self.decoder_layers}: negative")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim={self.hidden_dim} is not a multiple of num_heads={self.num_heads}")
        if not self.classes:
            named = tuple(ClassInfo(f"class {k}", True, class_color(k), k) for k in range(self.num_classes))
            object.__setattr__(self, "classes", named)
        if len(self.classes) != self.num_classes:
            raise ValueError(f"{len(self.classes)} classes are named but num_classes={self.num_classes}")

    def to_dict(self) -> dict[str, Any]:
        """Plain containers only, ready for JSON; `from_dict` reads them back to an equal config."""
        return {"family": self.family, **asdict(self), "backbone_options": dict(self.backbone_options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises ValueError naming unknown entries."""
        values = {k: v for k, v in values.items() if k != "family"}
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"unknown entries in the configuration: {unknown}")
        if "classes" in values:
            values["classes"] = tuple(ClassInfo(**{**c, "color": tuple(c["color"])}) for c in values["classes"])
        if "protocol" in values:
            lists = {k: tuple(v) if isinstance(v, list) else v for k, v in values["protocol"].items()}
            values["protocol"] = Protocol(**lists)
        return cls(**values)


def class_color(index: int) -> tuple[int, int, int]:
    """The PASCAL VOC colour of a class without one: the bits of the index spread over RGB, most significant first."""
    index, color = index + 1, [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            color[channel] |= (index >> channel & 1) << shift
        index >>= 3
    return tuple(color)
