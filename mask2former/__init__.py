"""Mask2Former: universal image segmentation with masked attention (Cheng et al. 2022)."""

from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.model import Mask2Former
from mask2former.structures import ClassInfo, Outputs, Protocol, Segment, Targets

__all__ = ["ClassInfo", "Mask2Former", "Mask2FormerConfig", "Outputs", "Protocol", "Segment", "Targets"]
