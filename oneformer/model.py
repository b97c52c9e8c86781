"""OneFormer: Mask2Former's parts around a task token. The one place where a configuration becomes a network.

Shape letters: B images, Q queries with the task token, C hidden channels, N texts an image, T ids of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mask2former.kernels.precision import exactly
from mask2former.modeling.backbone import Backbone
from mask2former.modeling.layers import MLP
from mask2former.modeling.model import check_pixel_values, create_pixel_decoder
from mask2former.pretrained import Pretrained
from mask2former.structures import Outputs
from oneformer.config import OneFormerConfig
from oneformer.dinat import PRESETS, DiNAT
from oneformer.tasks import task_tokens
from oneformer.text_encoder import TextEncoder
from oneformer.transformer_decoder import TaskConditionedDecoder


class OneFormer(nn.Module, Pretrained):
    """One transformer for panoptic, instance and semantic segmentation, told which (Jain et al. 2023)."""

    if TYPE_CHECKING:

        def __call__(
            self, pixel_values: Tensor, task: str | Sequence[str] | Tensor = "panoptic", texts: Tensor | None = None
        ) -> Outputs: ...

    def __init__(self, config: OneFormerConfig, pretrained_backbone: bool = False):
        """pretrained_backbone: start the backbone from timm's ImageNet weights instead of random ones."""
        super().__init__()
        self.config = config
        self.backbone = create_backbone(config, pretrained_backbone)
        self.pixel_decoder = create_pixel_decoder(config, self.backbone.channels)
        self.task_mlp = MLP(config.task_sequence_length, config.hidden_dim, config.hidden_dim, 2)
        self.transformer_decoder = TaskConditionedDecoder(
            config.num_classes,
            config.hidden_dim,
            config.mask_dim,
            config.num_queries,
            config.num_heads,
            config.decoder_layers,
            config.decoder_feedforward_dim,
            config.class_decoder_layers,
            config.dropout,
        )
        if config.text_branch:
            self.text_encoder = TextEncoder(
                config.text_vocabulary, config.text_context_length, config.text_width, config.text_layers
            )
            self.text_projector = MLP(
                config.text_width, config.hidden_dim, config.hidden_dim, config.text_projection_layers
            )
            self.text_context = nn.Parameter(torch.randn(config.text_contexts, config.hidden_dim))

    def forward(
        self, pixel_values: Tensor, task: str | Sequence[str] | Tensor = "panoptic", texts: Tensor | None = None
    ) -> Outputs:
        """The last prediction, the earlier ones in `auxiliary`, the queries before the decoder in `contrastive_logits`.

        Args:
            pixel_values: (B, 3, H, W) normalised RGB, H and W at least 32, padding (if any) at the bottom and right.
                Padding is not masked: the network sees it.
            task: "panoptic", "instance" or "semantic" for all images, a list of B of them, or token ids: a list of 77
                or a tensor (77,) for all images, or (B, 77).
            texts: (B, Q − text_contexts, 77) token ids of training texts; their features (B, Q, C) are then in
                `text_features`. Only for a model built with `text_branch=True`.

        Raises ValueError for an unknown task, naming the three, and for inputs of other shapes or types.
        """
        check_pixel_values(pixel_values)
        if texts is not None and len(texts) != len(pixel_values):
            raise ValueError(f"texts of {len(texts)} images for {len(pixel_values)} images")
        task_token = self.task_token(task, len(pixel_values))
        mask_features, levels = self.pixel_decoder(self.backbone(pixel_values))
        outputs = self.transformer_decoder(levels, mask_features, task_token)
        if texts is not None:
            outputs.text_features = self.encode_texts(texts)
        return outputs

    def task_token(self, task: str | Sequence[str] | Tensor, batch_size: int) -> Tensor:
        """(B, C). What the MLP reads is the token ids themselves, as numbers; the weights were trained so."""
        length, device = self.config.task_sequence_length, self.task_mlp.layers[0].weight.device
        # Ids go up to 49407, which half precision cannot hold.
        return exactly(self.task_mlp, task_tokens(task, batch_size, length, device))

    def encode_texts(self, texts: Tensor) -> Tensor:
        """(B, N, T) token ids → (B, Q, C): the features of the N texts, then the learned contexts."""
        if not self.config.text_branch:
            raise ValueError("texts given, but this model was built without its text branch: set text_branch=True")
        if texts.ndim != 3 or texts.shape[1] + len(self.text_context) != self.config.num_queries:
            raise ValueError(
                f"texts is {tuple(texts.shape)}: expected (images, {self.config.num_queries - len(self.text_context)}, "
                f"{self.config.text_context_length}), so that texts and learned contexts are as many as queries"
            )
        features = self.text_projector(self.text_encoder(texts.flatten(0, 1))).unflatten(0, texts.shape[:2])
        return torch.cat((features, self.text_context.expand(len(texts), -1, -1)), dim=1)


def create_backbone(config: OneFormerConfig, pretrained: bool = False) -> nn.Module:
    """A DiNAT where the name says so, else any network of timm. Raises ValueError for unknown names."""
    if not config.backbone.startswith("dinat"):
        return Backbone(
            config.backbone, config.backbone_options, config.drop_path_rate, config.frozen_batch_norm, pretrained
        )
    if config.backbone not in PRESETS:
        raise ValueError(f"unknown backbone {config.backbone!r}: expected one of {sorted(PRESETS)} or a timm model")
    if pretrained:
        raise ValueError("timm has no ImageNet weights of DiNAT: load a published OneFormer and fine-tune it instead")
    return DiNAT(**{**PRESETS[config.backbone], **config.backbone_options}, drop_path_rate=config.drop_path_rate)
