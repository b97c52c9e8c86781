"""The metrics against other people's programs, on disturbed copies of real ground truth."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.data import SegmentationDataset, open_dataset
from mask2former.data.annotation import IdMap
from mask2former.errors import PhotoError
from mask2former.evaluation.evaluator import check_classes, evaluate, headline, place_among_processes, table
from mask2former.evaluation.instance import NAMES, MaskAveragePrecision
from mask2former.evaluation.panoptic import PanopticQuality
from mask2former.evaluation.semantic import MeanIoU
from mask2former.inference.prediction import Prediction
from mask2former.inference.predictor import Predictor
from mask2former.inference.segmentation import Segmentation
from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.model import Mask2Former
from mask2former.structures import TASKS, ClassInfo

from .conftest import SHARED, needs_shared

COCO128 = f"coco-panoptic:{SHARED / 'data' / 'coco128_panoptic'}:val"
FRUITS = f"coco-instance:{SHARED / 'data' / 'fruits_nuts'}:all"
CLASSES = (ClassInfo("cat", True), ClassInfo("dog", True), ClassInfo("sky", False))


def disturbed(truth: IdMap, rng: np.random.Generator, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A prediction that is often nearly right: shifted, some segments merged, dropped or of another class."""
    segment_map = np.roll(truth.segment_map, rng.integers(-12, 13, 2), (0, 1))
    labels = truth.labels.copy()
    for k in range(len(labels)):
        event = rng.random()
        if event < 0.15:
            labels[k] = rng.integers(num_classes)
        elif event < 0.25:
            segment_map = np.where(segment_map == k + 1, rng.integers(len(labels) + 1), segment_map)
    present = np.unique(segment_map[segment_map > 0])
    renamed = np.zeros(len(labels) + 1, np.int32)
    renamed[present] = np.arange(1, len(present) + 1)
    return renamed[segment_map], labels[present - 1]


@needs_shared
def test_panoptic_quality_equals_hotcoco(tmp_path):
    """hotcoco reads the official files; its PQ is panopticapi's."""
    hotcoco = pytest.importorskip("hotcoco.panoptic")
    dataset, rng = open_dataset(COCO128), np.random.default_rng(0)
    quality, annotations = PanopticQuality(dataset.classes), []
    (tmp_path / "found").mkdir()
    for i in range(len(dataset)):
        truth = dataset.annotation(i)
        segment_map, labels = disturbed(truth, rng, len(dataset.classes))
        quality.update(dataset.image_id(i), segment_map, labels, truth)
        name = f"{dataset.image_id(i):012d}.png"
        colors = segment_map[..., None] >> np.array([0, 8, 16]) & 255
        Image.fromarray(colors.astype(np.uint8)).save(tmp_path / "found" / name)
        segments = [{"id": k, "category_id": dataset.classes[c].dataset_id} for k, c in enumerate(labels.tolist(), 1)]
        annotations.append({"image_id": dataset.image_id(i), "file_name": name, "segments_info": segments})
    (tmp_path / "found.json").write_text(json.dumps({"annotations": annotations}))

    theirs = hotcoco.pq_compute(dataset.file, tmp_path / "found.json", dataset.maps, tmp_path / "found")
    ours = quality.compute()
    assert 0.2 < ours["PQ"] < 0.9
    for suffix, group in (("", "All"), ("_things", "Things"), ("_stuff", "Stuff")):
        for name in ("PQ", "SQ", "RQ"):
            assert ours[name + suffix] == pytest.approx(theirs[group][name.lower()], rel=1e-12)
    by_name = {c.dataset_id: row for c, row in zip(dataset.classes, ours["classes"], strict=True)}
    for category, row in theirs["per_class"].items():
        ours_of_class = by_name[int(category)]["PQ"]
        assert (-1 if ours_of_class is None else ours_of_class) == pytest.approx(row["pq"], rel=1e-12)


def test_panoptic_quality_by_hand():
    """Void and crowd excuse a prediction, no more than that."""
    truth_map = np.zeros((10, 10), np.int32)
    truth_map[:, :4], truth_map[:, 4:6], truth_map[:, 6:8] = 1, 2, 3  # a cat, a crowd of dogs, sky; void beside them
    truth = IdMap(np.array([0, 1, 2]), np.array([True, True, False]), np.array([False, True, False]), truth_map)
    found = np.zeros((10, 10), np.int32)
    found[:, :3] = 1  # cat: IoU 30/40
    found[:, 4:6] = 2  # dog on the crowd of dogs: excused
    found[:, 8:] = 3  # cat on the void: excused
    found[:5, 6:8] = 4  # half the sky: IoU 0.5 is no match, so one false alarm and one miss
    quality = PanopticQuality(CLASSES)
    quality.update(1, found, np.array([0, 1, 0, 2]), truth)
    report = quality.compute()
    cat, dog, sky = report["classes"]
    assert (cat["PQ"], cat["matched"], cat["false_alarms"], cat["missed"]) == (0.75, 1, 0, 0)
    assert dog["PQ"] is None and (dog["false_alarms"], dog["missed"]) == (0, 0)
    assert (sky["PQ"], sky["matched"], sky["false_alarms"], sky["missed"]) == (0, 0, 1, 1)
    assert (report["PQ"], report["PQ_things"], report["PQ_stuff"]) == (0.375, 0.75, 0)
    assert quality.image_scores() == {1: 0.375}

    quality.update(1, found, np.array([0, 0, 0, 2]), truth)  # the same image again replaces it; a cat on dogs is wrong
    assert quality.compute()["classes"][0]["false_alarms"] == 1


def test_a_panoptic_segment_of_one_pixel_counts_and_one_of_none_does_not():
    """One pixel is found, one made up. A predicted label without a pixel is neither, a true one is missed."""
    truth_map, found = np.zeros((2, 1, 9), np.int32)
    truth_map[0, 2:], truth_map[0, 0] = 2, 1
    found[0, 0], found[0, 5] = 1, 2
    truth = IdMap(np.array([0, 2, 1]), np.array([1, 0, 1], bool), np.zeros(3, bool), truth_map)
    quality = PanopticQuality(CLASSES)
    with np.errstate(all="raise"):
        quality.update("a", found, np.array([0, 0, 0]), truth)
    cat, dog, sky = quality.compute()["classes"]
    assert (cat["matched"], cat["SQ"], cat["false_alarms"], cat["missed"]) == (1, 1.0, 1, 0)
    assert (dog["false_alarms"], dog["missed"], sky["missed"]) == (0, 1, 1)
    assert quality.image_scores()["a"] == pytest.approx(cat["PQ"] / 3) == pytest.approx(1 / 1.5 / 3)


@needs_shared
@pytest.mark.parametrize("spec", [COCO128, FRUITS], ids=["coco128", "fruits"])
def test_mask_ap_equals_pycocotools(spec):
    pytest.importorskip("hotcoco")
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    rle = pytest.importorskip("pycocotools.mask")
    dataset, rng = open_dataset(spec), np.random.default_rng(0)
    precision = MaskAveragePrecision(dataset.classes)
    images, objects, detections = [], [], []
    for i in range(0, len(dataset), 2):
        truth = dataset.annotation(i)
        things = truth.for_task("instance")
        true_masks = things.masks().numpy()
        masks = np.roll(true_masks, rng.integers(-4, 5, 2), (1, 2))
        labels, scores = things.labels.copy(), rng.random(len(things.labels))
        wrong = rng.random(len(labels)) < 0.2
        labels[wrong] = rng.choice(things.labels, wrong.sum())
        masks, labels, scores = (np.concatenate([x, x[:2]]) for x in (masks, labels, scores))  # some found twice
        precision.update(dataset.image_id(i), masks, labels, scores, truth)

        image = {"image_id": dataset.image_id(i)}
        images.append({"id": dataset.image_id(i), "height": truth.size[0], "width": truth.size[1]})
        for k, entry in enumerate(things.to_coco()):
            runs = rle.encode(np.asfortranarray(true_masks[k].astype(np.uint8)))
            assert entry["bbox"] == rle.toBbox(runs).tolist()
            objects.append(image | {"id": len(objects) + 1, "category_id": entry["label_id"], "segmentation": runs,
                                    "area": entry["area"], "iscrowd": entry["iscrowd"]})  # fmt: skip
        for mask, label, score in zip(masks, labels.tolist(), scores.tolist(), strict=True):
            runs = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            detections.append(image | {"category_id": label, "segmentation": runs, "score": score})
    truth = coco.COCO()
    categories = [{"id": k, "name": c.name} for k, c in enumerate(dataset.classes) if c.is_thing]
    truth.dataset = {"images": images, "annotations": objects, "categories": categories}
    truth.createIndex()
    theirs = evaluation.COCOeval(truth, truth.loadRes(detections), "segm")
    theirs.evaluate(), theirs.accumulate(), theirs.summarize()

    ours = precision.compute()
    assert 0.2 < ours["AP"] < 0.95
    assert [-1 if ours[n] is None else ours[n] for n in NAMES] == pytest.approx(theirs.stats.tolist(), abs=1e-6)
    of_class = theirs.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    assert [-1 if c["AP"] is None else c["AP"] for c in ours["classes"]] == pytest.approx(of_class.tolist(), abs=1e-6)
    assert set(precision.image_scores()) <= {image["id"] for image in images}


@needs_shared
def test_mean_iou_equals_a_confusion_matrix():
    dataset, rng = open_dataset(COCO128), np.random.default_rng(0)
    num_classes = len(dataset.classes)
    iou, confusion = MeanIoU(dataset.classes), np.zeros((num_classes, num_classes + 1), np.int64)
    for i in range(30):
        truth = dataset.ground_truth(i, "semantic").label_map()
        found = np.where(
            rng.random(truth.shape) < 0.3, rng.integers(-1, num_classes, truth.shape), np.roll(truth, 9, 1)
        )
        iou.update(dataset.image_id(i), found, truth)
        np.add.at(confusion, (truth[truth >= 0], found[truth >= 0]), 1)  # no prediction, −1, is the last column
    both, true, predicted = confusion.diagonal(), confusion.sum(1), confusion[:, :-1].sum(0)
    present = true > 0
    expected = (both / np.maximum(true + predicted - both, 1))[present]
    report = iou.compute()
    assert report["mIoU"] == pytest.approx(expected.mean(), rel=1e-12)
    assert [c["IoU"] for c in report["classes"] if c["IoU"] is not None] == pytest.approx(expected.tolist(), rel=1e-12)
    assert report["pixel_accuracy"] == pytest.approx(both.sum() / true.sum(), rel=1e-12)

    hotcoco = pytest.importorskip("hotcoco.metrics")
    # hotcoco knows no "no prediction": leave those pixels out on its side by counting them for a class of their own
    square = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    square[:-1] = confusion
    theirs = hotcoco.mean_iou(square)["IoU"][:-1]
    assert [theirs[k] for k in np.flatnonzero(present)] == pytest.approx(expected.tolist(), rel=1e-12)


def test_nothing_to_judge_is_none_and_perfection_is_one():
    truth = IdMap(np.array([0]), np.array([True]), np.array([False]), np.ones((4, 4), np.int32))
    quality, iou = PanopticQuality(CLASSES), MeanIoU(CLASSES)
    assert quality.compute()["PQ"] is None and iou.compute()["mIoU"] is None
    quality.update("a", np.ones((4, 4), int), np.array([0]), truth)
    iou.update("a", np.zeros((4, 4), int), truth.label_map())
    assert quality.compute()["PQ"] == 1 and quality.compute()["PQ_stuff"] is None
    assert iou.compute()["mIoU"] == 1 and iou.compute()["classes"][2]["IoU"] is None
    with pytest.raises(ValueError, match=r"prediction \(4, 5\), ground truth \(4, 4\)"):
        quality.update("b", np.ones((4, 5), int), np.array([0]), truth)
    with pytest.raises(ValueError, match=r"image b: prediction \(1, 4\), ground truth \(4, 4\)"):
        iou.update("b", np.zeros((1, 4), int), truth.label_map())
    with pytest.raises(ValueError, match=r"image b: prediction \(2, 4\), ground truth \(4, 4\)"):
        MaskAveragePrecision(CLASSES).update("b", np.ones((1, 2, 4), bool), [0], [0.5], truth)
    with pytest.raises(ValueError, match="below 3"):
        iou.update("b", np.full((4, 4), 3), truth.label_map())


def test_each_image_has_its_own_average_precision():
    pytest.importorskip("hotcoco")
    truth = IdMap(np.array([0]), np.array([True]), np.array([False]), np.ones((4, 4), np.int32))
    precision = MaskAveragePrecision(CLASSES)
    precision.update("missed", np.zeros((0, 4, 4), bool), [], [], truth)
    precision.update("found", np.ones((1, 4, 4), bool), [0], [0.5], truth)
    precision.update(7, np.ones((1, 4, 4), bool), [1], [0.5], truth)  # taken for another class
    assert precision.image_scores() == pytest.approx({"missed": 0, "found": 1, 7: 0})
    with pytest.raises(ValueError, match="shorter|longer"):
        precision.update(8, np.ones((2, 4, 4), bool), [1], [0.5], truth)


def test_mask_ap_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(ImportError, match="mask AP needs the package hotcoco: pip install hotcoco"):
        MaskAveragePrecision(CLASSES).compute()


def test_no_detections_and_no_objects():
    pytest.importorskip("hotcoco")
    truth = IdMap(np.array([0]), np.array([True]), np.array([False]), np.ones((4, 4), np.int32))
    precision = MaskAveragePrecision(CLASSES)
    precision.update("a", np.zeros((0, 4, 4), bool), [], [], truth)
    assert precision.compute()["AP"] == 0
    assert [c["AP"] for c in precision.compute()["classes"]] == [0, None]
    empty = MaskAveragePrecision(CLASSES)
    empty.update("a", np.ones((1, 4, 4), bool), [0], [0.5], truth.for_task("instance").regroup(
        np.array([-1]), np.array([], int), np.array([], bool), np.array([], bool)))  # fmt: skip
    assert empty.compute()["AP"] is None


def toy_model(classes) -> Mask2Former:
    sizes = {"hidden_dim": 32, "mask_dim": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1}
    widths = {"encoder_feedforward_dim": 32, "decoder_feedforward_dim": 32, "num_queries": 12}
    return Mask2Former(
        Mask2FormerConfig(
            "resnet18", frozen_batch_norm=False, num_classes=len(classes), classes=classes, **sizes, **widths
        )
    )


class Oracle:
    """Predicts the ground truth of the photos it is shown; crowds it does not see."""

    def __init__(self, dataset):
        self.dataset, self.classes = dataset, dataset.classes
        self.indices = {dataset.photo(i).tobytes(): i for i in range(len(dataset))}

    def stream(self, photos, task):
        for photo in photos:
            found = self.segment(self.indices[photo.tobytes()], photo)
            yield Prediction(photo, found[task] if isinstance(task, str) else found)

    def __call__(self, photo, task):
        return next(self.stream([photo], task)).result

    def segment(self, index, photo):
        found = {}
        for task in self.dataset.tasks:
            truth = self.dataset.ground_truth(index, task)
            kept = np.flatnonzero(~truth.is_crowd)
            if task == "instance":
                found[task] = Segmentation.from_masks(truth.masks(kept).numpy(), truth.labels[kept], self.classes)
            elif task == "panoptic":
                labels = {int(k) + 1: int(truth.labels[k]) for k in kept}
                found[task] = Segmentation.from_ids(truth.segment_map, labels, self.classes)
            else:
                labels = {int(k): int(k) for k in truth.labels}
                found[task] = Segmentation.from_ids(truth.label_map(), labels, self.classes, task)
            found[task].photo = photo
        return found


class Squares(SegmentationDataset):
    """Three small pictures with one object each, the wider the further back, on a sky."""

    name, classes, tasks = "squares", CLASSES, ("panoptic", "semantic")

    def __init__(self):
        pass

    def __len__(self):
        return 3

    def image_id(self, index):
        return f"square {index}"

    def photo_path(self, index):
        return Path(f"square {index}.png")

    def photo(self, index, size=None):
        return Image.new("RGB", (40, 30), (index, 90, 200))

    def ground_truth(self, index, task):
        segment_map = np.full((30, 40), 2, np.int32)
        segment_map[5:25, 4 : 14 + 8 * index] = 1
        labels, things = np.array([index % 2, 2]), np.array([True, False])
        return IdMap(labels, things, np.zeros(2, bool), segment_map).for_task(task)


def test_evaluation_writes_and_reports_what_it_is_asked_for(tmp_path):
    squares, steps = Squares(), []
    report = evaluate(Oracle(squares), squares, output=f"{tmp_path}/new/folder", progress=lambda *s: steps.append(s))
    assert steps == [(1, 3), (2, 3), (3, 3)] and set(report) == {"dataset", "photos", "notes", "panoptic", "semantic"}
    written = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert written == ["evaluation.json", "evaluation.txt"], "no pictures unless they are asked for"
    assert set(evaluate(Oracle(squares), squares, tasks=["semantic"])) == {"dataset", "photos", "notes", "semantic"}
    with pytest.raises(ValueError, match=r"tasks \('panoptic', 'instance'\): squares can judge \('panoptic', 'sem"):
        evaluate(Oracle(squares), squares, tasks=["panoptic", "instance"])
    stranger = Oracle(squares)
    stranger.classes = (ClassInfo("dog"), *CLASSES[1:])
    with pytest.raises(ValueError, match="class 0 of the model is 'dog', which is class 1 of the dataset"):
        evaluate(stranger, squares)


class Worse(Oracle):
    """Takes all of the last square's picture for sky."""

    def segment(self, index, photo):
        found = super().segment(index, photo)
        if index == 2:
            found["panoptic"] = Segmentation.from_ids(np.ones((30, 40), np.int32), {1: 2}, CLASSES, photo=photo)
        return found


def test_the_worst_photos_are_drawn_truth_beside_prediction(tmp_path, monkeypatch):
    squares = Squares()
    evaluate(Worse(squares), squares, tasks=["panoptic"], output=tmp_path, worst=2)
    first, second = sorted((tmp_path / "worst_panoptic").iterdir())
    assert first.name.startswith("01_") and first.name.endswith("_square 2.png")
    assert second.name == "02_100.0_square 0.png"
    page = np.asarray(Image.open(first)).astype(int)
    width = (page.shape[1] - 8) // 2
    assert width == 40 and page.shape[0] > 30, "with a legend below"
    assert page.shape[1] == 2 * width + 8 and (page[:, width : width + 8] == 255).all()
    assert (page[: width // 2, :width] != 255).any() and (page[: width // 2, width + 8 :] != 255).any()

    monkeypatch.setattr("mask2former.evaluation.evaluator.PAGE", 20)  # half of a photo
    evaluate(Worse(squares), squares, tasks=["panoptic"], output=tmp_path / "smaller", worst=1)
    smaller = Image.open(tmp_path / "smaller" / "worst_panoptic" / first.name)
    assert smaller.width == 2 * 20 + 8 and abs(smaller.height - page.shape[0] / 2) <= 1


def test_a_photo_that_cannot_be_read_stops_the_evaluation(monkeypatch):
    broken = Prediction(None, error=PhotoError("the photo is broken"))
    monkeypatch.setattr(Oracle, "stream", lambda self, photos, tasks: (broken for _ in photos))
    with pytest.raises(ValueError, match="photo 'square 0': the photo is broken"):
        evaluate(Oracle(Squares()), Squares())


def test_a_process_takes_every_second_photo_of_two(monkeypatch):
    dist, seen = torch.distributed, []
    assert place_among_processes() == (0, 1)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr("mask2former.evaluation.panoptic.gather_by_image", lambda counts: seen.append(counts) or counts)
    monkeypatch.setattr("mask2former.evaluation.evaluator.gather_by_image", lambda broken: broken)
    assert place_among_processes() == (1, 2)
    evaluate(Oracle(Squares()), Squares(), tasks=["panoptic"], output=Path("nowhere"))
    assert [list(counts) for counts in seen] == [["square 1"]] and not Path("nowhere").exists()


def test_a_report_for_people():
    row = {"name": "cat", "is_thing": True, "PQ": 0.5, "matched": 3}
    report = {"dataset": "toys", "photos": 7, "panoptic": {"PQ": 0.51234, "PQ_stuff": None, "classes": [row]},
              "semantic": {"mIoU": 1.0, "classes": []}}  # fmt: skip
    assert table(report).splitlines() == [
        "toys: 7 photos", "", "panoptic", "  PQ 51.23  PQ_stuff –", "", "semantic", "  mIoU 100.00"
    ]  # fmt: skip
    assert table(report, per_class=True).splitlines()[4:6] == [
        "  class            PQ       matched",
        "  cat           50.00             3",
    ]
    assert headline(report) == {"panoptic/PQ": 0.51234, "semantic/mIoU": 1.0}


@needs_shared
def test_evaluating_the_truth_gives_one(tmp_path):
    """From the dataset through a predictor to files, for all three tasks."""
    pytest.importorskip("hotcoco")
    dataset = open_dataset(COCO128).subset(range(0, 100, 9))
    steps = []
    report = evaluate(Oracle(dataset), dataset, output=tmp_path, worst=2, progress=lambda *step: steps.append(step))
    assert report["photos"] == 12 and report["dataset"] == dataset.name and steps[-1] == (12, 12)
    numbers = headline(report)
    assert numbers["panoptic/PQ"] == numbers["panoptic/SQ_stuff"] == numbers["semantic/mIoU"] == 1
    assert numbers["instance/AP"] == pytest.approx(1)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == report
    text = (tmp_path / "evaluation.txt").read_text()
    assert "PQ 100.00" in text and "AP50 100.00" in text and "traffic light" in text
    drawn = sorted((tmp_path / "worst_panoptic").iterdir())
    assert len(drawn) == 2 and drawn[0].name.startswith("01_100.0_")
    assert [len(list((tmp_path / f"worst_{task}").iterdir())) for task in TASKS] == [2, 2, 2]
    assert Image.open(drawn[0]).size[0] > 2 * 400


@needs_shared
def test_evaluating_a_network():
    """A small random one: all tasks at once give what each gives alone, on instance data too."""
    pytest.importorskip("hotcoco")
    for spec in (COCO128, FRUITS):
        dataset = open_dataset(spec).subset([0, 1])
        predictor = Predictor(toy_model(dataset.classes), size=(96, 128), object_mask_threshold=0.0)
        report = evaluate(predictor, dataset)
        assert set(report) == {"dataset", "photos", "notes", *dataset.tasks}
        for task in dataset.tasks:
            assert evaluate(predictor, dataset, tasks=[task])[task] == report[task]
            assert headline(report)


def test_evaluation_refuses_what_cannot_be_compared():
    dog, cat = ClassInfo("dog"), ClassInfo("cat")
    check_classes([cat, dog], [ClassInfo("kitten"), dog])  # other words for a class are no matter
    with pytest.raises(ValueError, match="the model knows 1 classes, the dataset has 2"):
        check_classes([cat], [cat, dog])
    with pytest.raises(ValueError, match="class 0 of the model is 'cat', which is class 1 of the dataset"):
        check_classes([cat, dog], [dog, cat])


@needs_shared
def test_tasks_the_annotations_cannot_judge():
    with pytest.raises(ValueError, match=r"can judge \('instance',\)"):
        dataset = open_dataset(FRUITS)
        evaluate(Oracle(dataset), dataset, tasks=("panoptic",))


def measure(images: list[int]) -> list:
    """All three metrics over made-up images, as JSON would keep them."""
    classes = (ClassInfo("cat", True), ClassInfo("sky", False))
    panoptic, instance, semantic = PanopticQuality(classes), MaskAveragePrecision(classes), MeanIoU(classes)
    for image in images:
        rng = np.random.default_rng(image)
        true = np.zeros((20, 20), np.int32)
        true[:, : rng.integers(5, 15)] = 1
        found, labels = np.roll(true, rng.integers(6), 1), np.array([image % 2])
        truth = IdMap(labels, labels == 0, np.array([False]), true)
        panoptic.update(image, found, labels, truth)
        instance.update(image, found[None] == 1, labels, [0.1 * image], truth)
        semantic.update(image, np.where(found == 1, image % 2, -1), truth.label_map())
    return json.loads(json.dumps([[m.compute(), m.image_scores()] for m in (panoptic, instance, semantic)]))


@pytest.mark.slow
def test_two_processes_count_every_image_once(tmp_path):
    """Five images over two processes, the second of which sees one again; both report what one process would."""
    pytest.importorskip("hotcoco")
    program = textwrap.dedent(
        """
        import json, sys
        import torch.distributed as dist
        from tests.test_evaluation import measure

        rank, folder = int(sys.argv[1]), sys.argv[2]
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
        report = measure([[0, 2, 4], [1, 3, 0]][rank])
        open(f"{folder}/{rank}.json", "w").write(json.dumps(report))
        dist.destroy_process_group()  # its threads must not outlive the interpreter
        """
    )
    command, root = [sys.executable, "-c", program], Path(__file__).resolve().parents[1]
    runs = [subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=root) for rank in range(2)]
    alone = measure([0, 1, 2, 3, 4])
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [alone, alone]
    assert 0 < alone[0][0]["PQ"] < 1 and len(alone[2][1]) == 5
