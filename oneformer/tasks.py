"""The three tasks as OneFormer reads them: CLIP's token ids of "the task is …", so that inference needs no vocabulary.

Shape letters: B images, T ids of a task text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mask2former.structures import TASKS

TASK_TEXT = "the task is {}"
TASK_TOKENS = {
    "panoptic": (49406, 518, 10549, 533, 1072, 24755, 49407),
    "instance": (49406, 518, 10549, 533, 34572, 49407),
    "semantic": (49406, 518, 10549, 533, 29119, 1550, 49407),
}


def task_tokens(
    task: str | Sequence[str] | Sequence[int] | Tensor,
    batch_size: int,
    length: int = 77,
    device: torch.device | str | None = None,
) -> Tensor:
    """One task for all images, a task for each, or ready token ids → int64 ids (B, T), zero padded.

    Token ids are a list of T numbers or a tensor (T,) for all images, or a tensor (B, T).

    Raises ValueError for an unknown task, naming the three, and for another number of tasks or ids than expected.
    """
    if isinstance(task, (list, tuple)) and task and all(isinstance(token, int) for token in task):
        task = torch.tensor(task)
    if isinstance(task, Tensor):
        if task.ndim == 1:
            task = task.expand(batch_size, -1)
        if task.shape != (batch_size, length) or task.is_floating_point():
            raise ValueError(
                f"task is {task.dtype} of shape {tuple(task.shape)}: expected integer token ids "
                f"({length},) or ({batch_size}, {length})"
            )
        return task.to(device, torch.int64)
    tasks = list(task) if isinstance(task, (list, tuple)) else [task] * batch_size
    unknown = [name for name in tasks if name not in TASK_TOKENS]
    if unknown:
        raise ValueError(f"task {unknown[0]!r}: expected one of {TASKS}, a list of them, or token ids")
    if len(tasks) != batch_size:
        raise ValueError(f"{len(tasks)} tasks for {batch_size} images: expected one for all or one for each")
    rows = [list(TASK_TOKENS[name]) + [0] * (length - len(TASK_TOKENS[name])) for name in tasks]
    return torch.tensor(rows, device=device)
