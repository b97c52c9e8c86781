"""Every format in its official layout, real or small and made up; and what bad files say."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.data import DataError, SegmentationDataset, open_dataset, training_transform
from mask2former.data.classes import dataset_classes
from mask2former.data.inspect import inspect

from .conftest import SHARED, needs_shared

DATA = SHARED / "data"


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def photo(path: Path, height: int = 12, width: int = 16) -> Path:
    return save(path, np.full((height, width, 3), 128, np.uint8))


def ids_as_colors(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------- COCO panoptic


@needs_shared
def test_coco_panoptic_agrees_with_its_json():
    dataset = open_dataset(f"coco-panoptic:{DATA / 'coco128_panoptic'}", split="val")
    content = json.loads(dataset.file.read_text())
    assert len(dataset) == 100 and len(dataset.classes) == 133
    assert [(c.name, c.is_thing, c.dataset_id) for c in dataset.classes] == [
        (c["name"], bool(c["isthing"]), c["id"]) for c in content["categories"]
    ]
    assert [c.color for c in dataset.classes] == [c.color for c in dataset_classes("coco_panoptic")]
    crowds = 0
    for i, record in enumerate(content["annotations"]):
        annotation = dataset.annotation(i)
        segments = zip(annotation.labels, annotation.is_crowd, annotation.areas(), strict=True)
        found = sorted((dataset.classes[label].dataset_id, crowd, area) for label, crowd, area in segments)
        assert found == sorted((s["category_id"], s["iscrowd"], s["area"]) for s in record["segments_info"])
        crowds += annotation.is_crowd.sum()
        assert len(annotation.targets().labels) == (~annotation.is_crowd).sum()
        assert dataset.problems(i) == []
    assert crowds == 5
    picture, annotation = dataset[3]
    assert picture.size[::-1] == annotation.size and picture.mode == "RGB"


@needs_shared
def test_supercategories_merge_stuff_and_keep_things_apart():
    fine, coarse = (
        open_dataset(f"coco-panoptic:{DATA / 'coco128_panoptic'}", classes=c) for c in (None, "supercategory")
    )
    assert len(coarse.classes) == 27 and sum(c.is_thing for c in coarse.classes) == 12
    names = {c["id"]: c["supercategory"] for c in json.loads(fine.file.read_text())["categories"]}
    for i in range(0, 100, 10):
        before, after = fine.annotation(i), coarse.annotation(i)
        table = np.array([-1] + [names[c.dataset_id] for c in fine.classes], dtype=object)
        expected = table[before.label_map() + 1]
        found = np.array([-1] + [c.name for c in coarse.classes], dtype=object)[after.label_map() + 1]
        assert (expected == found).all()
        assert after.is_thing.sum() == before.is_thing.sum()
        stuff = after.labels[~after.is_thing]
        assert len(set(stuff)) == len(stuff)


@needs_shared
def test_panoptic_sample_by_photos_and_file():
    sample = DATA / "panopticapi_sample" / "sample_data"
    dataset = open_dataset(f"coco-panoptic:{sample / 'input_images'}:{sample / 'panoptic_examples.json'}")
    assert len(dataset) == 2 and dataset[0][1].size == dataset[0][0].size[::-1]


def test_official_files_of_a_task_are_its_ground_truth(tmp_path):
    """Where instances_val2017.json lies beside the panoptic file, mask AP is measured against it."""
    pytest.importorskip("hotcoco")
    photo(tmp_path / "val2017" / "1.jpg")
    ids = np.zeros((12, 16), np.int32)
    ids[:, :8] = 7
    save(tmp_path / "annotations" / "panoptic_val2017" / "1.png", ids_as_colors(ids))
    image = {"id": 1, "file_name": "1.jpg", "height": 12, "width": 16}
    category = {"id": 3, "name": "cat", "isthing": 1}
    panoptic = {"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 7, "category_id": 3}]}
    instance = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[0, 0, 4, 0, 4, 12, 0, 12]], "area": 48}
    for name, annotation in (("panoptic", panoptic), ("instances", instance)):
        content = {"images": [image], "categories": [category], "annotations": [annotation]}
        (tmp_path / "annotations" / f"{name}_val2017.json").write_text(json.dumps(content))
    dataset = open_dataset(f"coco-panoptic:{tmp_path}:val")
    assert dataset.ground_truth(0, "panoptic").areas().tolist() == [96]
    assert dataset.ground_truth(0, "instance").areas().tolist() == [48]


# ------------------------------------------------------------------------------------------------------- COCO instance


@needs_shared
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2
def test_coco_instance_masks_equal_pycocotools():
    pytest.importorskip("hotcoco")
    coco = pytest.importorskip("pycocotools.coco")
    dataset = open_dataset(f"coco-instance:{DATA / 'fruits_nuts'}:all")
    theirs = coco.COCO(dataset.file)
    assert len(dataset) == 18 and [c.name for c in dataset.classes] == ["date", "fig", "hazelnut"]
    for i in range(len(dataset)):
        annotation = dataset.annotation(i)
        objects = theirs.loadAnns(theirs.getAnnIds(dataset.image_id(i)))
        expected = np.stack([theirs.annToMask(o) for o in objects]).astype(bool)
        assert np.array_equal(annotation.masks().numpy(), expected)
        assert [dataset.classes[k].dataset_id for k in annotation.labels] == [o["category_id"] for o in objects]
        assert annotation.recorded_areas.tolist() == [o["area"] for o in objects]
        assert dataset.problems(i) == []
    assert dataset.tasks == ("instance",)


def instance_file(folder: Path, segmentation, **entries) -> Path:
    """One photo of 16 × 12 with one annotation."""
    photo(folder / "images" / "1.jpg")
    annotation = {"id": 5, "image_id": 1, "category_id": 1, "segmentation": segmentation} | entries
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 12, "width": 16}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [annotation],
    }
    file = folder / "objects.json"
    file.write_text(json.dumps(content))
    return file


def test_polygons_run_lengths_and_crowds(tmp_path):
    hotcoco = pytest.importorskip("hotcoco")
    square = np.zeros((12, 16), np.uint8)
    square[2:6, 3:9] = 1
    packed = hotcoco.mask.encode(np.asfortranarray(square))
    packed = {"size": [12, 16], "counts": packed["counts"].decode()}
    plain = {"size": [12, 16], "counts": [38, 4, 8, 4, 8, 4, 8, 4, 8, 4, 8, 4, 192 - 102]}
    for segmentation in ([[3, 2, 9, 2, 9, 6, 3, 6]], packed, plain):
        dataset = open_dataset(f"coco-instance:{tmp_path / 'images'}:{instance_file(tmp_path, segmentation)}")
        annotation = dataset.annotation(0)
        assert np.array_equal(annotation.masks()[0].numpy(), square == 1)
        assert annotation.recorded_areas.tolist() == [24]  # counted, as the file has none
        assert annotation.to_coco()[0]["bbox"] == [3, 2, 6, 4]
    dataset = open_dataset(f"coco-instance:{tmp_path / 'images'}:{instance_file(tmp_path, plain, iscrowd=1)}")
    assert len(dataset.annotation(0).targets().labels) == 0 and dataset.annotation(0).to_coco()[0]["iscrowd"] == 1


@pytest.mark.parametrize(
    ("segmentation", "entries", "message"),
    [
        ([], {}, "annotation 5 of 1.jpg: segmentation: .*expected polygons"),
        ([[1, 1, 5, 5]], {}, "three or more points"),
        (
            {"size": [16, 12], "counts": [192]},
            {},
            r"annotations\[0\].segmentation.size: \[16, 12\], but the image has the size \[12, 16\]",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*1 outlines cannot be used")
def test_bad_instance_annotations_name_the_file(tmp_path, segmentation, entries, message):
    file = instance_file(tmp_path, segmentation, **entries)
    dataset = open_dataset(f"coco-instance:{tmp_path / 'images'}:{file}")
    with pytest.raises(DataError, match=message) as error:
        dataset[0]
    assert str(file) in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # workers hand it over


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([["a"] * 6], r"segmentation\[0\]\[0\]: Expected `float`, got `str`, found \"a\"; expected polygons"),
        ([[1, 1, 9, 1, 9, None]], r"segmentation\[0\]\[5\]: Expected `float`, got `null`"),
        ({"size": [12, 16], "counts": "###"}, "annotation 5 of 1.jpg: .*counts: character '#'.*; encode the mask anew"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*1 outlines cannot be used")
def test_the_audit_goes_on_after_a_bad_outline(tmp_path, segmentation, message):
    pytest.importorskip("hotcoco")
    dataset = open_dataset(f"coco-instance:{tmp_path / 'images'}:{instance_file(tmp_path, segmentation)}")
    (problem,) = inspect(dataset).problems
    assert re.search(message, problem) and str(tmp_path / "objects.json") in problem


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "instance",
            {"annotations": [{"image_id": 1, "category_id": 9}]},
            "category 9, which is not in the class table",
        ),
        (
            "instance",
            {"images": [{"id": 1, "file_name": "1.jpg"}]},
            r"images\[0\]: Object missing required field `height`",
        ),
        (
            "instance",
            {"images": ["1.jpg"]},
            r'images\[0\]: Expected `object`, got `str`, found "1.jpg"; expected COCO.s format',
        ),
        ("instance", {"images": []}, "lists no image"),
        (
            "instance",
            {"annotations": [{"image_id": 1, "segments_info": []}]},
            r"annotations\[0\]: Object missing required field `category_id`",
        ),
        ("instance", {"categories": [{"id": 1}]}, r"categories\[0\]: Object missing required field `name`"),
        (
            "panoptic",
            {"images": [{"id": 1, "file_name": 5}]},
            r"images\[0\].file_name: Expected `str`, got `int`, found 5",
        ),
        (
            "panoptic",
            {"annotations": [{"image_id": 1, "file_name": "1.png"}]},
            r"annotations\[0\]: Object missing required field `segments_info`",
        ),
        ("panoptic", {"annotations": []}, "has no annotation"),
        (
            "panoptic",
            {"annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 5}]}]},
            r"annotations\[0\].segments_info\[0\]: Object missing required field `category_id`",
        ),
        (
            "panoptic",
            {"categories": [{"id": 1, "name": "cat", "isthing": 1, "color": "red"}]},
            r'categories\[0\].color: Expected `array \| null`, got `str`, found "red"; expected',
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*1 outlines cannot be used")
def test_json_that_is_not_quite_cocos(tmp_path, kind, change, message):
    photo(tmp_path / "images" / "1.jpg")
    (tmp_path / "objects").mkdir()  # where the panoptic PNG files would be
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 12, "width": 16}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
        "annotations": [{"image_id": 1, "category_id": 1, "file_name": "1.png", "segments_info": []}],
    }
    (tmp_path / "objects.json").write_text(json.dumps(content))
    spec = f"coco-{kind}:{tmp_path / 'images'}:{tmp_path / 'objects.json'}"
    assert len(open_dataset(spec)) == 1
    (tmp_path / "objects.json").write_text(json.dumps(content | change))
    with pytest.raises(DataError, match=message) as error:
        open_dataset(spec)
    assert str(error.value).startswith(str(tmp_path / "objects.json")) and "\n" not in str(error.value)


def test_annotation_of_no_image(tmp_path):
    file = instance_file(tmp_path, [[3, 2, 9, 2, 9, 6]], image_id=2)
    with pytest.raises(DataError, match=r"annotations\[0\].image_id: annotation of image 2, which is not under images"):
        open_dataset(f"coco-instance:{tmp_path / 'images'}:{file}")


# -------------------------------------------------------------------------------------------------------------- ADE20K


@pytest.fixture
def ade20k(tmp_path):
    """Two photos: wall, building and the unlabelled 0; the panoptic files with a bed twice."""
    labels = np.zeros((12, 16), np.uint8)
    labels[:, :5], labels[:, 5:9], labels[:, 9:12] = 1, 2, 8  # wall, building, bed
    ids = np.zeros((12, 16), np.int32)
    ids[:, :5], ids[:, 9:10], ids[:, 10:12] = 70000, 300, 301
    segments = [{"id": 70000, "category_id": 0}, {"id": 300, "category_id": 7}, {"id": 301, "category_id": 7}]
    categories = [{"id": c.dataset_id, "name": c.name, "isthing": int(c.is_thing)} for c in dataset_classes("ade20k")]
    for split, folder, name in (("train", "training", "ADE_train_00000001"), ("val", "validation", "ADE_val_00000001")):
        photo(tmp_path / "images" / folder / f"{name}.jpg")
        save(tmp_path / "annotations" / folder / f"{name}.png", labels)
        save(tmp_path / f"ade20k_panoptic_{split}" / f"{name}.png", ids_as_colors(ids))
        annotation = {"image_id": name, "file_name": f"{name}.png", "segments_info": segments}
        images = [{"id": name, "file_name": f"{name}.jpg", "height": 12, "width": 16}]
        content = {"images": images, "annotations": [annotation], "categories": categories}
        (tmp_path / f"ade20k_panoptic_{split}.json").write_text(json.dumps(content))
    return tmp_path


def test_ade20k_semantic(ade20k):
    dataset = open_dataset(f"ade20k-semantic:{ade20k}", split="val")
    annotation = dataset.annotation(0)
    names = [dataset.classes[k].name for k in annotation.labels]
    assert len(dataset.classes) == 150 and names == ["wall", "building", "bed"] and dataset.tasks == ("semantic",)
    assert annotation.label_map()[0].tolist() == [0] * 5 + [1] * 4 + [7] * 3 + [-1] * 4
    assert dataset.image_id(0) == "ADE_val_00000001" and dataset.recipe == "ade20k"
    save(ade20k / "annotations" / "validation" / "ADE_val_00000001.png", np.full((12, 16), 151, np.uint8))
    with pytest.raises(DataError, match=r"ADE_val_00000001.png: holds the value 151; ADE20K has 0 … 150"):
        dataset[0]
    with pytest.raises(ValueError, match="split 'test'"):
        open_dataset(f"ade20k-semantic:{ade20k}:test")


def test_ade20k_panoptic(ade20k):
    dataset = open_dataset(f"ade20k-panoptic:{ade20k}:val")
    annotation = dataset.annotation(0)
    assert [dataset.classes[k].name for k in annotation.labels] == ["wall", "bed", "bed"]
    assert annotation.areas().tolist() == [60, 12, 24] and annotation.is_thing.tolist() == [False, True, True]
    assert dataset.ground_truth(0, "semantic").areas().tolist() == [
        60,
        48,
        36,
    ]  # from annotations/, as the protocol has it
    assert dataset.ground_truth(0, "instance").areas().tolist() == [12, 24]


# ---------------------------------------------------------------------------------------------------------- Cityscapes


@pytest.fixture
def cityscapes(tmp_path):
    """One photo: road, two cars, a group of persons, a static object that is not evaluated, a license plate."""
    instances = np.full((12, 16), 7, np.int32)  # road
    instances[:3, :4], instances[:3, 4:6], instances[:3, 6:9] = 26000, 26001, 24  # car, car, group of persons
    instances[:3, 9:11], instances[:3, 11:12] = 4, 65535  # static, license plate
    labels = np.where(instances > 65000, 255, np.where(instances >= 1000, instances // 1000, instances))
    stem = "leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png"
    photo(tmp_path / stem)
    annotations = tmp_path / "gtFine" / "val" / "ulm"
    save(annotations / "ulm_000001_000019_gtFine_instanceIds.png", instances.astype(np.uint16))
    save(annotations / "ulm_000001_000019_gtFine_labelIds.png", labels.astype(np.uint8))
    return tmp_path


def test_cityscapes_instance_ids(cityscapes):
    dataset = open_dataset(f"cityscapes:{cityscapes}:val")
    annotation = dataset.annotation(0)
    rows = zip(annotation.labels, annotation.areas(), annotation.is_thing, annotation.is_crowd, strict=True)
    found = sorted((dataset.classes[k].name, int(area), bool(thing), bool(crowd)) for k, area, thing, crowd in rows)
    assert found == [("car", 6, True, False), ("car", 12, True, False), ("person", 9, True, True),
                     ("road", 9 * 16 + 3 * 4, False, False)]  # fmt: skip
    assert dataset.image_id(0) == "ulm_000001_000019" and len(dataset.classes) == 19
    assert (annotation.label_map() == -1).sum() == 9  # static and the license plate
    only_things = open_dataset(f"cityscapes-instance:{cityscapes}:val")
    assert [c.name for c in only_things.classes] == [c.name for c in dataset_classes("cityscapes_instance")]
    assert sorted(only_things.annotation(0).areas().tolist()) == [6, 9, 12]


def test_cityscapes_label_ids(cityscapes):
    dataset = open_dataset(f"cityscapes-semantic:{cityscapes}:val")
    annotation = dataset.annotation(0)
    assert dataset.tasks == ("semantic",) and not annotation.is_crowd.any()
    instances = open_dataset(f"cityscapes:{cityscapes}:val").ground_truth(0, "semantic")
    assert np.array_equal(annotation.label_map(), instances.label_map())
    path = cityscapes / "gtFine" / "val" / "ulm" / "ulm_000001_000019_gtFine_labelIds.png"
    save(path, np.full((12, 16), 40, np.uint8))
    with pytest.raises(DataError, match="holds the value 40; expected Cityscapes' own ids"):
        dataset[0]


# -------------------------------------------------------------------------------------------------------- plain folder


def plain_folder(folder: Path, mask: np.ndarray, classes: str | list, split: str = "") -> Path:
    photo(folder / "images" / split / "a.jpg")
    save(folder / "masks" / split / "a.png", mask)
    text = isinstance(classes, str)
    (folder / f"classes.{'txt' if text else 'json'}").write_text(classes if text else json.dumps(classes))
    return folder


def test_folder_background_is_a_class_or_ignored(tmp_path):
    mask = np.zeros((12, 16), np.uint8)
    mask[:, :4], mask[:, 4:6] = 1, 255
    folder = plain_folder(tmp_path, mask, "soil\nplant\n")
    with pytest.raises(ValueError, match="does not say what the mask value 0 is: background='class'"):
        open_dataset(f"folder:{folder}:all")
    learned = open_dataset(f"folder:{folder}:all", background="class").annotation(0).label_map()
    assert learned[0].tolist() == [1] * 4 + [-1] * 2 + [0] * 10
    ignored = open_dataset(f"folder:{folder}:all", background="ignore")
    assert ignored.annotation(0).label_map()[0].tolist() == [0] * 4 + [-1] * 12
    assert ignored.classes[0].name == "soil" and ignored.tasks == ("semantic",)

    save(folder / "masks" / "a.png", np.full((12, 16), 2, np.uint8))
    with pytest.raises(DataError, match=r"a.png: holds the value 2, which is no class of .*classes.txt"):
        open_dataset(f"folder:{folder}:all", background="class")[0]


@pytest.mark.parametrize("as_color", [False, True])
def test_folder_with_instances(tmp_path, as_color):
    ids = np.zeros((12, 16), np.int32)
    ids[:, :3], ids[:, 3:5], ids[:, 5:9] = 2001, 2002, 1
    mask = ids_as_colors(ids) if as_color else ids.astype(np.uint16)
    classes = [{"id": 1, "name": "table", "isthing": 0}, {"id": 2, "name": "fig", "isthing": 1, "color": [9, 8, 7]}]
    folder = plain_folder(tmp_path, mask, classes, split="train")
    dataset = open_dataset(f"folder:{folder}")
    annotation = dataset.annotation(0)
    found = sorted(zip(annotation.labels.tolist(), annotation.areas().tolist(), strict=True))
    assert found == [(0, 48), (1, 24), (1, 36)]
    assert dataset.classes[1].color == (9, 8, 7) and "instance" in dataset.tasks
    with pytest.raises(DataError, match="no val/images with val/masks"):
        open_dataset(f"folder:{folder}", split="val")
    with pytest.raises(ValueError, match="says itself whether 0 is a class"):
        open_dataset(f"folder:{folder}", background="class")


@pytest.mark.parametrize(
    ("classes", "message"),
    [("{}", "Expected `array`, got `object`"), ('[{"id": 1', "no valid JSON"),
     ('[{"id": 1, "name": "fig"}]', "missing required field `isthing`.*expected "),
     ('[{"id": 2001, "name": "fig", "isthing": 1}]', "found 2001; .*ids from 0 to 999")],
)  # fmt: skip
def test_bad_class_tables(tmp_path, classes, message):
    folder = plain_folder(tmp_path, np.zeros((12, 16), np.uint8), [])
    (folder / "classes.json").write_text(classes)
    with pytest.raises(DataError, match=message):
        open_dataset(f"folder:{folder}:all")


def test_folder_class_names_say_thing_or_stuff(tmp_path):
    folder = plain_folder(tmp_path, np.zeros((12, 16), np.uint16), "sky, stuff\ncat\nred, white\n")
    classes = open_dataset(f"folder:{folder}:all", background="ignore").classes
    assert [(c.name, c.is_thing, c.dataset_id) for c in classes] == [
        ("sky", False, 1), ("cat", True, 2), ("red, white", True, 3)]  # fmt: skip


# --------------------------------------------------------------------------------------------------------- all of them


def test_bad_files_are_named(tmp_path):
    folder = plain_folder(tmp_path, np.zeros((12, 16), np.uint8), "soil\n")
    dataset = open_dataset(f"folder:{folder}:all", background="class")
    for name, content, message in [
        ("images/a.jpg", b"", "not a readable picture"),
        ("images/a.jpg", (folder / "images/a.jpg").read_bytes()[:200], "not a readable picture"),
        ("masks/a.png", b"text", "not a readable picture"),
    ]:
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            dataset[0]
        assert error.value.file == folder / name
        (folder / name).write_bytes(kept)
    photo(folder / "images" / "a.jpg", 16, 12)
    with pytest.raises(DataError, match="the photo is 12×16, its annotation 16×12"):
        dataset[0]
    (folder / "masks" / "a.png").unlink()
    with pytest.raises(DataError, match="no such file"):
        dataset[0]


def test_photos_are_turned_as_their_annotation_was(tmp_path):
    """A photo with an EXIF orientation fits an annotation made either way."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    for size in ((12, 16), (16, 12)):
        folder = plain_folder(tmp_path / str(size[0]), np.zeros(size, np.uint8), "soil\n")
        Image.new("RGB", (12, 16)).save(folder / "images" / "a.jpg", exif=exif)  # shown 16 wide, 12 high
        picture, annotation = open_dataset(f"folder:{folder}:all", background="class")[0]
        assert picture.size[::-1] == annotation.size == size


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("coco:x", "one of the kinds coco-panoptic, "),
        ("folder:", "expected KIND:FOLDER"),
        ("x", "expected KIND:FOLDER"),
    ],
)
def test_unknown_data_lists_what_there_is(spec, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(spec)


def test_unknown_folder_and_misplaced_background(tmp_path):
    with pytest.raises(DataError, match="found none of annotations/panoptic_train2017.json"):
        open_dataset(f"coco-panoptic:{tmp_path}")
    with pytest.raises(DataError, match="use split 'all'"):
        open_dataset(f"coco-instance:{tmp_path}")
    with pytest.raises(DataError, match="found 0 JSON files in it.* instead of one; .*coco-instance:PHOTOS:FILE.json"):
        open_dataset(f"coco-instance:{tmp_path}:all")
    for kind in ("coco-panoptic", "coco-instance", "folder"):
        with pytest.raises(DataError, match="nowhere: no such folder; check its name"):
            open_dataset(f"{kind}:{tmp_path}/nowhere:all")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/panoptic_val2017.json").write_text("{}")
    with pytest.raises(DataError, match="found none of .*; it has annotations/panoptic_val2017.json; check the folder"):
        open_dataset(f"coco-panoptic:{tmp_path}:trian")
    with pytest.raises(ValueError, match="cityscapes says itself what is void"):
        open_dataset(f"cityscapes:{tmp_path}", background="class")


def test_chosen_classes_leave_the_others_void(tmp_path):
    mask = np.repeat(np.arange(4, dtype=np.uint8), 4)[None].repeat(12, 0)
    folder = plain_folder(tmp_path, mask, "a\nb\nc\nd\n")
    dataset = open_dataset(f"folder:{folder}:all", background="class", classes=["d", "b"])
    assert dataset.annotation(0).label_map()[0].tolist() == [-1] * 4 + [1] * 4 + [-1] * 4 + [0] * 4
    with pytest.raises(ValueError, match=r"not \['e'\]"):
        open_dataset(f"folder:{folder}:all", background="class", classes=["e"])
    with pytest.raises(ValueError, match="names no supercategories"):
        open_dataset(f"folder:{folder}:all", background="class", classes="supercategory")


def test_subset_and_workers(tmp_path):
    for k in range(5):
        photo(tmp_path / "images" / f"{k}.jpg")
        save(tmp_path / "masks" / f"{k}.png", np.full((12, 16), k % 2, np.uint8))
    (tmp_path / "classes.txt").write_text("soil\nplant\n")
    dataset = open_dataset(f"folder:{tmp_path}:all", background="class", transform=training_transform("coco", 32))
    part: SegmentationDataset = dataset.subset([3, 0])
    assert [part.image_id(i) for i in range(2)] == ["3", "0"] and len(dataset) == 5
    assert [label for i in range(2) for label in part.annotation(i).labels] == [1, 0]
    batches = list(torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=list))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert all(x.shape == (3, 32, 32) and t.masks.shape[1:] == (32, 32) for batch in batches for x, t in batch)
    with pytest.raises(IndexError):
        dataset[5]


# --------------------------------------------------------------------------------------------------------- joined data


@needs_shared
def test_several_specs_join_into_one_dataset():
    specs = [f"coco-panoptic:{DATA / 'coco128_panoptic'}:{split}" for split in ("train", "val")]
    both = open_dataset(specs, classes="supercategory")
    parts = [open_dataset(spec, classes="supercategory") for spec in specs]
    assert len(both) == 200 and both.classes == parts[0].classes and both.tasks == parts[0].tasks
    assert len({both.image_id(i) for i in range(200)}) == 200
    for joined, (part, index) in {3: (parts[0], 3), 100: (parts[1], 0), 199: (parts[1], 99)}.items():
        assert both.photo_path(joined) == part.photo_path(index)
        ours, theirs = both.annotation(joined), part.annotation(index)
        assert (ours.labels == theirs.labels).all() and (ours.areas() == theirs.areas()).all()
        assert (both.ground_truth(joined, "semantic").labels == part.ground_truth(index, "semantic").labels).all()
    few = both.subset([199, 0])
    assert [few.photo_path(i) for i in range(2)] == [both.photo_path(199), both.photo_path(0)]
    both.transform = training_transform(both.recipe, 64, "panoptic")
    assert both[150][0].shape == (3, 64, 64)
    assert type(open_dataset(specs[:1])) is type(parts[0])


@needs_shared
def test_joined_data_must_have_the_same_classes():
    specs = [f"coco-panoptic:{DATA / 'coco128_panoptic'}", f"coco-instance:{DATA / 'fruits_nuts'}:all"]
    with pytest.raises(ValueError, match="different classes"):
        open_dataset(specs)
