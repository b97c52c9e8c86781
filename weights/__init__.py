"""The zoo: published Mask2Former and OneFormer weights, and everything that reads and writes checkpoints."""

from typing import TYPE_CHECKING

from mask2former.lazy import lazily

if TYPE_CHECKING:
    from mask2former.errors import CheckpointError
    from weights.conversion import convert
    from weights.load import create_model, create_predictor, save_model
    from weights.zoo import list_models
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "mask2former.errors": "CheckpointError",
            "weights.conversion": "convert",
            "weights.load": "create_model create_predictor save_model",
            "weights.zoo": "list_models",
        },
    )

__all__ = ["CheckpointError", "convert", "create_model", "create_predictor", "list_models", "save_model"]
