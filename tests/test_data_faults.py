"""The known faults of real data: each is repaired and said with its count, or refused by name; never silent."""

import io
import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.data import DataError, open_dataset, training_transform
from mask2former.data.convert import convert_data
from mask2former.data.flat import FlatDataset
from mask2former.data.mask_numbers import are_train_ids
from mask2former.data.survey import survey
from mask2former.data.trace import outlines

from .exports import coco_tools, pictures, tools
from .exports.damage import damage
from .exports.known import CLASSES, PHOTOS, box, jpeg, write_photo, write_png
from .test_exports import EXACT, OUTLINES, SEMANTIC, check_masks, opened, photo_of

pytest.importorskip("hotcoco")


def change(file: Path, edit) -> None:
    """A JSON file, edited."""
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def doubled(content):
    for image in content["images"]:
        image["file_name"] = f"images/images/{image['file_name'].rpartition('/')[2]}"


def text_ids(content):
    for entry in content["annotations"]:
        entry["image_id"], entry["category_id"] = str(entry["image_id"]), str(entry["category_id"])


def speck(content):
    content["annotations"][0]["segmentation"].append([5.0, 5.0, 6.0, 6.0])
    content["annotations"][1]["segmentation"].append(None)


def pairs_and_null(content):
    first, second = content["annotations"][:2]
    ring = first["segmentation"][0]
    first["segmentation"] = [[ring[k : k + 2] for k in range(0, len(ring), 2)]]
    content["annotations"].append(second | {"id": 999, "segmentation": None})
    content["annotations"].append(second | {"id": 1000, "segmentation": []})


def no_sizes(content):
    for image in content["images"]:
        image["height"] = image["width"] = None


LABEL_STUDIO = {  # what is done to the file → what is said
    "doubled": (doubled, "4 paths found by file name"),
    "text ids": (text_ids, "7 ids written as text in one place and as numbers in another"),
    "speck and null": (speck, "1 specks dropped"),
    "nothing to draw": (pairs_and_null, "2 objects without an outline left out"),
    "no sizes": (no_sizes, "4 images without height and width"),
}


@pytest.mark.parametrize("fault", LABEL_STUDIO)
def test_a_fault_of_a_coco_file_is_repaired_counted_and_refused_by_strict(fault, tmp_path):
    edit, expected = LABEL_STUDIO[fault]
    folder = coco_tools.label_studio(tmp_path)
    change(folder / "result.json", edit)
    dataset, said = opened(folder)
    assert expected in said
    check_masks(dataset, 0.99)
    with pytest.raises(DataError, match=f"strict, but to be repaired: .*{expected.partition(' (')[0][2:]}"):
        opened(folder, strict=True)
    with pytest.warns(UserWarning, match=expected[2:20]):
        open_dataset(folder, "all")


PATHS = {
    "images\\{upload}": "4 paths with back slashes",
    "/data/upload/1/{upload}": "4 paths found by file name",
    "../../label-studio/media/upload/3/{upload}": "4 paths found by file name",
    "C:\\Users\\anna\\fruit\\{name}": "4 paths found by file name",
    "/data/local-files/?d=pictures%2F{upload}": "4 paths found by file name",
}


@pytest.mark.parametrize("path", PATHS)
def test_paths_of_other_machines(path, tmp_path):
    folder = coco_tools.label_studio(tmp_path, path)
    if "{name}" in path:  # the photos as they were before the upload
        shutil.rmtree(folder / "images")
        for photo in PHOTOS:
            write_photo(photo, folder / "pictures" / photo.name)
    dataset, said = opened(folder)
    assert PATHS[path] in said
    check_masks(dataset, 0.99)


def test_two_photos_of_one_name_are_not_guessed(tmp_path):
    folder = coco_tools.label_studio(tmp_path, "/elsewhere/{upload}")
    for other in ("a", "b"):
        shutil.copytree(folder / "images", folder / other)
    shutil.rmtree(folder / "images")
    with pytest.raises(DataError, match="could be a/.* or b/|could be b/.* or a/"):
        opened(folder)


def test_missing_photos_stop_or_are_skipped(tmp_path):
    folder = coco_tools.cvat(tmp_path)
    (folder / "images" / "default" / "c.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 4 photos are not in the folder: c\.jpg; .*--skip-bad"):
        opened(folder)
    dataset, said = opened(folder, skip_bad=True)
    assert len(dataset) == 3 and "1 photos that are not there left out (c.jpg)" in said


def test_a_root_category_is_no_class(tmp_path):
    dataset, said = opened(coco_tools.roboflow(tmp_path / "a"))
    assert [c.name for c in dataset.classes] == list(CLASSES) and "as they are the root of others (fruits-7xQb" in said
    folder = coco_tools.roboflow(tmp_path / "b", root_name="leaf")  # whose only child has its name
    for file in folder.rglob("_annotations.coco.json"):

        def one_child(content):
            content["categories"] = [content["categories"][0], content["categories"][1] | {"name": "leaf"}]
            for entry in content["annotations"]:
                entry["category_id"] = 1

        change(file, one_child)
    for choice in (None, ["leaf"]):
        dataset, said = opened(folder, classes=choice)
        assert [c.name for c in dataset.classes] == ["leaf"]
        assert sum(len(dataset.annotation(k).labels) for k in range(4)) == 7


def test_brush_masks_are_no_crowds(tmp_path):
    dataset, said = opened(coco_tools.cvat(tmp_path, brush=True))
    assert "7 brush masks that CVAT calls crowds taken as single objects" in said


def test_mac_companions_and_split_files_are_passed_over(tmp_path):
    folder = tools.labelme(tmp_path)
    for photo in PHOTOS:
        (folder / f"._{photo.name}").write_bytes(b"\0\5\x16\7Mac OS X")
        (folder / f"._{photo.stem}.json").write_bytes(b"\0\5\x16\7Mac OS X")
    dataset, said = opened(folder)
    assert "8 Mac companions" in said
    check_masks(dataset, 0.99)
    plain = pictures.plain(tmp_path / "plain", things=True)
    (plain / "images" / "._c.jpg").write_bytes(b"\0\5\x16\7")
    with pytest.warns(UserWarning, match="1 hidden files, such as a Mac's companions"):
        assert len(open_dataset(f"folder:{plain}:all")) == 4


@pytest.mark.parametrize("path", ["..\\photos\\{name}", "C:\\a b\\{name}", "/home/anna/{name}"])
def test_labelme_paths(path, tmp_path):
    dataset, said = opened(tools.labelme(tmp_path, path, image_data=False))
    assert "4 paths" in said
    check_masks(dataset, 0.99)


def test_labelme_shapes_of_other_kinds(tmp_path):
    folder = tools.labelme(tmp_path)

    def add(content):
        common = {"group_id": None, "flags": {}}
        content["shapes"] += [
            common | {"label": "fig", "shape_type": "line", "points": [[1, 1], [9, 9]]},
            common | {"label": "fig", "shape_type": "circle", "points": [[20, 20], [20, 30]]},
            common | {"label": "nut", "shape_type": "polygon", "points": [[1, 1], [9, 1], [9, 9]], "group_id": 4},
            common | {"label": "nut", "shape_type": "polygon", "points": [[21, 1], [29, 1], [29, 9]], "group_id": 4},
        ]

    change(folder / "c.json", add)
    dataset, said = opened(folder)
    index = next(k for k in range(4) if dataset.image_id(k) == "c")
    assert len(dataset.annotation(index).labels) == 3 and "1 points and lines left out" in said


def test_supervisely_holes(tmp_path):
    folder = tools.supervisely(tmp_path, bitmaps=False)
    file = folder / "ds1" / "ann" / "d.jpg.json"
    change(file, lambda c: c["objects"][0]["points"].update(interior=[box(40, 40, 60, 60).tolist()]))
    dataset, _ = opened(folder)
    index = next(k for k in range(4) if dataset.image_id(k) == "d")
    truth = PHOTOS[3].things[0].mask(PHOTOS[3].size)
    truth[40:60, 40:60] = False
    mask = dataset.annotation(index).masks()[0].numpy()
    assert (mask & truth).sum() / (mask | truth).sum() > 0.99 and not mask[45:55, 45:55].any()


def test_yolo_boxes_and_strangers(tmp_path):
    folder = tools.yolo(tmp_path, "roboflow")
    label = folder / "train" / "labels" / "bowl_2.txt"
    label.write_text(label.read_text() + "0 0.5 0.5 0.1 0.1\n")
    (folder / "train" / "labels" / "gone.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    dataset, said = opened(folder)
    assert "1 boxes left out" in said and "1 label files without a photo left out" in said
    check_masks(dataset, 0.99)
    label.write_text("7 0.1 0.1 0.2 0.1 0.2 0.2\n")
    with pytest.raises(DataError, match="line 1: class 7, but there are 3"):
        opened(folder)
    label.write_text("1 110 110 220 110 220 220\n")
    with pytest.raises(DataError, match="is no share of a side"):
        opened(folder)


def test_colours_that_no_table_names(tmp_path):
    folder = pictures.camvid(tmp_path)
    path = folder / "trainannot" / "bowl_2.png"
    values = np.array(Image.open(path))
    values[:3, :5] = (1, 2, 3)
    write_png(values, path)
    dataset, _ = opened(folder, split="train")
    with pytest.raises(DataError, match=r"1 colours that are no class, such as \(1, 2, 3\), at 0.02% of its pixels"):
        [dataset.annotation(k) for k in range(2)]


# ------------------------------------------------------------------------------------------------- numbers of masks


@pytest.mark.parametrize("names", ["background\nfruit\n", "fruit\n", None])
@pytest.mark.parametrize("high", [255, 1])
def test_masks_of_two_values(names, high, tmp_path):
    dataset, said = opened(pictures.binary(tmp_path, names, high))
    assert len(dataset.classes) == 2 and dataset.classes[1].name == ("fruit" if names else "object")
    for index in range(4):
        assert np.array_equal(dataset.annotation(index).label_map(), photo_of(dataset, index).class_map() > 0)


def test_255_as_the_second_class_is_said_where_a_kind_is_named(tmp_path):
    pictures.binary(tmp_path, "background\nfruit\n")
    dataset = open_dataset(f"folder:{tmp_path}:all", background="class")
    said = survey(dataset, "semantic").sentences()
    assert said[0] == "1 of 2 classes have no pixel: fruit" and "of the pixels are ignored" in said[1]
    assert "masks of 0 and 255" in said[2]
    nothing = open_dataset(f"folder:{tmp_path}:all", background="ignore", classes=["fruit"])
    with pytest.raises(DataError, match="no target at all: none of 4 readable photos has a pixel of a class"):
        survey(nothing, "semantic")


def grey_in_colour(values):
    return np.stack([values] * 3, -1).astype(np.uint8)


def red_and_green(values):
    return np.stack([values // 1000, values % 1000, np.zeros_like(values)], -1).astype(np.uint8)


def in_colour(values):
    return np.stack([values & 255, values >> 8, np.zeros_like(values)], -1).astype(np.uint8)


def test_grey_saved_in_colour(tmp_path):
    folder = pictures.plain(tmp_path, grey_in_colour)
    names = ["background", *CLASSES, *(f"class {k}" for k in range(4, 150))]  # where 65 and 131 are classes too
    (folder / "classes.txt").write_text("\n".join(names))
    dataset, said = opened(folder)
    assert "4 masks are grey pictures saved in colour" in said and dataset.tasks == ("semantic",)
    for index in range(4):
        assert np.array_equal(dataset.annotation(index).label_map(), photo_of(dataset, index).class_map())
    with pytest.warns(UserWarning, match="grey pictures saved in colour"):
        named = open_dataset(f"folder:{folder}:all", background="class")
    assert np.array_equal(named.annotation(0).label_map(), photo_of(named, 0).class_map())


@pytest.mark.parametrize("classes", [3, 150])
def test_class_in_red_and_instance_in_green(classes, tmp_path):
    folder = pictures.plain(tmp_path / "a", red_and_green, things=True)
    other = pictures.plain(tmp_path / "b", in_colour, things=True)  # 1000 × class + instance, as documented
    table = [{"id": k + 1, "name": (*CLASSES, *range(200))[k], "isthing": 1} for k in range(classes)]
    for place in (folder, other):
        (place / "classes.json").write_text(json.dumps([c | {"name": str(c["name"])} for c in table]))
    dataset, said = opened(folder)
    assert "4 masks hold the class in red and the instance in green" in said
    check_masks(dataset, 1.0)
    dataset, said = opened(other)
    assert "red" not in said
    check_masks(dataset, 1.0)


@pytest.mark.parametrize("instances", [True, False])
def test_train_ids_under_the_names_of_label_ids(instances, tmp_path):
    right = opened(pictures.cityscapes(tmp_path / "a", instances=False), split="train")[0]
    folder = pictures.cityscapes(tmp_path / "b", train_ids=True, instances=False)
    if instances:
        for path in folder.rglob("*_labelIds.png"):
            values = np.array(Image.open(path)).astype(np.uint16)
            write_png(np.where(values > 10, values * 1000, values), Path(str(path).replace("labelIds", "instanceIds")))
    dataset, said = opened(folder, split="train")
    assert "2 masks hold train ids" in said
    for index in range(2):
        truth = right.annotation(index).label_map()
        assert np.array_equal(dataset.ground_truth(index, "semantic").label_map(), truth)
    assert not are_train_ids(list((tmp_path / "a").rglob("*_labelIds.png")))


# ---------------------------------------------------------------------------------------------------------- EXIF

TURN = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # fmt: skip


def store_turned(path: Path, orientation: int, annotated: str) -> None:
    """Give a photo an EXIF entry; annotated upright, its pixels are stored turned, so that it shows as before."""
    picture = Image.open(path)
    picture.load()
    exif = picture.getexif()
    exif[0x0112] = orientation
    turned = picture.transpose(TURN[orientation]) if annotated == "upright" else picture
    turned.save(path, exif=exif, quality=95)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_half_turns_and_mirrors_are_said_and_an_option_decides(orientation, tmp_path):
    for annotated in ("upright", "stored"):
        folder = coco_tools.cvat(tmp_path / annotated)
        store_turned(folder / "images" / "default" / "bowl one.jpg", orientation, annotated)
        dataset, _ = opened(folder)
        assert "1 photos are turned by EXIF, and no size shows how they were annotated" in dataset.notes[-1]
        assert f"as {annotated}" in dataset.notes[-1] and "--exif" in dataset.notes[-1]
        for exif in ("auto", annotated):
            dataset, _ = opened(folder, exif=exif)
            index = next(k for k in range(4) if dataset.image_id(k) == "bowl one")
            photo, annotation = dataset[index]
            inside, red = annotation.masks().any(0).numpy(), np.asarray(photo)[..., 0] > 160  # they are painted
            assert (inside & red).sum() / (inside | red).sum() > 0.95


def test_quarter_turns_tell_how_the_others_were_annotated(tmp_path):
    folder = coco_tools.cvat(tmp_path)
    store_turned(folder / "images" / "default" / "bowl one.jpg", 6, "stored")
    store_turned(folder / "images" / "default" / "d.jpg", 3, "stored")  # a square
    dataset, _ = opened(folder)
    assert "1 photos turned by EXIF were annotated on their stored pixels" in dataset.notes[-1]
    for index in range(4):
        photo, annotation = dataset[index]
        inside, red = annotation.masks().any(0).numpy(), np.asarray(photo)[..., 0] > 160
        assert (inside & red).sum() / (inside | red).sum() > 0.95


# -------------------------------------------------------------------------------- what is broken, what is not split


def test_broken_photos_end_nothing_where_they_may_be_skipped(tmp_path):
    folder = coco_tools.cvat(tmp_path)
    path = folder / "images" / "default" / "bowl one.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    dataset, _ = opened(folder)
    with pytest.raises(DataError, match="not a readable picture"):
        dataset[0]
    dataset, _ = opened(folder, skip_bad=True, transform=training_transform("coco", 32, "instance"))
    items = [dataset[k] for k in range(4)]
    assert len(items) == 4 and torch.is_tensor(items[0][0])
    assert "1 broken photos were skipped" in dataset.skipped.text() and "bowl one.jpg" in dataset.skipped.text()


def test_a_split_is_made_written_down_and_kept(tmp_path):
    folder = tools.labelme(tmp_path)
    train, said = opened(folder, split="train")
    assert "1 of 4 photos held out for validation" in said and "written to mask2former-split.json" in said
    val, _ = opened(folder, split="val")
    names = {data.image_id(k) for data in (train, val) for k in range(len(data))}
    assert len(train) == 3 and len(val) == 1 and len(names) == 4
    held_out = val.image_id(0)
    write_photo(PHOTOS[0], folder / "new.jpg")
    change_of = json.loads((folder / "c.json").read_text()) | {"imagePath": "new.jpg", "imageData": None}
    change_of |= dict(zip(("imageHeight", "imageWidth"), PHOTOS[0].size, strict=True))
    (folder / "new.json").write_text(json.dumps(change_of))
    val, said = opened(folder, split="val")
    assert [val.image_id(0)] == [held_out] and len(val) == 1 and "1 photos that" in said
    assert len(opened(folder, split="train")[0]) == 4


def test_files_alone_and_what_is_none(tmp_path):
    folder = coco_tools.cvat(tmp_path / "cvat")
    check_masks(opened(folder / "annotations" / "instances_default.json")[0], 0.99)
    folder = coco_tools.label_studio(tmp_path / "ls")
    check_masks(opened(folder / "result.json")[0], 0.99)
    (tmp_path / "tasks").mkdir()
    write_photo(PHOTOS[0], tmp_path / "tasks" / "a.jpg")
    (tmp_path / "tasks" / "project.json").write_text(
        '[{"id": 1, "annotations": [{"result": [{"type": "brushlabels"}], "completed_by": 1}]}]'
    )
    with pytest.raises(DataError, match="Label Studio's own JSON, which is not read; export the project as `COCO`"):
        opened(tmp_path / "tasks")
    (tmp_path / "photos").mkdir()
    write_photo(PHOTOS[0], tmp_path / "photos" / "a.jpg")
    with pytest.raises(DataError, match=r"nearest is a plain folder: images/, masks/ and classes.txt; .*datumaro"):
        opened(tmp_path / "photos")
    with pytest.raises(DataError, match="is described by"):
        shutil.copy(folder / "result.json", folder / "copy.json")
        opened(folder)


# ------------------------------------------------------------------------------------- one class a pixel, conversion


def test_semantic_and_panoptic_targets_of_outlines(tmp_path):
    folder = coco_tools.label_studio(tmp_path)

    def overlap(content):  # a nut within the date of photo c, and a crowd below all
        ring = box(130, 80, 170, 120).ravel().tolist()
        entry = content["annotations"][4] | {"id": 99, "category_id": 2, "segmentation": [ring]}
        content["annotations"].insert(0, entry)

    change(folder / "result.json", overlap)
    for background in ("class", "ignore"):
        dataset, _ = opened(folder, background=background)
        assert isinstance(dataset, FlatDataset) and dataset.tasks == ("panoptic", "instance", "semantic")
        index = next(k for k in range(4) if photo_of(dataset, k).stem == "c")
        truth = PHOTOS[2].class_map().astype(int) - 1
        truth[truth < 0] = 3 if background == "class" else -1
        truth[80:120, 130:170] = 2
        assert (dataset.ground_truth(index, "semantic").label_map() == truth).mean() > 0.995
        assert dataset.annotation(index).label_map()[100, 150] == 2  # the smaller is on top
        assert len(dataset.ground_truth(index, "instance").labels) == 2
    assert "the smaller is on top, what none covers is ignored" in dataset.notes[-1]
    named = open_dataset(f"coco-instance:{folder}:all", background="class")
    assert [c.name for c in named.classes] == [*CLASSES, "background"]


@pytest.mark.parametrize("to", ["coco-instance", "coco-panoptic", "folder", "yolo"])
@pytest.mark.parametrize("source", [partial(coco_tools.cvat, brush=True), tools.cvat_xml, pictures.coco_panoptic])
def test_converted_data_has_the_same_masks(source, to, tmp_path):
    folder = source(tmp_path / "from")
    counts, said = convert_data(str(folder), tmp_path / "to", to)
    assert sum(counts.values()) == 4 and set(counts) == {"train", "val"} and said
    dataset, _ = opened(tmp_path / "to")
    check_masks(dataset, 0.99 if source is tools.cvat_xml else 1.0)
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(FileExistsError):
        convert_data(str(folder), tmp_path / "to", to)


def test_converting_broken_data_leaves_nothing(tmp_path):
    folder = coco_tools.cvat(tmp_path / "from")
    path = folder / "images" / "default" / "c.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError):
        convert_data(str(folder), tmp_path / "to", "yolo")
    assert [p.name for p in tmp_path.iterdir()] == ["from"]
    counts, said = convert_data(str(folder), tmp_path / "to", "yolo", skip_bad=True)
    assert sum(counts.values()) == 3 and any("c.jpg" in line for line in said)


def test_outlines_of_masks_are_exact():
    from mask2former.data.rings import inside

    rng = np.random.default_rng(0)
    for _ in range(60):
        coarse = rng.random(rng.integers(1, 9, 2)) > 0.5  # blocks with holes, and corners that touch
        mask = np.kron(coarse, np.ones(rng.integers(1, 4, 2))).astype(bool)
        if mask.any():
            assert np.array_equal(inside(outlines(mask), mask.shape), mask)


def test_datasets_of_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")

    rows = {
        "image": [Image.open(io.BytesIO(jpeg(p))) for p in PHOTOS],
        "label": [Image.fromarray(p.class_map()) for p in PHOTOS],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)}).save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "id2label.json").write_text(json.dumps(dict(enumerate(["background", *CLASSES]))))
    dataset, said = opened(f"hf:{tmp_path / 'd'}")
    assert said.startswith("Hugging Face dataset: 4 classes, 4 photos") and dataset.tasks == ("semantic",)
    for index, photo in enumerate(PHOTOS):
        assert np.array_equal(dataset.annotation(index).label_map(), photo.class_map())
        assert dataset[index][0].size[::-1] == photo.size
    train, val = (opened(tmp_path / "d", split=split)[0] for split in ("train", "val"))
    assert len(train) == 3 and len(val) == 1


def test_warnings_come_once(tmp_path):
    folder = coco_tools.label_studio(tmp_path, "images\\{upload}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_dataset(folder, "all")
    assert [w.filename for w in caught if w.category is UserWarning] == [__file__], [str(w) for w in caught]


# -------------------------------------------------------------------------------------- folders, names and formats


def test_splits_are_those_of_the_data(tmp_path):
    folder = coco_tools.roboflow(tmp_path / "a")
    stems = {split: [photo_of(data, k).stem for k in range(len(data))]
             for split in ("train", "val", "test") for data in [opened(folder, split=split)[0]]}  # fmt: skip
    assert stems == {"train": ["bowl one", "bowl_2"], "val": ["c"], "test": ["d"]}
    assert len(open_dataset(f"{folder}:val")) == 1
    voc, _ = opened(pictures.voc(tmp_path / "voc"), split="train")
    assert [voc.image_id(k) for k in range(len(voc))] == ["bowl one", "bowl_2"]
    assert not list(tmp_path.rglob("mask2former-split.json"))


def test_an_archive_in_a_folder_of_its_own_and_decomposed_accents(tmp_path):
    import unicodedata

    folder = tools.labelme(tmp_path / "unpacked" / "fruits")
    (folder / "c.jpg").rename(folder / unicodedata.normalize("NFD", "crème.jpg"))
    (folder / "c.json").rename(folder / unicodedata.normalize("NFD", "crème.json"))
    change(folder / unicodedata.normalize("NFD", "crème.json"), lambda c: c.update(imagePath="crème.jpg"))
    dataset, said = opened(tmp_path / "unpacked")
    assert len(dataset) == 4 and "1 photos found beside their file" in said
    ade, said = opened(pictures.ade20k(tmp_path / "b" / "ADEChallengeData2016").parent, split="train")
    assert said.startswith("ADE20K: 150 classes, 2 photos")


def test_masks_of_other_makes(tmp_path):
    old = pictures.voc(tmp_path / "old", tool="labelme")  # as older versions name their folders
    for kind in ("Class", "Object"):
        (old / f"Segmentation{kind}").rename(old / f"Segmentation{kind}PNG")
    check_masks(opened(old)[0], 1.0)
    voc = pictures.voc(tmp_path / "colours", objects=False)
    for path in (voc / "SegmentationClass").glob("*.png"):
        Image.open(path).convert("RGB").save(path)
    dataset, said = opened(voc)
    assert "colours are those of VOC" in said
    assert {dataset.classes[k].name for k in dataset.annotation(0).labels} <= {"background", "bottle", "cat", "person"}
    table = [{"id": 0, "name": "rest", "isthing": 0}, {"id": 1, "name": "fruit", "isthing": 0}]
    binary = pictures.binary(tmp_path / "binary")
    (binary / "classes.json").write_text(json.dumps(table))
    dataset, said = opened(binary)
    assert [c.name for c in dataset.classes] == ["rest", "fruit"] and "255 in the masks is a class" in said
    assert np.array_equal(dataset.annotation(0).label_map(), photo_of(dataset, 0).class_map() > 0)


def test_masks_that_no_format_explains_are_explained(tmp_path):
    folder = pictures.binary(tmp_path / "a", high=77)
    with pytest.raises(DataError, match="masks of the values 0, 77, but nothing names the classes; .*classes.txt"):
        opened(folder)
    for path in list((folder / "masks").glob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    with pytest.raises(DataError, match="is a picture in JPEG; save masks as PNG"):
        opened(folder)


def test_photos_of_kinds_that_are_not_read_are_counted(tmp_path):
    folder = tools.yolo(tmp_path / "yolo", "label_studio")
    (folder / "images" / "raw.cr2").write_bytes(b"II*\0")
    assert "1 photos are not read (a camera's raw file" in opened(folder)[1]
    plain = pictures.plain(tmp_path / "plain", things=True)
    (plain / "images" / "raw.nef").write_bytes(b"II*\0")
    with pytest.warns(UserWarning, match="left out: raw.nef: a camera's raw file"):
        assert len(open_dataset(f"folder:{plain}:all")) == 4


def test_converted_photos_are_upright(tmp_path):
    folder = coco_tools.cvat(tmp_path / "from")
    store_turned(folder / "images" / "default" / "bowl one.jpg", 6, "upright")
    _, said = convert_data(str(folder), tmp_path / "to", "coco-instance")
    assert any(line.startswith("1 photos written anew, upright") for line in said)
    dataset, _ = opened(tmp_path / "to")
    for index in range(4):
        photo, annotation = dataset[index]
        inside, red = annotation.masks().any(0).numpy(), np.asarray(photo)[..., 0] > 160
        assert Image.open(dataset.photo_path(index)).getexif().get(0x0112, 1) == 1
        assert (inside & red).sum() / (inside | red).sum() > 0.95


@pytest.mark.parametrize("title", [*OUTLINES, *EXACT, *SEMANTIC])
def test_damaged_exports_are_read_or_refused_by_name(title, tmp_path):
    (tmp_path / "made").mkdir()
    made = (OUTLINES | EXACT | SEMANTIC)[title](tmp_path / "made")
    for seed in range(3):
        shutil.copytree(made, tmp_path / f"{seed}")
        what = damage(tmp_path / f"{seed}", random := Random(f"{seed} {title}"))
        try:
            dataset, _ = opened(tmp_path / f"{seed}")
            [dataset[index] for index in range(len(dataset))]
        except (DataError, FileNotFoundError) as error:
            assert len(str(error)) < 1500, (what, random)


def test_where_no_size_is_told_the_reach_of_outlines_shows_quarter_turns(tmp_path):
    folder = tools.via_json(tmp_path / "via")
    store_turned(folder / "bowl one.jpg", 6, "stored")  # its objects go beyond the upright photo
    dataset, _ = opened(folder)
    index = next(k for k in range(4) if dataset.image_id(k) == "bowl one")
    photo, annotation = dataset[index]
    inside, red = annotation.masks().any(0).numpy(), np.asarray(photo)[..., 0] > 160
    assert (inside & red).sum() / (inside | red).sum() > 0.95 and "as their sizes show" in dataset.notes[-1]
    folder = tools.yolo(tmp_path / "yolo", "label_studio")  # shares of sides, which nothing shows
    store_turned(folder / "images" / "bowl one.jpg", 6, "stored")
    dataset, _ = opened(folder)
    assert "1 photos are turned by EXIF" in dataset.notes[-1] and "--exif stored" in dataset.notes[-1]
    photo, annotation = opened(folder, exif="stored")[0][index]
    inside, red = annotation.masks().any(0).numpy(), np.asarray(photo)[..., 0] > 160
    assert (inside & red).sum() / (inside | red).sum() > 0.95


@pytest.mark.parametrize("make", [tools.labelme, tools.yolo, coco_tools.cvat, tools.supervisely])
def test_pictures_without_annotation_are_counted(make, tmp_path):
    folder = make(tmp_path)
    write_photo(PHOTOS[0], folder / "more" / "extra.jpg")
    dataset, said = opened(folder)
    assert len(dataset) == 4 and "1 pictures that no annotation names are not read (more/extra.jpg)" in said


def test_splits_of_yolo(tmp_path):
    folder = tools.yolo(tmp_path / "lists", "label_studio")  # as CVAT writes it: lists of photos
    (folder / "classes.txt").unlink()
    (folder / "data.yaml").write_text(f"path: .\ntrain: train.txt\nval: val.txt\nnames: {list(CLASSES)}\n")
    (folder / "train.txt").write_text("data/images/bowl one.jpg\ndata/images/d.jpg\n")
    (folder / "val.txt").write_text("data/images/c.jpg\ndata/images/bowl_2.jpg\n")
    val, said = opened(folder, split="val")
    assert sorted(val.image_id(k) for k in range(len(val))) == ["bowl_2", "c"] and "held out" not in said
    (folder / "data.yaml").write_text(f"train: images\nval: images\nnames: {list(CLASSES)}\n")
    train, said = opened(folder, split="train")
    assert len(train) == 3 and "1 of 4 photos held out" in said
    for layout in ("ultralytics", "roboflow"):
        folder = tools.yolo(tmp_path / layout, layout)
        for split, count in (("train", 2), ("val", 1), ("test", 1)):
            assert len(opened(folder, split=split)[0]) == count
