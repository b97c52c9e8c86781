"""OneFormer: one transformer for panoptic, instance and semantic segmentation (Jain et al. 2023)."""

from typing import TYPE_CHECKING

from mask2former.lazy import lazily

if TYPE_CHECKING:
    from oneformer.config import OneFormerConfig
    from oneformer.losses import OneFormerCriterion
    from oneformer.model import OneFormer
    from oneformer.targets import TaskDataset
    from oneformer.tokenizer import Tokenizer
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "oneformer.config": "OneFormerConfig",
            "oneformer.losses": "OneFormerCriterion",
            "oneformer.model": "OneFormer",
            "oneformer.targets": "TaskDataset",
            "oneformer.tokenizer": "Tokenizer",
        },
    )

__all__ = ["OneFormer", "OneFormerConfig", "OneFormerCriterion", "TaskDataset", "Tokenizer"]
