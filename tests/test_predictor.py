"""The predictor: photos in any form and size, results in their own pixels, whatever lies beside them."""

import itertools
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import weights
from mask2former.errors import PhotoError
from mask2former.inference.predictor import Predictor
from mask2former.inference.visualize import layer_masks
from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.model import Mask2Former
from mask2former.structures import TASKS, ClassInfo, Outputs, Protocol
from oneformer.config import OneFormerConfig
from oneformer.model import OneFormer
from tests.conftest import SHARED, needs_shared
from tests.test_preprocess import BROKEN

CLASSES = tuple(ClassInfo(f"class {k}", k in (0, 2, 3, 5), (30 * k, 255 - 30 * k, 99), 10 + k) for k in range(7))
TOY = {
    "backbone_options": {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4), "window_size": 4},
    "hidden_dim": 32,
    "mask_dim": 32,
    "num_heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_classes": 7,
    "num_queries": 12,
    "classes": CLASSES,
    "protocol": Protocol(
        short_side=64, long_side=96, object_mask_threshold=0.1, overlap_threshold=0.1, instances_per_image=15
    ),
}


class RedOrNot(nn.Module):
    """Stands for a network: what is red is a thing, everything else stuff."""

    def __init__(self, tasks=TASKS):
        super().__init__()
        classes = (ClassInfo("red thing", True, (255, 0, 0)), ClassInfo("rest", False, (0, 255, 0)))
        protocol = Protocol(tasks=tasks, short_side=96, long_side=160)
        self.config = Mask2FormerConfig(num_classes=2, classes=classes, protocol=protocol)
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, pixel_values):
        small = nn.functional.avg_pool2d(pixel_values, 4)
        redness = small[:, :1] - small[:, 1:2]  # 0 in the padding
        ones = torch.ones_like(redness)
        class_logits = torch.tensor([[9.0, 0, 0], [0, 9.0, 0]]).expand(len(small), 2, 3)
        embeddings = self.scale * torch.tensor([[1.0, 0], [-1.0, 0]]).expand(len(small), 2, 2)
        return Outputs(class_logits, embeddings, torch.cat([redness, ones], 1))


def photo_with_red(size, box):
    pixels = np.full((*size, 3), (40, 160, 90), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = (230, 20, 20)
    return pixels


def some_photos():
    random = np.random.default_rng(0)
    sizes = [(70, 100), (100, 70), (33, 44), (70, 100), (64, 90), (200, 31), (70, 101), (33, 44)]
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def toy(family="mask2former"):
    torch.manual_seed(0)
    network, config = {"mask2former": (Mask2Former, Mask2FormerConfig), "oneformer": (OneFormer, OneFormerConfig)}[
        family
    ]
    model = network(config(**TOY)).double()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.transformer_decoder.class_head.weight.data *= 20  # so that the queries differ
    model.transformer_decoder.mask_head.layers[-1].weight.data *= 20
    return model


def same(result, other):
    """Equal but for the last digits of the scores."""
    assert np.array_equal(result.segmentation, other.segmentation)
    assert [(s.id, s.label_id, s.area, s.box) for s in result.segments] == [
        (s.id, s.label_id, s.area, s.box) for s in other.segments
    ]
    assert np.allclose([s.score for s in result.segments], [s.score for s in other.segments], rtol=0, atol=1e-9)
    assert np.array_equal(result.masks, other.masks)


@pytest.mark.parametrize("preset", ["paper", "hub"])
@pytest.mark.parametrize(("size", "box"), [((96, 160), (24, 16, 60, 80)), ((301, 200), (9, 130, 120, 250)),
                                           ((50, 333), (200, 10, 333, 41))])  # fmt: skip
def test_segments_lie_where_they_are_in_the_photo(size, box, preset):
    predictor = Predictor(RedOrNot(), preset=preset)
    photo = photo_with_red(size, box)
    slack = 4 * max(size) / 96
    for task in TASKS:
        result = predictor(photo, task)
        assert result.segmentation.shape == size and result.segmentation.dtype == np.int32
        red = result.segments[0]
        assert (red.label, red.is_thing) == ("red thing", True)
        assert np.abs(np.array(red.box) - box).max() <= slack
        assert red.area == result.masks[0].sum() == (result.segmentation == red.id).sum()
        assert red.area == pytest.approx((box[2] - box[0]) * (box[3] - box[1]), rel=0.1)
        if task != "instance":
            rest = result.segments[1]
            assert rest.area + red.area == size[0] * size[1], "padding has left no trace"
            assert rest.box == (0, 0, size[1], size[0])


@pytest.mark.parametrize("task", TASKS)
def test_no_photo_depends_on_the_others(task):
    photos, model = some_photos(), toy()
    alone = [Predictor(model)(photo, task) for photo in photos]
    assert sum(len(result.segments) for result in alone) > 2 * len(photos), "else there is little to compare"
    for batch_size in (1, 2, 3):
        predictor = Predictor(model, batch_size=batch_size)
        for order in (range(8), [7, 2, 5, 0, 3, 6, 1, 4]):
            for index, result in zip(order, predictor([photos[i] for i in order], task), strict=True):
                same(result, alone[index])


@needs_shared
@pytest.mark.parametrize("family", ["mask2former", "oneformer"])
def test_real_photos_of_mixed_sizes(family):
    folder = SHARED / "data/coco128_panoptic/val2017"
    by_size = {}
    for path in sorted(folder.glob("*.jpg")):
        by_size.setdefault(Image.open(path).size, path)
    paths, model = list(by_size.values())[:4], toy(family)
    alone = [Predictor(model, size=96)(path) for path in paths]
    assert len({result.size for result in alone}) == 4 and all(result.segments for result in alone)
    padded = [Predictor(model, size=96).preprocess.sizes(result.size).padded for result in alone]
    assert 1 < len(set(padded)) < 4, "some share a batch"
    for batch_size, order in ((1, (3, 1, 0, 2)), (2, (0, 1, 2, 3)), (4, (2, 0, 3, 1))):
        results = Predictor(model, size=96, batch_size=batch_size)([paths[i] for i in order])
        for index, result in zip(order, results, strict=True):
            same(result, alone[index])


def test_photos_of_one_padded_size_share_a_batch():
    class Counting(RedOrNot):
        batches = ()

        def forward(self, pixel_values):
            self.batches += (tuple(pixel_values.shape),)
            return super().forward(pixel_values)

    model = Counting()
    photos = some_photos()
    Predictor(model, batch_size=2)(photos)
    assert sum(shape[0] for shape in model.batches) == len(photos) and max(s[0] for s in model.batches) == 2
    assert len(model.batches) < len(photos)


def test_photos_in_any_form(tmp_path):
    predictor, array = Predictor(toy()), some_photos()[0]
    Image.fromarray(array).save(tmp_path / "street.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [tmp_path / "street.png", str(tmp_path / "street.png"), Image.fromarray(array), array, tensor, tensor / 255]
    results = predictor(forms)
    for result in results[1:]:
        same(result, results[0])
    assert [result.name for result in results] == ["street", "street", "photo", "photo", "photo", "photo"]
    assert not isinstance(predictor(array), list) and predictor([]) == []


@pytest.mark.parametrize("family", ["mask2former", "oneformer"])
def test_all_tasks_in_one_go(family):
    predictor, photo = Predictor(toy(family)), some_photos()[0]
    calls = []
    predictor.model.pixel_decoder.register_forward_hook(lambda *_: calls.append(1))
    together = predictor(photo, "all")
    assert len(calls) == 1 and tuple(together) == TASKS
    for task, result in together.items():
        assert result.task == task
        same(result, predictor(photo, task))


def test_tasks_the_model_was_not_trained_for():
    predictor, photo = Predictor(RedOrNot(("semantic", "panoptic"))), some_photos()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuple(predictor(photo, "all")) == ("semantic", "panoptic")
        assert tuple(predictor(photo, ["panoptic"])) == ("panoptic",)
    with pytest.warns(UserWarning, match="trained for semantic, panoptic, not for instance") as warned:
        assert predictor(photo, "instance").task == "instance"
        predictor(photo, "instance")
    assert len(warned) == 1
    for task in ([], ["panoptic", "x"]):
        with pytest.raises(ValueError, match="a list of them, or 'all'"):
            predictor(photo, task)


@pytest.mark.slow
def test_compiled_it_segments_the_same(monkeypatch):
    """Each part is one graph for the first size and one for all others; a third would raise. (Without code generation,
    which is the compiler's own affair and takes minutes.)"""
    torch._dynamo.reset()
    whole = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part, **how: whole(part, backend="aot_eager", **how))
    model, photos = toy("oneformer"), [np.zeros((*size, 3), np.uint8) for size in [(64, 96), (96, 64), (128, 96)]]
    for photo in photos:
        photo[: len(photo) // 2, 20:50] = (200, 30, 90)
    expected = [Predictor(model, size="photo")(photo, "all") for photo in photos]
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=2):
        found = Predictor(model, size="photo", compile=True)(photos, "all")
    assert model.backbone._compiled_call_impl is not None
    for a, b in zip(expected, found, strict=True):
        assert all((a[task].segmentation == b[task].segmentation).all() for task in a)


def test_thresholds_are_arguments():
    model, photo = toy(), some_photos()[0]
    every = Predictor(model)(photo, "instance")
    assert all(s.is_thing for s in every.segments)
    cut = (every.segments[3].score + every.segments[4].score) / 2  # between the two: a score may differ in its last bit
    assert len(Predictor(model, score_threshold=cut)(photo, "instance").segments) == 4
    assert len(Predictor(model, instances_per_image=2)(photo, "instance").segments) <= 2
    assert Predictor(model, object_mask_threshold=0.0, overlap_threshold=0.0)(photo).segments
    assert not Predictor(model, object_mask_threshold=1.0)(photo).segments


def test_a_model_of_the_semantic_task_alone_adds_up_before_the_last_resize():
    photo = photo_with_red((300, 200), (9, 130, 120, 250))
    alone, several = Predictor(RedOrNot(("semantic",))), Predictor(RedOrNot())
    assert alone(photo).task == "semantic" and several(photo).task == "panoptic"
    assert (alone(photo).segmentation != several(photo, "semantic").segmentation).any()


def test_a_stream_goes_on_after_a_broken_photo(tmp_path):
    for name, content in ({"text.jpg": b"no photo"} | BROKEN).items():
        (tmp_path / name).write_bytes(content)
    photos = some_photos()
    mixed = [photos[0], tmp_path / "text.jpg", photos[1], tmp_path / "none.jpg", photos[2], photos[3]]
    mixed += [*(tmp_path / name for name in BROKEN), photos[4]]
    predictor = Predictor(toy(), batch_size=2)
    found = list(predictor.stream(mixed))
    assert [p.source is photo for p, photo in zip(found, mixed, strict=True)] == [True] * 10
    assert [type(p.error) for p in found] == [
        *[type(None), PhotoError, type(None), FileNotFoundError],
        *[type(None)] * 2,
        *[PhotoError] * 3,
        type(None),
    ]
    for prediction in found:
        if prediction.error is None:
            same(prediction.result, predictor(prediction.source))
            assert set(prediction.seconds) == {"reading", "network", "post-processing"}
            assert all(seconds > 0 for seconds in prediction.seconds.values())
    with pytest.raises(PhotoError, match="text.jpg"):
        predictor(mixed)


def test_a_stream_reads_only_a_little_ahead():
    asked = []

    def endless():
        for number in itertools.count():
            asked.append(number)
            yield photo_with_red((40, 60), (3, 3, 30, 30))

    stream = Predictor(RedOrNot(), batch_size=2).stream(endless())
    assert len(list(itertools.islice(stream, 5))) == 5
    assert len(asked) <= 5 + 8
    stream.close()


def test_wrong_arguments():
    model = RedOrNot()
    with pytest.raises(ValueError, match="task 'panoptik': expected one of .*'panoptic'.*or 'all'"):
        Predictor(model)(some_photos()[0], "panoptik")
    with pytest.raises(ValueError, match="task 'x'"):
        Predictor(model).stream([], "x")
    with pytest.raises(ValueError, match="batch_size=0"):
        Predictor(model, batch_size=0)
    with pytest.raises(ValueError, match="preset 'papers'"):
        Predictor(model, preset="papers")
    with pytest.raises(PhotoError, match="absurdly large"):
        Predictor(model, max_pixels=1000)(some_photos()[0])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_odd_shapes(size, task):
    result = Predictor(toy(), object_mask_threshold=0.0)(np.full((*size, 3), 90, np.uint8), task)
    assert result.segmentation.shape == size and result.masks.shape == (len(result.segments), *size)


@pytest.mark.slow
def test_sixty_megapixels():
    photo = np.full((6000, 10000, 3), (40, 160, 90), np.uint8)
    photo[1000:3000, 2000:7000] = (230, 20, 20)
    result = Predictor(RedOrNot())(photo)
    assert result.segmentation.shape == (6000, 10000)
    assert np.abs(np.array(result.segments[0].box) - (2000, 1000, 7000, 3000)).max() < 500


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["mask2former", "oneformer"])
def test_half_precision(family, dtype):
    predictor, seen = Predictor(toy(family).float(), dtype=dtype), []
    predictor.model.register_forward_hook(lambda _, __, outputs: seen.append(outputs.class_logits))
    result = predictor(some_photos()[0], "semantic")
    assert [logits.dtype for logits in seen] == [dtype] and seen[0].isfinite().all()
    assert result.segmentation.shape == (70, 100) and result.segments


def test_masks_layer_by_layer():
    model = toy().eval()
    outputs = model(torch.randn(1, 3, 64, 96, dtype=torch.float64))
    picture = layer_masks(outputs, CLASSES, queries=4, side=96)
    assert picture.size == (64 + 4 * 100, 18 + 3 * 68)  # before the layers, and after each of two
    final = torch.einsum("qc,chw->qhw", outputs.mask_embeddings[0], outputs.mask_features[0]).sigmoid()
    best = outputs.class_logits[0].softmax(-1)[:, :-1].amax(1).argmax()
    drawn = np.asarray(picture.convert("L")).astype(float)[18 + 2 * 68 :][:64, 64 : 64 + 96]
    expected = np.asarray(Image.fromarray((final[best] * 255).byte().detach().numpy()).resize((96, 64), 2))
    assert np.abs(drawn - expected).max() <= 1
    with pytest.raises(ValueError, match="outputs for 2 photos"):
        layer_masks(Outputs(torch.zeros(2, 3, 8), torch.zeros(2, 3, 4), torch.zeros(2, 4, 8, 8)))


@needs_shared
@pytest.mark.parametrize("family", ["m2f_swin", "oneformer_swin"])
def test_from_the_original_file_to_the_original_segments(family):
    """Checkpoint, photo, segments: all of it, against what the original code made of the same."""
    folder = SHARED / "reference" / family
    stored = np.load(folder / "single.npz")
    info = json.loads((folder / "single_segments_info.json").read_text())
    names = [ClassInfo(f"thing {k}" if k in (0, 2, 3, 5) else f"stuff {k}", k in (0, 2, 3, 5)) for k in range(7)]
    model = weights.create_model(next(folder.glob("model_final.*")), classes=names)
    predictor = Predictor(
        model, size=(97, 131), object_mask_threshold=0.2, overlap_threshold=0.1, instances_per_image=30
    )
    # the original answers every task from one pass; here OneFormer would be told another task each time
    with torch.inference_mode():
        values, sizes = predictor.preprocess(Image.fromarray(stored["img0"]))
        outputs = model(values[None], "panoptic") if family == "oneformer_swin" else model(values[None])
    assert np.abs(values.numpy() - stored["net_input"][0]).max() < 1e-6

    panoptic = predictor(stored["img0"], "panoptic")
    assert (panoptic.segmentation != stored["img0_panoptic_seg"]).sum() <= 5
    expected = [(s["id"], s["isthing"], s["category_id"]) for s in info["segments_info"][0]]
    assert [(s.id, s.is_thing, s.label_id) for s in panoptic.segments] == expected

    semantic = predictor.segment(outputs, sizes, "semantic")
    assert (semantic.segmentation != stored["img0_sem_seg"].argmax(0)).sum() <= 5

    instance = predictor.segment(outputs, sizes, "instance")
    seen = stored["img0_inst_masks"].any((1, 2))
    assert [s.label_id for s in instance.segments] == stored["img0_inst_classes"][seen].tolist()
    assert np.abs(np.array([s.score for s in instance.segments]) - stored["img0_inst_scores"][seen]).max() < 1e-4
    assert (instance.masks != stored["img0_inst_masks"][seen].astype(bool)).sum() <= 20
