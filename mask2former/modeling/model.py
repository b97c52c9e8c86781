"""Mask2Former: backbone, pixel decoder, transformer decoder. The one place where a configuration becomes a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mask2former.modeling.backbone import Backbone
from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoder
from mask2former.modeling.transformer_decoder import TransformerDecoder
from mask2former.pretrained import Pretrained
from mask2former.structures import Outputs


class Mask2Former(nn.Module, Pretrained):
    """Masked-attention mask transformer for universal image segmentation (Cheng et al. 2022)."""

    if TYPE_CHECKING:

        def __call__(self, pixel_values: Tensor) -> Outputs: ...

    def __init__(self, config: Mask2FormerConfig, pretrained_backbone: bool = False):
        """pretrained_backbone: start the backbone from timm's ImageNet weights instead of random ones."""
        super().__init__()
        self.config = config
        self.backbone = Backbone(
            config.backbone,
            config.backbone_options,
            config.drop_path_rate,
            config.frozen_batch_norm,
            pretrained_backbone,
        )
        self.pixel_decoder = create_pixel_decoder(config, self.backbone.channels)
        self.transformer_decoder = TransformerDecoder(
            config.num_classes,
            config.hidden_dim,
            config.num_queries,
            mask_dim=config.mask_dim,
            num_heads=config.num_heads,
            num_layers=config.decoder_layers,
            feedforward_dim=config.decoder_feedforward_dim,
            dropout=config.dropout,
        )

    def forward(self, pixel_values: Tensor) -> Outputs:
        """pixel_values (B, 3, H, W): normalised RGB, H and W at least 32, padding (if any) at the bottom and right.

        Returns the last prediction, the earlier ones in `auxiliary`. Padding is not masked: the network sees it.
        """
        check_pixel_values(pixel_values)
        mask_features, levels = self.pixel_decoder(self.backbone(pixel_values))
        return self.transformer_decoder(levels, mask_features)


def create_pixel_decoder(config: Mask2FormerConfig, in_channels: Sequence[int]) -> PixelDecoder:
    """The pixel decoder of either network; in_channels: of the four backbone maps, finest first."""
    return PixelDecoder(
        in_channels,
        config.hidden_dim,
        config.mask_dim,
        config.num_heads,
        config.encoder_layers,
        config.encoder_feedforward_dim,
        config.encoder_points,
        config.dropout,
    )


def check_pixel_values(pixel_values: Tensor) -> None:
    """Raise ValueError unless this is a float batch (B, 3, H, W) with both sides at least 32."""
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values is {pixel_values.dtype} of shape {tuple(pixel_values.shape)}: expected a float tensor "
            "(B, 3, H, W), normalised; for photos use weights.create_predictor"
        )
    if min(pixel_values.shape[2:]) < 32:
        raise ValueError(f"pixel_values is {tuple(pixel_values.shape)}: both sides must be at least 32; pad or resize")
