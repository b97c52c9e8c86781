"""The two sides: a transformers model with random weights, and ours that has read the same ones from its file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmarks.measure import StageTimer

MODELS = (
    "mask2former_swin_tiny",
    "mask2former_resnet50",
    "mask2former_swin_large",
    "oneformer_swin_tiny",
    "oneformer_swin_large",
    "oneformer_dinat_large",
)
STAGES = ("backbone", "pixel decoder", "decoder")


def transformers_model(name: str) -> nn.Module:
    """The published architecture, random weights: 133 classes, 100 queries (Mask2Former Swin-L 200, OneFormer 150)."""
    import transformers as t

    t.logging.disable_progress_bar()
    family, backbone = name.split("_", 1)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone_config = {
        "swin_tiny": lambda: t.SwinConfig(out_features=stages, drop_path_rate=0.0),
        "swin_large": lambda: t.SwinConfig(
            embed_dim=192,
            depths=[2, 2, 18, 2],
            num_heads=[6, 12, 24, 48],
            window_size=12,
            out_features=stages,
            drop_path_rate=0.0,
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


@contextmanager
def saved(name: str) -> Iterator[str]:
    """A temporary folder with the weights that both sides of a model read.

    DiNAT has one side only, ours: current transformers cannot run it.
    """
    import weights

    with tempfile.TemporaryDirectory() as folder:
        if "dinat" in name:
            weights.save_model(weights.create_model("oneformer_ade20k_dinat_large", pretrained=False), folder)
        else:
            transformers_model(name).save_pretrained(folder)
        yield folder


def load(
    side: str, folder: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module | None:
    """One side, "ours" or "transformers", of a saved model, for inference; None where transformers cannot run it."""
    import weights
    from weights.checkpoint import layout_of

    if side == "ours":
        model = weights.create_model(folder)
    elif layout_of(folder) == "native":
        return None
    else:
        import transformers as t

        t.logging.disable_progress_bar()
        family = t.AutoConfig.from_pretrained(folder).model_type
        kind = {
            "mask2former": t.Mask2FormerForUniversalSegmentation,
            "oneformer": t.OneFormerForUniversalSegmentation,
        }[family]
        model = kind.from_pretrained(folder, dtype=torch.float32)
    model = model.to(device, dtype).eval().requires_grad_(False)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # a file that is mapped would count as memory of the first run
    return model


def run_ours(model: nn.Module, pixel_values: Tensor) -> Callable[[], dict[str, float]]:
    """One forward pass up to full mask logits of the last prediction; gives the seconds of its stages."""
    stages = dict(zip(STAGES, (model.backbone, model.pixel_decoder, model.transformer_decoder), strict=True))
    with StageTimer(stages, pixel_values.device) as timer, torch.inference_mode():
        model(pixel_values).mask_logits  # noqa: B018  (reading it computes it)
    return timer.seconds


def run_theirs(model: nn.Module, pixel_values: Tensor) -> Callable[[], dict[str, float]]:
    inner = model.model
    pixel_level = inner.pixel_level_module
    stages = dict(zip(STAGES, (pixel_level.encoder, pixel_level.decoder, inner.transformer_module), strict=True))
    with StageTimer(stages, pixel_values.device) as timer, torch.inference_mode():
        model(**inputs_of(model, pixel_values))
    return timer.seconds


def inputs_of(model: nn.Module, pixel_values: Tensor) -> dict[str, Tensor]:
    """What a transformers model takes."""
    inputs = {"pixel_values": pixel_values}
    if hasattr(model.model, "task_encoder"):
        inputs["task_inputs"] = pixel_values.new_zeros(len(pixel_values), 77)
    return inputs


def compiled_ours(model: nn.Module, pixel_values: Tensor, mode: str | None = None) -> Callable[[], None]:
    """One run of the compiled network, which is compiled at the first; mode: as `torch.compile` takes it."""
    compiled = torch.compile(model, dynamic=False, mode=mode)

    @torch.inference_mode()
    def work() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        compiled(pixel_values).mask_logits  # noqa: B018  (reading it computes it)

    return work


def compiled_theirs(model: nn.Module, pixel_values: Tensor, mode: str | None = None) -> Callable[[], None]:
    compiled, inputs = torch.compile(model, dynamic=False, mode=mode), inputs_of(model, pixel_values)

    @torch.inference_mode()
    def work() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        compiled(**inputs)

    return work
