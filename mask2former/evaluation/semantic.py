"""Mean intersection over union of classes, the measure of semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mask2former.evaluation.gather import gather_by_image
from mask2former.structures import ClassInfo


class MeanIoU:
    """Intersections and unions summed over all images, then divided, class by class. All values are 0..1.

    Pixels without ground truth count for nothing. Pixels without a prediction are missed.
    """

    def __init__(self, classes: Sequence[ClassInfo]):
        self.classes = tuple(classes)
        self.counts: dict[int | str, np.ndarray] = {}  # image → (3, K) pixels: in both, in the truth, in the prediction

    def update(self, image_id: int | str, label_map: np.ndarray, truth: np.ndarray) -> None:
        """Add one image; the same id again replaces it.

        Arguments:
            label_map: (H, W) predicted label ids, −1 for none.
            truth: (H, W) true label ids, −1 where pixels are ignored.
        """
        if label_map.shape != truth.shape:
            raise ValueError(f"image {image_id}: prediction {label_map.shape}, ground truth {truth.shape}")
        if label_map.size and (label_map.min() < -1 or truth.min() < -1):
            raise ValueError(f"image {image_id}: label ids must be −1, which is none, or more")
        judged = truth >= 0
        predicted, true = label_map[judged], truth[judged]

        def count(labels: np.ndarray) -> np.ndarray:
            return np.bincount(labels, minlength=len(self.classes))

        pixels = count(true[true == predicted]), count(true), count(predicted[predicted >= 0])
        if any(len(row) > len(self.classes) for row in pixels):
            raise ValueError(f"image {image_id}: label ids must be below {len(self.classes)}")
        self.counts[image_id] = np.stack(pixels)

    def compute(self) -> dict[str, Any]:
        """mIoU, frequency-weighted IoU, mean and overall pixel accuracy, and each class's IoU.

        The means go over the classes that the ground truth has; the others have None.
        """
        counts = sum(gather_by_image(self.counts).values(), np.zeros((3, len(self.classes)), np.int64))
        both, true, predicted = counts
        iou = both / np.maximum(true + predicted - both, 1)
        present = true > 0
        report: dict[str, Any] = dict.fromkeys(("mIoU", "fwIoU", "mean_accuracy", "pixel_accuracy"))
        if present.any():
            report = {
                "mIoU": float(iou[present].mean()),
                "fwIoU": float((iou * true).sum() / true.sum()),
                "mean_accuracy": float((both[present] / true[present]).mean()),
                "pixel_accuracy": float(both.sum() / true.sum()),
            }
        report["classes"] = [
            {"name": c.name, "IoU": float(iou[k]) if present[k] else None, "pixels": int(true[k])}
            for k, c in enumerate(self.classes)
        ]
        return report

    def image_scores(self) -> dict[int | str, float]:
        """The mIoU of each image alone."""
        scores = {}
        for image_id, (both, true, predicted) in gather_by_image(self.counts).items():
            present = true > 0
            if present.any():
                scores[image_id] = float((both / np.maximum(true + predicted - both, 1))[present].mean())
        return scores
