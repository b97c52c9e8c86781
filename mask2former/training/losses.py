"""What the network is taught by: class, mask and dice loss on every prediction (Cheng et al. 2022, §3.2 and §4.1).

Shape letters: B images, L predictions of one forward pass (the final one last), Q queries, K classes, C mask channels,
N targets of an image, P points, H × W the padded input, h × w the mask features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.bounds import Count, Magnitude, Share, check_arguments
from mask2former.kernels.precision import without_autocast
from mask2former.structures import Outputs, Targets
from mask2former.training.matcher import TERMS, assign, matching_costs, require_finite
from mask2former.training.points import Points, sample_maps, uncertain_points

ARGUMENTS = {
    "num_classes": Count,
    "class_weight": Magnitude,
    "mask_weight": Magnitude,
    "dice_weight": Magnitude,
    "no_object_weight": Magnitude,
    "num_points": Count,
    "oversample_ratio": Magnitude,
    "importance_sample_ratio": Share,
}


class Criterion(nn.Module):
    """`terms, total = Criterion(num_classes)(outputs, targets)`.

    Every prediction is matched to the targets anew, at fresh random points. The defaults are the paper's.
    """

    if TYPE_CHECKING:

        def __call__(
            self,
            outputs: Outputs,
            targets: Sequence[Targets],
            generator: torch.Generator | None = None,
            points: Sequence[Points] | None = None,
        ) -> tuple[dict[str, Tensor], Tensor]: ...

    def __init__(
        self,
        num_classes: int,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,  # of "no object" among the classes
        num_points: int = 12544,  # 112 × 112, of each mask
        oversample_ratio: float = 3.0,  # how many times as many points the uncertain ones are chosen from
        importance_sample_ratio: float = 0.75,  # the share of the points that is chosen so
    ):
        super().__init__()
        check_arguments(ARGUMENTS, locals())
        if oversample_ratio < importance_sample_ratio:
            raise ValueError(
                f"num_points={num_points}, oversample_ratio={oversample_ratio}, importance_sample_ratio="
                f"{importance_sample_ratio}: expected points, a share from 0 to 1, and an oversampling not below it"
            )
        self.num_classes = num_classes
        self.weights = (class_weight, mask_weight, dice_weight)
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        class_weights = torch.ones(num_classes + 1)
        class_weights[-1] = no_object_weight
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.warned = False

    def forward(
        self,
        outputs: Outputs,
        targets: Sequence[Targets],
        generator: torch.Generator | None = None,
        points: Sequence[Points] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The named terms, unweighted scalars, and their weighted sum.

        `targets` holds one entry an image, on any device; an image may have none. Terms are called `class`, `mask`,
        `dice` for the final prediction and `class_0`, … for the auxiliary ones, counted as in `outputs.auxiliary`.
        Points are drawn by `generator` (of the outputs' device) unless `points` supplies them, an entry an image.
        All is computed in float32, float64 where the outputs are, under autocast too. Where torch.distributed runs,
        the losses are normalised by averages over the processes, so that the mean of all processes' gradients is that
        of the joint batch. Raises FloatingPointError naming term, prediction and image where a value is not finite,
        ValueError where outputs and targets do not belong together.
        """
        predictions = (*outputs.auxiliary, outputs)
        with without_autocast(outputs.class_logits):
            class_logits = at_least_float32(torch.stack([p.class_logits for p in predictions]))  # (L, B, Q, K + 1)
            embeddings = at_least_float32(torch.stack([p.mask_embeddings for p in predictions]))  # (L, B, Q, C)
            features = at_least_float32(outputs.mask_features)  # (B, C, h, w)
            image_features = features.unbind()  # not indexed: each index would fill a gradient of the whole
            self.require_consistent(outputs, targets)
            targets = [self.keep_largest(t.to(features.device), class_logits.shape[2]) for t in targets]

            queries, mask_losses = [], []
            for image, target in enumerate(targets):  # one by one: point-wise tensors are the largest of all
                drawn = points[image] if points else self.draw_points(len(predictions), target, generator)
                drawn.require(len(predictions), len(target.labels))
                point = drawn.to(features.device, features.dtype)
                parts = class_logits[:, image], embeddings[:, image], image_features[image]
                costs = matching_costs(*(part.detach() for part in parts), target.labels, target.masks, point.matching)
                queries.append(assign(costs, self.weights, image))
                mask_losses.append(self.mask_losses(*parts[1:], target, point, queries[-1]))
            class_loss, class_count = self.class_loss(class_logits, targets, queries)  # (L, B), scalar
            losses = torch.stack([class_loss, *torch.stack(mask_losses, dim=-1)])  # (3, L, B)
            require_finite(losses.detach().isfinite(), "loss")

            counts = torch.stack([class_count, class_count.new_tensor(sum(len(t.labels) for t in targets))])
            class_count, num_masks = average_over_processes(counts)
            normalizers = torch.stack([class_count, num_masks.clamp(min=1), num_masks.clamp(min=1)])
            losses = losses.sum(2) / normalizers[:, None]  # (3, L)
            total = (losses.sum(1) * losses.new_tensor(self.weights)).sum()
        suffixes = [f"_{layer}" for layer in range(len(outputs.auxiliary))] + [""]
        terms = {
            f"{name}{suffix}": loss
            for name, row in zip(TERMS, losses, strict=True)
            for suffix, loss in zip(suffixes, row, strict=True)
        }
        return terms, total

    def class_loss(self, class_logits: Tensor, targets: list[Targets], queries: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Weighted cross-entropy summed over the queries of an image (L, B), and the sum of weights of a prediction.

        An unmatched query is taught "no object".
        """
        L, B, Q, K = *class_logits.shape[:3], self.num_classes
        labels = torch.full((L, B, Q), K, device=class_logits.device)
        for image, (target, query) in enumerate(zip(targets, queries, strict=True)):
            labels[:, image].scatter_(1, query, target.labels.expand(L, -1))
        weights = self.class_weights.to(class_logits)
        loss = F.cross_entropy(class_logits.flatten(0, 2), labels.flatten(), weights, reduction="none")
        # Every prediction matches as many queries, so one of them tells the sum of weights of each.
        return loss.view(L, B, Q).sum(2), weights[labels[0]].sum()

    def mask_losses(
        self, mask_embeddings: Tensor, mask_features: Tensor, target: Targets, points: Points, queries: Tensor
    ) -> Tensor:
        """Binary cross-entropy and dice loss of one image's matched masks, summed over the masks: (2, L).

        `mask_embeddings` (L, Q, C), `mask_features` (C, h, w), `queries` (L, N). Only matched masks are multiplied out.
        """
        L, N = queries.shape
        matched = mask_embeddings.gather(1, queries[..., None].expand(-1, -1, mask_embeddings.shape[2]))  # (L, N, C)
        logits = (matched @ mask_features.flatten(1)).unflatten(2, mask_features.shape[1:])  # (L, N, h, w)
        truth = target.masks.to(logits.dtype)
        at_once = 1 if logits.is_cpu else max(1, L)  # the points of one stay in a CPU's cache, those of all do not
        parts = (x.split(at_once) for x in (logits, points.oversampled, points.uniform))
        return torch.cat([self.point_losses(truth, *part) for part in zip(*parts, strict=True)], dim=1)

    def point_losses(self, truth: Tensor, logits: Tensor, oversampled: Tensor, uniform: Tensor) -> Tensor:
        """`mask_losses` of some predictions, from the matched masks' logits (L, N, h, w), the targets (N, H, W) and the
        points: (2, L)."""
        (L, N), P = logits.shape[:2], self.num_points
        logits = logits.flatten(0, 1)  # (L · N, h, w)
        chosen = uncertain_points(logits, oversampled.flatten(0, 1), uniform.flatten(0, 1), P)
        by_target = chosen.view(L, N, P, 2).transpose(0, 1).reshape(N, L * P, 2)  # a target is read but once
        truth = sample_maps(truth, by_target).view(N, L, P).transpose(0, 1)
        sampled = sample_maps(logits, chosen).view(L, N, P)
        cross_entropy = F.binary_cross_entropy_with_logits(sampled, truth, reduction="none").mean(2)  # (L, N)
        probability = sampled.sigmoid()
        both = probability.sum(2) + truth.sum(2)
        dice = 1 - (2 * (probability * truth).sum(2) + 1) / (both + 1)  # (L, N)
        return torch.stack([cross_entropy.sum(1), dice.sum(1)])

    def draw_points(self, predictions: int, target: Targets, generator: torch.Generator | None = None) -> Points:
        """Fresh random points for one image, on the device of its targets."""
        return Points.draw(
            predictions,
            len(target.labels),
            self.num_points,
            self.oversample_ratio,
            self.importance_sample_ratio,
            target.masks.device,
            generator,
        )

    def keep_largest(self, target: Targets, queries: int) -> Targets:
        """At most as many targets as there are queries, the largest; says so once."""
        if len(target.labels) <= queries:
            return target
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"an image has {len(target.labels)} objects but the model only {queries} queries: the {queries} "
                "largest are kept, here and from now on. To learn them all take more: train --queries, or "
                "create_model(…, num_queries=…).",
                stacklevel=2,
            )
        kept = target.masks.flatten(1).sum(1).topk(queries).indices.sort().values
        return Targets(target.labels[kept], target.masks[kept])

    def require_consistent(self, outputs: Outputs, targets: Sequence[Targets]) -> None:
        images, classes = len(outputs.class_logits), outputs.class_logits.shape[-1] - 1
        if not images or len(targets) != images or classes != self.num_classes:
            raise ValueError(
                f"outputs of {images} images and {classes} classes met targets of {len(targets)} images and a "
                f"criterion of {self.num_classes} classes: expected as many of each, at least one"
            )
        labels = torch.cat([target.labels for target in targets])
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"labels run from {labels.min()} to {labels.max()}: expected 0 to {self.num_classes - 1}. Pixels to be "
                "ignored belong to no target"
            )
        if any(p.mask_features.data_ptr() != outputs.mask_features.data_ptr() for p in outputs.auxiliary):
            raise ValueError("the auxiliary predictions have mask features of their own: expected those of `outputs`")


def at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def average_over_processes(x: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x / dist.get_world_size()
