"""Post-processing alone, on the same predictions of 200 queries of which 30 are kept (`scene.py`).

Both start from mask logits that are already multiplied out. Ours need not, and in a predictor does not: rows "from
embeddings" are its time where it multiplies out what it needs, against the same of theirs. Where transformers'
post-processing does not run on a GPU, its logits are copied to the CPU first, as its user would have to, and the copy
is timed too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks import measure, scene
from benchmarks.report import Row, at_least, size_text
from benchmarks.settings import Settings
from mask2former.data.classes import dataset_classes
from mask2former.inference import postprocess
from mask2former.structures import Outputs, PhotoSizes

TASKS = ("panoptic", "instance", "semantic")
CITYSCAPES = (1024, 2048)
SIZES = ((384, 384), (800, 1088), CITYSCAPES)
GOALS = {
    "cpu": {"panoptic": at_least(15), "instance": at_least(25), "semantic": at_least(5)},
    "cuda": dict.fromkeys(TASKS, at_least(10)),
}  # at the size of Cityscapes


def rows(settings: Settings) -> Iterator[Row | str]:
    for size in SIZES[:1] if settings.quick else SIZES:
        goals = GOALS[settings.device.type] if size == CITYSCAPES else {}
        mine, other = ours(size, settings.device), theirs(size, settings.device)
        for task in TASKS:
            works = {"ours": mine[task], "embeddings": mine[f"{task} from embeddings"], "transformers": other[task]}
            if settings.on_gpu and not runs(works["transformers"]):
                works["transformers"] = theirs(size, settings.device, on_cpu=True)[task]
                yield f"transformers' {task} post-processing does not run on a GPU: its logits are copied to the CPU"
            with torch.inference_mode():
                seconds = measure.interleaved_medians(works, settings.repeats)
            for side, part, goal in (("ours", task, goals.get(task)), ("embeddings", f"{task}, from embeddings", None)):
                numbers = seconds[side]["all"], seconds["transformers"]["all"]
                yield Row("post-processing", size_text(size), part, *numbers, goal)


def ours(size: tuple[int, int], device: torch.device) -> dict[str, Callable[[], object]]:
    predicted, classes = predictions(size, device), dataset_classes("coco_panoptic")
    sizes = PhotoSizes(photo=size, resized=size, padded=size)
    functions = {
        "panoptic": lambda outputs: postprocess.panoptic(outputs, sizes, classes),
        "instance": lambda outputs: postprocess.instance(outputs, sizes, classes, instances=200),  # as many as theirs
        "semantic": lambda outputs: postprocess.semantic(outputs, sizes),
    }
    finished = Outputs(*predicted)
    finished.mask_logits  # noqa: B018  (reading it computes and keeps it)
    works = {task: lambda function=function: function(finished) for task, function in functions.items()}
    return works | {
        f"{task} from embeddings": lambda function=function: function(Outputs(*predicted))
        for task, function in functions.items()
    }


def theirs(size: tuple[int, int], device: torch.device, on_cpu: bool = False) -> dict[str, Callable[[], object]]:
    """on_cpu: what the device has computed is copied to the CPU in every run."""
    from transformers import Mask2FormerImageProcessor
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

    class_logits, embeddings, features = predictions(size, device)
    mask_logits = torch.einsum("bqc,bchw->bqhw", embeddings, features)

    def outputs() -> Mask2FormerForUniversalSegmentationOutput:
        return Mask2FormerForUniversalSegmentationOutput(
            class_queries_logits=class_logits.cpu() if on_cpu else class_logits,
            masks_queries_logits=mask_logits.cpu() if on_cpu else mask_logits,
        )

    processor, classes = Mask2FormerImageProcessor(), dataset_classes("coco_panoptic")
    stuff = {k for k, c in enumerate(classes) if not c.is_thing}
    return {
        "panoptic": lambda: processor.post_process_panoptic_segmentation(
            outputs(), threshold=0.8, overlap_mask_area_threshold=0.8, label_ids_to_fuse=stuff, target_sizes=[size]
        ),
        "instance": lambda: processor.post_process_instance_segmentation(outputs(), threshold=0.0, target_sizes=[size]),
        "semantic": lambda: processor.post_process_semantic_segmentation(outputs(), target_sizes=[size]),
    }


def runs(work: Callable[[], object]) -> bool:
    try:
        with torch.inference_mode():
            work()
    except RuntimeError as error:
        if "device" not in str(error):
            raise
        return False
    return True


def predictions(size: tuple[int, int], device: torch.device) -> list[torch.Tensor]:
    """Class logits, mask embeddings and mask features for a photo of this size."""
    classes = len(dataset_classes("coco_panoptic"))
    return [tensor.to(device) for tensor in scene.predictions(size[0] // 4, size[1] // 4, K=classes)]
