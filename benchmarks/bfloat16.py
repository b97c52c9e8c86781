"""What bfloat16 changes: the demonstration model's answers on photos, against its own in float32.

A query is kept if it names a class with a score above the model's threshold, in float32: those are the ones that can
become segments. Their masks are compared where they are decided, at the network's resolution.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.photos import MISSING, has_demo, photos
from benchmarks.report import Row
from benchmarks.settings import Settings

COUNT, QUICK_COUNT = 128, 2


def rows(settings: Settings) -> Iterator[Row | str]:
    from weights.bundled import DEMO

    files = photos(QUICK_COUNT if settings.quick else COUNT)
    if not files or not has_demo():
        yield f"bfloat16 {MISSING}" if not files else f"bfloat16: {DEMO} does not come with this copy of the package"
        return
    import weights

    full, half = (weights.create_predictor(DEMO, device=settings.device, dtype=d) for d in (None, torch.bfloat16))
    sums = torch.zeros(6, dtype=torch.float64)
    for file in files:
        sums += compare(full, half, file)
    pixels, same_pixels, queries, same_queries, kept, iou = sums.tolist()
    work, size = f"bfloat16 against float32, {DEMO}", f"{len(files)} photos"
    yield Row(work, size, "share of pixels with the same panoptic class", same_pixels / pixels, kind="figure")
    yield Row(work, size, "share of queries with the same class", same_queries / queries, kind="figure")
    yield Row(work, size, f"mean mask IoU of {int(kept)} kept queries", iou / max(kept, 1), kind="figure")


@torch.inference_mode()
def compare(full, half, file) -> Tensor:
    """(pixels, those of the same class, queries, those of the same class, kept queries, the sum of their IoUs)."""
    from mask2former.inference.network import run_network
    from mask2former.inference.photo import read_photo

    pixel_values, sizes = full.preprocess(read_photo(file))
    outputs, classes = [], []
    for predictor in (full, half):
        parameter = next(predictor.model.parameters())
        batch = pixel_values[None].to(parameter.device, parameter.dtype)
        outputs.append(run_network(predictor.model, batch, ("panoptic",))["panoptic"])
        classes.append(class_map(predictor.segment(outputs[-1], sizes, "panoptic")))
    labels = [o.class_logits[0].float().softmax(-1).max(-1) for o in outputs]
    threshold = full.panoptic_options["object_mask_threshold"]
    kept = (labels[0].indices < len(full.classes)) & (labels[0].values > threshold)
    masks = [o.mask_logits[0, kept].float() > 0 for o in outputs]
    union = (masks[0] | masks[1]).sum((1, 2))
    iou = torch.where(union > 0, (masks[0] & masks[1]).sum((1, 2)) / union, 1.0)  # two empty masks are equal
    same = labels[0].indices == labels[1].indices
    pixels = classes[0].numel(), (classes[0] == classes[1]).sum().item()
    return torch.tensor(
        [*pixels, len(same), same.sum().item(), kept.sum().item(), iou.sum().item()], dtype=torch.float64
    )


def class_map(result) -> Tensor:
    """(H, W) label ids of a panoptic result, −1 where there is no segment."""
    table = torch.full((max([0, *(segment.id for segment in result.segments)]) + 1,), -1)
    for segment in result.segments:
        table[segment.id] = segment.label_id
    return table[torch.from_numpy(result.segmentation).long()]
