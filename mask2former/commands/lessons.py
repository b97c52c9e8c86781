"""What a training command's options name: the photos, the network, and what the one teaches the other."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mask2former.commands.options import open_data

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from mask2former.data.dataset import SegmentationDataset
    from mask2former.structures import ClassInfo


def open_photos(options: argparse.Namespace) -> tuple[SegmentationDataset, SegmentationDataset | None]:
    """The photos to train on, and those to evaluate on, whose classes must be the same.

    Of one folder that is recognised, the part that is not for training is evaluated on without being asked for. Where
    both are named and are not the same, neither is split.
    """
    from mask2former.data.datasets import is_bare
    from mask2former.data.flat import flat_for
    from mask2former.data.inspect import spread
    from mask2former.training.processes import Processes

    apart = options.val_data is not None and options.val_data not in options.data  # then each is taken whole
    hold_out = "none" if apart else "make"
    opened = open_data(options.data, "train", options, hold_out)
    data = flat_for(opened, options.tasks, options.background)
    if data is not opened and Processes.join().is_first:
        print(f"data: {data.notes[-1]}", flush=True)
    if data.skipped is not None:
        data.skipped.file = options.output / "skipped_photos.txt"
    [*one] = options.data
    itself = len(one) == 1 and is_bare(one[0]) and Path(one[0]).exists() and not options.shard
    if not (options.val_data or itself):
        return data, None
    val = flat_for(open_data(options.val_data or one[0], "val", options, hold_out), options.tasks, options.background)
    if [c.name for c in val.classes] != [c.name for c in data.classes]:
        raise ValueError(
            f"--data has {named(data.classes)}; --val-data has {named(val.classes)}: expected the same in the same "
            "order, which --classes can choose"
        )
    return data, val.subset(spread(len(val), options.val_limit)) if options.val_limit else val


def look_at(data: SegmentationDataset, tasks: list[str]) -> list[str]:
    """What is to be said of the targets before the first step; DataError where there are none."""
    from mask2former.data.survey import survey

    return [sentence for task in tasks for sentence in survey(data, task).sentences()]


def create_model(options: argparse.Namespace, classes: tuple[ClassInfo, ...]) -> nn.Module:
    """The network to train, for these classes, with the weights that the options say."""
    import torch

    import weights
    from weights.backbone_file import load_backbone
    from weights.checkpoint import build_model
    from weights.compact import COMPACT, compact_config

    torch.manual_seed(options.seed)  # all processes begin with the same fresh weights
    file = options.backbone_weights if options.backbone_weights != "imagenet" else None
    if options.model == COMPACT:
        config = compact_config(options.family, classes)
        if config.family == "oneformer":
            config = replace(config, text_branch=True)
        if options.queries is not None:
            config = replace(config, num_queries=options.queries)
        try:
            model = build_model(config, pretrained_backbone=not (options.random or file))
        except OSError as error:
            raise OSError(f"{error} Or give a file: --backbone-weights FILE, or nothing: --random") from error
    else:
        pretrained = not (options.random or file) and ("backbone" if options.backbone_weights else True)
        changes = {"text_branch": True} if family_of(options.model, options.family) == "oneformer" else {}
        if options.queries is not None:
            changes["num_queries"] = options.queries
        model = weights.create_model(options.model, pretrained, classes=classes, **changes)
    if file:
        load_backbone(model, file)
    return model


def family_of(source: str, otherwise: str) -> str:
    """Whether a model is a Mask2Former or a OneFormer, as far as that can be told before it is there."""
    from weights.checkpoint import read_config
    from weights.load import family_of

    told = family_of(source)
    if told is None and Path(source).exists():  # an original file, whose weights tell
        told = read_config(Path(source)).family
    return told or otherwise


def tasks_to_teach(wanted: list[str] | None, family: str, data: SegmentationDataset) -> list[str]:
    """The tasks that give the targets: one for a Mask2Former, any number for a OneFormer."""
    if family == "oneformer":
        tasks = wanted or list(data.tasks)
    else:
        tasks = wanted or ["panoptic" if "panoptic" in data.tasks else data.tasks[0]]
        if len(tasks) > 1:
            raise ValueError(
                f"--task {' '.join(tasks)}: a Mask2Former learns from one kind of targets; panoptic ones teach it all "
                "three tasks, or train a OneFormer"
            )
    missing = [task for task in tasks if task not in data.tasks]
    if missing:
        raise ValueError(f"--task {missing[0]}: {data.name} can teach {', '.join(data.tasks)} alone")
    return tasks


def lessons(
    options: argparse.Namespace, model: nn.Module, data: SegmentationDataset, tasks: list[str]
) -> tuple[Dataset, nn.Module]:
    """What the trainer takes: pictures with targets, and the criterion."""
    from mask2former.data.transforms import ColorDistortion, ScaleJitter, training_transform
    from mask2former.training.losses import Criterion

    is_oneformer = model.config.family == "oneformer"
    segments = "panoptic" if is_oneformer else tasks[0]  # a OneFormer's tasks are drawn from all segments
    data.transform = training_transform(data.recipe, options.size, segments, model.config.protocol)
    if options.jitter:
        sides = options.size if isinstance(options.size, tuple) else (options.size, options.size)
        data.transform.crop = ScaleJitter(sides, tuple(options.jitter))
    if options.color:
        data.transform.color = ColorDistortion()
    criterion = Criterion(len(data.classes), num_points=options.points)
    if not is_oneformer:
        return data, criterion

    from oneformer.losses import OneFormerCriterion
    from oneformer.targets import TaskDataset
    from oneformer.tokenizer import Tokenizer

    config = model.config
    if not config.text_branch:
        raise ValueError(f"{options.model} is a OneFormer: train it with `oneformer train`")
    tokenizer = Tokenizer(config.text_context_length)
    texts = config.num_queries - config.text_contexts
    return TaskDataset(data, data.classes, tokenizer, texts, tasks), OneFormerCriterion(criterion)


def named(classes: tuple[ClassInfo, ...]) -> str:
    names = [c.name for c in classes]
    return f"{len(names)} classes ({', '.join(names[:30])}{', …' if len(names) > 30 else ''})"
