"""The numbers of the training recipes (Cheng et al. 2022 §4.1, §A; shared/facts/mask2former_configs.json), at the ends
of the ranges they are drawn from."""

import json
import re

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image

from mask2former.data import transforms
from mask2former.data.annotation import IdMap
from mask2former.data.transforms import ColorDistortion, ScaleJitter, ShortEdgeCrop, training_transform
from mask2former.structures import Protocol
from tests.conftest import SHARED, needs_shared

NOTHING = [np.zeros(0, kind) for kind in (int, bool, bool)]
GREY = torch.full((3, 4, 4), 100, dtype=torch.uint8)


def at_the_end(monkeypatch, end):
    """Every chance is taken, every number is the lowest (0) or the highest (1) there is."""
    monkeypatch.setattr(transforms, "uniform", lambda *bounds: bounds[end] if bounds else 0.0)


def test_large_scale_jitter_is_0_1_to_2(monkeypatch):
    """MIN_SCALE and MAX_SCALE, of the photo fitted into the crop."""
    annotation = IdMap(*NOTHING, np.zeros((100, 50), np.int32))
    for end, scale in ((0, 0.1), (1, 2.0)):
        at_the_end(monkeypatch, end)
        window = ScaleJitter((200, 200))(annotation)
        left, top, right, bottom = window.box
        assert window.height / (bottom - top) == window.width / (right - left) == pytest.approx(2 * scale)


def test_short_edges_are_tenths_of_the_crop():
    """MIN_SIZE_TRAIN: 0.5, 0.6, … 2.0 × the crop; MAX_SIZE_TRAIN: 4 × it; the first crop is taken."""
    crop = ShortEdgeCrop((512, 1024))
    assert crop.short_edges == [
        512,
        614,
        716,
        819,
        921,
        1024,
        1126,
        1228,
        1331,
        1433,
        1536,
        1638,
        1740,
        1843,
        1945,
        2048,
    ]
    assert (crop.long_edge, crop.max_class_share) == (4096, 1.0)


def test_a_varied_crop_is_looked_for_ten_times(monkeypatch):
    tried = []
    monkeypatch.setattr(ShortEdgeCrop, "_is_varied", lambda *_: tried.append(1))
    annotation = IdMap(np.array([0]), np.array([True]), np.array([False]), np.ones((90, 90), np.int32))
    ShortEdgeCrop((40, 40), max_class_share=0.75)(annotation)
    assert len(tried) == 10


def test_half_of_the_pictures_are_mirrored():
    photo = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("RGB")
    transform = training_transform("coco", 8)
    transform.crop = lambda annotation: transforms.Window.whole(8, 8)
    annotation = IdMap(*NOTHING, np.zeros((8, 8), np.int32))
    rising = sum(float((values := transform(photo, annotation)[0])[0, 0, 0] < values[0, 0, 7]) for _ in range(400))
    assert 160 < rising < 240


def test_colours_are_distorted_as_in_ssd(monkeypatch):
    """Brightness ±32, contrast and saturation 0.5–1.5, hue a tenth of the circle (18 of 180 in Liu et al. 2016)."""
    coloured = torch.tensor([120, 90, 60], dtype=torch.uint8)[:, None, None].expand(3, 4, 4).contiguous()
    for end, (shift, contrast, saturation, hue) in enumerate([(-32, 0.5, 0.5, -0.1), (32, 1.5, 1.5, 0.1)]):
        at_the_end(monkeypatch, end)
        expected = F.adjust_brightness((coloured.int() + shift).to(torch.uint8), contrast)
        expected = F.adjust_hue(F.adjust_saturation(expected, saturation), hue)
        assert torch.equal(ColorDistortion()(coloured), expected)


@pytest.mark.parametrize("chance", [0.49, 0.51])
def test_each_colour_changes_half_of_the_time(chance, monkeypatch):
    """Contrast comes before saturation and hue where a number is below a half, and is then changed; else after."""
    monkeypatch.setattr(transforms, "uniform", lambda *bounds: bounds[1] if bounds else chance)
    assert torch.equal(ColorDistortion()(GREY), torch.full_like(GREY, 198) if chance < 0.5 else GREY)


@needs_shared
def test_the_recipes_are_those_of_the_published_configurations():
    """But for Mapillary Vistas, of which there is no recipe here."""
    for name, config in json.loads((SHARED / "facts" / "mask2former_configs.json").read_text()).items():
        assert (config["pixel_mean"], config["pixel_std"]) == (list(Protocol.pixel_mean), list(Protocol.pixel_std))
        if config.get("min_scale"):
            jitter = training_transform("coco", config["image_size"]).crop
            assert jitter.scales == (config["min_scale"], config["max_scale"]), name
        elif name.split("/")[1] in ("ade20k", "cityscapes"):
            crop = training_transform("ade20k", tuple(map(int, re.findall(r"\d+", config["crop"]["SIZE"])))).crop
            (longer,) = re.findall(
                r"^expr \[int\(x \* 0\.1 \* (\d+)\) for x in range\(5, 21\)\]$", config["min_size_train"]
            )
            assert crop.short_edges == [int(x * 0.1 * int(longer)) for x in range(5, 21)], name
            assert crop.long_edge == config["max_size_train"]
            assert crop.max_class_share == config["crop"]["SINGLE_CATEGORY_MAX_AREA"]
