"""The training loop, on one screen.

`torchrun --nproc-per-node 8 your_script.py` trains on eight GPUs; nothing in a script that calls `train` changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mask2former.bounds import Count, Decay, Magnitude, Natural, Positive, Seed, Workers, check_fields
from mask2former.errors import DataError
from mask2former.output_folder import OutputFolder
from mask2former.structures import Targets
from mask2former.training.batches import BatchOrder, SeededDataset, collate, seed_of
from mask2former.training.checkpoint import load_checkpoint, save_checkpoint
from mask2former.training.interruption import Interruption, leave_to_parent
from mask2former.training.log import Log
from mask2former.training.optimizer import AveragedWeights, lr_factor, parameter_groups, scaled_lr
from mask2former.training.processes import Processes, checkpoint_activations
from mask2former.unfinished import remove

M = TypeVar("M", bound=nn.Module)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How to train. The defaults are the papers', but for the number of steps (theirs: 368,750 on COCO)."""

    steps: Count = 10_000
    batch_size: Count = 16  # images a step, all processes and passes together
    accumulate: Count = 1  # passes a step is split into, to save memory; each is normalised by its own targets
    lr: Positive | None = None  # None: 1e-4 for 16 images a step, linearly less or more for fewer or more
    backbone_multiplier: Magnitude = 0.1  # of the learning rate
    weight_decay: Magnitude = 0.05  # not of norms and embeddings
    schedule: Literal["poly", "step", "constant"] = "poly"
    warmup: Natural = 0  # steps over which the learning rate rises
    clip: Positive = 0.01  # largest norm of the gradient of all parameters together
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # the others by autocast; parameters stay float32
    average: Decay | None = None  # decay of the moving average of the weights, such as 0.9999
    compile: bool = False
    checkpoint_activations: bool = False  # compute each block's activations again in the backward pass: less memory
    shard: bool = False  # several GPUs: split parameters and optimiser state among them (FSDP2), not only images
    workers: Workers = 4  # processes that read images, for each training process
    seed: Seed = 0
    log_every: Count = 20  # steps
    save_every: Count = 1000
    evaluate_every: Natural = 0  # 0: only at the end
    tensorboard: bool = False

    def __post_init__(self):
        check_fields(self)


# What a continued run may set differently: nothing here changes what a step computes, but for the run's length.
MAY_CHANGE = frozenset(
    ("steps", "accumulate", "compile", "checkpoint_activations", "shard", "workers", "log_every", "save_every")
) | {"evaluate_every", "tensorboard"}


def train(
    model: M,
    dataset: Dataset[Any],
    criterion: nn.Module,
    settings: Settings,
    output: OutputFolder | str | Path,
    evaluate: Callable[[M], Mapping[str, float]] | None = None,
    resume: bool = False,
) -> M:
    """Train `model` in place and return it; at the end it holds the averaged weights where `settings` ask for them.

    Where parameters are sharded they stay so; `checkpoint.trained_weights` reads them whole from the last checkpoint.

    Arguments:
        model: `model(pixel_values, *inputs) -> Outputs`, on the CPU or on this process's device.
        dataset: items (pixel_values (3, H, W) normalised, Targets at H × W, further inputs of the model …). What is
            random in it must use the generators of torch, numpy or Python.
        criterion: `criterion(outputs, targets) -> (terms, total)`; its parameters are trained too.
        output: a folder for `checkpoint.pt` and `metrics.jsonl` (a line with loss and terms each `log_every` steps,
            and one for each evaluation).
        evaluate: called with the model in eval mode; its numbers are logged. With several processes all of them call
            it, so that they can share the work.
        resume: continue from the checkpoint in `output`, if there is one. Killed at any moment and resumed, a run
            computes what it would have computed otherwise (on a GPU up to the order in which kernels add). Ctrl-C and
            SIGTERM let a single process finish its step and write a checkpoint before KeyboardInterrupt is raised.
    Raises FileExistsError where `output` holds a checkpoint and `resume` is False, or another run is at it; ValueError
    where it was begun with other settings, CheckpointError where the checkpoint is broken or another network's, OSError
    where the disk will not take it, FloatingPointError where a loss, the gradient or a weight is not finite.
    """
    run = Processes.join()
    if isinstance(output, OutputFolder) or not run.is_first:
        return train_into(getattr(output, "path", output), model, dataset, criterion, settings, evaluate, resume, run)
    with OutputFolder(output) as folder:
        return train_into(folder.path, model, dataset, criterion, settings, evaluate, resume, run)


def train_into(
    output: str | Path,
    model: nn.Module,
    dataset: Dataset,
    criterion: nn.Module,
    settings: Settings,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None,
    resume: bool,
    run: Processes,
) -> nn.Module:
    """`train`, in a folder that this run has to itself."""
    output = Path(output)
    remove(output / "checkpoint.pt.partial")  # an earlier version's, killed
    device, autocast_dtype = run.device(model), PRECISIONS[settings.precision]
    path = output / "checkpoint.pt"
    require_new(output, resume)
    learner = Learner(model.to(device), criterion.to(device)).train()
    if settings.checkpoint_activations:
        checkpoint_activations(model)
    if settings.compile:
        model.compile()
    parallel = run.parallelize(learner, settings.shard)
    lr = settings.lr or scaled_lr(settings.batch_size)
    groups = parameter_groups(learner, lr, settings.weight_decay, settings.backbone_multiplier)
    optimizer = torch.optim.AdamW(groups, lr, fused=True)  # one pass over weights, gradients and moments
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
    average = AveragedWeights(learner, settings.average) if settings.average else None
    state = learner, optimizer, scaler, average, asdict(settings)
    start = load_checkpoint(path, *state, MAY_CHANGE) if path.exists() else 0
    config = model.config.to_dict() if hasattr(model, "config") else None

    order = BatchOrder(
        len(dataset), settings.batch_size, settings.steps, start, settings.accumulate, *run.place, settings.seed
    )
    loader = DataLoader(
        SeededDataset(dataset, settings.seed), batch_sampler=order, num_workers=settings.workers, collate_fn=collate,
        pin_memory=device.type == "cuda", worker_init_fn=leave_to_parent,
    )  # fmt: skip
    batches = iter(loader)
    log = Log(output, start, settings.steps, settings.tensorboard, enabled=run.is_first)
    log.say(f"{settings.batch_size} images a step, learning rate {lr:g} (1e-4 × images / 16 unless given)")
    with Interruption(enabled=run.count == 1) as stop:
        for step in log.progress(range(start, settings.steps)):
            torch.manual_seed(seed_of(settings.seed, "step", step, run.rank))
            factor = lr_factor(step, settings.steps, settings.schedule, settings.warmup)
            for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = base_lr * factor
            for turn in range(settings.accumulate):
                try:
                    batch = next(batches).to(device)
                except DataError:  # a broken photo must not cost the hours before it
                    if step > start and run.count == 1:
                        save_checkpoint(path, step, *state, config, write=True)
                        log.say(f"stopped after step {step} by a broken photo; resumed, the run goes on from here")
                    raise
                run.synchronize_gradients(parallel, turn == settings.accumulate - 1)
                with torch.autocast(device.type, autocast_dtype, enabled=settings.precision != "fp32"):
                    terms, total = parallel(*batch)
                scaler.scale(total / settings.accumulate).backward()
            scaler.unscale_(optimizer)
            norm = clip(parameters, settings.clip, step, scaled=settings.precision == "fp16")
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if average:
                average.update()

            done = step + 1
            if done % settings.log_every == 0 or done == settings.steps:
                log.losses(done, run.mean({"loss": total, **terms}), lr=lr * factor, grad_norm=float(norm))
            if done % settings.save_every == 0 or done == settings.steps or stop.asked:
                save_checkpoint(path, done, *state, config, write=run.is_first)
            if stop.asked and done < settings.steps:
                log.say(f"stopped after step {done}; resumed, the run goes on from here")
                raise KeyboardInterrupt
            due = settings.evaluate_every and done % settings.evaluate_every == 0
            if evaluate and (due or done == settings.steps):
                with average.applied() if average else nullcontext():
                    model.eval()
                    log.scores(done, evaluate(model))
                    model.train()
    log.close()
    if average:
        average.swap()
    return model


def require_new(output: Path, resume: bool) -> None:
    """FileExistsError where another run would be overwritten."""
    if (path := output / "checkpoint.pt").exists() and not resume:
        raise FileExistsError(f"{path} exists: resume that run, or choose another folder")


def clip(parameters: list[nn.Parameter], most: float, step: int, scaled: bool) -> Tensor:
    """The norm of the gradient, which is `most` afterwards if it was more. FloatingPointError where it is not finite,
    unless losses are scaled: then such a step is left out and the scale is lowered."""
    try:
        return nn.utils.clip_grad_norm_(parameters, most, error_if_nonfinite=not scaled)
    except RuntimeError as error:
        if "non-finite" not in str(error):
            raise
        raise FloatingPointError(
            f"step {step + 1}: the gradient is not finite; lower the learning rate, or check the data"
        ) from error


class Learner(nn.Module):
    """Model and criterion as one module, so that a training pass is one forward for whatever wraps it."""

    def __init__(self, model: nn.Module, criterion: nn.Module):
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(
        self, pixel_values: Tensor, targets: list[Targets], inputs: tuple[Any, ...]
    ) -> tuple[dict[str, Tensor], Tensor]:
        terms, total = self.criterion(self.model(pixel_values, *inputs), targets)
        return {name: term.detach() for name, term in terms.items()}, total
