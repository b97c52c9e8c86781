"""Which image comes when, by which random numbers it is changed, and how images become a batch.

Both are functions of (seed, place in the order) alone. So a run continued from any step sees what it would have seen,
and so do any number of processes and workers that share the work.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mask2former.structures import Targets


class Batch(NamedTuple):
    """B images of one size and what the network is to find in them."""

    pixel_values: Tensor  # (B, 3, H, W)
    targets: list[Targets]  # B
    inputs: tuple[Any, ...]  # what else the model takes: `model(pixel_values, *inputs)`

    def to(self, device: torch.device) -> Batch:
        inputs = (x.to(device, non_blocking=True) if isinstance(x, Tensor) else x for x in self.inputs)
        targets = [target.to(device) for target in self.targets]
        return Batch(self.pixel_values.to(device, non_blocking=True), targets, tuple(inputs))


def collate(items: Sequence[tuple[Any, ...]], multiple: int = 32) -> Batch:
    """Items (pixel_values (3, H, W), Targets, …) → a batch, padded at the right and bottom to a multiple of 32.

    Padding has pixel value 0, the mean colour after normalisation, and belongs to no target. Whatever follows the
    targets goes to the model: tensors stacked, all else as a list.
    """
    pixel_values, targets, *inputs = zip(*items, strict=True)
    height, width = (-(-max(x.shape[axis] for x in pixel_values) // multiple) * multiple for axis in (1, 2))

    def pad(x: Tensor) -> Tensor:
        return F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1]))

    return Batch(
        torch.stack([pad(x) for x in pixel_values]),
        [Targets(target.labels, pad(target.masks)) for target in targets],
        tuple(torch.stack(x) if isinstance(x[0], Tensor) else list(x) for x in inputs),
    )


class BatchOrder(Sampler[list[tuple[int, int]]]):
    """An endless shuffled order of images, cut into steps, passes within a step, and processes within a pass.

    Yields lists of (place, index), a list for each pass of this process from step `start` to `steps`. Every image
    comes once before any comes again. `batch_size` counts the images of a step over all passes and processes.
    """

    def __init__(
        self, images: int, batch_size: int, steps: int, start: int, passes: int, rank: int, processes: int, seed: int
    ):
        if images < 1 or batch_size % (passes * processes):
            raise ValueError(
                f"{images} images in steps of {batch_size}: expected at least one image, and a batch size that "
                f"{passes} passes of {processes} processes can share equally"
            )
        self.images, self.batch_size, self.steps, self.start, self.seed = images, batch_size, steps, start, seed
        self.passes, self.rank, self.processes = passes, rank, processes

    def __len__(self) -> int:
        return max(0, self.steps - self.start) * self.passes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch_size // (self.passes * self.processes)
        epoch, order = -1, []
        for turn in range(self.start * self.passes, self.steps * self.passes):
            first = (turn * self.processes + self.rank) * share
            batch = []
            for place in range(first, first + share):
                if place // self.images != epoch:
                    epoch = place // self.images
                    generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
                    order = torch.randperm(self.images, generator=generator).tolist()
                batch.append((place, order[place % self.images]))
            yield batch


class SeededDataset(Dataset[Any]):
    """`dataset` asked by (place, index), with the random numbers that belong to the place."""

    def __init__(self, dataset: Dataset[Any], seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, where: tuple[int, int]) -> Any:
        place, index = where
        with seeded(seed_of(self.seed, "image", place)):
            return self.dataset[index]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the generators of torch (CPU), numpy and Python start from `seed`; afterwards they are as before."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def seed_of(*parts: int | str) -> int:
    """A seed for each combination, below 2⁶³, unrelated to that of any other."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1
