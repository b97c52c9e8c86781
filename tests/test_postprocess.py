"""Post-processing against the plain way of doing it, and against the original code's stored results."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mask2former.inference import postprocess
from mask2former.inference.packed_masks import PackedMasks, pack
from mask2former.inference.segmentation import Segmentation
from mask2former.inference.tiles import TileGrid
from mask2former.structures import ClassInfo, Outputs, PhotoSizes
from tests.conftest import SHARED, needs_shared

CLASSES = [ClassInfo(f"class {k}", k in (0, 2, 3, 5)) for k in range(7)]
SIZES = {
    "as it is": PhotoSizes((97, 131), (97, 131), (128, 160)),
    "enlarged": PhotoSizes((150, 203), (97, 131), (128, 160)),
    "shrunk": PhotoSizes((48, 61), (97, 131), (128, 160)),
    "flat": PhotoSizes((1, 300), (3, 200), (32, 224)),
    "high": PhotoSizes((300, 5), (128, 32), (128, 32)),
    "one pixel": PhotoSizes((1, 1), (32, 32), (32, 32)),
    "much enlarged": PhotoSizes((500, 900), (60, 64), (64, 64)),
    "much shrunk": PhotoSizes((9, 12), (120, 160), (128, 160)),
}
FAMILIES = ("m2f_swin", "oneformer_swin", "oneformer_dinat")
THRESHOLDS = {"": (0.2, 0.1), "_obj0.0_ovl0.0": (0, 0), "_obj0.25_ovl0.6": (0.25, 0.6), "_obj0.4_ovl0.8": (0.4, 0.8)}


def predictions(kind: str, padded: tuple[int, int], queries: int = 20) -> Outputs:
    """Random ones in float64. Regions: masks that mostly tile the picture, as a trained network's; noise: none do."""
    h, w = padded[0] // 4, padded[1] // 4
    if kind == "regions":
        coarse = torch.randn(1, queries, 4, 4, dtype=torch.float64) * 6
        coarse[:, :12] -= coarse[:, :12].amax(1, keepdim=True) - 2
        masks = F.interpolate(coarse, (h, w), mode="bicubic")[0] + 0.3 * torch.randn(queries, h, w).double()
    else:
        masks = 4 * torch.randn(queries, h, w, dtype=torch.float64) - 3
    class_logits = torch.randn(1, queries, len(CLASSES) + 1, dtype=torch.float64)
    class_logits[0, torch.arange(12), torch.randint(0, len(CLASSES), (12,))] += 4
    class_logits[0, 12:, -1] += 5
    return Outputs(class_logits, torch.eye(queries, dtype=torch.float64)[None], masks[None])


def resized(masks, sizes):
    masks = F.interpolate(masks[None], sizes.padded, mode="bilinear")[..., : sizes.resized[0], : sizes.resized[1]]
    return F.interpolate(masks, sizes.photo, mode="bilinear")[0]


def plain_panoptic(outputs, sizes, object_mask_threshold, overlap_threshold):
    scores, labels = outputs.class_logits[0].softmax(-1).max(-1)
    kept = (labels < len(CLASSES)) & (scores > object_mask_threshold)
    scores, labels = scores[kept], labels[kept].tolist()
    probabilities = resized(outputs.mask_logits[0], sizes)[kept].sigmoid()
    ids, found, stuff = torch.zeros(sizes.photo, dtype=torch.int32), [], {}
    if not labels:
        return ids, found
    owner = (scores[:, None, None] * probabilities).argmax(0)
    for query, label in enumerate(labels):
        own, whole = owner == query, probabilities[query] >= 0.5
        if not (own & whole).any() or own.sum() / whole.sum() < overlap_threshold:
            continue
        if not CLASSES[label].is_thing and label in stuff:
            ids[own & whole] = stuff[label]
            continue
        found.append((len(found) + 1, label))
        ids[own & whole] = stuff[label] = len(found)
    return ids, found


def plain_instance(outputs, sizes, instances):
    scores, pair = outputs.class_logits[0].softmax(-1)[:, :-1].flatten().topk(instances)
    labels = pair % len(CLASSES)
    thing = torch.tensor([c.is_thing for c in CLASSES])[labels]
    logits = resized(outputs.mask_logits[0], sizes)[pair // len(CLASSES)][thing]
    masks = logits > 0
    scores = scores[thing] * (logits.sigmoid() * masks).sum((1, 2)) / (masks.double().sum((1, 2)) + 1e-6)
    order = scores.argsort(descending=True, stable=True)
    order = order[masks.any(2).any(1)[order]]
    return masks[order], scores[order], labels[thing][order]


def plain_semantic(outputs, sizes, sum_first):
    shares = outputs.class_logits[0].softmax(-1)[:, :-1]
    if not sum_first:
        return torch.einsum("qk,qhw->khw", shares, resized(outputs.mask_logits[0], sizes).sigmoid())
    masks = F.interpolate(outputs.mask_logits, sizes.padded, mode="bilinear")[0].sigmoid()
    scores = torch.einsum("qk,qhw->khw", shares, masks)[None, :, : sizes.resized[0], : sizes.resized[1]]
    return F.interpolate(scores, sizes.photo, mode="bilinear")[0]


def area_and_box(mask):
    y, x = mask.nonzero().unbind(1)
    return len(y), (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)


@pytest.mark.parametrize("kind", ["regions", "noise"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_as_the_plain_way(sizes, kind):
    outputs = predictions(kind, sizes.padded)
    for thresholds in ((0.8, 0.8), (0.0, 0.0), (0.3, 0.5)):
        ids, segments = postprocess.panoptic(outputs, sizes, CLASSES, *thresholds)
        expected, found = plain_panoptic(outputs, sizes, *thresholds)
        assert torch.equal(ids, expected) and ids.dtype == torch.int32
        assert [(s.id, s.label_id) for s in segments] == found
        assert [(s.area, s.box) for s in segments] == [area_and_box(ids == s.id) for s in segments]

    masks, segments = postprocess.instance(outputs, sizes, CLASSES, 30)
    expected, scores, labels = plain_instance(outputs, sizes, 30)
    assert np.array_equal(masks.dense(), expected.numpy())
    assert [s.label_id for s in segments] == labels.tolist() and [s.id for s in segments] == [
        *range(1, len(labels) + 1)
    ]
    assert np.allclose([s.score for s in segments], scores, rtol=0, atol=1e-12)
    assert [(s.area, s.box) for s in segments] == [area_and_box(mask) for mask in expected]

    for sum_first in (False, True):
        expected = plain_semantic(outputs, sizes, sum_first)
        assert torch.equal(postprocess.semantic(outputs, sizes, sum_first).long(), expected.argmax(0))
        assert (postprocess.semantic_scores(outputs, sizes, sum_first) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_bounds_hold(sizes):
    logits = torch.randn(sizes.padded[0] // 4, sizes.padded[1] // 4, 3, dtype=torch.float64)
    for sigmoid_first in (False, True):
        grid = TileGrid(logits.shape[:2], sizes, sigmoid_first, dtype=torch.float64)
        tiles = torch.arange(grid.count)
        values = grid.resize(logits.flatten(0, 1)[grid.windows(tiles)], tiles)
        low, high = grid.bounds(logits)
        assert (values >= low[:, None] - 1e-12).all() and (values <= high[:, None] + 1e-12).all()
        assert grid.pixels.sum() == grid.inside(tiles).sum() == sizes.photo[0] * sizes.photo[1]


def outputs_of(stored, photo: int, dtype: torch.dtype) -> Outputs:
    masks = torch.from_numpy(stored["pred_masks"][photo]).to(dtype)
    logits = torch.from_numpy(stored["pred_logits"][photo]).to(dtype)
    return Outputs(logits[None], torch.eye(len(masks), dtype=dtype)[None], masks[None])


def sizes_of(stored, photo: int) -> PhotoSizes:
    height, width = stored["pred_masks"].shape[2:]
    return PhotoSizes(
        stored[f"img{photo}_panoptic_seg"].shape, stored[f"img{photo}"].shape[:2], (4 * height, 4 * width)
    )


@needs_shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", [("single", 0), ("pair", 0), ("pair", 1)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_the_original_code(family, case, dtype):
    file, photo = case
    folder = SHARED / "reference" / family
    stored = np.load(folder / f"{file}.npz")
    infos = json.loads((folder / f"{file}_segments_info.json").read_text())
    outputs, sizes = outputs_of(stored, photo, dtype), sizes_of(stored, photo)

    for key, thresholds in THRESHOLDS.items():
        ids, segments = postprocess.panoptic(outputs, sizes, CLASSES, *thresholds)
        expected = (infos["other_thresholds"][key[1:]] if key else infos["segments_info"])[photo]
        assert [(s.id, s.is_thing, s.label_id) for s in segments] == [
            (info["id"], info["isthing"], info["category_id"]) for info in expected
        ]
        assert np.array_equal(ids, stored[f"img{photo}_panoptic_seg{key}"])

    masks, segments = postprocess.instance(outputs, sizes, CLASSES, 30)
    expected = stored[f"img{photo}_inst_masks"].astype(bool)
    seen = expected.any((1, 2))  # the original keeps empty masks, with score 0
    assert np.array_equal(masks.dense(), expected[seen])
    assert np.abs(np.array([s.score for s in segments]) - stored[f"img{photo}_inst_scores"][seen]).max() < 1e-6
    assert [s.label_id for s in segments] == stored[f"img{photo}_inst_classes"][seen].tolist()

    expected = torch.from_numpy(stored[f"img{photo}_sem_seg"])
    assert (postprocess.semantic_scores(outputs, sizes) - expected).abs().max() < 2e-5
    assert torch.equal(postprocess.semantic(outputs, sizes).long(), expected.argmax(0))


@needs_shared
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_ade20k_numbers_things_alone(family):
    pytest.importorskip("hotcoco")
    stored = np.load(SHARED / "reference" / family / "pair.npz")
    named = np.load(SHARED / "reference" / family / "ade20k_named.npz")
    masks, segments = postprocess.instance(outputs_of(stored, 0, torch.float32), sizes_of(stored, 0), CLASSES, 30)
    seen = stored["img0_inst_masks"].any((1, 2))
    positions = postprocess.thing_positions(CLASSES)
    assert positions == [0, None, 1, 2, None, 3, None]
    result = Segmentation("instance", segments, CLASSES, masks=masks)
    entries = result.to_coco(1, category="thing_position")
    assert [e["category_id"] for e in entries] == named["img0_inst_classes"][seen].tolist()


def test_stuff_merges_and_things_do_not():
    """Four quarters of the photo, all sure of one class: stuff is one segment, things are four."""
    masks = torch.full((4, 16, 16), -9.0)
    for query, (y, x) in enumerate(((0, 0), (0, 8), (8, 0), (8, 8))):
        masks[query, y : y + 8, x : x + 8] = 9.0
    sizes = PhotoSizes((64, 64), (64, 64), (64, 64))
    for label, count in ((0, 4), (1, 1)):
        class_logits = torch.zeros(1, 4, len(CLASSES) + 1)
        class_logits[..., label] = torch.tensor([9.0, 8.0, 10.0, 7.0])
        ids, segments = postprocess.panoptic(Outputs(class_logits, torch.eye(4)[None], masks[None]), sizes, CLASSES)
        assert len(segments) == count and (ids > 0).double().mean() > 0.99  # where four meet, none holds the pixel
        assert max(s.score for s in segments) == pytest.approx(class_logits[0, 2].softmax(-1).max().item())


def test_nothing_found():
    class_logits = torch.zeros(1, 5, len(CLASSES) + 1)
    class_logits[..., -1] = 20
    outputs = Outputs(class_logits, torch.eye(5)[None], torch.full((1, 5, 8, 8), -9.0))
    sizes = PhotoSizes((20, 30), (32, 32), (32, 32))
    ids, segments = postprocess.panoptic(outputs, sizes, CLASSES)
    assert not ids.any() and ids.dtype == torch.int32 and segments == []
    masks, segments = postprocess.instance(outputs, sizes, CLASSES)
    assert len(masks) == 0 and masks.dense().shape == (0, 20, 30) and segments == []
    assert not postprocess.semantic(outputs, sizes).any()  # all classes tie: the first wins


def test_of_two_masks_that_hold_a_pixel_the_surer_gets_it():
    """Both cover everything; one is surer at the left, the other at the right, and has the better class score."""
    ramp = torch.linspace(1, 4, 16, dtype=torch.float64).expand(16, 16)
    class_logits = torch.zeros(1, 2, len(CLASSES) + 1, dtype=torch.float64)
    class_logits[0, 0, 3], class_logits[0, 1, 5] = 2.9, 3.0
    masks = torch.stack([ramp.flip(1), ramp])[None]
    outputs, sizes = Outputs(class_logits, torch.eye(2, dtype=torch.float64)[None], masks), PhotoSizes(*[(64, 64)] * 3)
    ids, segments = postprocess.panoptic(outputs, sizes, CLASSES, 0.2, 0.1)
    expected, _ = plain_panoptic(outputs, sizes, 0.2, 0.1)
    assert torch.equal(ids, expected) and [s.id for s in segments] == [1, 2]
    assert (ids[:, 0] == 1).all() and (ids[:, -1] == 2).all() and segments[0].area < segments[1].area


def test_a_pixel_of_exactly_one_half_is_in_the_panoptic_mask_and_in_no_instance():
    masks = torch.full((1, 1, 16, 32), -9.0, dtype=torch.float64)
    masks[..., :16] = 0.0
    class_logits = torch.zeros(1, 1, len(CLASSES) + 1, dtype=torch.float64)
    class_logits[..., 3] = 9
    outputs = Outputs(class_logits, torch.ones(1, 1, 1, dtype=torch.float64), masks)
    sizes = PhotoSizes(*[(64, 128)] * 3)
    ids, (segment,) = postprocess.panoptic(outputs, sizes, CLASSES, overlap_threshold=1.0)
    assert torch.equal(ids, plain_panoptic(outputs, sizes, 0.8, 1.0)[0])
    assert (segment.area, segment.box) == (64 * 62, (0, 0, 62, 64))  # the last two pixels are pulled below
    assert postprocess.instance(outputs, sizes, CLASSES)[1] == []

    covering = torch.full_like(masks, -9.0)
    covering[..., :13], covering[..., 16:] = 9.0, -8.0  # four fifths of it, which therefore is dropped
    embeddings = torch.eye(2, dtype=torch.float64)[None]
    both = Outputs(class_logits.expand(1, 2, -1), embeddings, torch.cat([masks, covering], 1))
    for overlap_threshold, segments in ((0.2, 2), (0.25, 1), (0.5, 1)):
        ids, found = postprocess.panoptic(both, sizes, CLASSES, overlap_threshold=overlap_threshold)
        assert torch.equal(ids, plain_panoptic(both, sizes, 0.8, overlap_threshold)[0]) and len(found) == segments


def test_an_instance_ends_where_its_logit_is_0_and_may_be_one_pixel():
    masks = torch.full((1, 2, 8, 8), -9.0, dtype=torch.float64)
    masks[0, 0, :, :2], masks[0, 0, :, 2:4], masks[0, 1, 3, 3] = 9.0, 0.0, 9.0
    class_logits = torch.zeros(1, 2, len(CLASSES) + 1, dtype=torch.float64)
    class_logits[..., 3] = 9
    outputs = Outputs(class_logits, torch.eye(2, dtype=torch.float64)[None], masks)
    for sizes in (PhotoSizes(*[(32, 32)] * 3), shrunk := PhotoSizes((8, 8), (32, 32), (32, 32))):
        found, segments = postprocess.instance(outputs, sizes, CLASSES, 2)
        assert np.array_equal(found.dense(), plain_instance(outputs, sizes, 2)[0].numpy())
        assert [s.area for s in segments] == found.dense().sum((1, 2)).tolist()
        assert len(segments) == 2 and (min(s.area for s in segments) == 1) == (sizes is shrunk)


def test_rows_come_in_chunks_of_at_least_one():
    rows = torch.arange(5)
    for size, lengths in ((0, [1] * 5), (1, [1] * 5), (2, [2, 2, 1]), (9, [5])):
        chunks = list(postprocess._chunks(size, rows, rows + 5))
        assert [len(one) for one, _ in chunks] == lengths
        assert torch.equal(torch.cat([other for _, other in chunks]), rows + 5)
    assert list(postprocess._chunks(3, rows[:0])) == []


@pytest.mark.parametrize("height", [0.02, 0.13, 0.3])
def test_masks_that_hardly_cross_one_half(height):
    """Their probabilities stay between 0.425 and 0.575 all over the photo."""
    ramp = torch.linspace(-height, height, 24, dtype=torch.float64).expand(24, 24)
    masks = torch.stack([ramp, ramp.T, -ramp])[None]
    class_logits = torch.full((1, 3, len(CLASSES) + 1), -9.0, dtype=torch.float64)
    class_logits[0, [0, 1, 2], [0, 2, 3]] = torch.tensor([9.0, 8.9, 8.8], dtype=torch.float64)
    sizes, embeddings = PhotoSizes(*[(96, 96)] * 3), torch.eye(3, dtype=torch.float64)[None]
    for queries in (1, 2, 3):
        outputs = Outputs(class_logits[:, :queries], embeddings[:, :queries], masks)
        for overlap_threshold in (0.0, 0.5, 0.9):
            ids, segments = postprocess.panoptic(outputs, sizes, CLASSES, 0.8, overlap_threshold)
            expected, found = plain_panoptic(outputs, sizes, 0.8, overlap_threshold)
            assert torch.equal(ids, expected) and [(s.id, s.label_id) for s in segments] == found


def test_many_unsure_queries_outvote_one():
    """One query names class 0 but hardly covers a pixel; eighteen that hardly name class 1 cover it all."""
    shares = torch.full((19, len(CLASSES) + 1), 1e-9, dtype=torch.float64)
    shares[0, 0], shares[1:, 1] = 0.9, 0.01
    shares[:, -1] = 1 - shares[:, :-1].sum(1)
    masks = torch.full((1, 19, 8, 8), 9.0, dtype=torch.float64)
    masks[:, 0] = -2.2  # 0.1 of 0.9 is less than 18 times 0.01
    outputs = Outputs(shares.log()[None], torch.eye(19, dtype=torch.float64)[None], masks)
    sizes = PhotoSizes(*[(32, 32)] * 3)
    assert plain_semantic(outputs, sizes, False)[0].max() < 0.1 < plain_semantic(outputs, sizes, False)[1].min()
    assert (postprocess.semantic(outputs, sizes) == 1).all()


def test_segments_hold_plain_numbers():
    sizes = SIZES["as it is"]
    outputs = predictions("regions", sizes.padded)
    for task in (postprocess.panoptic, postprocess.instance):
        segments = task(outputs, sizes, CLASSES)[1]
        assert segments
        for segment in segments:
            kinds = {name: type(value) for name, value in vars(segment).items()}
            assert kinds == {"id": int, "label_id": int, "label": str, "score": float, "area": int, "box": tuple,
                             "is_thing": bool}  # fmt: skip
            assert {type(side) for side in segment.box} == {int}
            assert (
                segment.is_thing == CLASSES[segment.label_id].is_thing and segment.label == f"class {segment.label_id}"
            )


def test_equal_predictions_go_to_the_first():
    class_logits = torch.full((1, 4, len(CLASSES) + 1), -9.0)
    class_logits[0, range(4), [3, 5, 0, 2]] = 9
    outputs = Outputs(class_logits, torch.ones(1, 4, 1), torch.full((1, 1, 8, 8), 5.0))
    ids, segments = postprocess.panoptic(outputs, PhotoSizes((50, 40), (32, 32), (32, 32)), CLASSES)
    assert (ids == 1).all() and [(s.label_id, s.area, s.box) for s in segments] == [(3, 2000, (0, 0, 40, 50))]


def test_score_threshold_drops_only_what_scores_less():
    sizes = SIZES["enlarged"]
    outputs = predictions("regions", sizes.padded)
    masks, segments = postprocess.instance(outputs, sizes, CLASSES, 60)
    above, below = (s.score for s in segments[len(segments) // 2 :][:2])
    fewer_masks, fewer = postprocess.instance(outputs, sizes, CLASSES, 60, score_threshold=(above + below) / 2)
    expected = [s for s in segments if s.score >= above]
    # fewer masks may be added up in another order
    assert [s.score for s in fewer] == pytest.approx([s.score for s in expected], rel=1e-12, abs=0)
    assert [replace(s, score=1) for s in fewer] == [replace(s, score=1) for s in expected]
    assert above > below and 0 < len(fewer) < len(segments)
    assert np.array_equal(fewer_masks.dense(), masks.dense()[: len(fewer)])


def test_what_scores_as_much_as_the_threshold_stays():
    outputs = Outputs(torch.zeros(1, 1, len(CLASSES) + 1), torch.ones(1, 1, 1), torch.full((1, 1, 8, 8), 5.0))
    sizes = PhotoSizes((50, 40), (32, 32), (32, 32))
    (segment,) = postprocess.instance(outputs, sizes, CLASSES, 1)[1]
    assert postprocess.instance(outputs, sizes, CLASSES, 1, score_threshold=segment.score)[1] == [segment]
    assert not postprocess.instance(outputs, sizes, CLASSES, 1, score_threshold=segment.score * 1.001)[1]


def test_half_precision_is_raised_to_float32():
    sizes = SIZES["enlarged"]
    outputs = predictions("regions", sizes.padded)
    half = Outputs(*(x.bfloat16() for x in (outputs.class_logits, outputs.mask_embeddings, outputs.mask_features)))
    full = Outputs(*(x.float() for x in (half.class_logits, half.mask_embeddings, half.mask_features)))
    assert torch.equal(postprocess.semantic(half, sizes), postprocess.semantic(full, sizes))
    assert postprocess.semantic_scores(half, sizes).dtype == torch.float32


def test_outputs_of_several_photos_are_refused():
    outputs = Outputs(torch.zeros(2, 3, 8), torch.zeros(2, 3, 4), torch.zeros(2, 4, 8, 8))
    with pytest.raises(ValueError, match="outputs for 2 photos: expected one; index them"):
        postprocess.semantic(outputs, SIZES["one pixel"])


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (64, 48), (33, 17)])
def test_packed_masks_keep_every_pixel(size):
    masks = np.random.default_rng(0).random((6, *size)) > 0.5
    masks[2] = False
    masks[3] = True
    packed = PackedMasks.from_dense(masks)
    assert np.array_equal(packed.dense(), masks)
    assert packed.areas() == masks.sum((1, 2)).tolist()
    assert packed.boxes()[2] == (0, 0, 0, 0) and packed.boxes()[3] == (0, 0, size[1], size[0])
    chosen = packed.select([4, 4, 0])
    assert np.array_equal(chosen.dense(), masks[[4, 4, 0]]) and chosen.areas() == masks[[4, 4, 0]].sum((1, 2)).tolist()
    with pytest.raises(ValueError, match="expected bool"):
        PackedMasks.from_dense(masks.astype(np.uint8))


def test_bits_are_packed_as_numpy_packs_them():
    masks = torch.rand(9, 16, 16) > 0.5
    assert np.array_equal(pack(masks), np.packbits(masks.numpy(), axis=2))


@pytest.mark.parametrize("name", ["enlarged", "shrunk"])
def test_mask_logits_that_somebody_has_read_are_not_multiplied_out_again(name):
    sizes = SIZES[name]
    outputs = predictions("regions", sizes.padded)

    def everything():
        masks, instances = postprocess.instance(outputs, sizes, CLASSES)
        ids, segments = postprocess.panoptic(outputs, sizes, CLASSES, 0.2, 0.1)
        labels = postprocess.semantic(outputs, sizes)
        return [ids, labels, torch.from_numpy(masks.dense())], segments, [s.label_id for s in instances]

    expected = everything()
    assert outputs.mask_logits.shape[1] == 20  # read, and so kept
    outputs.mask_features = torch.full_like(outputs.mask_features, torch.nan)
    found = everything()
    assert all(torch.equal(a, b) for a, b in zip(expected[0], found[0], strict=True))
    assert [(s.id, s.label_id, s.area) for s in found[1]] == [(s.id, s.label_id, s.area) for s in expected[1]]
    assert found[2] == expected[2]
