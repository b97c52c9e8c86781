"""Mask2Former against transformers: the same weights and pixels, every stage of the network, float64."""

import copy

import pytest
import torch
from PIL import Image

import weights
from tests import toy_transformers as toy
from tests.conftest import SHARED, needs_shared
from weights.load import load_checkpoint

pytest.importorskip("transformers")

BACKBONES = {"swin_window4": lambda: toy.swin(4), "swin_window7": lambda: toy.swin(7), "resnet": toy.resnet}
CATS = SHARED / "data/coco_cats/000000039769.png"
SIZES = {"below_one_window": (32, 40), "odd": (97, 131), "several_windows": (160, 224)}


@pytest.fixture(params=BACKBONES, scope="module")
def pair(request, tmp_path_factory):
    theirs = toy.mask2former(BACKBONES[request.param]())
    ours = toy.ours_from(theirs, tmp_path_factory.mktemp(request.param))
    return ours.double(), theirs.double()


def stages(ours, theirs, pixel_values):
    """(name, ours, theirs) of every backbone map, pixel decoder output, and layer's class and mask logits."""
    with torch.no_grad():
        expected = theirs(pixel_values, output_hidden_states=True, output_auxiliary_logits=True)
        features = ours.backbone(pixel_values)
        mask_features, levels = ours.pixel_decoder(features)
        outputs = ours.transformer_decoder(levels, mask_features)
        for i, (a, b) in enumerate(zip(features, expected.encoder_hidden_states, strict=True)):
            yield f"backbone map {i}", a, b
        module = theirs.model.pixel_level_module.decoder(list(expected.encoder_hidden_states))
        yield "mask features", mask_features, module.mask_features
        for i, (a, b) in enumerate(zip(levels, module.multi_scale_features, strict=True)):
            yield f"pixel decoder level {i}", a, b
        predictions = (*outputs.auxiliary, outputs)
        classes = [entry["class_queries_logits"] for entry in expected.auxiliary_logits]
        masks = [entry["masks_queries_logits"] for entry in expected.auxiliary_logits]
        classes, masks = [*classes, expected.class_queries_logits], [*masks, expected.masks_queries_logits]
        assert len(predictions) == len(classes) == ours.config.decoder_layers + 1
        for i, prediction in enumerate(predictions):
            yield f"class logits of prediction {i}", prediction.class_logits, classes[i]
            yield f"mask logits of prediction {i}", prediction.mask_logits, masks[i]


def gradients(ours, theirs, pixel_values, folder):
    """(name, ours, theirs) of every weight's derivative, through one scalar of all final logits.

    Both sides' gradients are written in place of their weights, and theirs are read with the tables for the weights.
    """
    ours, theirs = copy.deepcopy(ours), copy.deepcopy(theirs)
    outputs = ours(pixel_values)
    expected = theirs(pixel_values)
    (outputs.class_logits.sin().sum() + outputs.mask_logits.sin().sum()).backward()
    (expected.class_queries_logits.sin().sum() + expected.masks_queries_logits.sin().sum()).backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(folder)
    state = load_checkpoint(folder).state
    return [(name, parameter.grad, state[name]) for name, parameter in ours.named_parameters()]


def compare(ours, theirs, pixel_values, tolerance):
    for what, a, b in stages(ours, theirs, pixel_values):
        toy.assert_close(a, b, what, tolerance)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_stage_in_float64(pair, size, forms):
    compare(*pair, torch.randn(2, 3, *size, dtype=torch.float64), 1e-9)


def test_gradients_in_float64(pair, tmp_path, forms):
    found = gradients(*pair, torch.randn(1, 3, 64, 96, dtype=torch.float64), tmp_path)
    largest = max(theirs.abs().max() for _, _, theirs in found)
    for name, ours, theirs in found:
        assert (ours - theirs).abs().max() <= 1e-9 * largest, name
        assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max() + 1e-12 * largest, name


def published_size(backbone, folder):
    """(ours, theirs) with Swin-T or ResNet-50 as published, 133 classes; random weights, float32."""
    from transformers import ResNetConfig, SwinConfig

    names = ["stage1", "stage2", "stage3", "stage4"]
    config = SwinConfig(out_features=names) if backbone == "swin_tiny" else ResNetConfig(out_features=names)
    theirs = toy.mask2former(
        config, hidden_dim=256, feature_size=256, mask_feature_size=256, encoder_layers=6, decoder_layers=10,
        num_attention_heads=8, dim_feedforward=2048, encoder_feedforward_dim=1024, num_queries=100, num_labels=133,
    )  # fmt: skip
    return toy.ours_from(theirs, folder), theirs


def pixels_of(file):
    """(1, 3, H, W) of a photo, normalised."""
    from torchvision.transforms.functional import pil_to_tensor

    photo = pil_to_tensor(Image.open(file).convert("RGB")).float()
    protocol = weights.create_model("mask2former_swin_tiny_coco_panoptic", pretrained=False).config.protocol
    mean, std = (torch.tensor(v)[:, None, None] for v in (protocol.pixel_mean, protocol.pixel_std))
    return ((photo - mean) / std)[None]


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["swin_tiny", "resnet50"])
def test_real_size_in_float32(backbone, tmp_path):
    """Swin-T and ResNet-50 as published, 133 classes, on a photo."""
    compare(*published_size(backbone, tmp_path), pixels_of(CATS), 1e-4)
