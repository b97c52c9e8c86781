"""A user's script over the whole public API, for the type checker alone: `tests/test_typing.py` runs mypy on it.

`assert_type` fails where a type is another one, and where it is `Any`, so that this passes only if the packages tell
their types.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typing_extensions import assert_type

import mask2former
import oneformer
import weights
from mask2former import (
    CheckpointError,
    ClassInfo,
    Mask2Former,
    Mask2FormerConfig,
    OneFormer,
    OneFormerConfig,
    Outputs,
    PhotoError,
    Prediction,
    Predictor,
    Protocol,
    Segment,
    Segmentation,
    Targets,
    convert,
    create_model,
    create_predictor,
    list_models,
    save_model,
)
from mask2former.data import (
    Annotation,
    DataError,
    SegmentationDataset,
    TrainingTransform,
    open_dataset,
    training_transform,
)
from mask2former.evaluation import MaskAveragePrecision, MeanIoU, PanopticQuality, evaluate, headline, table
from mask2former.training import Criterion, Settings, train
from oneformer import OneFormerCriterion, TaskDataset, Tokenizer


def segment_photos(photo: NDArray[np.uint8], tensor: Tensor, picture: Image.Image, task: str) -> None:
    predictor = create_predictor(
        "mask2former_swin_tiny_coco_panoptic",
        device="cpu",
        dtype=torch.bfloat16,
        preset="paper",
        size=(480, 640),
        batch_size=4,
        object_mask_threshold=0.5,
        memory=4_000_000_000,
        compile=False,
    )
    assert_type(predictor, Predictor)
    assert_type(predictor.classes, tuple[ClassInfo, ...])
    assert_type(predictor.protocol, Protocol)

    assert_type(predictor("street.jpg"), Segmentation)
    assert_type(predictor(Path("street.jpg"), task="panoptic"), Segmentation)
    assert_type(predictor(picture, "instance"), Segmentation)
    assert_type(predictor(photo, task="semantic"), Segmentation)
    assert_type(predictor(tensor), Segmentation)
    assert_type(predictor(["a.jpg", picture, photo, tensor]), list[Segmentation])
    assert_type(predictor((Path("a.jpg"), Path("b.jpg")), "semantic"), list[Segmentation])
    assert_type(predictor("a.jpg", task="all"), dict[str, Segmentation])
    assert_type(predictor("a.jpg", task=["panoptic", "semantic"]), dict[str, Segmentation])
    assert_type(predictor(["a.jpg", "b.jpg"], task="all"), list[dict[str, Segmentation]])
    assert_type(predictor("a.jpg", task=task), Segmentation | dict[str, Segmentation])

    stream = predictor.stream(["a.jpg", picture], "panoptic")
    assert_type(stream, Iterator[Prediction])
    for prediction in stream:
        assert_type(prediction.result, Segmentation | dict[str, Segmentation] | None)
        assert_type(prediction.error, Exception | None)
        assert_type(prediction.seconds, dict[str, float])
        assert_type(prediction.name, str)
        assert_type(prediction.done, bool)
    try:
        predictor("not a photo")
    except (PhotoError, FileNotFoundError) as error:
        print(error)

    own = Predictor(Mask2Former(Mask2FormerConfig(num_classes=3)), torch.device("cpu"), instances_per_image=10)
    assert_type(own.model, torch.nn.Module)


def read_result(result: Segmentation) -> None:
    assert_type(result.task, str)
    assert_type(result.segmentation, NDArray[np.int32])
    assert_type(result.segments, list[Segment])
    assert_type(result.masks, NDArray[np.bool_])
    assert_type(result.mask(0), NDArray[np.bool_])
    assert_type(result.classes, tuple[ClassInfo, ...])
    assert_type(result.size, tuple[int, int])
    assert_type(result.photo, Image.Image | None)
    assert_type(result.name, str)
    assert_type(result.overlay(min_score=0.5), Image.Image)
    assert_type(result.to_coco(image_id=7), list[dict[str, Any]])
    assert_type(result.to_panoptic("seven"), tuple[Image.Image, dict[str, Any]])
    assert_type(result.to_semantic(), Image.Image)
    assert_type(result.save("segments", only=["panoptic"], overlay=False), list[Path])
    for segment in result.segments:
        assert_type(segment.id, int)
        assert_type(segment.label_id, int)
        assert_type(segment.label, str)
        assert_type(segment.score, float)
        assert_type(segment.area, int)
        assert_type(segment.box, tuple[int, int, int, int])
        assert_type(segment.is_thing, bool)
    ids = np.zeros((4, 4), np.int32)
    assert_type(Segmentation.from_ids(ids, {1: 0}, result.classes), Segmentation)
    assert_type(Segmentation.from_labels(ids, result.classes), Segmentation)
    assert_type(Segmentation.from_masks(result.masks, [0], result.classes, scores=[0.5]), Segmentation)


def models() -> None:
    assert_type(mask2former.__version__, str)
    assert_type(list_models("*swin_tiny*"), list[str])
    assert_type(weights.list_models(), list[str])
    model = create_model("mask2former_swin_tiny_coco_panoptic", pretrained=False, num_classes=7, dropout=0.1)
    assert_type(model, Mask2Former | OneFormer)
    assert_type(weights.create_model("runs/model", classes=["date", "fig"]), Mask2Former | OneFormer)
    assert_type(model.config.classes, tuple[ClassInfo, ...])
    assert_type(model.config.backbone, str)
    assert_type(model.origin, str | None)
    save_model(model, Path("folder"))
    convert("folder", "file.pkl", to="original", dtype=torch.float16)
    weights.convert(
        "folder", "hub", to="hub", classes=[ClassInfo("cat", is_thing=True, color=(1, 2, 3), dataset_id=17)]
    )
    try:
        create_model("file.pth")
    except CheckpointError as error:
        assert_type(error, CheckpointError)

    mine = Mask2Former.from_pretrained("you/model", device="cpu", dtype=torch.float32)
    assert_type(mine, Mask2Former)
    mine.save_pretrained("folder", licence="mit", data=["coco"], scores={"PQ": 53.2})
    assert_type(mine.push_to_hub("you/model", private=True, commit_message="First"), str)
    theirs = OneFormer.from_pretrained(Path("folder"), text_branch=True)
    assert_type(theirs, OneFormer)
    assert_type(theirs.config, OneFormerConfig)
    theirs.save_pretrained("folder")

    class Mine(Mask2Former):
        pass

    assert_type(Mine.from_pretrained("folder"), Mine)


def configurations() -> None:
    config = Mask2FormerConfig(backbone="convnext_tiny", num_classes=2, protocol=Protocol(short_side=640))
    assert_type(config.num_queries, int)
    assert_type(config.protocol.tasks, tuple[str, ...])
    assert_type(config.to_dict(), dict[str, Any])
    assert_type(Mask2FormerConfig.from_dict(config.to_dict()), Mask2FormerConfig)
    assert_type(OneFormerConfig.from_dict(OneFormerConfig().to_dict()), OneFormerConfig)
    assert_type(OneFormerConfig(text_branch=True).text_contexts, int)


def networks(pixel_values: Tensor) -> None:
    model = Mask2Former(Mask2FormerConfig(), pretrained_backbone=True)
    outputs = model(pixel_values)
    assert_type(outputs, Outputs)
    assert_type(outputs.class_logits, Tensor)
    assert_type(outputs.mask_logits, Tensor)
    assert_type(outputs.mask_embeddings, Tensor)
    assert_type(outputs.mask_features, Tensor)
    assert_type(outputs.auxiliary, tuple[Outputs, ...])
    assert_type(outputs.contrastive_logits, Tensor | None)
    assert_type(outputs[0], Outputs)
    assert_type(model.config, Mask2FormerConfig)

    other = OneFormer(OneFormerConfig())
    assert_type(other(pixel_values, task="panoptic"), Outputs)
    assert_type(other(pixel_values, ["panoptic", "semantic"], texts=torch.zeros(1, 134, 77)), Outputs)
    assert_type(create_model("either")(pixel_values), Outputs)


def training(pixel_values: Tensor) -> None:
    model = Mask2Former(Mask2FormerConfig(num_classes=3))
    targets = [Targets(torch.tensor([0, 2]), torch.zeros(2, 64, 64, dtype=torch.bool))]
    assert_type(targets[0].to("cpu"), Targets)
    criterion = Criterion(num_classes=3, num_points=1000)
    terms, total = criterion(model(pixel_values), targets, generator=torch.Generator())
    assert_type(terms, dict[str, Tensor])
    assert_type(total, Tensor)

    transform = training_transform("coco", 512, "panoptic", model.config.protocol)
    assert_type(transform, TrainingTransform)
    data = open_dataset("coco-panoptic:coco", "train", classes=["person", "cat"], transform=transform)
    assert_type(data, SegmentationDataset)

    def judge(network: Mask2Former) -> Mapping[str, float]:
        return headline(evaluate(Predictor(network), open_dataset("coco-panoptic:coco", "val")))

    settings = Settings(steps=500, batch_size=4, lr=1e-4, precision="bf16", average=0.999)
    assert_type(settings.steps, int)
    assert_type(train(model, data, criterion, settings, Path("run"), judge, resume=True), Mask2Former)

    network = OneFormer(OneFormerConfig(num_classes=3, text_branch=True))
    both = OneFormerCriterion(criterion, contrastive_weight=0.5)
    terms, total = both(network(pixel_values), targets)
    assert_type(terms, dict[str, Tensor])
    tasks = TaskDataset(data, data.classes, Tokenizer(77), num_texts=134, tasks=["panoptic"])
    assert_type(tasks[0], tuple[Tensor, Targets, str, Tensor])
    assert_type(train(network, tasks, both, settings, "run"), OneFormer)


def datasets_and_evaluation(predictor: Predictor) -> None:
    try:
        data = open_dataset(["folder:one", "folder:two"], "val", background="ignore")
    except DataError as error:
        raise SystemExit(str(error)) from error
    assert_type(len(data), int)
    assert_type(data.name, str)
    assert_type(data.classes, tuple[ClassInfo, ...])
    assert_type(data.tasks, tuple[str, ...])
    assert_type(data.photo(0), Image.Image)
    assert_type(data.photo_path(0), Path)
    assert_type(data.image_id(0), int | str)
    assert_type(data.problems(0), list[str])
    assert_type(data.subset(range(10)), SegmentationDataset)
    truth = data.annotation(0)
    assert_type(truth, Annotation)
    assert_type(truth.labels, NDArray[np.int64])
    assert_type(truth.is_thing, NDArray[np.bool_])
    assert_type(truth.masks(), Tensor)
    assert_type(truth.label_map(), NDArray[np.int32])
    assert_type(truth.targets(), Targets)
    assert_type(truth.for_task("instance"), Annotation)

    report = evaluate(predictor, data, ["panoptic"], output="scores", worst=3, progress=lambda done, total: None)
    assert_type(report, dict[str, Any])
    assert_type(headline(report), dict[str, float])
    assert_type(table(report, per_class=True), str)
    average_precision, quality, iou = (
        MaskAveragePrecision(data.classes),
        PanopticQuality(data.classes),
        MeanIoU(data.classes),
    )
    average_precision.update(1, np.zeros((1, 4, 4), bool), [0], [0.5], truth)
    iou.update(1, truth.label_map(), truth.label_map())
    for measure in (average_precision, quality, iou):
        assert_type(measure.compute(), dict[str, Any])
        assert_type(measure.image_scores(), dict[int | str, float])


def main(arguments: argparse.Namespace) -> None:
    from mask2former.cli import main as program

    assert_type(program(["models", "*tiny*"], family="oneformer"), int)
    assert_type(oneformer.OneFormer.from_pretrained("folder"), OneFormer)
