"""Inference against transformers: seconds by stage, peak memory, post-processing. One command, one table.

    python benchmarks/inference.py            # everything, about a quarter of an hour on two cores
    python benchmarks/inference.py --quick    # small sizes, under two minutes

Both sides have the same random weights (a transformers model, saved and read by our own loader), see the same pixels,
run in one process in turn, and are warmed up; medians. Peak memory is measured in a process of its own for each side.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measure, scene

MODELS = ("mask2former_swin_tiny", "mask2former_resnet50", "oneformer_swin_tiny", "oneformer_dinat_large")
SIZES = {"mask2former": ((384, 384), (800, 1088)), "oneformer": ((640, 640),)}
STAGES = ("backbone", "pixel decoder", "decoder")


def transformers_model(name: str) -> torch.nn.Module:
    """The published architecture with random weights; 133 classes, 100 queries (OneFormer: 150)."""
    import transformers as t

    family, backbone = name.split("_", 1)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone_config = {
        "swin_tiny": lambda: t.SwinConfig(out_features=stages, drop_path_rate=0.0),
        "swin_large": lambda: t.SwinConfig(
            embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], window_size=12, out_features=stages
        ),
        "resnet50": lambda: t.ResNetConfig(out_features=stages),
    }[backbone]()
    torch.manual_seed(0)
    if family == "mask2former":
        queries = 200 if backbone == "swin_large" else 100
        config = t.Mask2FormerConfig(backbone_config=backbone_config, num_labels=133, num_queries=queries)
        return t.Mask2FormerForUniversalSegmentation(config).eval()
    config = t.OneFormerConfig(backbone_config=backbone_config, num_labels=133, is_training=False)
    return t.OneFormerForUniversalSegmentation(config).eval()


def both(name: str) -> tuple[torch.nn.Module, torch.nn.Module | None]:
    """Ours and, where transformers can run it, theirs, with the same weights."""
    import weights

    if "dinat" in name:
        return weights.create_model("oneformer_ade20k_dinat_large", pretrained=False).eval().requires_grad_(False), None
    theirs = transformers_model(name).requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return weights.create_model(folder).eval().requires_grad_(False), theirs


def run_ours(model: torch.nn.Module, pixel_values: torch.Tensor) -> dict[str, float]:
    """One forward pass up to full mask logits of the last prediction; seconds by stage."""
    stages = dict(zip(STAGES, (model.backbone, model.pixel_decoder, model.transformer_decoder), strict=True))
    with measure.StageTimer(stages) as timer, torch.inference_mode():
        model(pixel_values).mask_logits  # noqa: B018  (reading it computes it)
    return timer.seconds


def run_theirs(model: torch.nn.Module, pixel_values: torch.Tensor) -> dict[str, float]:
    inner = model.model
    pixel_level = inner.pixel_level_module
    stages = dict(zip(STAGES, (pixel_level.encoder, pixel_level.decoder, inner.transformer_module), strict=True))
    inputs = {"pixel_values": pixel_values}
    if hasattr(inner, "task_encoder"):
        inputs["task_inputs"] = torch.zeros(len(pixel_values), 77)
    with measure.StageTimer(stages) as timer, torch.inference_mode():
        model(**inputs)
    return timer.seconds


def network_rows(name: str, size: tuple[int, int], repeats: int, with_memory: bool) -> list[list[object]]:
    ours, theirs = both(name)
    pixel_values = torch.randn(1, 3, *size)
    works = {"ours": lambda: run_ours(ours, pixel_values)}
    if theirs is not None:
        works["transformers"] = lambda: run_theirs(theirs, pixel_values)
    seconds = measure.interleaved_medians(works, repeats)
    if with_memory:
        arguments = ("--memory-of", name, "--size", "x".join(map(str, size)), "--side")
        for side in works:
            seconds[side]["peak MiB"] = measure.in_own_process(__file__, *arguments, side)
    rows = []
    for part in (*STAGES, "all", "peak MiB"):
        mine, other = seconds["ours"].get(part), seconds.get("transformers", {}).get(part)
        if mine is not None:
            ratio = "–" if other is None else f"{other / mine:.2f}×"
            rows.append([name, f"{size[0]}×{size[1]}", part, mine, "–" if other is None else other, ratio])
    limit = measure.flops_of(lambda: ours(pixel_values).mask_logits) / measure.matrix_rate()
    rows.append([name, f"{size[0]}×{size[1]}", "all ÷ FLOPs at the matrix rate", seconds["ours"]["all"] / limit]
                + [("–" if theirs is None else seconds["transformers"]["all"] / limit), "–"])  # fmt: skip
    return rows


def postprocessing_rows(size: tuple[int, int], repeats: int) -> list[list[object]]:
    """Our three functions against theirs on the same predictions: 200 queries, 30 kept, at a photo of this size.

    Theirs start from mask logits that are already multiplied out; ours multiply out what they need.
    """
    from transformers import Mask2FormerImageProcessor
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentationOutput

    from mask2former.data.classes import dataset_classes
    from mask2former.inference import postprocess
    from mask2former.structures import Outputs, PhotoSizes

    classes = dataset_classes("coco_panoptic")
    class_logits, embeddings, features = scene.predictions(size[0] // 4, size[1] // 4, K=len(classes))
    theirs_in = Mask2FormerForUniversalSegmentationOutput(
        class_queries_logits=class_logits, masks_queries_logits=torch.einsum("bqc,bchw->bqhw", embeddings, features)
    )
    processor = Mask2FormerImageProcessor()
    stuff = {k for k, c in enumerate(classes) if not c.is_thing}
    sizes = PhotoSizes(photo=size, resized=size, padded=size)

    def ours(task):  # a fresh object each time: nothing may be left from the run before
        outputs = Outputs(class_logits, embeddings, features)
        return {
            "panoptic": lambda: postprocess.panoptic(outputs, sizes, classes),
            "instance": lambda: postprocess.instance(outputs, sizes, classes, instances=200),  # as many as theirs
            "semantic": lambda: postprocess.semantic(outputs, sizes),
        }[task]()

    def theirs(task):
        targets = [size]
        return {
            "panoptic": lambda: processor.post_process_panoptic_segmentation(
                theirs_in, threshold=0.8, overlap_mask_area_threshold=0.8, label_ids_to_fuse=stuff, target_sizes=targets
            ),
            "instance": lambda: processor.post_process_instance_segmentation(
                theirs_in, threshold=0.0, target_sizes=targets
            ),
            "semantic": lambda: processor.post_process_semantic_segmentation(theirs_in, target_sizes=targets),
        }[task]()

    rows = []
    for task in ("panoptic", "instance", "semantic"):
        works = {"ours": lambda task=task: ours(task), "transformers": lambda task=task: theirs(task)}
        with torch.inference_mode():
            seconds = measure.interleaved_medians(works, repeats)
        mine, other = seconds["ours"]["all"], seconds["transformers"]["all"]
        rows.append(["post-processing", f"{size[0]}×{size[1]}", task, mine, other, f"{other / mine:.2f}×"])
    return rows


def main() -> None:
    arguments = measure.parser(__doc__.splitlines()[0])
    arguments.add_argument("--models", nargs="*", default=MODELS, help=f"of {', '.join(MODELS)}, …_swin_large")
    arguments.add_argument(
        "--size", action="append", help="HEIGHTxWIDTH, may be repeated (default: the published ones)"
    )
    arguments.add_argument("--memory-of", help="print the peak memory of one side of one model, and nothing else")
    arguments.add_argument("--side", choices=("ours", "transformers"))
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    sizes = [tuple(map(int, size.split("x"))) for size in options.size or ()]
    if options.memory_of:
        ours, theirs = both(options.memory_of)
        model, run = (ours, run_ours) if options.side == "ours" else (theirs, run_theirs)
        del ours, theirs
        pixel_values = torch.randn(1, 3, *sizes[0])
        print(measure.peak_memory_of(lambda: run(model, pixel_values)))
        return

    rows = []
    for name in options.models:
        for size in sizes or SIZES[name.split("_")[0]]:
            if options.quick and (size[0] > 400 or "dinat" in name):
                continue
            rows += network_rows(name, size, 2 if options.quick else options.repeats, not options.quick)
    for size in ((384, 384), (512, 1024)) if options.quick else ((384, 384), (800, 1088), (1024, 2048)):
        rows += postprocessing_rows(size, options.repeats)
    print(measure.machine())
    print(measure.table(["work", "size", "part (seconds)", "ours", "transformers", "ratio"], rows))


if __name__ == "__main__":
    main()
