"""Mask2Former against stored outputs of the original code: one image, and two padded together."""

import json

import numpy as np
import pytest
import torch

import weights
from tests.conftest import SHARED, needs_shared

pytestmark = needs_shared
FOLDER = SHARED / "reference/m2f_swin"

# What the reference's own notes suggest for float32: logits of masks and of classes; feature maps a little tighter.
TOLERANCES = {"pred_masks": 1e-3, "pred_logits": 2e-4, "feat": 1e-4, "mask_features": 1e-4, "multi_scale": 1e-4}


@pytest.fixture(scope="module")
def model():
    return weights.create_model(FOLDER / "model_final.pkl").eval()


def hand_padded(images, size, protocol):
    """Normalise each image, then pad it with zeros at the bottom and right."""
    batch = torch.zeros(len(images), 3, *size)
    mean, std = (torch.tensor(v)[:, None, None] for v in (protocol.pixel_mean, protocol.pixel_std))
    for row, image in zip(batch, images, strict=True):
        pixels = torch.from_numpy(image).permute(2, 0, 1).float()
        row[:, : image.shape[0], : image.shape[1]] = (pixels - mean) / std
    return batch


SIZES = {"single": (128, 160), "pair": (160, 160)}


def stages(model, file):
    """(name, ours, theirs) of everything that is stored: backbone maps, pixel decoder outputs, every prediction."""
    stored = np.load(FOLDER / f"{file}.npz")
    images = [stored[f"img{i}"] for i in range(2) if f"img{i}" in stored]
    pixel_values = hand_padded(images, SIZES[file], model.config.protocol)
    if "net_input" in stored:
        assert np.abs(pixel_values.numpy() - stored["net_input"]).max() <= 1e-6
    with torch.no_grad():
        features = model.backbone(pixel_values)
        mask_features, levels = model.pixel_decoder(features)
        outputs = model.transformer_decoder(levels, mask_features)
    found = {f"feat_res{i + 2}": f for i, f in enumerate(features)} | {"mask_features": mask_features}
    found |= {f"multi_scale_{i}": level for i, level in enumerate(levels)}
    found |= {"pred_logits": outputs.class_logits, "pred_masks": outputs.mask_logits}
    for i, prediction in enumerate(outputs.auxiliary):
        found |= {f"aux_{i}_pred_logits": prediction.class_logits, f"aux_{i}_pred_masks": prediction.mask_logits}
    assert len(outputs.auxiliary) == 4
    return [(name, ours, torch.from_numpy(stored[name])) for name, ours in found.items()]


@pytest.mark.parametrize("file", SIZES)
def test_every_stage(model, file, forms):
    for name, ours, theirs in stages(model, file):
        tolerance = next(value for key, value in TOLERANCES.items() if key in name)
        assert (ours - theirs).abs().max() <= tolerance, name


def test_sizes_are_read_off_the_file(model):
    shapes = json.loads((FOLDER / "param_shapes.json").read_text())
    assert shapes
    config = model.config
    assert config.backbone_options["embed_dim"] == 20
    assert list(config.backbone_options["depths"]) == [2, 2, 2, 2]
    assert list(config.backbone_options["num_heads"]) == [2, 2, 4, 5]
    assert config.backbone_options["window_size"] == 7
    sizes = (config.num_classes, config.num_queries, config.hidden_dim, config.mask_dim, config.num_heads)
    assert sizes == (7, 20, 64, 64, 4)
    assert (config.encoder_layers, config.decoder_layers, config.decoder_feedforward_dim) == (2, 4, 128)
