"""Mask2Former and OneFormer: universal image segmentation (Cheng et al. 2022, Jain et al. 2023).

The front door: models by name, the predictor and what it gives, both networks. Training, data and evaluation are in
`mask2former.training`, `mask2former.data`, `mask2former.evaluation`. Nothing is imported before it is asked for.
"""

from typing import TYPE_CHECKING

from mask2former.lazy import lazily
from mask2former.version import __version__

if TYPE_CHECKING:
    from mask2former.errors import CheckpointError, DataError, PhotoError
    from mask2former.inference.prediction import Prediction
    from mask2former.inference.predictor import Predictor
    from mask2former.inference.segmentation import Segmentation
    from mask2former.modeling.config import Mask2FormerConfig
    from mask2former.modeling.model import Mask2Former
    from mask2former.structures import ClassInfo, Outputs, Protocol, Segment, Targets
    from oneformer.config import OneFormerConfig
    from oneformer.model import OneFormer
    from weights.conversion import convert
    from weights.load import create_model, create_predictor, save_model
    from weights.zoo import list_models
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "mask2former.errors": "CheckpointError DataError PhotoError",
            "mask2former.inference.prediction": "Prediction",
            "mask2former.inference.predictor": "Predictor",
            "mask2former.inference.segmentation": "Segmentation",
            "mask2former.modeling.config": "Mask2FormerConfig",
            "mask2former.modeling.model": "Mask2Former",
            "mask2former.structures": "ClassInfo Outputs Protocol Segment Targets",
            "oneformer.config": "OneFormerConfig",
            "oneformer.model": "OneFormer",
            "weights.conversion": "convert",
            "weights.load": "create_model create_predictor save_model",
            "weights.zoo": "list_models",
        },
    )

__all__ = [
    "CheckpointError",
    "ClassInfo",
    "DataError",
    "Mask2Former",
    "Mask2FormerConfig",
    "OneFormer",
    "OneFormerConfig",
    "Outputs",
    "PhotoError",
    "Prediction",
    "Predictor",
    "Protocol",
    "Segment",
    "Segmentation",
    "Targets",
    "__version__",
    "convert",
    "create_model",
    "create_predictor",
    "list_models",
    "save_model",
]
