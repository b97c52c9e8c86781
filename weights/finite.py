"""Weights that are no numbers, or too large for the type they are wanted in: said when they are loaded.

Later nobody would notice: comparisons with NaN are false, so that a network of NaN finds nothing at all in a photo.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mask2former.errors import CheckpointError

LISTED = 5


def check_finite(source: str, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Raise CheckpointError naming entries with NaN or infinite numbers, ones beyond `dtype`, or negative variances.

    source: for the message. Takes about 0.03 s for a hundred million weights.
    """
    largest = torch.finfo(dtype).max
    problems = []
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        low, high = (end.item() for end in torch.aminmax(tensor))  # NaN where one is NaN
        if not (-largest <= low and high <= largest):
            count = int((~torch.isfinite(tensor)).sum())
            if count:
                problems.append(f"{name} ({count} of {tensor.numel()} are NaN or infinite)")
            else:
                problems.append(f"{name} (up to {max(-low, high):.3g}, and {dtype} ends at {largest:.3g})")
        elif low < 0 and name.endswith("running_var"):
            problems.append(f"{name} (a negative variance, {low:.3g})")
    if problems:
        more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise CheckpointError(
            f"{source}: {len(problems)} entries have numbers no network can compute with: "
            f"{', '.join(problems[:LISTED])}{more}; "
            + ("take dtype bfloat16 or float32" if dtype == torch.float16 else "get the file again, or an earlier one")
        )
