"""Another number of queries than a checkpoint has, with what its queries have learned kept."""

from __future__ import annotations

import torch
from torch import Tensor

# The learned rows, one a query. OneFormer's last position is that of the task token, which is no such row's repeat.
ROWS = ("transformer_decoder.query_features", "transformer_decoder.query_positions")


def with_queries(state: dict[str, Tensor], count: int, has_task_token: bool) -> dict[str, Tensor]:
    """A state dict whose query rows (Q, C) are the first `count` of what it has, or all of them and repeats, in turn.

    has_task_token: whether the last row is OneFormer's task token, which stays the last. Two equal queries predict the
    same until training matches only one of them to an object, from which on they part.
    """
    changed = dict(state)
    for name in ROWS:
        if (rows := state.get(name)) is None:
            continue
        ordinary = rows[:-1] if has_task_token else rows
        wanted = count - has_task_token
        parts = [ordinary[torch.arange(wanted) % len(ordinary)]] + [rows[-1:]] * has_task_token
        changed[name] = torch.cat(parts).clone()
    return changed
