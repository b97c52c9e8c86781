"""The command that trains or fine-tunes a model, in one process or, started by torchrun, in many."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mask2former.commands.lessons import create_model, lessons, look_at, named, open_photos, tasks_to_teach
from mask2former.commands.options import (
    data_options,
    device_or_default,
    first_alone,
    judged_tasks,
    require_folder,
    size,
)

if TYPE_CHECKING:
    from torch import nn

    from mask2former.data.dataset import SegmentationDataset
    from mask2former.output_folder import OutputFolder
    from mask2former.training.processes import Processes
    from mask2former.training.trainer import Settings

POINTS = 12544  # the papers', of each mask
CROP = 512


def train_options(command: argparse.ArgumentParser) -> None:
    what = command.add_argument_group("what is trained, on what")
    what.add_argument("--data", required=True, nargs="+", metavar="DATA", help="see below; several are joined")
    what.add_argument(
        "--model",
        metavar="NAME|FOLDER|FILE",
        help="published name, hub id, folder, .pkl, .pth, or `compact`, a small network with ImageNet weights alone; "
        "default: the small one that comes with the package, or a published OneFormer",
    )
    what.add_argument("--val-data", metavar="DATA", help="evaluate on this at the end; its split is val unless it says")
    what.add_argument("--val-limit", type=int, metavar="N", help="evaluate on only N photos, spread evenly")
    what.add_argument(
        "--task",
        "--tasks",
        dest="tasks",
        nargs="+",
        choices=("panoptic", "instance", "semantic"),
        help="what the targets are; a OneFormer may take several; default: panoptic where the data has it, "
        "for a OneFormer all that the data has",
    )
    what.add_argument(
        "--queries",
        type=int,
        metavar="N",
        help="objects that the network can find in a photo, if it is to be another number than the model's; what its "
        "queries have learned is kept, and repeated for more",
    )
    fresh = what.add_mutually_exclusive_group()
    fresh.add_argument("--random", action="store_true", help="start from random weights")
    fresh.add_argument(
        "--backbone-weights",
        metavar="imagenet|FILE",
        help="start from random weights but for the backbone: timm's ImageNet weights, or a state dict of its network",
    )
    what.add_argument("--output", type=Path, default=Path("run"), metavar="FOLDER", help="checkpoint, log and model")
    what.add_argument("--resume", action="store_true", help="continue the run in OUTPUT, if there is one")

    how = command.add_argument_group("how (defaults are the papers', but for steps and size)")
    how.add_argument("--steps", type=int, default=10_000)
    how.add_argument("--batch-size", type=int, default=16, help="images a step, over all processes")
    how.add_argument("--accumulate", type=int, default=1, help="passes a step is split into, to save memory")
    how.add_argument("--lr", type=float, help="default: 1e-4 × batch size / 16")
    how.add_argument("--backbone-lr", type=float, default=0.1, metavar="FACTOR", help="of the learning rate")
    how.add_argument("--weight-decay", type=float, default=0.05)
    how.add_argument("--schedule", choices=("poly", "step", "constant"), default="poly")
    how.add_argument("--warmup", type=int, default=0, metavar="STEPS")
    how.add_argument("--clip", type=float, default=0.01, metavar="NORM", help="largest norm of the whole gradient")
    how.add_argument("--ema", type=float, metavar="DECAY", help="keep a moving average of the weights, such as 0.9999")
    how.add_argument("--points", type=int, default=POINTS, help="at which each mask's loss is taken")
    how.add_argument("--seed", type=int, default=0)

    pictures = command.add_argument_group("pictures (each dataset has its own recipe)")
    pictures.add_argument(
        "--size",
        type=size,
        default=CROP,
        metavar="SIDE|HxW",
        help=f"of the crop; default {CROP}; the papers': COCO 1024, ADE20K 512 or 640, Cityscapes 512x1024",
    )
    pictures.add_argument(
        "--jitter", type=float, nargs=2, metavar=("LOW", "HIGH"), help="scale, 1 fits the photo into the crop"
    )
    pictures.add_argument("--color", action="store_true", help="distort colours, whatever the recipe says")

    machine = command.add_argument_group("machine")
    machine.add_argument("--device", help="default: cuda if there is one, else cpu")
    machine.add_argument("--precision", choices=("bf16", "fp16", "fp32"), default="fp32")
    machine.add_argument("--compile", action="store_true")
    machine.add_argument("--checkpoint-activations", action="store_true", help="less memory, more time")
    machine.add_argument("--shard", action="store_true", help="under torchrun, split the parameters too (FSDP2)")
    machine.add_argument("--workers", type=int, default=4, help="processes that read photos, each training process")
    machine.add_argument("--log-every", type=int, default=20, metavar="STEPS")
    machine.add_argument("--save-every", type=int, default=1000, metavar="STEPS")
    machine.add_argument("--evaluate-every", type=int, default=0, metavar="STEPS", help="also before the end")
    machine.add_argument("--tensorboard", action="store_true")
    data_options(command)


def train(options: argparse.Namespace) -> int:
    """Train or fine-tune a model on a dataset.

    OUTPUT/model is the result, which `predict --model` takes; OUTPUT/metrics.jsonl has the losses, OUTPUT/checkpoint.pt
    what --resume continues from. `torchrun --nproc-per-node 8 -m mask2former train …` uses eight GPUs.
    """
    from mask2former.output_folder import OutputFolder
    from mask2former.training.processes import Processes

    check_numbers(options)
    require_folder(options.output)
    processes = Processes.join()
    with OutputFolder(options.output) if processes.is_first else nullcontext(options.output) as folder:
        return train_into(folder, options, processes)


def train_into(folder: OutputFolder | Path, options: argparse.Namespace, processes: Processes) -> int:
    """The command's work, once it has its folder to itself, which only the first process writes into."""
    from mask2former.evaluation.evaluator import evaluate, headline, table
    from mask2former.inference.predictor import Predictor
    from mask2former.training import trainer
    from mask2former.training.checkpoint import trained_weights
    from weights.checkpoint import Checkpoint, write_native

    trainer.require_new(options.output, options.resume)
    if options.resume and not (options.output / "checkpoint.pt").exists():
        print(f"{options.output} holds no checkpoint.pt to resume: the run begins anew")
    if options.shard and options.val_data and processes.count > 1:
        raise ValueError(
            "--shard with --val-data: a model whose parameters are split is not evaluated while it trains; leave "
            "--val-data out and evaluate OUTPUT/model afterwards"
        )
    settings = settings_of(options)
    if options.model is None:
        options.model = default_model(options.family, processes.is_first)
    data, val = open_photos(options)
    with first_alone(processes):
        model = create_model(options, data.classes)
    tasks = tasks_to_teach(options.tasks, model.config.family, data)
    # A Mask2Former that learned all segments answers the other tasks from them; a OneFormer must have learned each.
    answered = data.tasks if tasks == ["panoptic"] and model.config.family == "mask2former" else tasks
    protocol = replace(model.config.protocol, dataset=kind_of(options.data[0]), tasks=tuple(answered))
    model.config = replace(model.config, protocol=protocol)
    val_tasks = judged_tasks(protocol.tasks, val) if val else []
    require_extras(val_tasks, options.tensorboard)
    dataset, criterion = lessons(options, model, data, tasks)
    report = {}

    def judge(model: nn.Module) -> dict[str, float]:
        report.update(evaluate(Predictor(model), val, val_tasks))
        return headline(report)

    said = look_at(data, tasks)
    if processes.is_first:
        print("\n".join([summary(model, data, val, tasks), *(f"data: {sentence}" for sentence in said)]), flush=True)
    model = model.to(device_or_default(options.device))
    trainer.train(model, dataset, criterion, settings, folder, judge if val else None, options.resume)
    if processes.is_first:
        if report:
            print(table(report))
        if data.skipped is not None and (skipped := data.skipped.text()):
            print(skipped)
        state = trained_weights(options.output / "checkpoint.pt")  # whole, even where the model is split
        write_native(Checkpoint(model.config, state, "the model"), options.output / "model")
        print(f"\nthe model is in {options.output / 'model'}: {options.family} predict PHOTO --model …")
    return 0


def default_model(family: str, say: bool) -> str:
    """The model for somebody who named none: a small one that is there, or a published one."""
    from mask2former.commands.predict import PUBLISHED
    from weights.bundled import DEMO

    model = DEMO if family == "mask2former" else PUBLISHED[family]
    if say:
        print(f"model: {model} (--model takes another, such as {PUBLISHED[family]})")
    return model


def kind_of(spec: str) -> str:
    """What the protocol of the trained model calls its data: the kind, or the name of a folder that is recognised."""
    from mask2former.data.datasets import is_bare

    return Path(spec).resolve().name if is_bare(spec) else spec.partition(":")[0]


def check_numbers(options: argparse.Namespace) -> None:
    """ValueError naming the option whose number makes no sense."""
    from mask2former.bounds import Count, Queries, Scale, check_options, problem_of
    from mask2former.training.trainer import Settings

    check_options(options, Settings, average="ema", backbone_multiplier="backbone_lr")
    check_options(options, {"points": Count, "val_limit": Count | None, "queries": Queries | None})
    low, high = options.jitter or (1.0, 1.0)
    if problem_of(Scale, low) or problem_of(Scale, high) or low > high:
        raise ValueError(f"--jitter {low:g} {high:g}: expected two scales above 0, the smaller one first, at most 1000")


def settings_of(options: argparse.Namespace) -> Settings:
    from mask2former.training.trainer import Settings

    return Settings(
        steps=options.steps,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        lr=options.lr,
        backbone_multiplier=options.backbone_lr,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        warmup=options.warmup,
        clip=options.clip,
        precision=options.precision,
        average=options.ema,
        compile=options.compile,
        checkpoint_activations=options.checkpoint_activations,
        shard=options.shard,
        workers=options.workers,
        seed=options.seed,
        log_every=options.log_every,
        save_every=options.save_every,
        evaluate_every=options.evaluate_every,
        tensorboard=options.tensorboard,
    )


def require_extras(tasks: list[str], tensorboard: bool) -> None:
    """Complain before the work, not after it, that a library is missing."""
    if "instance" in tasks:
        from mask2former.data.annotation import rle_library

        rle_library()
    if tensorboard and not find_spec("tensorboard"):
        raise ImportError("--tensorboard needs the package tensorboard (in the extra `train`)")


def summary(model: nn.Module, data: SegmentationDataset, val: SegmentationDataset | None, tasks: list[str]) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        f"{type(model).__name__}, {model.config.backbone}, {parameters / 1e6:.1f} million parameters",
        f"train on {data.name}: {len(data)} photos, {', '.join(tasks)}, {named(data.classes)}",
    ]
    return "\n".join(lines + ([f"evaluate on {val.name}: {len(val)} photos"] if val else []))
