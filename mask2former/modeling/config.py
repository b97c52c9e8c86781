"""Every size the paper varies, in one frozen, flat, commented dataclass; counts are true counts (nine layers is 9).

The annotations are the declaration that a file's values are read against (`from_dict`), bounds included. Who makes a
configuration in Python is trusted: he meets only what `__post_init__` says, and may pass a backbone any option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from mask2former.schema import convert
from mask2former.structures import ClassInfo, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self
# What a file may say; the largest published are 133 classes, 250 queries and a width of 2048.
Size = Annotated[int, Meta(ge=1, le=65536)]
Layers = Annotated[int, Meta(ge=0, le=1000)]
Share = Annotated[float, Meta(ge=0, lt=1)]


@dataclass(frozen=True)
class Mask2FormerConfig:
    """Sizes of a Mask2Former (Cheng et al. 2022, §4.1), its classes, and how it is tested."""

    backbone: str = "swin_tiny_patch4_window7_224"  # a timm model name
    backbone_options: Mapping[str, Any] = field(default_factory=dict)  # arguments over the timm model's own
    drop_path_rate: Share = 0.0  # stochastic depth in the backbone, training only (the paper's Swin: 0.3)
    frozen_batch_norm: bool = True  # batch norms of the backbone keep their statistics and their scale
    num_classes: Size = 133  # K; the class head has one more output, "no object"
    num_queries: Size = 100  # Q
    hidden_dim: Size = 256  # width of pixel decoder and transformer decoder
    mask_dim: Size = 256  # channels of mask features and mask embeddings
    num_heads: Size = 8  # of every attention
    encoder_layers: Layers = 6  # deformable layers of the pixel decoder
    encoder_feedforward_dim: Size = 1024
    encoder_points: Size = 4  # sampling points a head and level
    decoder_layers: Layers = 9  # transformer decoder layers; predictions are one more
    decoder_feedforward_dim: Size = 2048
    dropout: Share = 0.0  # of pixel decoder and transformer decoder, training only
    classes: tuple[ClassInfo, ...] = ()  # K of them, or empty: then they are called "class 0", "class 1", …
    protocol: Protocol = Protocol()

    family = "mask2former"  # written beside the weights; no field

    def __post_init__(self):
        at_least(self, 1, "num_classes", "num_queries", "hidden_dim", "mask_dim", "num_heads",
                 "encoder_feedforward_dim", "encoder_points", "decoder_feedforward_dim")  # fmt: skip
        at_least(self, 0, "encoder_layers", "decoder_layers")
        for name in ("drop_path_rate", "dropout"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 <= value < 1:
                raise ValueError(f"{name}={value!r}: expected at least 0 and less than 1")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim={self.hidden_dim} is not a multiple of num_heads={self.num_heads}")
        if self.hidden_dim % 4:  # rows and columns, sine and cosine
            raise ValueError(f"hidden_dim={self.hidden_dim}: expected a multiple of 4, for the position encoding")
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
        """The inverse of `to_dict`. Raises ValueError naming unknown entries, and values of other types or sizes."""
        values = {k: v for k, v in values.items() if k != "family"}
        known = {"the configuration": cls, "protocol": Protocol, "classes": ClassInfo}
        parts = {"the configuration": [values], "protocol": [values.get("protocol")], "classes": values.get("classes")}
        for part, content in parts.items():
            names = {f.name for f in fields(known[part])}
            for one in content if isinstance(content, list | tuple) else ():
                if isinstance(one, dict) and (unknown := sorted(set(one) - names, key=str)):
                    raise ValueError(f"unknown entries in {part}: {unknown[:10]}; it has {', '.join(sorted(names))}")
        return convert(values, cls, ValueError)


def at_least(config: object, least: int, *names: str) -> None:
    """Raise ValueError unless each of these fields is a whole number and no smaller."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r}: expected a whole number, at least {least}")


def class_color(index: int) -> tuple[int, int, int]:
    """The PASCAL VOC colour of a class without one: the bits of the index spread over RGB, most significant first."""
    index, color = index + 1, [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            color[channel] |= (index >> channel & 1) << shift
        index >>= 3
    return tuple(color)
