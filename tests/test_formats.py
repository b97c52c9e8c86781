"""What is written can be read by the official readers, and says the same as what it was made from."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.classes import dataset_classes
from mask2former.inference.result_writer import ResultWriter
from mask2former.inference.segmentation import Segmentation
from mask2former.structures import ClassInfo
from tests.conftest import SHARED, needs_shared

CLASSES = (
    ClassInfo("cat", True, (10, 20, 30), 17),
    ClassInfo("sky", False, (200, 100, 50), 187),
    ClassInfo("dog", True, (1, 2, 3), 18),
)
DATASETS = {
    "coco128_panoptic": ("coco128_panoptic/annotations/panoptic_val2017.json", "coco128_panoptic/val2017"),
    "panopticapi_sample": (
        "panopticapi_sample/sample_data/panoptic_examples.json",
        "panopticapi_sample/sample_data/input_images",
    ),
}


def overlapping():
    """Two cats, one partly and one dog wholly behind the first, which is the surest."""
    masks = np.zeros((3, 20, 30), bool)
    masks[0, 2:12, 3:23] = masks[1, 8:18, 5:15] = masks[2, 4:6, 4:9] = True
    return Segmentation.from_masks(masks, [0, 0, 2], CLASSES, [0.9, 0.6, 0.5], name="000000000042")


def regions():
    ids = np.zeros((20, 30), np.int64)
    ids[:10], ids[10:, :7], ids[3:5, 3:9] = 9, 70000, 4
    return Segmentation.from_ids(ids, {9: 1, 70000: 2, 4: 0}, CLASSES, name="a b")


def test_overlaps_are_kept_and_the_surest_is_on_top():
    result = overlapping()
    assert result.masks.shape == (3, 20, 30) and (result.masks[0] & result.masks[1]).any()
    assert [s.area for s in result.segments] == [200, 100, 10] and result.segments[0].box == (3, 2, 23, 12)
    assert np.array_equal(result.segmentation == 1, result.masks[0])
    assert np.array_equal(result.segmentation == 2, result.masks[1] & ~result.masks[0])
    assert not (result.segmentation == 3).any()
    assert result.size == (20, 30) and repr(result) == "Segmentation(instance, 3 segments, 30 × 20)"


def test_an_id_map_becomes_segments():
    result = regions()
    assert [(s.id, s.label, s.area, s.box) for s in result.segments] == [
        (9, "sky", 288, (0, 0, 30, 10)),
        (70000, "dog", 70, (0, 10, 7, 20)),
        (4, "cat", 12, (3, 3, 9, 5)),
    ]
    assert [int(mask.sum()) for mask in result.masks] == [288, 70, 12]
    assert result.segmentation.dtype == np.int32 and (result.segmentation[10:, 7:] == 0).all()
    fewer = Segmentation.from_ids(result.segmentation, {9: 1}, CLASSES)
    assert set(np.unique(fewer.segmentation)) == {0, 9} and len(fewer.segments) == 1


def test_a_label_map_becomes_segments():
    labels = np.array([[0, 0, 2], [1, 1, 1]], np.int32)
    result = Segmentation.from_labels(labels, CLASSES)
    assert [(s.id, s.label, s.area, s.box) for s in result.segments] == [
        (0, "cat", 2, (0, 0, 2, 1)),
        (1, "sky", 3, (0, 1, 3, 2)),
        (2, "dog", 1, (2, 0, 3, 1)),
    ]
    picture, annotation = result.to_panoptic(7)
    assert np.array_equal(np.asarray(picture)[..., 0], labels + 1)  # 0 is "nothing" there
    assert [(s["id"], s["category_id"]) for s in annotation["segments_info"]] == [(1, 17), (2, 187), (3, 18)]


def test_semantic_pictures_hold_class_positions():
    picture = regions().to_semantic()
    values = np.asarray(picture)
    assert picture.mode == "P" and set(np.unique(values)) == {0, 1, 2, 255}
    assert picture.convert("RGB").getpixel((0, 0)) == CLASSES[1].color
    many = [ClassInfo(f"class {k}") for k in range(300)]
    deep = np.asarray(Segmentation.from_ids(np.array([[0, 1]]), {1: 299}, many).to_semantic())
    assert deep.dtype == np.uint16 and deep.tolist() == [[65535, 299]]


@pytest.mark.parametrize("library", ["pycocotools", "hotcoco"])
def test_coco_results_with_either_encoder(library, monkeypatch):
    reader = pytest.importorskip("pycocotools.mask")
    pytest.importorskip(library)
    if library == "pycocotools":
        monkeypatch.setitem(__import__("sys").modules, "hotcoco", None)
    result = overlapping()
    entries = json.loads(json.dumps(result.to_coco(42)))
    assert [(e["image_id"], e["category_id"], e["score"]) for e in entries] == [
        (42, 17, 0.9),
        (42, 17, 0.6),
        (42, 18, 0.5),
    ]
    for entry, mask in zip(entries, result.masks, strict=True):
        assert np.array_equal(reader.decode(entry["segmentation"]).astype(bool), mask)
        assert reader.area(entry["segmentation"]) == entry["area"]


def test_photos_whose_names_are_one_number_keep_two_ids(tmp_path):
    pytest.importorskip("hotcoco")
    with ResultWriter(tmp_path, ("coco", "panoptic"), overlay=False) as writer:
        for name in ("1", "01", "1", "001"):
            result = overlapping()
            result.name = name
            writer.add(result)
        writer.close()
    content = json.loads((tmp_path / "panoptic.json").read_text())
    ids = [1, "01", "1_2", "001"]  # the third is another photo of the first one's name
    assert [image["id"] for image in content["images"]] == ids
    assert [a["image_id"] for a in content["annotations"]] == ids
    assert [e["image_id"] for e in json.loads((tmp_path / "coco.json").read_text())][::3] == ids


def test_categories_may_be_positions_among_the_things():
    pytest.importorskip("hotcoco")
    assert [e["category_id"] for e in overlapping().to_coco(1, category="thing_position")] == [0, 0, 1]
    with pytest.raises(ValueError, match="'sky' is stuff"):
        regions().to_coco(1, category="thing_position")
    with pytest.raises(ValueError, match="category 'name': expected one of"):
        regions().to_coco(1, category="name")


def test_without_an_encoder_the_extra_is_named(monkeypatch):
    for name in ("hotcoco", "pycocotools"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImportError, match="install the extra `eval`"):
        overlapping().to_coco(1)


def test_a_hidden_instance_is_not_in_the_panoptic_picture():
    picture, annotation = overlapping().to_panoptic(1)
    infos = annotation["segments_info"]
    assert [s["id"] for s in infos] == [1, 2] and infos[1]["area"] == 100 - 40
    assert infos[1]["bbox"] == [5, 12, 10, 6], "the box of what is seen"
    assert set(np.unique(np.asarray(picture)[..., 0])) == {0, 1, 2}


def test_saving_writes_whole_files_under_their_names(tmp_path):
    written = overlapping().save(tmp_path / "new" / "folder", only=("coco", "panoptic", "semantic"))
    names = {"instance.jpg", "coco.json", "panoptic.png", "panoptic.json", "semantic.png"}
    assert {path.name for path in written} == {f"000000000042.{name}" for name in names}
    assert set(written) == set((tmp_path / "new" / "folder").iterdir()), "and no temporary file is left"
    content = json.loads((tmp_path / "new" / "folder" / "000000000042.panoptic.json").read_text())
    assert content["images"] == [{"id": 42, "file_name": "000000000042.panoptic.png", "height": 20, "width": 30}]
    assert [c["name"] for c in content["categories"]] == ["cat", "sky", "dog"]
    assert {path.name for path in regions().save(tmp_path)} == {
        "a b.panoptic.jpg",
        "a b.panoptic.png",
        "a b.panoptic.json",
    }
    with pytest.raises(ValueError, match="format 'png': expected some of"):
        regions().save(tmp_path, only=("png",))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    regions().save(tmp_path, overlay=False)
    before = (tmp_path / "a b.panoptic.png").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        regions().save(tmp_path, overlay=False, overwrite=True)
    assert (tmp_path / "a b.panoptic.png").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_overlays_show_classes_colours_and_legend():
    result = regions()
    result.photo = Image.new("RGB", (30, 20), "black")
    picture = np.asarray(result.overlay())
    assert picture.shape[1:] == (30, 3) and picture.shape[0] > 20, "the legend is below"
    sky = picture[0, 29].astype(int)
    assert np.abs(sky - 0.55 * np.array(CLASSES[1].color)).max() <= 1
    assert (picture[19, 29] == 0).all(), "nothing was found there"
    instances = overlapping()
    assert np.asarray(instances.overlay(min_score=0.95)).shape == (20, 30, 3), "nothing shown, no legend"
    fewer, more = (np.asarray(instances.overlay(min_score=score))[:20] for score in (0.7, 0.55))
    changed = (fewer != more).any(2)
    assert changed[8:18, 5:15].any() and not changed[:, 23:].any()


def truth(name):
    """Each photo's ground truth as our result type, and the annotation it came from."""
    annotations, photos = (SHARED / "data" / part for part in DATASETS[name])
    classes = dataset_classes("coco_panoptic")
    position = {c.dataset_id: k for k, c in enumerate(classes)}
    folder = annotations.with_suffix("")
    for annotation in json.loads(annotations.read_text())["annotations"]:
        colors = np.asarray(Image.open(folder / annotation["file_name"]).convert("RGB")).astype(np.int64)
        labels = {s["id"]: position[s["category_id"]] for s in annotation["segments_info"]}
        photo = Image.open((photos / annotation["file_name"]).with_suffix(".jpg"))
        ids = colors @ [1, 256, 65536]
        stem = Path(annotation["file_name"]).stem
        yield Segmentation.from_ids(ids, labels, classes, photo, stem), annotation


@needs_shared
@pytest.mark.parametrize("name", DATASETS)
def test_ground_truth_there_and_back_has_a_panoptic_quality_of_100(name, tmp_path):
    hotcoco = pytest.importorskip("hotcoco.panoptic")
    writer = ResultWriter(tmp_path, formats=["panoptic"], overlay=False).__enter__()
    for result, annotation in truth(name):
        infos = {s["id"]: s for s in annotation["segments_info"]}
        crowds = {number for number, s in infos.items() if s["iscrowd"]}
        assert {s.id: s.area for s in result.segments} == {n: s["area"] for n, s in infos.items()}
        # a prediction has no crowds
        labels = {s.id: s.label_id for s in result.segments if s.id not in crowds}
        writer.add(Segmentation.from_ids(result.segmentation, labels, result.classes, name=result.name))
    writer.close()
    annotations = SHARED / "data" / DATASETS[name][0]
    quality = hotcoco.pq_compute(
        str(annotations), str(tmp_path / "panoptic.json"), str(annotations.with_suffix("")), str(tmp_path)
    )
    for part in ("All", "Things", "Stuff"):
        assert (quality[part]["pq"], quality[part]["sq"], quality[part]["rq"]) == (1, 1, 1)
    assert quality["All"]["n"] > 5


@needs_shared
def test_pycocotools_loads_the_results_of_real_photos(tmp_path):
    reader = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    writer = ResultWriter(tmp_path, formats=["coco"], overlay=False).__enter__()
    images, annotations = [], []
    for result, _ in truth("panopticapi_sample"):
        writer.add(result)
        images.append({"id": int(result.name), "height": result.size[0], "width": result.size[1]})
        for entry in result.to_coco(int(result.name)):
            annotations.append(entry | {"id": len(annotations) + 1, "iscrowd": 0, "bbox": [0, 0, 1, 1]})
    writer.close()
    ground_truth = reader.COCO()
    ground_truth.dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c.dataset_id, "name": c.name} for c in dataset_classes("coco_panoptic")],
    }
    ground_truth.createIndex()
    found = ground_truth.loadRes(str(tmp_path / "coco.json"))
    assert len(found.anns) == len(annotations) > 10
    for entry in found.anns.values():
        assert found.annToMask(entry).sum() == entry["area"]
    judge = evaluation.COCOeval(ground_truth, found, "segm")
    judge.evaluate(), judge.accumulate(), judge.summarize()
    assert judge.stats[0] == pytest.approx(1)
