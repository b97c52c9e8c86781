"""Whether the network has computed numbers: NaN is above no threshold and in no mask, so that it goes unnoticed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mask2former.structures import Outputs


class NotFinite(ValueError):
    """Outputs of the network that are no numbers."""


def require_finite(outputs: Outputs, model: nn.Module) -> None:
    """Raise NotFinite, with what can be done, where what post-processing reads of the outputs is not finite."""
    if all(map(is_finite, (outputs.class_logits, outputs.mask_embeddings, outputs.mask_features))):
        return
    dtype = next(model.parameters()).dtype
    if broken := next((key for key, value in model.named_parameters() if not is_finite(value)), None):
        remedy = f"its weights are not either ({broken}): get the checkpoint again"
    elif dtype == torch.float16:
        remedy = "float16 ends at 65504: take dtype bfloat16 or float32"
    elif dtype == torch.bfloat16:
        remedy = "take dtype float32"
    else:
        remedy = "its weights, or pixel_mean and pixel_std, are not as they were trained: get the checkpoint again"
    raise NotFinite(f"the network's outputs are not finite in {str(dtype).removeprefix('torch.')}; {remedy}")


def is_finite(values: Tensor) -> bool:
    """Whether all values are numbers. Least and greatest tell, in one pass that makes no other tensor: NaN is both."""
    if not values.is_floating_point() or not values.numel():
        return True
    return bool(torch.stack(values.detach().aminmax()).isfinite().all())
