"""Panoptic quality (Kirillov et al. 2019, §4), with the official treatment of crowds and void.

Shape letters: K classes, N true segments, M predicted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mask2former.data.annotation import IdMap
from mask2former.evaluation.gather import gather_by_image, require_labels
from mask2former.structures import ClassInfo

MATCH = 0.5  # a pair with more overlap than this is a match, and can have only one partner
FORGIVEN = 0.5  # an unmatched prediction lying in void or crowd by more than this share is no mistake


class PanopticQuality:
    """PQ = SQ × RQ: the mean overlap of the matched segments × how many are matched. All values are 0..1."""

    def __init__(self, classes: Sequence[ClassInfo]):
        self.classes = tuple(classes)
        self.counts: dict[int | str, np.ndarray] = {}  # image → (K, 4): summed IoU, matches, false alarms, misses

    def update(self, image_id: int | str, segment_map: np.ndarray, labels: np.ndarray, truth: IdMap) -> None:
        """Add one image; the same id again replaces it.

        Arguments:
            segment_map: (H, W) integers, 0 where nothing is predicted, k + 1 for segment k.
            labels: (M,) label ids of the segments.
            truth: the ground truth at the same size.
        """
        if segment_map.shape != truth.size:
            raise ValueError(f"image {image_id}: prediction {segment_map.shape}, ground truth {truth.size}")
        if segment_map.size and not 0 <= segment_map.min() <= segment_map.max() <= len(labels):
            raise ValueError(
                f"image {image_id}: expected segments from 0 to {len(labels)}, which is how many labels came"
            )
        require_labels(image_id, labels, len(self.classes))
        require_labels(image_id, truth.labels, len(self.classes))
        self.counts[image_id] = count_matches(segment_map, np.asarray(labels, np.int64), truth, len(self.classes))

    def compute(self) -> dict[str, Any]:
        """PQ, SQ, RQ over all classes, over things and over stuff, and of each class.

        A class that occurs neither in the ground truth nor in a prediction has None and takes no part in a mean; so
        does a mean of no class.
        """
        counts = sum(gather_by_image(self.counts).values(), np.zeros((len(self.classes), 4)))
        rows = [quality(*row) for row in counts]
        report: dict[str, Any] = {}
        is_thing = [c.is_thing for c in self.classes]
        for suffix, chosen in (("", None), ("_things", True), ("_stuff", False)):
            part = [r for r, thing in zip(rows, is_thing, strict=True) if r and (chosen is None or thing == chosen)]
            means = np.mean(part, axis=0).tolist() if part else [None] * 3
            report |= dict(zip([f"PQ{suffix}", f"SQ{suffix}", f"RQ{suffix}"], means, strict=True))
        report["classes"] = [
            {"name": c.name, "is_thing": c.is_thing}
            | dict(zip(("PQ", "SQ", "RQ"), row or (None, None, None), strict=True))
            | dict(zip(("matched", "false_alarms", "missed"), count[1:].astype(int).tolist(), strict=True))
            for c, row, count in zip(self.classes, rows, counts, strict=True)
        ]
        return report

    def image_scores(self) -> dict[int | str, float]:
        """The PQ of each image alone."""
        scores = {}
        for image_id, counts in gather_by_image(self.counts).items():
            rows = [r for r in (quality(*row) for row in counts) if r]
            if rows:
                scores[image_id] = float(np.mean(rows, axis=0)[0])
        return scores


def count_matches(segment_map: np.ndarray, labels: np.ndarray, truth: IdMap, num_classes: int) -> np.ndarray:
    """(K, 4) of one image: summed IoU of the matches, matches, false alarms, misses."""
    n, m = len(truth.labels), len(labels)
    pairs = truth.segment_map.astype(np.int64) * (m + 1) + segment_map
    shared = np.bincount(pairs.ravel(), minlength=(n + 1) * (m + 1)).reshape(n + 1, m + 1)  # pixels, row 0 is void
    true_area, area = shared.sum(1)[1:], shared.sum(0)[1:]  # (N,), (M,)
    void, shared = shared[0, 1:], shared[1:, 1:]  # (M,), (N, M)

    same = truth.labels[:, None] == labels  # (N, M)
    union = true_area[:, None] + area - shared - void
    overlap = np.where(same & ~truth.is_crowd[:, None] & (shared > 0), shared / np.maximum(union, 1), 0.0)
    i, j = np.nonzero(overlap > MATCH)
    excused = void + (shared * (same & truth.is_crowd[:, None])).sum(0)  # (M,)
    wrong = (area > 0) & (excused <= FORGIVEN * area)
    wrong[j] = False
    missed = ~truth.is_crowd
    missed[i] = False

    counts = np.zeros((num_classes, 4))
    np.add.at(counts[:, 0], labels[j], overlap[i, j])
    np.add.at(counts[:, 1], labels[j], 1)
    np.add.at(counts[:, 2], labels[wrong], 1)
    np.add.at(counts[:, 3], truth.labels[missed], 1)
    return counts


def quality(overlap: float, matched: float, false_alarms: float, missed: float) -> tuple[float, float, float] | None:
    """PQ, SQ, RQ of one class; None where there is nothing to judge."""
    weight = matched + (false_alarms + missed) / 2
    if weight == 0:
        return None
    return overlap / weight, overlap / matched if matched else 0.0, matched / weight
