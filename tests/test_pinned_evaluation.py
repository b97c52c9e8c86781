"""The numbers of the official measures, each seen at its border.

Panoptic quality: Kirillov et al. 2019, §4 (overlap above 0.5; void and crowds). Mask AP: COCO's protocol (overlaps
0.5, 0.55, … 0.95; 1, 10 or 100 detections an image; sizes parted at 32² and 96² pixels).
"""

import numpy as np
import pytest

from mask2former.data.annotation import IdMap
from mask2former.evaluation.instance import MaskAveragePrecision
from mask2former.evaluation.panoptic import PanopticQuality
from mask2former.evaluation.semantic import MeanIoU
from mask2former.structures import ClassInfo

CLASSES = (ClassInfo("cat"), ClassInfo("dog"), ClassInfo("sky", False))


def line(**pixels):
    """(1, 200) of zeros but for runs, such as k1=(0, 50): the first 50 pixels are 1."""
    found = np.zeros((1, 200), np.int32)
    for name, (start, end) in pixels.items():
        found[0, start:end] = int(name[1:])
    return found


def truth_of(segment_map, *labels, crowd=()):
    is_thing = np.array([CLASSES[label].is_thing for label in labels], bool)
    is_crowd = np.array([k in crowd for k in range(len(labels))], bool)
    return IdMap(np.array(labels, np.int64), is_thing, is_crowd, segment_map)


def judged(segment_map, labels, truth):
    quality = PanopticQuality(CLASSES)
    quality.update(1, segment_map, np.array(labels, np.int64), truth)
    return quality.compute()


@pytest.mark.parametrize(("common", "matched"), [(49, 0), (50, 0), (51, 1)])
def test_a_panoptic_match_overlaps_by_more_than_a_half(common, matched):
    truth = truth_of(line(k1=(0, common), k2=(100, 200)), 0, 2)  # the rest of the first 100 pixels is sky or void
    truth.segment_map[0, common:100] = 2
    (cat, *_) = judged(line(k1=(0, 100)), [0], truth)["classes"]
    assert (cat["matched"], cat["false_alarms"], cat["missed"]) == (matched, 1 - matched, 1 - matched)
    assert cat["SQ"] == (pytest.approx(common / 100) if matched else 0)


def test_panoptic_quality_halves_what_is_missed_or_made_up():
    """PQ = Σ IoU / (matches + ½ false alarms + ½ misses), SQ and RQ its factors (eq. 1 and 2)."""
    truth = truth_of(line(k1=(0, 40), k2=(50, 60), k3=(60, 70), k4=(100, 200)), 0, 0, 0, 2)
    (cat, *_) = judged(line(k1=(0, 30), k2=(110, 120)), [0, 0], truth)["classes"]
    assert (cat["matched"], cat["false_alarms"], cat["missed"]) == (1, 1, 2)
    assert (cat["PQ"], cat["SQ"], cat["RQ"]) == pytest.approx((0.75 / 2.5, 0.75, 1 / 2.5))


def test_void_is_taken_out_of_the_union():
    (cat, *_) = judged(line(k1=(0, 100)), [0], truth_of(line(k1=(0, 60)), 0))["classes"]
    assert (cat["matched"], cat["SQ"]) == (1, 1.0)


@pytest.mark.parametrize(("excused", "false_alarms"), [(49, 1), (50, 1), (51, 0)])
@pytest.mark.parametrize("by", ["void", "crowd", "both", "crowd of dogs"])
def test_a_prediction_mostly_in_void_or_in_a_crowd_of_its_class_is_no_mistake(by, excused, false_alarms):
    void = {"void": excused, "crowd": 0, "both": 20, "crowd of dogs": 0}[by]
    truth = truth_of(line(k1=(void, excused), k2=(excused, 200)), 1 if "dogs" in by else 0, 2, crowd=[0])
    (cat, dog, _) = judged(line(k1=(0, 100)), [0], truth)["classes"]
    assert cat["false_alarms"] == (1 if "dogs" in by else false_alarms)
    assert cat["missed"] == dog["missed"] == 0  # a crowd is not missed


def precision_of(truth, masks, labels, scores):
    pytest.importorskip("hotcoco")
    precision = MaskAveragePrecision(CLASSES)
    precision.update(1, masks, labels, scores, truth)
    return precision.compute()


@pytest.mark.parametrize("common", [49, 51, 56, 61, 66, 71, 74, 76, 81, 86, 91, 94, 96])
def test_mask_ap_goes_over_ten_overlaps(common):
    """One object, found with an overlap of `common` per cent: right at each of 0.5, 0.55, … 0.95 below that."""
    found = precision_of(truth_of(line(k1=(0, 100)), 0), line(k1=(0, common))[None] == 1, [0], [0.9])
    passed = sum(overlap < common for overlap in range(50, 100, 5))
    assert [found[name] for name in ("AP", "AR100")] == pytest.approx([passed / 10] * 2)
    assert [found[name] for name in ("AP50", "AP75")] == pytest.approx([float(common > 50), float(common > 75)])
    assert found["classes"][0] == pytest.approx({"name": "cat", "AP": passed / 10, "AP50": float(common > 50)})


def test_recall_is_counted_at_1_10_and_100_detections():
    masks = np.stack([line(k1=(k, k + 1)) == 1 for k in range(120)])
    truth = truth_of(np.concatenate([np.arange(1, 121), np.zeros(80)])[None].astype(np.int32), *[0] * 120)
    found = precision_of(truth, masks, [0] * 120, np.linspace(1, 0.1, 120))
    assert [found[name] for name in ("AR1", "AR10", "AR100")] == pytest.approx([1 / 120, 10 / 120, 100 / 120])


@pytest.mark.parametrize(("height", "width", "size"), [
    (33, 31, "s"), (41, 25, "m"), (97, 95, "m"), (97, 96, "l"),
])  # fmt: skip
def test_sizes_part_at_32_and_96_pixels_squared(height, width, size):
    """1023 pixels are small, 1025 and 9215 medium, 9312 large."""
    segment_map = np.zeros((100, 100), np.int32)
    segment_map[:height, :width] = 1
    found = precision_of(truth_of(segment_map, 0), segment_map[None] == 1, [0], [0.9])
    assert [found[f"AP{name}"] for name in "sml"] == pytest.approx([1.0 if name == size else None for name in "sml"])


def test_a_crowd_is_neither_found_nor_missed():
    """Ten detections in a crowd, surer than the one object's, cost nothing; nor does finding none of it."""
    truth = truth_of(line(k1=(0, 100), k2=(100, 120)), 0, 0, crowd=[0])
    masks = np.stack([*(line(k1=(10 * k, 10 * k + 10)) == 1 for k in range(10)), line(k1=(100, 120)) == 1])
    for chosen in (range(11), [10]):
        found = precision_of(truth, masks[list(chosen)], [0] * len(chosen), [0.9] * (len(chosen) - 1) + [0.5])
        assert [found[name] for name in ("AP", "AR100")] == pytest.approx([1, 1])


def test_mean_iou_by_hand():
    """Void counts for nothing, a pixel without prediction is missed, only classes in the truth take part."""
    truth, found = np.array([[0, 0, 0, 0, 1, -1, -1]]), np.array([[0, 0, 2, -1, 1, 0, 2]])
    iou = MeanIoU((*CLASSES, ClassInfo("sea", False)))
    iou.update("a", found, truth)
    with np.errstate(all="raise"):
        report, of_image = iou.compute(), iou.image_scores()
    assert [c["IoU"] for c in report["classes"]] == [0.5, 1.0, None, None]
    assert [c["pixels"] for c in report["classes"]] == [4, 1, 0, 0]
    assert report["mIoU"] == of_image["a"] == 0.75
    assert report["fwIoU"] == pytest.approx((4 * 0.5 + 1 * 1.0) / 5)
    assert report["mean_accuracy"] == pytest.approx((2 / 4 + 1 / 1) / 2)
    assert report["pixel_accuracy"] == pytest.approx(3 / 5)
