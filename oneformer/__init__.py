"""OneFormer: one transformer for panoptic, instance and semantic segmentation (Jain et al. 2023)."""

from oneformer.config import OneFormerConfig
from oneformer.losses import OneFormerCriterion
from oneformer.model import OneFormer

__all__ = ["OneFormer", "OneFormerConfig", "OneFormerCriterion"]
