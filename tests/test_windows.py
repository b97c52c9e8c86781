"""Very large photos: windows that cover them, segments that are whole again, and a ceiling that holds."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mask2former.errors import PhotoError
from mask2former.inference.memory import MemoryBudget
from mask2former.inference.merge import MergedMap, MergedMasks, Strip, same_things
from mask2former.inference.packed_masks import PackedMasks
from mask2former.inference.predictor import Predictor
from mask2former.inference.preprocess import Preprocess
from mask2former.inference.segmentation import Segmentation, regions
from mask2former.inference.windows import cut, window_size
from mask2former.modeling.config import Mask2FormerConfig
from mask2former.structures import TASKS, ClassInfo, Outputs, PhotoSizes, Protocol, Segment
from tests.test_predictor import photo_with_red, same, some_photos, toy

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 255, 0)
THING, STUFF = ClassInfo("thing", True, RED), ClassInfo("stuff", False, GREEN)


class Colours(nn.Module):
    """Stands for a network: red is one thing, blue another of the same class, green is stuff."""

    def __init__(self):
        super().__init__()
        protocol = Protocol(short_side=96, long_side=160)
        self.config = Mask2FormerConfig(num_classes=2, num_queries=3, classes=(THING, STUFF), protocol=protocol)
        self.backbone = SimpleNamespace(channels=(8, 16, 32, 64))
        self.scale = nn.Parameter(torch.tensor(40.0))
        self.seen = []

    def forward(self, pixel_values):
        self.seen.append(tuple(pixel_values.shape))
        mean, std = (torch.tensor(x)[:, None, None] / 255 for x in (Protocol.pixel_mean, Protocol.pixel_std))
        colour = nn.functional.avg_pool2d(pixel_values * std + mean, 4)
        features = torch.cat([colour, torch.ones_like(colour[:, :1])], 1)
        class_logits = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0]]).expand(len(features), 3, 3)
        embeddings = self.scale * torch.tensor([[1, 0, 0, -0.5], [0, 0, 1, -0.5], [0, 1, 0, -0.5]])
        return Outputs(class_logits, embeddings.expand(len(features), 3, 4), features)


class AlwaysCut:
    """Stands for a budget: windows of a size given, whatever they need."""

    def __init__(self, side=128, overlap=32, larger_than=0):
        self.side, self.overlap, self.larger_than = side, overlap, larger_than

    def windows(self, sizes, tasks):
        return cut(sizes, (self.side,) * 2, self.overlap) if max(sizes.photo) > self.larger_than else []

    def together(self, sizes, tasks, most):
        return most


def tiled(model, **settings):
    budget = {name: settings.pop(name) for name in ("side", "overlap", "larger_than") if name in settings}
    predictor = Predictor(model, **settings)
    predictor.budget = AlwaysCut(**budget)
    return predictor


def painted(size, **boxes):
    """A green (height, width) photo with boxes (x0, y0, x1, y1) in it."""
    photo = np.full((*size, 3), GREEN, np.uint8)
    for name, box in boxes.items():
        photo[box[1] : box[3], box[0] : box[2]] = {"red": RED, "blue": BLUE}[name.split("_")[0]]
    return photo


def consistent(result):
    """Ids 1 … N, and areas and boxes as the map has them."""
    if result.task == "instance":
        assert [s.area for s in result.segments] == result.masks.sum((1, 2)).tolist()
        boxes = [regions(mask.astype(np.int32), 2)[1][1] for mask in result.masks]
    else:
        found = regions(result.segmentation, int(result.segmentation.max()) + 1)
        if result.task == "panoptic":
            found.pop(0, None)
        assert sorted(found) == [s.id for s in result.segments]
        assert [found[s.id][0] for s in result.segments] == [s.area for s in result.segments]
        boxes = [found[s.id][1] for s in result.segments]
    assert boxes == [s.box for s in result.segments]
    if result.task != "semantic":
        assert [s.id for s in result.segments] == list(range(1, len(result.segments) + 1))


def unpadded(photo, resized=None):
    resized = resized or photo
    return PhotoSizes(photo, resized, tuple(-(-side // 32) * 32 for side in resized))


# The grid of windows


@pytest.mark.parametrize("photo", [(300, 420), (128, 128), (33, 1000), (1, 300), (257, 256), (1000, 31)])
@pytest.mark.parametrize(("side", "overlap"), [(128, 32), (128, 64), (96, 20), (256, 100), (64, 0)])
def test_windows_cover_the_photo_and_their_own_parts_divide_it(photo, side, overlap):
    sizes = unpadded(photo)
    windows = cut(sizes, (side, side), overlap)
    seen, owners = np.zeros(photo, int), np.zeros(photo, int)
    for window in windows:
        x0, y0, x1, y1 = window.box
        assert window.sizes.photo == window.sizes.resized == (y1 - y0, x1 - x0)
        assert window.sizes.padded == windows[0].sizes.padded and max(window.sizes.padded) <= side
        assert x0 % 32 == y0 % 32 == 0, "on the network's grid"
        left, top, right, bottom = window.own
        assert x0 <= left <= right <= x1 and y0 <= top <= bottom <= y1
        seen[y0:y1, x0:x1] += 1
        owners[top:bottom, left:right] += 1
    assert seen.min() == 1 or len(windows) > 1
    assert seen.min() >= 1 and (owners == 1).all()
    at = {(w.row, w.column): w for w in windows}
    for (row, column), window in at.items():
        for other, axis in ((at.get((row, column + 1)), 0), (at.get((row + 1, column)), 1)):
            if other is not None and other.box[axis + 2] < photo[1 - axis]:
                assert window.box[axis + 2] - other.box[axis] >= overlap
            elif other is not None:  # the last one ends with the photo, not with its padding
                assert window.box[axis + 2] - other.box[axis] >= min(overlap, photo[1 - axis] - other.box[axis])


def test_a_pixel_belongs_to_the_window_whose_inner_border_is_furthest():
    photo = (200, 330)
    windows = cut(unpadded(photo), (128, 128), 40)
    y, x = np.mgrid[: photo[0], : photo[1]] + 0.5
    distance = []
    for window in windows:
        x0, y0, x1, y1 = window.box
        sides = [(x - x0, x0 > 0), (x1 - x, x1 < photo[1]), (y - y0, y0 > 0), (y1 - y, y1 < photo[0])]
        inner = [to for to, is_inner in sides if is_inner]
        inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
        distance.append(np.where(inside, np.min(inner, axis=0), -1))
    for window, own in zip(windows, distance, strict=True):
        left, top, right, bottom = window.own
        assert (own >= np.max(distance, axis=0) - 1)[top:bottom, left:right].all()


def test_windows_of_a_resized_photo():
    """The photo is three times as large as the network sees it; borders are rounded to its pixels."""
    sizes = unpadded((900, 1300), (300, 433))
    windows = cut(sizes, (128, 160), 32)
    owners = np.zeros(sizes.photo, int)
    for window in windows:
        x0, y0, x1, y1 = window.box
        assert window.sizes.photo == (y1 - y0, x1 - x0)
        assert (y1 - y0, x1 - x0) == pytest.approx(np.array(window.sizes.resized) * (3, 1300 / 433), abs=1)
        owners[window.own[1] : window.own[3], window.own[0] : window.own[2]] += 1
    assert (owners == 1).all() and len(windows) > 6


def test_a_photo_of_fewer_pixels_than_the_network_sees():
    for photo in ((3, 5), (1, 1), (2, 400)):
        sizes = unpadded(photo, (300, 420))
        owners = np.zeros(photo, int)
        for window in cut(sizes, (128, 128), 32):
            x0, y0, x1, y1 = window.box
            assert 0 <= x0 < x1 <= photo[1] and 0 <= y0 < y1 <= photo[0]
            owners[window.own[1] : window.own[3], window.own[0] : window.own[2]] += 1
        assert (owners == 1).all()


def test_a_photo_that_fits_is_one_window():
    sizes = unpadded((100, 200))
    (window,) = cut(sizes, (128, 256), 64)
    assert window.box == window.own == (0, 0, 200, 100) and window.sizes == sizes


def test_windows_are_no_larger_than_their_number_needs():
    assert {w.sizes.padded for w in cut(unpadded((320, 1088)), (320, 1024), 64)} == {(320, 576)}


@pytest.mark.parametrize(("padded", "pixels", "expected"), [
    ((4096, 4096), 1024**2, (1024, 1024)), ((4096, 4096), 1024**2 + 40_000, (1024, 1024)),
    ((512, 4096), 1024**2, (512, 2048)), ((4096, 512), 1024**2, (2048, 512)), ((512, 1024), 1024**2, (512, 1024)),
])  # fmt: skip
def test_window_sizes(padded, pixels, expected):
    assert window_size(padded, pixels) == expected


@pytest.mark.parametrize(("size", "overlap"), [(100, 10), (128, 65), (128, -1), (32, 1), (0, 0)])
def test_windows_that_cannot_be(size, overlap):
    with pytest.raises(ValueError, match=f"windows of {size} pixels that overlap by {overlap}: expected"):
        cut(unpadded((500, 500)), (size, size), overlap)


@pytest.mark.parametrize("scale", [1, 2, 2.5])
def test_a_window_sees_what_lies_there_in_the_whole(scale):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (320, 480, 3), dtype=np.uint8))
    preprocess = Preprocess(exact_size=(int(320 / scale), int(480 / scale)))
    whole, sizes = preprocess(photo)
    for window in cut(sizes, (64, 96), 32):
        values = preprocess.window(photo, window.box, window.sizes)
        x, y = round(window.box[0] / scale), round(window.box[1] / scale)
        height, width = window.sizes.resized
        difference = (values[:, :height, :width] - whole[:, y : y + height, x : x + width]).abs().max()
        assert difference <= (0 if scale == 1 else 1 / 57), "one step of 256 for rounding"


# Merging


@pytest.mark.parametrize("side", [96, 128, 160])
@pytest.mark.parametrize("task", TASKS)
def test_windows_find_exactly_what_one_pass_finds(task, side):
    # no edge within 4 pixels of a window's border, where an instance's mask, a union, may be a pixel off
    photo = painted((300, 423), red=(22, 42, 301, 202), blue=(311, 12, 402, 280))
    whole = Predictor(Colours(), size="photo", score_threshold=0.5)(photo, task)
    model = Colours()
    predictor = tiled(model, side=side, size="photo", score_threshold=0.5)
    result = predictor(photo, task)
    assert len(model.seen) >= 6 and len(set(model.seen)) == 1 and max(model.seen[0][2:]) <= side
    consistent(result)
    assert len(result.segments) == len(whole.segments) > 1
    assert result.photo is not None and result.photo.size == (423, 300)
    for n, segment in enumerate(whole.segments):
        (same_place,) = [k for k in range(len(result.segments)) if np.array_equal(result.mask(k), whole.mask(n))]
        found = result.segments[same_place]
        assert (found.label_id, found.area, found.box) == (segment.label_id, segment.area, segment.box)
        # The mean inside a mask is of what a window sees of it: the best window may be surer than the whole
        assert found.score >= segment.score - 1e-6 and found.score == pytest.approx(segment.score, abs=0.05)
    if task == "semantic":
        assert np.array_equal(result.segmentation, whole.segmentation)


def test_a_resized_photo_in_windows():
    photo = painted((600, 846), red=(44, 62, 602, 404), blue=(622, 10, 804, 580))
    for task in TASKS:
        whole = Predictor(Colours(), size=300, score_threshold=0.5)(photo, task)
        result = tiled(Colours(), size=300, score_threshold=0.5)(photo, task)
        consistent(result)
        assert len(result.segments) == len(whole.segments)
        # borders of windows are rounded to pixels of the photo, which moves edges by as much
        assert (result.segmentation > 0).sum() == pytest.approx((whole.segmentation > 0).sum(), rel=0.02)


@pytest.mark.parametrize(("box", "windows"), [((40, 40, 60, 60), 1), ((60, 20, 150, 60), 2), ((70, 70, 180, 170), 4),
                                              ((0, 100, 224, 124), 3)])  # fmt: skip
def test_a_thing_is_one_however_many_windows_it_crosses(box, windows):
    predictor = tiled(Colours(), size="photo", side=96, score_threshold=0.5)
    photo = painted((224, 224), red=box)
    grid = predictor.budget.windows(predictor.preprocess.sizes(photo.shape[:2]), ())
    own = [w.own for w in grid]
    crossed = [b for b in own if b[0] < box[2] and box[0] < b[2] and b[1] < box[3] and box[1] < b[3]]
    assert len(crossed) >= windows
    for task in ("panoptic", "instance"):
        things = [s for s in predictor(photo, task).segments if s.is_thing]
        assert len(things) == 1
        assert np.abs(np.array(things[0].box) - box).max() <= 2


def test_two_things_side_by_side_stay_two():
    photo = painted((128, 320), red=(20, 40, 160, 80), blue=(160, 40, 300, 80))
    for task in ("panoptic", "instance"):
        result = tiled(Colours(), size="photo", score_threshold=0.5)(photo, task)
        consistent(result)
        things = sorted(s.box for s in result.segments if s.is_thing)
        assert np.abs(np.array(things) - [(20, 40, 160, 80), (160, 40, 300, 80)]).max() <= 2


def test_things_of_windows_far_apart_do_not_share_a_number():
    boxes = {f"red_{n}": (20 + 240 * n, 20, 60 + 240 * n, 60) for n in range(4)}
    boxes |= {f"blue_{n}": (20 + 240 * n, 180, 60 + 240 * n, 220) for n in range(4)}
    for task in TASKS:
        result = tiled(Colours(), size="photo", score_threshold=0.5)(painted((256, 900), **boxes), task)
        consistent(result)
        things, stuff = ([s for s in result.segments if s.is_thing is kind] for kind in (True, False))
        assert len(things) == (1 if task == "semantic" else 8)
        assert len(stuff) == (0 if task == "instance" else 1), "one segment a photo"


def three_in_a_row():
    """Windows of 64 × 64 over 64 × 128, and what two neighbours both see: x from 32 to 64, and from 64 to 96."""
    windows = cut(unpadded((64, 128)), (64, 64), 32)
    assert [w.box for w in windows] == [(0, 0, 64, 64), (32, 0, 96, 64), (64, 0, 128, 64)]
    return windows


def instances(*rows):
    """Of one window, from (label, score, box)."""
    masks = np.zeros((len(rows), 64, 64), bool)
    for mask, (_, _, box) in zip(masks, rows, strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    labels, scores = [row[0] for row in rows], [row[1] for row in rows]
    return Segmentation.from_masks(masks, labels, (THING, STUFF, ClassInfo("other")), scores)


def merged(*found):
    windows = three_in_a_row()
    whole = MergedMasks(windows, found[0].classes)
    for window, result in zip(windows, found, strict=True):
        whole.add(window, result)
    result = whole.result()
    consistent(result)
    return result


def test_instances_are_joined_over_several_windows_and_keep_the_best_score():
    strip = (0, 10, 64, 20)
    result = merged(instances((0, 0.5, strip)), instances((0, 0.9, strip)), instances((0, 0.7, strip)))
    (segment,) = result.segments
    assert (segment.area, segment.box, segment.score) == (1280, (0, 10, 128, 20), 0.9)
    assert np.array_equal(np.argwhere(result.masks[0])[[0, -1]], [[10, 0], [19, 127]])


def test_instances_that_disagree_or_differ_in_class_are_not_joined():
    one, nothing = instances((0, 0.5, (0, 10, 64, 20))), instances()
    assert len(merged(one, instances((2, 0.9, (0, 10, 64, 20))), nothing).segments) == 2
    # IoU inside the strip: 5 of 15 rows; then 7 of 13
    assert len(merged(one, instances((0, 0.9, (0, 15, 64, 25))), nothing).segments) == 2
    assert len(merged(one, instances((0, 0.9, (0, 13, 64, 23))), nothing).segments) == 1
    # a thing that ends before the strip meets nobody
    assert (
        len(merged(instances((0, 0.5, (0, 10, 30, 20))), instances((0, 0.9, (0, 10, 64, 20))), nothing).segments) == 2
    )


def test_the_best_match_is_taken_first_and_each_once():
    one = instances((0, 0.5, (0, 10, 64, 20)))
    two = instances((0, 0.9, (0, 12, 64, 22)), (0, 0.3, (0, 11, 64, 21)))
    result = merged(one, two, instances())
    assert sorted(s.box for s in result.segments) == [(0, 10, 96, 21), (32, 12, 96, 22)]


def test_neither_view_of_a_thing_is_given_away_twice():
    exact, near = np.zeros((2, 24), bool)
    exact[:10] = near[:9] = True
    several = Strip([1, 2], [0, 0], [np.packbits(near), np.packbits(exact)])
    single = Strip([5], [0], [np.packbits(exact)])
    assert same_things(several, single) == [(2, 5)]
    assert same_things(single, several) == [(5, 2)]
    assert same_things(several, several) == [(1, 1), (2, 2)]


def test_merged_instances_come_surest_first():
    apart = [(0, 40 * n, 20, 40 * n + 10) for n in range(2)]
    found = instances((0, 0.4, apart[0]), (0, 0.8, apart[1]))
    result = merged(found, instances((2, 0.6, (20, 5, 30, 9))), instances((0, 0.7, (50, 50, 60, 60))))
    assert [s.score for s in result.segments] == [0.8, 0.7, 0.6, 0.4]


@pytest.mark.parametrize(("label", "count"), [(0, 2), (1, 1)])
def test_stuff_is_one_segment_a_photo_however_far_apart(label, count):
    """In the first and the last of three windows, and in nothing between; things there are two."""
    classes, whole = (THING, STUFF), MergedMap("panoptic", three_in_a_row(), (THING, STUFF))
    left, nothing, right = np.zeros((3, 64, 64), np.int32)
    left[:, :20], right[:, 50:] = 1, 1
    for window, seen in zip(three_in_a_row(), (left, nothing, right), strict=True):
        whole.add(window, Segmentation.from_ids(seen, {1: label} if seen.any() else {}, classes))
    result = whole.result()
    consistent(result)
    assert len(result.segments) == count and (result.segmentation > 0).sum() == 64 * 34


def test_windows_one_above_the_other():
    windows, classes = cut(unpadded((160, 40)), (64, 64), 32), (THING, STUFF)
    assert [w.column for w in windows] == [0] * len(windows) and len(windows) > 2
    whole_map, whole_masks = MergedMap("panoptic", windows, classes), MergedMasks(windows, classes)
    for window in windows:
        mask = np.zeros(window.sizes.photo, bool)
        mask[:, 10:20] = True
        whole_map.add(window, Segmentation.from_ids(mask.astype(np.int32), {1: 0}, classes))
        whole_masks.add(window, Segmentation.from_masks(mask[None], [0], classes, [0.5]))
    for result in (whole_map.result(), whole_masks.result()):
        (segment,) = result.segments
        assert (segment.area, segment.box) == (1600, (10, 0, 20, 160))


def test_a_merged_segment_scores_as_its_best_part_however_low():
    whole, ids = MergedMap("panoptic", three_in_a_row(), (THING, STUFF)), np.ones((64, 64), np.int32)
    for window, score in zip(three_in_a_row(), (0.02, 0.04, 0.03), strict=True):
        part = Segment(1, 0, "thing", score, 64 * 64, (0, 0, 64, 64), True)
        whole.add(window, Segmentation("panoptic", [part], (THING, STUFF), ids=ids))
    (segment,) = whole.result().segments
    assert (segment.score, segment.area, segment.box) == (0.04, 64 * 128, (0, 0, 128, 64))


def test_a_segment_seen_where_another_window_decides_leaves_no_trace():
    windows = three_in_a_row()
    classes, nothing = (THING, STUFF), np.zeros((64, 64), np.int32)
    whole, seen = MergedMap("panoptic", windows, classes), nothing.copy()
    seen[:, 60:] = 1  # the first window decides up to x = 48
    whole.add(windows[0], Segmentation.from_ids(seen, {1: 0}, classes))
    whole.add(windows[1], Segmentation.from_ids(nothing, {}, classes))
    whole.add(windows[2], Segmentation.from_ids(seen, {1: 0}, classes))
    result = whole.result()
    assert [(s.id, s.box) for s in result.segments] == [(1, (124, 0, 128, 64))]
    consistent(result)


def test_merged_masks_of_many_shapes_are_unions():
    """Boxes of windows that are no multiples of a tile, against unions made densely."""
    random = np.random.default_rng(0)
    windows = cut(unpadded((210, 333), (140, 222)), (96, 96), 32)
    classes, expected = (ClassInfo("only"),), np.zeros((210, 333), bool)
    merged = MergedMasks(windows, classes)
    for window in windows:
        x0, y0, x1, y1 = window.box
        mask = np.ones((y1 - y0, x1 - x0), bool)
        mask[random.integers(0, 9) :: 9] = False
        expected[y0:y1, x0:x1] |= mask
        segment = Segment(1, 0, "only", 1.0, int(mask.sum()), (0, 0, 1, 1), True)
        merged.add(window, Segmentation("instance", [segment], classes, masks=PackedMasks.from_dense(mask[None])))
    (found,) = merged.result().masks
    assert np.array_equal(found, expected)


# The predictor


@pytest.mark.parametrize("family", ["mask2former", "oneformer"])
def test_small_and_large_photos_in_one_stream(family):
    """What comes out for a photo does not depend on the others, in windows or not; all tasks at once."""
    model, photos = toy(family), some_photos()[:5]
    photos[2:2] = [np.random.default_rng(5).integers(0, 256, (150, 200, 3), dtype=np.uint8)]
    settings = {"size": "photo", "larger_than": 110}
    alone = [tiled(model, **settings)(photo, "all") for photo in photos]
    for task, result in alone[2].items():
        assert result.task == task and result.segmentation.shape == (150, 200)
        consistent(result)
        same(result, tiled(model, **settings)(photos[2], task))
    untiled = Predictor(model, size="photo")
    same(alone[0]["panoptic"], untiled(photos[0]))
    for batch_size in (1, 2):
        predictor = tiled(model, batch_size=batch_size, **settings)
        for order in (range(6), [2, 5, 0, 3, 1, 4]):
            found = list(predictor.stream([photos[i] for i in order], ["panoptic", "semantic"]))
            for index, prediction in zip(order, found, strict=True):
                assert all(prediction.seconds[step] > 0 for step in ("reading", "network", "post-processing"))
                for task in ("panoptic", "semantic"):
                    same(prediction.result[task], alone[index][task])


def test_batches_are_as_large_as_the_ceiling_lets_them():
    photos = [photo_with_red((64, 64), (3, 3, 30, 30))] * 5
    for together, expected in ((8, [4, 1]), (2, [2, 2, 1]), (1, [1] * 5)):
        predictor = tiled(Colours(), size="photo", batch_size=4, larger_than=100)
        predictor.budget.together = lambda sizes, tasks, most, together=together: min(most, together)
        assert len(predictor(photos)) == 5
        assert [shape[0] for shape in predictor.model.seen] == expected


def test_without_a_ceiling_nothing_changes():
    model, photos = toy(), some_photos()
    for prediction, result in zip(
        Predictor(model, batch_size=2).stream(photos), Predictor(model, memory=10**12)(photos), strict=True
    ):
        assert not prediction.windows
        same(prediction.result, result)


def test_a_ceiling_decides_the_windows():
    model = Colours()
    sizes = unpadded((4096, 4096))
    small, large, whole = (MemoryBudget(ceiling, model, 100) for ceiling in (10**9, 3 * 10**9, 10**11))
    assert not whole.windows(sizes, ["panoptic"])
    counts = [len(budget.windows(sizes, ["panoptic"])) for budget in (small, large)]
    assert counts[0] > counts[1] > 1
    assert large.together(unpadded((256, 256)), TASKS, 8) == 8 and whole.together(sizes, ["panoptic"], 8) < 8
    for window in small.windows(sizes, TASKS):
        rest = small.held(TASKS) * 4096**2 - 16 * 256**2
        assert small.needed(window.sizes, []) + rest <= 10**9 * 1.01


def test_a_ceiling_that_is_too_low():
    with pytest.raises(ValueError, match=r"memory=1000: expected at least \d+ bytes, .* 256 × 256 .* raise it"):
        Predictor(Colours(), memory=1000)
    large = np.zeros((6000, 6000, 3), np.uint8)
    predictor = Predictor(Colours(), size="photo", memory=400_000_000)
    with pytest.raises(PhotoError, match=r"photo is too large: 6000 × 6000 pixels need \d+ bytes .* raise it, or"):
        predictor(large)
    small = photo_with_red((64, 64), (3, 3, 30, 30))
    assert [p.error is None for p in predictor.stream([small, large, small])] == [True, False, True]


MEASURED = """
import sys
from pathlib import Path
import numpy as np, torch
from mask2former.inference.predictor import Predictor
from mask2former.modeling.model import Mask2Former
from mask2former.structures import ClassInfo
from weights.compact import compact_config

def kib(field):
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(field))

torch.manual_seed(0)
side, ceiling, *tasks = sys.argv[1:]
classes = [ClassInfo(f"class {k}", k % 2 == 0) for k in range(27)]
model = Mask2Former(compact_config("mask2former", classes)).eval()
photo = np.random.default_rng(0).integers(0, 256, (int(side), int(side), 3), dtype=np.uint8)
predictor = Predictor(model, size="photo", memory=int(ceiling), object_mask_threshold=0.02, overlap_threshold=0.2)
Path("/proc/self/clear_refs").write_text("5")
before = kib("VmRSS")
prediction = next(predictor.stream([photo], tasks))
print(len(prediction.windows), (kib("VmHWM") - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc to read the peak memory from")
@pytest.mark.parametrize("task", TASKS)
def test_the_peak_stays_below_the_ceiling(task):
    """Of a process of its own, with random weights, which find more than trained ones."""
    ceiling = 400_000_000
    command = [sys.executable, "-c", MEASURED, "1152", str(ceiling), task]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    windows, peak = map(int, done.stdout.split())
    assert windows > 1 and 0.2 * ceiling < peak < ceiling
