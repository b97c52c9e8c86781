"""One panoptic annotation and a task → what the network is taught and the texts it is contrasted with.

Jain et al. 2023, §3.1 and §3.2: the three tasks are three readings of the same panoptic ground truth, drawn uniformly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mask2former.structures import TASKS, ClassInfo, Targets

FILLER = {"semantic": "a semantic photo", "instance": "an instance photo", "panoptic": "a panoptic photo"}


class TaskDataset(Dataset[tuple[Tensor, Targets, str, Tensor]]):
    """A panoptic dataset read as OneFormer trains on it: a task is drawn anew each time an item is asked for.

    Items are (pixel_values (3, H, W), Targets of the task, task, texts (num_texts, 77) int64).
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        classes: Sequence[ClassInfo],
        tokenize: Callable[[list[str]], Tensor],
        num_texts: int,
        tasks: Sequence[str] = TASKS,
    ):
        """`dataset` gives (pixel_values, Targets of all segments, things and stuff); `classes` are those of its labels.

        `tokenize` turns N texts into (N, 77) ids. `num_texts` is the model's queries less its learned text contexts.
        A single task trains a model for that task alone.
        """
        for task in tasks:
            check_task(task)
        if not tasks or num_texts < 1:
            raise ValueError(f"tasks={tasks!r}, num_texts={num_texts}: expected at least one of each")
        self.dataset, self.tasks, self.tokenize, self.num_texts = dataset, tuple(tasks), tokenize, num_texts
        self.names = [info.name for info in classes]
        self.is_thing = torch.tensor([info.is_thing for info in classes])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Targets, str, Tensor]:
        pixel_values, targets = self.dataset[index]
        task = self.tasks[int(torch.randint(len(self.tasks), ()))]
        targets = task_targets(targets, self.is_thing, task)
        return pixel_values, targets, task, self.tokenize(task_texts(targets.labels, self.names, task, self.num_texts))


def task_targets(targets: Targets, is_thing: Tensor, task: str) -> Targets:
    """The segments one task asks for. `targets` are all of the panoptic ground truth, `is_thing` (K,) bool.

    Panoptic: all. Instance: the things. Semantic: one segment a class, the union of its segments.
    """
    check_task(task)
    if task == "panoptic":
        return targets
    if task == "instance":
        kept = is_thing.to(targets.labels.device)[targets.labels]
        return Targets(targets.labels[kept], targets.masks[kept])
    labels, group = targets.labels.unique(return_inverse=True)
    masks = targets.masks.new_zeros(len(labels), *targets.masks.shape[1:])
    for segment, mask in zip(group.tolist(), targets.masks, strict=True):
        masks[segment] |= mask
    return Targets(labels, masks)


def task_texts(labels: Tensor, names: Sequence[str], task: str, num_texts: int) -> list[str]:
    """`num_texts` texts: one for each segment, in the order of the classes, then as often as needed the task's own.

    More segments than texts: the last ones go without.
    """
    check_task(task)
    texts = [f"a photo with a {names[label]}" for label in sorted(labels.tolist())][:num_texts]
    return texts + [FILLER[task]] * (num_texts - len(texts))


def check_task(task: str) -> None:
    if task not in TASKS:
        raise ValueError(f"task {task!r}: expected one of {TASKS}")
