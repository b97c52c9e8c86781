"""The zoo: published Mask2Former and OneFormer weights, and everything that reads and writes checkpoints."""

from mask2former.errors import CheckpointError
from weights.convert import convert
from weights.load import create_model, create_predictor, save_model
from weights.zoo import list_models

__all__ = ["CheckpointError", "convert", "create_model", "create_predictor", "list_models", "save_model"]
