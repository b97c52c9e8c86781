"""OneFormer's sizes: Mask2Former's, and those of the task token, the class transformer and the text branch."""

from __future__ import annotations

from dataclasses import dataclass

from mask2former.modeling.config import Mask2FormerConfig


@dataclass(frozen=True)
class OneFormerConfig(Mask2FormerConfig):
    """Sizes of a OneFormer (Jain et al. 2023, §4.1). `backbone` may also be a DiNAT, "dinat_large"."""

    num_queries: int = 150  # Q, the task token among them
    dropout: float = 0.1  # of pixel decoder and class transformer, training only; the masked decoder has none
    task_sequence_length: int = 77  # token ids of a task text, zero padded; the inputs of the task MLP
    class_decoder_layers: int = 2  # of the transformer that makes the queries
    text_branch: bool = False  # build the text encoder, projector and contexts, which only training needs
    text_width: int = 256  # channels of the text encoder, 64 a head
    text_layers: int = 6  # of the text encoder
    text_vocabulary: int = 49408  # token ids of CLIP's byte pair encoding
    text_context_length: int = 77  # token ids of a training text, zero padded
    text_projection_layers: int = 2  # of the MLP after the text encoder
    text_contexts: int = 16  # learned vectors that stand beside the Q − text_contexts texts

    family = "oneformer"

    def __post_init__(self):
        super().__post_init__()
        if self.num_queries < 2:
            raise ValueError(f"num_queries={self.num_queries}: expected at least 2, since the task token is one")
        if self.class_decoder_layers < 0:
            raise ValueError(f"class_decoder_layers={self.class_decoder_layers}: negative")
        if self.task_sequence_length < 7:
            raise ValueError(f"task_sequence_length={self.task_sequence_length}: the task texts have up to 7 token ids")
        if self.text_branch:
            if self.text_width % 64:
                raise ValueError(f"text_width={self.text_width}: expected a multiple of 64, the size of a head")
            if not 0 <= self.text_contexts < self.num_queries:
                raise ValueError(
                    f"text_contexts={self.text_contexts}: expected fewer than num_queries={self.num_queries}"
                )
