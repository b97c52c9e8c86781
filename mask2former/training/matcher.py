"""Which query answers for which target: one Hungarian assignment an image and prediction (Cheng et al. 2022, §3.2).

Shape letters: L predictions of one forward pass, Q queries, N targets of the image, P points, C channels, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2former.training.points import sample_rows

TERMS = ("class", "mask", "dice")


@torch.no_grad()
def matching_costs(
    class_logits: Tensor, mask_embeddings: Tensor, mask_features: Tensor, labels: Tensor, masks: Tensor, points: Tensor
) -> Tensor:
    """What each query would cost as the answer to each target of one image, in the order of `TERMS`: (L, 3, Q, N).

    `class_logits` (L, Q, K + 1), `mask_embeddings` (L, Q, C), `mask_features` (C, h, w), `labels` (N,), `masks`
    (N, H, W) bool, `points` (L, P, 2). The mask product and bilinear sampling are both linear and so commute: the
    features are sampled once for all queries and multiplied out at the points alone.
    """
    if not len(labels):
        return class_logits.new_zeros(len(class_logits), 3, class_logits.shape[1], 0)
    size, table = mask_features.shape[1:], mask_features.flatten(1).T.contiguous()  # (h·w, C)
    target = masks.to(points.dtype)[None]
    costs = []
    for logits, embeddings, point in zip(class_logits, mask_embeddings, points, strict=True):
        sampled = embeddings @ sample_rows(table, size, point).T  # (Q, P)
        truth = F.grid_sample(target, (2 * point - 1)[None, :, None], align_corners=False)[0, :, :, 0]  # (N, P)
        class_cost = -logits.softmax(-1)[:, labels]
        costs.append(torch.stack([class_cost, mask_cost(sampled, truth), dice_cost(sampled, truth)]))
    return torch.stack(costs)


def mask_cost(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean binary cross-entropy of every pair: (Q, P), (N, P) → (Q, N); softplus(x) − x · t, summed by a product."""
    # The stable softplus through σ(|x|) ∈ [½, 1]; F.softplus is five times slower on a CPU.
    softplus = logits.clamp(min=0) - logits.abs().sigmoid_().log_()
    return (softplus.sum(1, keepdim=True) - logits @ truth.T) / logits.shape[1]


def dice_cost(logits: Tensor, truth: Tensor) -> Tensor:
    """1 − dice of every pair, smoothed by 1: (Q, P), (N, P) → (Q, N)."""
    probability = logits.sigmoid()
    both = probability.sum(1, keepdim=True) + truth.sum(1)
    return 1 - (2 * probability @ truth.T + 1) / (both + 1)


def assign(costs: Tensor, weights: tuple[float, float, float], image: int = 0) -> Tensor:
    """The cheapest one-to-one assignment for `matching_costs` (L, 3, Q, N): the query of every target, (L, N) int64.

    `weights` are those of `TERMS`; N ≤ Q; `image` is what an error calls it. Raises FloatingPointError where a cost is
    not finite.
    """
    host = costs.cpu()
    require_finite(host.isfinite().flatten(2).all(2).T[..., None], "cost", image)
    total = torch.tensordot(host, host.new_tensor(weights), ([1], [0])).numpy()  # (L, Q, N)
    return torch.as_tensor(np.stack([linear_sum_assignment(cost.T)[1] for cost in total]), device=costs.device)


def require_finite(finite: Tensor, what: str, first_image: int = 0) -> None:
    """Raise FloatingPointError naming term, prediction and image of the first False in `finite` (3, L, B)."""
    if finite.all():
        return
    term, layer, image = (~finite).nonzero()[0].tolist()
    final = layer == finite.shape[1] - 1
    prediction = "the final prediction" if final else f"auxiliary prediction {layer} (after {layer} decoder layers)"
    raise FloatingPointError(
        f"the {TERMS[term]} {what} of image {first_image + image} in {prediction} is not finite: the network's output "
        "there holds NaN or infinity. Usual causes: a learning rate too high, float16 overflow (use bfloat16), a "
        "broken input image"
    )
