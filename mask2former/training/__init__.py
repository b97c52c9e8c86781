"""Losses and the training loop."""

from mask2former.training.losses import Criterion
from mask2former.training.trainer import Settings, train

__all__ = ["Criterion", "Settings", "train"]
