"""The numbers of inference that are the papers' or a promise, each by what it does where that can be seen.

Thresholds, sizes and counts are those of the published configurations (shared/facts/mask2former_configs.json and
oneformer_configs.json; the unset ones in shared/FACTS.md), Cheng et al. 2022 §4.1 among the papers.
"""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.inference import postprocess
from mask2former.inference.merge import Strip, same_things
from mask2former.inference.predictor import Predictor
from mask2former.inference.preprocess import MAX_PIXELS, Preprocess
from mask2former.structures import ClassInfo, Outputs, PhotoSizes, Protocol
from tests.conftest import SHARED, needs_shared
from tests.test_predictor import toy

THING = (ClassInfo("thing"),)


def queries(*rows, width=100):
    """Outputs of a strip 8 × `width` cells, from rows (score of the one class, first cell, cell after the last)."""
    scores = torch.tensor([row[0] for row in rows], dtype=torch.float64)
    masks = torch.full((len(rows), 8, width), -9.0, dtype=torch.float64)
    for mask, (_, start, end) in zip(masks, rows, strict=True):
        mask[:, start:end] = 9.0
    eye = torch.eye(len(rows), dtype=torch.float64)[None]
    return Outputs(torch.stack([scores, 1 - scores], 1).log()[None], eye, masks[None])


def as_it_is(width=100):
    return PhotoSizes(*[(32, 4 * width)] * 3)


def test_a_panoptic_query_must_score_above_0_8():
    """OBJECT_MASK_THRESHOLD; strictly above (FACTS.md, Post-processing)."""
    for score, count in ((0.79, 0), (0.81, 1)):
        assert len(postprocess.panoptic(queries((score, 0, 50)), as_it_is(), THING)[1]) == count
    outputs = queries((0.6, 0, 50))
    score = outputs.class_logits.softmax(-1).max().item()
    assert not postprocess.panoptic(outputs, as_it_is(), THING, object_mask_threshold=score)[1]
    assert postprocess.panoptic(outputs, as_it_is(), THING, object_mask_threshold=math.nextafter(score, 0))[1]


def test_a_panoptic_segment_must_keep_0_8_of_its_mask():
    """OVERLAP_THRESHOLD: a second query covers the rest of the first one's mask."""
    for kept, count in ((78, 1), (82, 2)):
        outputs = queries((0.95, 0, 100), (0.99, kept, 100))
        assert len(postprocess.panoptic(outputs, as_it_is(), THING)[1]) == count
    exactly = queries((0.9, 0, 100))  # one that keeps all of its mask passes the highest threshold there is
    assert len(postprocess.panoptic(exactly, as_it_is(), THING, overlap_threshold=1.0)[1]) == 1


def test_a_photo_has_at_most_100_instances():
    """DETECTIONS_PER_IMAGE (FACTS.md, Post-processing); of those that score best; whatever they score."""
    scores = torch.rand(120).tolist()
    masks, segments = postprocess.instance(queries(*((score, 0, 10) for score in scores)), as_it_is(), THING)
    assert len(masks) == len(segments) == 100
    assert [s.score for s in segments] == pytest.approx(sorted(scores, reverse=True)[:100], abs=0.01)


def test_the_protocol_of_a_model_without_one_is_cocos():
    """Short side 800 unless the long one exceeds 1333 (§4.1); pixels of ImageNet; the hub's preset squashes to 384."""
    protocol = Protocol()
    assert (protocol.dataset, protocol.tasks) == ("coco", ("panoptic", "instance", "semantic"))
    assert (protocol.object_mask_threshold, protocol.overlap_threshold, protocol.instances_per_image) == (0.8, 0.8, 100)
    assert protocol.pixel_mean == (123.675, 116.28, 103.53) and protocol.pixel_std == (58.395, 57.12, 57.375)
    for preprocess in (Preprocess(), Preprocess.from_protocol(protocol)):
        assert preprocess.sizes((480, 640)) == PhotoSizes((480, 640), (800, 1067), (800, 1088))
        assert preprocess.sizes((400, 1000)).resized == (533, 1333)
        assert (preprocess.mean, preprocess.std) == (protocol.pixel_mean, protocol.pixel_std)
    assert Preprocess.from_protocol(protocol, "hub").sizes((480, 640)).resized == (384, 384)


@needs_shared
def test_the_protocol_is_that_of_the_published_configurations():
    for name, config in json.loads((SHARED / "facts" / "mask2former_configs.json").read_text()).items():
        test = config["mask_former"]["TEST"]
        assert test["OVERLAP_THRESHOLD"] == Protocol.overlap_threshold, name
        assert test["OBJECT_MASK_THRESHOLD"] == (0.0 if "mapillary" in name else Protocol.object_mask_threshold), name
        assert (config["pixel_mean"], config["pixel_std"]) == (list(Protocol.pixel_mean), list(Protocol.pixel_std))


def test_a_predictor_takes_its_thresholds_from_the_protocol():
    predictor = Predictor(toy())
    protocol = predictor.protocol
    assert predictor.panoptic_options == {"object_mask_threshold": protocol.object_mask_threshold,
                                          "overlap_threshold": protocol.overlap_threshold}  # fmt: skip
    assert predictor.instance_options == {"instances": protocol.instances_per_image, "score_threshold": 0.0}


def test_a_value_of_the_photo_becomes_what_the_networks_were_trained_on():
    values, _ = Preprocess(resize=False)(Image.new("RGB", (32, 32), (124, 116, 104)))
    expected = torch.tensor([(124 - 123.675) / 58.395, (116 - 116.28) / 57.12, (104 - 103.53) / 57.375])
    torch.testing.assert_close(values[:, 5, 5], expected)


def test_the_largest_photo():
    """A promise of `read_photo` and of `--max-pixels`."""
    assert MAX_PIXELS == 150_000_000


@pytest.mark.parametrize(("common", "joined"), [(36, False), (49, False), (50, False), (51, True), (100, True)])
def test_two_views_of_one_thing_agree_on_more_than_half(common, joined):
    """Of the 100 pixels that one of two windows or both take for the thing in the strip that both see."""
    for left in {100 - common, (100 - common) // 2, 0}:  # how the others divide: both views are larger, or one
        one, other = np.zeros((2, 200), bool)
        one[: left + common] = True
        other[left:100] = True
        views = [Strip([number], [0], [np.packbits(bits)]) for number, bits in ((3, one), (8, other))]
        assert same_things(*views) == ([(3, 8)] if joined else [])
        assert same_things(*reversed(views)) == ([(8, 3)] if joined else [])
