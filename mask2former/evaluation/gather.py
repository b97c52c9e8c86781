"""What is measured image by image: what may be added, and how the processes' shares are brought together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.distributed as dist


def gather_by_image(records: dict[int | str, Any]) -> dict[int | str, Any]:
    """Merge the records of all processes (`torchrun`) in every one of them, in the order of the image ids.

    An image that several processes have seen, as when a sampler pads the last batch, counts once. Without
    processes to gather from, only the order changes, so that sums do not depend on how the work was shared out.
    """
    merged = records
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, records)
        merged = {image: record for part in everyone for image, record in part.items()}
    return dict(sorted(merged.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def require_labels(image_id: int | str, labels: Sequence[int] | np.ndarray, classes: int) -> None:
    """ValueError unless all labels are positions in a list of so many classes."""
    labels = np.asarray(labels)
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"image {image_id}: label ids must be from 0 to {classes - 1}")
