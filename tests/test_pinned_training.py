"""The papers' numbers of training, each by what it does where that can be seen, else by its value.

Mask2Former is Cheng et al. 2022, OneFormer Jain et al. 2023; the numbers of the published configurations are in
shared/facts/mask2former_configs.json and oneformer_configs.json, what the configurations leave open in shared/FACTS.md.
"""

import json
import math

import pytest
import torch
from torch import nn

from mask2former.structures import Outputs, Targets
from mask2former.training.losses import Criterion
from mask2former.training.optimizer import lr_factor, parameter_groups, scaled_lr
from mask2former.training.trainer import Settings, train
from oneformer.losses import OneFormerCriterion, contrastive_loss
from tests.conftest import SHARED, needs_shared
from tests.toy_training import CLASSES, ToyNetwork, ToyPictures


def two_queries_one_target():
    """The first query is right, the second sure of class 0 too though nothing is left for it to find."""
    logits = torch.tensor([[[3.0, 0.0, 0.0], [2.0, 0.0, 0.0]]], dtype=torch.float64)  # two classes and no object
    masks = torch.stack([torch.full((8, 8), 1.5), torch.full((8, 8), -1.5)])[None].double()
    target = Targets(torch.tensor([0]), torch.ones(1, 32, 32, dtype=torch.bool))
    return Outputs(logits, torch.eye(2, dtype=torch.float64)[None], masks), [target]


def test_the_points_of_a_mask():
    """12,544 = 112 × 112 points; uncertain ones are chosen from 3 × as many and are 75 % (§4.1 and §3.3)."""
    points = Criterion(3).draw_points(2, Targets(torch.tensor([0, 1]), torch.ones(2, 8, 8, dtype=torch.bool)))
    assert points.matching.shape == (2, 12544, 2)
    assert points.oversampled.shape == (2, 2, 3 * 12544, 2)
    assert points.uniform.shape == (2, 2, 12544 // 4, 2)


def test_the_weights_of_the_terms():
    """Class 2, mask 5, dice 5 on every prediction (§4.1; CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT)."""
    outputs, targets = two_queries_one_target()
    outputs.auxiliary = (Outputs(outputs.class_logits + 1, 2 * outputs.mask_embeddings, outputs.mask_features),)
    terms, total = Criterion(2, num_points=20)(outputs, targets)
    assert sorted(terms) == ["class", "class_0", "dice", "dice_0", "mask", "mask_0"]
    weights = {"class": 2, "mask": 5, "dice": 5}
    torch.testing.assert_close(total, sum(weights[name.split("_")[0]] * value for name, value in terms.items()))


def test_no_object_weighs_a_tenth():
    """0.1 of a class, in the sum of losses and in the sum of weights it is divided by (§4.1; NO_OBJECT_WEIGHT)."""
    outputs, targets = two_queries_one_target()
    right, wrong = -outputs.class_logits[0].log_softmax(-1)[[0, 1], [0, 2]]
    terms, _ = Criterion(2, num_points=20)(outputs, targets)
    torch.testing.assert_close(terms["class"], (right + 0.1 * wrong) / 1.1)


@pytest.mark.parametrize("row", [1, 2], ids=["mask", "dice"])
def test_matching_weighs_as_the_losses_do(row, monkeypatch):
    """With the losses' own weights, 2, 5 and 5 (§4.1): a mask that is worse by 1 outweighs a class worse by 5 / 2."""
    outputs, targets = two_queries_one_target()
    for class_cost, misses_the_mask in ((0.99 * 5 / 2, False), (1.01 * 5 / 2, True)):
        costs = torch.zeros(1, 3, 2, 1, dtype=torch.float64)
        costs[0, 0, 0], costs[0, row, 1] = class_cost, 1.0  # of query 0, and of query 1, which has the wrong mask
        monkeypatch.setattr("mask2former.training.losses.matching_costs", lambda *_, costs=costs: costs)
        terms, _ = Criterion(2, num_points=20)(outputs, targets)
        assert (terms["mask"] > 1) == misses_the_mask


def test_contrast_weighs_one_half():
    """On the final prediction (Jain et al. §4.1; FACTS.md, Losses)."""
    outputs, targets = two_queries_one_target()
    outputs.contrastive_logits, outputs.text_features = torch.randn(2, 1, 2, 8, dtype=torch.float64).unbind()
    criterion = OneFormerCriterion(Criterion(2, num_points=20))
    terms, total = criterion(outputs, targets, torch.Generator().manual_seed(3))
    plain = criterion.segmentation(outputs, targets, torch.Generator().manual_seed(3))[1]
    torch.testing.assert_close(total, plain + 0.5 * terms["contrastive"])


def test_the_temperature_of_the_contrast_begins_at_0_07_and_ends_at_0_01():
    """The logit scale is learned from log(1 / 0.07), its exponential never above 100 (FACTS.md, Losses)."""
    assert OneFormerCriterion(Criterion(2)).logit_scale.item() == pytest.approx(math.log(1 / 0.07))
    queries = torch.eye(2, 6, dtype=torch.float64)[:, None]  # two images, at a right angle
    swapped = queries.flip(0)  # each has the other's text: either direction loses the whole scale
    for scale, loss in ((50.0, 100.0), (99.0, 198.0), (101.0, 200.0), (1e6, 200.0)):
        found = contrastive_loss(queries, swapped, torch.tensor(math.log(scale), dtype=torch.float64))
        assert found.item() == pytest.approx(loss, rel=1e-6), scale


class OneOfEach(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
        self.head = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Embedding(2, 4))
        self.text_context = nn.Parameter(torch.zeros(2, 4))


def test_learning_rate_and_decay():
    """AdamW, 1e-4 and 0.05; the backbone a tenth; norms and embeddings undecayed (§4.1; BASE_LR, WEIGHT_DECAY,
    BACKBONE_MULTIPLIER; WEIGHT_DECAY_NORM and WEIGHT_DECAY_EMBED are 0)."""
    model = OneOfEach()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model)
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5])
    assert [group["weight_decay"] for group in groups] == [0.0, 0.05, 0.0, 0.05]
    assert [sorted(names[id(p)] for p in group["params"]) for group in groups] == [
        ["head.1.bias", "head.1.weight", "head.2.weight", "text_context"],
        ["head.0.bias", "head.0.weight"],
        [f"backbone.{n}.{kind}" for n in (1, 2) for kind in ("bias", "weight")],
        ["backbone.0.bias", "backbone.0.weight"],
    ]


def test_the_learning_rate_over_time():
    """Poly with power 0.9 (§4.1); for COCO a tenth at 327,778 and at 355,092 of 368,750 steps (STEPS, MAX_ITER)."""
    assert lr_factor(0, 1000) == 1 and lr_factor(1000, 1000) == 0
    assert lr_factor(600, 1000) == pytest.approx(0.4**0.9)
    assert [lr_factor(step, 368750, "step") for step in (0, 327777, 327778, 355091, 355092)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )
    assert [scaled_lr(images) for images in (1, 16, 32)] == pytest.approx([1e-4 / 16, 1e-4, 2e-4])  # IMS_PER_BATCH


def test_how_a_run_begins(tmp_path):
    """What Settings leave open, read off the first step of a run: no warmup, 16 images (IMS_PER_BATCH), gradients cut
    to a joint norm of 0.01 (CLIP_VALUE, full model), AdamW's own moments 0.9 and 0.999."""
    pictures, criterion = ToyPictures(16), Criterion(CLASSES, num_points=64)
    train(ToyNetwork(), pictures, criterion, Settings(steps=4, workers=0, log_every=1), tmp_path)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["lr"] == pytest.approx(1e-4) and first["grad_norm"] > 0.1
    assert Settings().batch_size == 16 and Settings().schedule == "poly" and Settings().warmup == 0

    train(ToyNetwork(), pictures, criterion, Settings(steps=1, workers=0), tmp_path / "one")
    moments = torch.load(tmp_path / "one" / "checkpoint.pt", weights_only=True)["optimizer"]["state"].values()
    first_moment = torch.cat([moment["exp_avg"].flatten() for moment in moments])
    second_moment = torch.cat([moment["exp_avg_sq"].flatten() for moment in moments])
    assert first_moment.norm().item() == pytest.approx((1 - 0.9) * 0.01, rel=1e-3)
    assert second_moment.sum().item() == pytest.approx((1 - 0.999) * 0.01**2, rel=1e-3)


@needs_shared
@pytest.mark.parametrize("family", ["mask2former", "oneformer"])
def test_the_settings_are_those_of_every_published_configuration(family):
    settings = Settings()
    for name, config in json.loads((SHARED / "facts" / f"{family}_configs.json").read_text()).items():
        assert config["base_lr"] == scaled_lr(settings.batch_size) and settings.lr is None, name
        assert config["images_per_batch"] == settings.batch_size
        assert config["weight_decay"] == settings.weight_decay
        assert config["backbone_lr_multiplier"] == settings.backbone_multiplier
        clip = {"ENABLED": True, "CLIP_TYPE": "full_model", "CLIP_VALUE": settings.clip, "NORM_TYPE": 2.0}
        assert config["clip_gradients"] == clip
        criterion = Criterion(config["num_classes"])
        if family == "mask2former":
            head = config["mask_former"]
            weights = head["CLASS_WEIGHT"], head["MASK_WEIGHT"], head["DICE_WEIGHT"]
            assert weights == criterion.weights
            assert head["NO_OBJECT_WEIGHT"] == pytest.approx(criterion.class_weights[-1].item())
            assert head["TRAIN_NUM_POINTS"] == criterion.num_points
            assert head["OVERSAMPLE_RATIO"] == criterion.oversample_ratio
            assert head["IMPORTANCE_SAMPLE_RATIO"] == criterion.importance_sample_ratio
