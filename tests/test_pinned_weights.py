"""The numbers of checkpoints: sizes by which a backbone is recognised, and what published files hold beside weights."""

import math

import pytest
import timm
import torch
from torch import nn

from mask2former.modeling.config import Mask2FormerConfig
from weights.infer import LEVELS, POINTS, backbone_name
from weights.keys_backbone import FAMILY_MARKS
from weights.pickle_reader import read_pickle, write_pickle
from weights.translate import MAKERS, EntriesError, _renamed, backbone_family, check_entries, layout_for


# The other rows of the three tables are those of published models: test_zoo.py has them against their configurations.
@pytest.mark.parametrize("name", ["swin_base_patch4_window7_224", "swin_large_patch4_window7_224"])
def test_a_swin_is_recognised_by_timms_own_sizes(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    blocks = [stage.blocks for stage in model.layers]
    sizes = {"family": "swin", "embed_dim": model.embed_dim, "depths": [len(stage) for stage in blocks],
             "num_heads": [stage[0].attn.num_heads for stage in blocks],
             "window_size": blocks[0][0].attn.window_size[0], "mlp_ratio": 4.0, "qkv_bias": True}  # fmt: skip
    assert backbone_name(sizes) == (name, {})
    assert backbone_name({**sizes, "mlp_ratio": 3.0, "qkv_bias": False}) == (
        name,
        {"mlp_ratio": 3.0, "qkv_bias": False},
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet152"])
def test_a_resnet_is_recognised_by_timms_own_sizes(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    sizes = {"family": "resnet", "depths": [len(stage) for stage in stages], "widths": [64, 128, 256, 512],
             "bottleneck": hasattr(stages[0][0], "conv3"), "stem_width": model.conv1.out_channels}  # fmt: skip
    assert backbone_name(sizes) == (name, {})
    with pytest.raises(ValueError, match="stem has 48 channels; only 64 can be built"):
        backbone_name({**sizes, "stem_width": 48})
    assert backbone_name({**sizes, "widths": [32, 64, 128, 256]}) == (name, {"channels": [32, 64, 128, 256]})


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_small", "convnext_base"])
def test_a_convnext_is_recognised_by_timms_own_sizes(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    sizes = {"family": "convnext", "depths": [len(stage.blocks) for stage in model.stages],
             "dims": [info["num_chs"] for info in model.feature_info], "layer_scale": True}  # fmt: skip
    assert backbone_name(sizes) == (name, {})
    assert backbone_name({**sizes, "layer_scale": False}) == (name, {"ls_init_value": None})


def test_the_pixel_decoders_numbers_that_shapes_do_not_tell():
    """Three levels of four points (FACTS.md, Pixel decoder)."""
    assert LEVELS == 3 and POINTS == Mask2FormerConfig.encoder_points == 4


def test_what_published_files_hold_beside_weights():
    """FACTS.md, Checkpoints: the weights of classes, 0.1 for no object; the first temperature, 0.07."""
    assert MAKERS["class_weights"](torch.zeros(4)).tolist() == pytest.approx([1, 1, 1, 0.1])
    assert MAKERS["logit_scale"](torch.zeros(3, dtype=torch.float16)).dtype == torch.float16
    scale = MAKERS["logit_scale"](torch.zeros(3))
    assert scale.shape == () and scale.item() == pytest.approx(math.log(1 / 0.07))


@pytest.mark.parametrize("side", [2, 7, 12])
def test_relative_positions_are_numbered_row_by_row(side):
    """As Swin has them: row of the table (y₁ − y₂ + w − 1) · (2w − 1) + x₁ − x₂ + w − 1."""
    index = MAKERS["relative_position_index"](torch.zeros((2 * side - 1) ** 2, 3))
    assert index.shape == (side**2, side**2) and index.dtype == torch.int64
    for one, other in ((0, 0), (0, side**2 - 1), (side**2 - 1, 0), (1, side), (side + 1, 2)):
        (y, x), (v, u) = divmod(one, side), divmod(other, side)
        assert index[one, other] == (y - v + side - 1) * (2 * side - 1) + x - u + side - 1


@pytest.mark.parametrize(("found", "said"), [
    ({"a": 2, "b": 3, "c": 1}, "; 1 unknown: c$"), ({"a": 2}, "; 1 missing: b$"),
    ({"a": 2, "b": 4}, r"; 1 misshapen: b: \(4,\) instead of \(3,\)$"),
    ({"b": 4, "c": 1}, "; 1 unknown: c; 1 missing: a; 1 misshapen: b"),
])  # fmt: skip
def test_each_way_of_not_fitting_is_told(found, said):
    expected = {"a": torch.zeros(2), "b": torch.zeros(3)}
    check_entries("x", expected, expected, lambda name: False)
    found = {name: torch.zeros(size) for name, size in found.items()}
    with pytest.raises(EntriesError, match=said):
        check_entries("x", found, expected, lambda name: False)
    check_entries("x", {"a": torch.zeros(2), "z": torch.zeros(1)}, expected, lambda name: name in "bz")


def test_forty_entries_are_listed_and_the_others_counted():
    for count, said in ((40, "x39$"), (41, "x39 and 1 more$"), (45, "x39 and 5 more$")):
        with pytest.raises(EntriesError, match=said):
            check_entries("x", {f"x{n:02}": torch.zeros(1) for n in range(count)}, {}, lambda name: False)


def test_a_name_that_a_layout_does_not_know_is_not_dropped():
    with pytest.raises(ValueError, match="no name for surprise.weight; write the native layout"):
        layout_for("original", "mask2former", "resnet").from_native({"surprise.weight": torch.zeros(1)})
    theirs = {"surprise.weight": torch.zeros(1), "criterion.empty_weight": torch.ones(4)}
    assert layout_for("original", "mask2former", "resnet").to_native(theirs) == ({}, ["surprise.weight"])


def test_a_backbone_is_told_by_names_that_can_be_read_but_once():
    for mark, family in FAMILY_MARKS:
        assert backbone_family(iter(["first", f"backbone.{mark}.weight", "last"])) == family
    assert backbone_family(iter(["first", "last"])) is None


def test_a_number_below_a_templates_first_is_another_name():
    rows = (("stage{s+2}.{p}", "body.{s}.{p}"), ("stage{s}.{p}", "stem.{s+1}.{p}"))
    assert _renamed("stage2.weight", rows) == "body.0.weight" and _renamed("stage5.bias", rows) == "body.3.bias"
    assert _renamed("stage1.block5", [("stage{s+2}.block{b}", "body.{s}.{b}")]) is None
    assert _renamed("stage1.bias", rows) == "stem.2.bias" and _renamed("stage1.gamma", rows) is None


def test_pickles_hold_parameters_and_come_back_as_plain_rows(tmp_path):
    columns = torch.arange(6.0).view(2, 3).T
    write_pickle(tmp_path / "a.pkl", {"learned": nn.Parameter(torch.ones(2)), "columns": columns}, {})
    read = read_pickle(tmp_path / "a.pkl")
    assert torch.equal(read["learned"], torch.ones(2)) and torch.equal(read["columns"], columns)
    assert read["columns"].is_contiguous()
    with pytest.raises(FileNotFoundError):
        read_pickle(tmp_path / "b.pkl")
