"""OneFormer's criterion: Mask2Former's, and a contrast between queries and texts (Jain et al. 2023, §3.3 and §3.4).

Shape letters: B images of this process, Q queries, C channels, G images of all processes together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.kernels.precision import without_autocast
from mask2former.structures import Outputs, Targets
from mask2former.training.losses import Criterion, at_least_float32
from mask2former.training.points import Points


class OneFormerCriterion(nn.Module):
    """`terms, total = OneFormerCriterion(Criterion(num_classes))(outputs, targets)`.

    Its one parameter, the logit scale, is learned along with the network: give it to the optimiser too.
    """

    if TYPE_CHECKING:

        def __call__(
            self,
            outputs: Outputs,
            targets: Sequence[Targets],
            generator: torch.Generator | None = None,
            points: Sequence[Points] | None = None,
        ) -> tuple[dict[str, Tensor], Tensor]: ...

    def __init__(self, segmentation: Criterion, contrastive_weight: float = 0.5, temperature: float = 0.07):
        super().__init__()
        self.segmentation = segmentation
        self.contrastive_weight = contrastive_weight
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(
        self,
        outputs: Outputs,
        targets: Sequence[Targets],
        generator: torch.Generator | None = None,
        points: Sequence[Points] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As `Criterion`, with the further term `contrastive`, on the final prediction.

        Raises ValueError where the outputs hold no text features: the model must be built with `text_branch=True` and
        called with texts.
        """
        if outputs.text_features is None or outputs.contrastive_logits is None:
            raise ValueError(
                "outputs without text_features: expected those of a OneFormer built with text_branch=True and called "
                "as model(pixel_values, tasks, texts)"
            )
        terms, total = self.segmentation(outputs, targets, generator, points)
        with without_autocast(outputs.class_logits):
            contrastive = contrastive_loss(outputs.contrastive_logits, outputs.text_features, self.logit_scale)
            if not contrastive.isfinite():
                raise FloatingPointError(f"the contrastive loss of {len(targets)} images is {contrastive.item()}")
            return {**terms, "contrastive": contrastive}, total + self.contrastive_weight * contrastive


def contrastive_loss(queries: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Every image's queries must pick out its own texts among those of all images, and the reverse (eq. 2).

    `queries` and `texts` (B, Q, C) count as one long vector an image; `logit_scale` is a logarithm, its exponential
    bounded by 100. Where torch.distributed runs, images and texts of the other processes are contrasted too.
    """
    queries = F.normalize(at_least_float32(queries).flatten(1), dim=1)  # (B, Q·C)
    texts = F.normalize(at_least_float32(texts).flatten(1), dim=1)
    scale = logit_scale.exp().clamp(max=100)
    distributed = dist.is_available() and dist.is_initialized()
    own = torch.arange(len(queries), device=queries.device) + (dist.get_rank() * len(queries) if distributed else 0)
    by_image = queries @ gather(texts).T * scale  # (B, G)
    by_text = texts @ gather(queries).T * scale
    return F.cross_entropy(by_image, own) + F.cross_entropy(by_text, own)


def gather(x: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks, as many of each; gradients flow back to every one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))
