"""Which parameter learns how fast and decays, the learning rate over time, and the average of weights."""

import pytest
import torch
from torch import nn

from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.model import Mask2Former
from mask2former.training.optimizer import AveragedWeights, lr_factor, parameter_groups, scaled_lr


def toy_model(backbone, **options):
    return Mask2Former(
        Mask2FormerConfig(
            backbone=backbone,
            backbone_options=options,
            num_classes=3,
            num_queries=4,
            hidden_dim=32,
            mask_dim=32,
            num_heads=4,
            encoder_layers=1,
            decoder_layers=2,
            encoder_feedforward_dim=32,
            decoder_feedforward_dim=32,
        )
    )


def test_groups_are_the_papers():
    model = toy_model("swin_tiny_patch4_window7_224", embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, lr=1e-4, weight_decay=0.05, backbone_multiplier=0.1)
        for p in group["params"]
    }
    names = dict(model.named_parameters())
    found = {name: settings[id(p)] for name, p in names.items()}
    assert len(settings) == len(names)
    expected = {
        "backbone.body.patch_embed.proj.weight": (1e-5, 0.05),
        "backbone.body.patch_embed.norm.weight": (1e-5, 0.0),
        "backbone.body.layers.0.blocks.0.attn.relative_position_bias_table": (1e-5, 0.0),
        "backbone.norms.0.bias": (1e-5, 0.0),
        "pixel_decoder.level_embedding": (1e-4, 0.05),
        "pixel_decoder.input_projections.0.0.weight": (1e-4, 0.05),
        "pixel_decoder.input_projections.0.1.weight": (1e-4, 0.0),
        "transformer_decoder.query_features": (1e-4, 0.0),
        "transformer_decoder.query_positions": (1e-4, 0.0),
        "transformer_decoder.level_embedding": (1e-4, 0.0),
        "transformer_decoder.norm.weight": (1e-4, 0.0),
        "transformer_decoder.layers.0.cross_attention_norm.weight": (1e-4, 0.0),
        "transformer_decoder.layers.0.cross_attention.in_projection.weight": (1e-4, 0.05),
        "transformer_decoder.class_head.bias": (1e-4, 0.05),
    }
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name
    assert sum(decay == 0 for _, decay in found.values()) < len(found) / 2


def test_frozen_parameters_are_left_out():
    model = toy_model("resnet18")
    model.transformer_decoder.class_head.bias.requires_grad_(False)
    groups = parameter_groups(model)
    count = sum(len(group["params"]) for group in groups)
    assert count == sum(p.requires_grad for p in model.parameters()) == len(list(model.parameters())) - 1
    assert sorted({group["lr"] for group in groups}) == pytest.approx([1e-5, 1e-4])


def test_a_parameter_that_two_modules_share_is_stepped_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert [len(group["params"]) for group in parameter_groups(model)] == [3]


def test_the_linear_rule():
    assert scaled_lr(16) == pytest.approx(1e-4)
    assert scaled_lr(4) == pytest.approx(2.5e-5)


def test_schedules():
    assert [lr_factor(step, 100) for step in (0, 50, 99)] == pytest.approx([1, 0.5**0.9, 0.01**0.9])
    published = {327777: 1, 327778: 0.1, 355091: 0.1, 355092: 0.01, 368749: 0.01}
    assert {s: lr_factor(s, 368750, "step") for s in published} == pytest.approx(published)
    assert [lr_factor(step, 100, "constant", warmup=4) for step in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1, 1]
    )
    with pytest.raises(ValueError, match="schedule 'cosine': expected"):
        lr_factor(0, 10, "cosine")


def test_average_of_weights():
    layer = nn.Linear(2, 2)
    first = layer.weight.detach().clone()
    average = AveragedWeights(layer, 0.75)
    with torch.no_grad():
        layer.weight += 4
    average.update()
    with average.applied():
        torch.testing.assert_close(layer.weight.detach(), first + 1)
    torch.testing.assert_close(layer.weight.detach(), first + 4)
    for decay in (0, 1):
        with pytest.raises(ValueError, match=f"decay={decay}"):
            AveragedWeights(layer, decay)
