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
SIZES = {"below_one_window": (32, 40), "odd": (97, 131), "several_windows": (160, 224)}


@pytest.fixture(params=BACKBONES, scope="module")
def pair(request, tmp_path_factory):
    theirs = toy.mask2former(BACKBONES[request.param]())
    ours = toy.ours_from(theirs, tmp_path_factory.mktemp(request.param))
    return ours.double(), theirs.double()


def compare(ours, theirs, pixel_values, tolerance):
    """Every backbone map, every pixel decoder output, every layer's class and mask logits."""
    with torch.no_grad():
        expected = theirs(pixel_values, output_hidden_states=True, output_auxiliary_logits=True)
        features = ours.backbone(pixel_values)
        mask_features, levels = ours.pixel_decoder(features)
        outputs = ours.transformer_decoder(levels, mask_features)
        for i, (a, b) in enumerate(zip(features, expected.encoder_hidden_states, strict=True)):
            toy.assert_close(a, b, f"backbone map {i}", tolerance)
        module = theirs.model.pixel_level_module.decoder(list(expected.encoder_hidden_states))
        toy.assert_close(mask_features, module.mask_features, "mask features", tolerance)
        for i, (a, b) in enumerate(zip(levels, module.multi_scale_features, strict=True)):
            toy.assert_close(a, b, f"pixel decoder level {i}", tolerance)
        predictions = (*outputs.auxiliary, outputs)
        classes = [entry["class_queries_logits"] for entry in expected.auxiliary_logits]
        masks = [entry["masks_queries_logits"] for entry in expected.auxiliary_logits]
        classes, masks = [*classes, expected.class_queries_logits], [*masks, expected.masks_queries_logits]
        assert len(predictions) == len(classes) == ours.config.decoder_layers + 1
        for i, prediction in enumerate(predictions):
            toy.assert_close(prediction.class_logits, classes[i], f"class logits of prediction {i}", tolerance)
            toy.assert_close(prediction.mask_logits, masks[i], f"mask logits of prediction {i}", tolerance)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_every_stage_in_float64(pair, size, forms):
    compare(*pair, torch.randn(2, 3, *size, dtype=torch.float64), 1e-9)


def test_gradients_in_float64(pair, tmp_path, forms):
    """The derivative of every weight, through one scalar of all final logits.

    Both sides' gradients are written in place of their weights, and theirs are read with the tables for the weights.
    """
    ours, theirs = copy.deepcopy(pair)
    pixel_values = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    outputs = ours(pixel_values)
    expected = theirs(pixel_values)
    (outputs.class_logits.sin().sum() + outputs.mask_logits.sin().sum()).backward()
    (expected.class_queries_logits.sin().sum() + expected.masks_queries_logits.sin().sum()).backward()
    found = {name: p.grad for name, p in ours.named_parameters()}
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(tmp_path)
    state = load_checkpoint(tmp_path).state
    gradients = {name: state[name] for name in found}
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (found[name] - gradient).abs().max() <= 1e-9 * largest, name
        assert (found[name] - gradient).abs().max() <= 1e-6 * gradient.abs().max() + 1e-12 * largest, name


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["swin_tiny", "resnet50"])
def test_real_size_in_float32(backbone, tmp_path):
    """Swin-T and ResNet-50 as published, 133 classes, on a photo."""
    from torchvision.transforms.functional import pil_to_tensor
    from transformers import ResNetConfig, SwinConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    config = SwinConfig(out_features=stages) if backbone == "swin_tiny" else ResNetConfig(out_features=stages)
    theirs = toy.mask2former(
        config, hidden_dim=256, feature_size=256, mask_feature_size=256, encoder_layers=6, decoder_layers=10,
        num_attention_heads=8, dim_feedforward=2048, encoder_feedforward_dim=1024, num_queries=100, num_labels=133,
    )  # fmt: skip
    ours = toy.ours_from(theirs, tmp_path)
    photo = pil_to_tensor(Image.open(SHARED / "data/coco_cats/000000039769.png").convert("RGB")).float()
    protocol = weights.create_model("mask2former_swin_tiny_coco_panoptic", pretrained=False).config.protocol
    mean, std = (torch.tensor(v)[:, None, None] for v in (protocol.pixel_mean, protocol.pixel_std))
    compare(ours, theirs, ((photo - mean) / std)[None], 1e-4)
