"""Predictions that look like a trained network's on a street photo, for timing post-processing.

A few stuff regions fill the picture, elliptic things lie over them; the remaining queries say "no object" and have
masks of nearly the same shapes, as duplicates have in a real network. Edges are a few mask pixels wide.

Shape letters: Q queries, K classes, C mask channels, N queries that are kept, h × w the mask logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STUFF = 6  # of the kept queries


def predictions(h: int, w: int, Q: int = 200, K: int = 133, N: int = 30, C: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits (1, Q, K + 1), mask embeddings (1, Q, C), mask features (1, C, h, w); always the same ones."""
    generator = torch.Generator().manual_seed(0)
    distance = signed_distances(h, w, N - STUFF, generator)  # (N, h, w), > 0 inside, in mask pixels
    copies = []
    for query in range(Q):
        moved = 0 if query < N else 2
        offset = (torch.randn(2, generator=generator) * moved).round().int().tolist()
        copies.append(distance[query % N].roll(offset, (0, 1)))
    unevenness = F.interpolate(torch.randn(1, Q, h // 8, w // 8, generator=generator), (h, w), mode="bicubic")[0]
    mask_logits = 8 * torch.tanh(torch.stack(copies) / 5) + 0.7 * unevenness - 0.5

    class_logits = torch.randn(Q, K + 1, generator=generator)
    class_logits[:, K] += 8
    class_logits[:N, K] -= 8
    class_logits[torch.arange(N), torch.randint(K, (N,), generator=generator)] += 10

    # Embeddings and features whose products are these masks: an orthonormal basis of the Q masks.
    basis = torch.linalg.qr(torch.randn(Q, Q, generator=generator))[0]
    embeddings, features = F.pad(basis, (0, C - Q)), torch.randn(C, h, w, generator=generator) * 0.1
    features[:Q] = torch.einsum("qc,qhw->chw", basis, mask_logits)
    return class_logits[None], embeddings[None], features[None]


def signed_distances(h: int, w: int, things: int, generator: torch.Generator) -> Tensor:
    """How far inside each mask a pixel lies: `things` ellipses, the earlier in front, then STUFF regions behind."""

    def uniform(count: int) -> Tensor:
        return torch.rand(count, 1, 1, generator=generator)

    y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / h, indexing="ij")
    to_seed = ((y - uniform(STUFF)) ** 2 + (x - uniform(STUFF) * w / h) ** 2).sqrt()
    nearest, second = to_seed.topk(2, dim=0, largest=False).values
    stuff = torch.where(to_seed == nearest, second - to_seed, nearest - to_seed) / 2
    radius_y, radius_x = 0.03 + 0.12 * uniform(things), 0.03 + 0.12 * uniform(things)
    from_centre = ((y - uniform(things)) / radius_y) ** 2 + ((x - uniform(things) * w / h) / radius_x) ** 2
    ellipses = (1 - from_centre.sqrt()) * torch.minimum(radius_y, radius_x)
    masks = torch.cat((ellipses, stuff))
    for k in range(1, len(masks)):
        for front in range(min(k, things)):
            masks[k] = torch.minimum(masks[k], -masks[front])
    return masks * h
