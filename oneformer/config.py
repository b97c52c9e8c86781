"""OneFormer's sizes: Mask2Former's, and those of the task token, the class transformer and the text branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from mask2former.modeling.config import Layers, Mask2FormerConfig, Share, Size, at_least


@dataclass(frozen=True)
class OneFormerConfig(Mask2FormerConfig):
    """Sizes of a OneFormer (Jain et al. 2023, §4.1). `backbone` may also be a DiNAT, "dinat_large"."""

    num_queries: Size = 150  # Q, the task token among them
    dropout: Share = 0.1  # of pixel decoder and class transformer, training only; the masked decoder has none
    task_sequence_length: Size = 77  # token ids of a task text, zero padded; the inputs of the task MLP
    class_decoder_layers: Layers = 2  # of the transformer that makes the queries
    text_branch: bool = False  # build the text encoder, projector and contexts, which only training needs
    text_width: Size = 256  # channels of the text encoder, 64 a head
    text_layers: Layers = 6  # of the text encoder
    text_vocabulary: Annotated[int, Meta(ge=1, le=1 << 20)] = 49408  # token ids of CLIP's byte pair encoding
    text_context_length: Size = 77  # token ids of a training text, zero padded
    text_projection_layers: Layers = 2  # of the MLP after the text encoder
    text_contexts: Layers = 16  # learned vectors that stand beside the Q − text_contexts texts

    family = "oneformer"

    def __post_init__(self):
        super().__post_init__()
        at_least(self, 2, "num_queries")  # the task token is one
        at_least(self, 0, "class_decoder_layers", "text_layers", "text_contexts")
        at_least(self, 7, "task_sequence_length")  # the task texts have up to 7 token ids
        at_least(self, 1, "text_width", "text_vocabulary", "text_context_length", "text_projection_layers")
        if self.text_branch:
            if self.text_width % 64:
                raise ValueError(f"text_width={self.text_width}: expected a multiple of 64, the size of a head")
            if self.text_contexts >= self.num_queries:
                raise ValueError(
                    f"text_contexts={self.text_contexts}: expected fewer than num_queries={self.num_queries}"
                )
