"""The backbone: any timm network that gives feature maps at strides 4, 8, 16 and 32.

Shape letters: B images, H × W the input, C_s the channels of stage s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from mask2former.modeling.swin import create_swin, swin_maps

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """timm network → four maps (B, C_s, H/stride, W/stride), finest first.

    Swin and ConvNeXt get one extra LayerNorm an output, which does not feed the next stage; other networks get none.
    Attributes: `channels`, the four C_s.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        frozen_batch_norm: bool = True,
        pretrained: bool = False,
    ):
        """name: a timm model; options: arguments over its own (`embed_dim=…`, `depths=…`).

        pretrained: start from timm's ImageNet weights (downloads them). Raises ValueError if timm has no such model or
        the model has no maps at strides 4, 8, 16, 32.
        """
        super().__init__()
        options = dict(options or {})
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
            raise ValueError(f"timm has no backbone {name!r}; some of its names are {near}; see timm.list_models()")
        self.is_swin = name.startswith("swin_")
        if self.is_swin:
            self.body = create_swin(name, options, drop_path_rate, pretrained)
            strides = STRIDES
            channels = [self.body.embed_dim * 2**stage for stage in range(len(self.body.layers))]
        else:
            if drop_path_rate:
                options["drop_path_rate"] = drop_path_rate
            self.body = timm.create_model(name, pretrained, features_only=True, **options)
            strides, channels = self.body.feature_info.reduction(), self.body.feature_info.channels()
        self.channels_last = self.is_swin or str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        if any(stride not in strides for stride in STRIDES) or len(channels) != len(strides):
            raise ValueError(f"backbone {name!r} gives maps at strides {strides}; expected {STRIDES} among them")
        self.selected = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES]
        self.channels = tuple(channels[i] for i in self.selected)
        if frozen_batch_norm:
            freeze_batch_norm(self.body)
        eps = {"swin": 1e-5, "convnext": 1e-6}.get(name.split("_")[0])
        self.norms = nn.ModuleList(nn.LayerNorm(c, eps) for c in self.channels) if eps else None

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        """pixel_values (B, 3, H, W), H and W at least 32 → four maps (B, C_s, H/stride, W/stride), finest first."""
        if self.is_swin:
            maps = swin_maps(self.body, pixel_values)
        else:
            # Convolutions are 1.2 to 1.5 times faster so, on a CPU too: no layer has to rearrange its input
            maps = self.body(pixel_values.contiguous(memory_format=torch.channels_last))
            maps = [maps[i] for i in self.selected]
            if not self.channels_last:
                maps = [m.movedim(1, -1) for m in maps]
        if self.norms is not None:
            maps = [norm(m) for norm, m in zip(self.norms, maps, strict=True)]
        return [m.movedim(-1, 1) for m in maps]


class FrozenBatchNorm2d(nn.Module):
    """Batch norm as a fixed affine map: statistics, scale and shift are buffers that no optimiser sees."""

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        self.eps = norm.eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())
        # Where a residual branch starts at zero to be learned, a frozen zero would silence it for good.
        if not self.weight.is_meta and not self.weight.any():
            nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class FrozenBatchNormAct2d(FrozenBatchNorm2d):
    """The same for timm's batch norm that brings its activation along."""

    def __init__(self, norm: BatchNormAct2d):
        super().__init__(norm)
        self.drop, self.act = norm.drop, norm.act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


def freeze_batch_norm(module: nn.Module) -> None:
    """Replace every batch norm below `module` by a frozen one with the same numbers."""
    for name, child in module.named_children():
        if isinstance(child, BatchNormAct2d):
            setattr(module, name, FrozenBatchNormAct2d(child))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child))
        else:
            freeze_batch_norm(child)
