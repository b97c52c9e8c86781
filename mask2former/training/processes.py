"""One process or many: who joins, who holds which parameters, and what is kept for the backward pass."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Processes:
    """The processes that train together, as torchrun started them; a single one otherwise."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0  # on this machine

    @classmethod
    def join(cls) -> Processes:
        """Meet the others, if torchrun's environment says that there are any."""
        if "RANK" not in os.environ:
            return cls()
        local_rank = int(os.environ["LOCAL_RANK"])
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
            atexit.register(dist.destroy_process_group)
        return cls(dist.get_rank(), dist.get_world_size(), local_rank)

    @property
    def place(self) -> tuple[int, int]:
        return self.rank, self.count

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def device(self, model: nn.Module) -> torch.device:
        """This process's own GPU where torchrun started it, else where the model is."""
        if dist.is_initialized() and torch.cuda.is_available():
            return torch.device("cuda", self.local_rank)
        return next(model.parameters()).device

    def parallelize(self, learner: nn.Module, shard: bool) -> nn.Module:
        """The module to call; `learner` keeps holding the parameters, under the same names."""
        if self.count == 1:
            return learner
        if not shard:
            return DistributedDataParallel(learner, gradient_as_bucket_view=True)
        from torch.distributed.fsdp import fully_shard

        for block in repeated_blocks(learner):
            fully_shard(block)
        return fully_shard(learner)

    def synchronize_gradients(self, parallel: nn.Module, on: bool) -> None:
        """Whether the next backward pass adds up the gradients of all processes; only the last of a step needs to."""
        if isinstance(parallel, DistributedDataParallel):
            parallel.require_backward_grad_sync = on
        elif self.count > 1:
            parallel.set_requires_gradient_sync(on)

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Scalars averaged over the processes."""
        stacked = torch.stack([value.detach() for value in values.values()])
        if self.count > 1:
            dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.count).tolist(), strict=True))


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the inputs of the repeated blocks for the backward pass and compute the rest again."""
    for block in repeated_blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that networks are made of: the innermost ones of a kind that stand in a row of at least two."""
    blocks = []
    for row in model.modules():
        if isinstance(row, (nn.Sequential, nn.ModuleList)) and len(row) > 1:
            first = row[0]
            alike = all(type(item) is type(first) for item in row)
            if (
                alike
                and next(first.children(), None) is not None
                and not isinstance(first, (nn.Sequential, nn.ModuleList))
            ):
                blocks.extend(row)
    found = set(blocks)
    return [block for block in blocks if not any(inner in found for inner in block.modules() if inner is not block)]
