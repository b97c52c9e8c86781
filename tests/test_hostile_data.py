"""Annotations from outside are read right or refused by name; what is repaired is said and counted."""

import json
import os
import tracemalloc
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.data import DataError, open_dataset
from mask2former.data.annotation import IdMap
from mask2former.data.inspect import inspect
from mask2former.data.outline import decompress
from mask2former.evaluation import MaskAveragePrecision, MeanIoU, PanopticQuality, evaluate
from mask2former.structures import ClassInfo

from .hostile.data import KINDS, as_color, check, compressed, make, png, run_lengths
from .test_data_formats import photo, plain_folder, save
from .test_evaluation import Oracle

HEIGHT, WIDTH = 12, 16
SQUARE = [[3, 2, 9, 2, 9, 6, 3, 6]]
LONG = float(10**9)


def instances(folder, content=None, **changes):
    """Two photos, an object in each; `changes` replace lists, or update the first entry where they are objects."""
    for name in ("1.jpg", "2.jpg"):
        photo(folder / "images" / name)
    content = content or {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": HEIGHT, "width": WIDTH} for k in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": k, "image_id": k, "category_id": k, "segmentation": SQUARE, "area": 24, "iscrowd": 0} for k in (1, 2)
        ],
    }
    return changed_file(folder, "coco-instance", content, changes)


def panoptic(folder, **changes):
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[:, :4], ids[:, 4:8] = 5, 600
    for k in (1, 2):
        photo(folder / "images" / f"{k}.jpg")
        save(folder / "objects" / f"{k}.png", as_color(ids).astype(np.uint8))
    segments = [{"id": 5, "category_id": 1, "iscrowd": 0}, {"id": 600, "category_id": 2}]
    content = {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": HEIGHT, "width": WIDTH} for k in (1, 2)],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
        "annotations": [{"image_id": k, "file_name": f"{k}.png", "segments_info": segments} for k in (1, 2)],
    }
    return changed_file(folder, "coco-panoptic", content, changes)


def changed_file(folder, kind, content, changes):
    for key, change in changes.items():
        if isinstance(change, dict):
            content[key][0] = content[key][0] | change
        else:
            content[key] = change(content[key]) if callable(change) else change
    (folder / "objects.json").write_text(json.dumps(content))
    return f"{kind}:{folder / 'images'}:{folder / 'objects.json'}"


def segment(**fields):
    return {"segments_info": [{"id": 5, "category_id": 1} | fields, {"id": 600, "category_id": 2}]}


def again(**fields):
    """The second entry with the first one's value of a field."""
    return lambda entries: [entries[0], entries[1] | {name: entries[0][name] for name in fields["same"]}]


# ------------------------------------------------------------------------------------------------ the file, when opened


@pytest.mark.parametrize(
    ("make_file", "change", "message"),
    [
        # a value of another type is no value
        (instances, {"annotations": {"iscrowd": "0"}}, r'\$.annotations\[0\].iscrowd: .*got `str`, found "0"'),
        (instances, {"annotations": {"iscrowd": 2}}, r"\$.annotations\[0\].iscrowd: Expected `int` <= 1, found 2"),
        (instances, {"annotations": {"iscrowd": 1.0}}, "iscrowd: .*got `float`, found 1.0"),
        (instances, {"annotations": {"category_id": True}}, "category_id: .*got `bool`, found true"),
        (instances, {"annotations": {"category_id": 1.0}}, "category_id: .*got `float`"),
        (instances, {"annotations": {"category_id": "cat"}}, 'category_id: .*found "cat"'),
        (instances, {"annotations": {"image_id": True}}, "image_id: .*got `bool`"),
        (instances, {"annotations": {"image_id": 10**30}}, "image_id: .*found 1000000000"),
        (instances, {"annotations": {"id": 2**63}}, r"annotations\[0\].id: .*found 9223372036854775808"),
        (instances, {"annotations": {"area": -24}}, r"annotations\[0\].area: .*>= 0.*found -24"),
        (instances, {"annotations": {"area": "24"}}, "area: .*got `str`"),
        (instances, {"annotations": {"area": 24000}}, r"annotations\[0\].area: 24000 pixels of a photo of 16×12"),
        (instances, {"annotations": {"area": float("nan")}}, "no valid JSON.*NaN"),
        (instances, {"images": {"height": 0}}, r"images\[0\].height: Expected `int` >= 1, found 0"),
        (instances, {"images": {"width": -16}}, "width: .*found -16"),
        (instances, {"images": {"width": 16.5}}, "width: .*found 16.5"),
        (instances, {"images": {"width": True}}, "width: .*got `bool`"),
        (instances, {"images": {"height": 90_000, "width": 90_000}}, r"images\[0\]: 90000×90000 pixels; expected"),
        (instances, {"images": {"id": 1.0}}, r"images\[0\].id: .*got `float`"),
        (instances, {"images": {"file_name": ""}}, r"images\[0\].file_name"),
        (instances, {"images": {"file_name": "../2.jpg"}}, "file_name: '../2.jpg' leads out of its folder"),
        (instances, {"images": {"file_name": "/etc/passwd"}}, "leads out of its folder"),
        (instances, {"images": {"file_name": "1.jpg\0"}}, "leads out of its folder"),
        (instances, {"categories": {"name": ""}}, r"categories\[0\].name"),
        (instances, {"categories": {"color": [0, 0, 256]}}, r"categories\[0\].color\[2\]: .*found 256"),
        (instances, {"categories": {"id": True}}, r"categories\[0\].id: .*got `bool`"),
        (panoptic, {"categories": {"isthing": "0"}}, r'categories\[0\].isthing: .*found "0"'),
        (panoptic, {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "sky"}]}, r"\[0\]: no isthing"),
        (panoptic, {"annotations": segment(iscrowd="0")}, r'annotations\[0\].segments_info\[0\].iscrowd: .*found "0"'),
        (panoptic, {"annotations": segment(id=0)}, r"segments_info\[0\].id: .*found 0"),
        (panoptic, {"annotations": segment(id=256**3)}, r"segments_info\[0\].id: .*found 16777216"),
        (panoptic, {"annotations": segment(id=-5)}, r"segments_info\[0\].id: .*found -5"),
        # each thing once
        (instances, {"images": again(same=["id"])}, r"images\[1\].id: 1, which \$.images\[0\] has already"),
        (instances, {"images": lambda e: [e[0], e[1] | {"id": "1"}]}, r"images\[1\].id: 1, which"),
        (instances, {"images": again(same=["file_name"])}, r"images\[1\].file_name: '1.jpg', which \$.images\[0\]"),
        (instances, {"annotations": again(same=["id"])}, r"annotations\[1\].id: 1, which \$.annotations\[0\] has"),
        (instances, {"categories": again(same=["id"])}, r"categories\[1\].id: 1, which \$.categories\[0\] has"),
        (instances, {"categories": again(same=["name"])}, r"categories\[1\]: the name 'cat', which"),
        (panoptic, {"images": again(same=["id"])}, r"images\[1\].id: 1, which"),
        (panoptic, {"annotations": again(same=["image_id"])}, r"annotations\[1\].image_id: "),
        (panoptic, {"annotations": again(same=["file_name"])}, r"annotations\[1\].file_name: '1.png', which"),
        (panoptic, {"annotations": segment(id=600)}, r"annotations\[0\].segments_info\[1\].id: 600, which"),
        (panoptic, {"categories": again(same=["name"])}, "the name 'cat', which"),
        # what is referred to is there
        (instances, {"annotations": {"image_id": 3}}, "annotation of image 3, which is not under images"),
        (instances, {"annotations": {"image_id": "one"}}, "annotation of image 'one', which is not under images"),
        (instances, {"annotations": {"category_id": 3}}, r"annotations\[0\].category_id: of category 3, which is not"),
        (panoptic, {"annotations": {"image_id": 3}}, "annotation of image 3, which is not under images"),
        (panoptic, {"annotations": segment(category_id=3)}, r"segments_info\[0\].category_id: of category 3"),
        (instances, {"categories": []}, "category 1, which is not in the class table"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_named_when_it_is_opened(tmp_path, make_file, change, message):
    assert len(open_dataset(make_file(tmp_path))) == 2
    spec = make_file(tmp_path, **change)
    with pytest.raises(DataError, match=message) as error:
        open_dataset(spec)
    assert str(error.value).startswith(str(tmp_path / "objects.json")) and error.value.remedy


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'{"images": ' + b"[" * 100_000, b'{"images": 1e999}', b"\0"]
)
def test_files_that_are_no_json(tmp_path, text):
    spec = instances(tmp_path)
    (tmp_path / "objects.json").write_bytes(text)
    with pytest.raises(DataError, match=r"objects.json: "):
        open_dataset(spec)


def test_a_pipe_is_not_waited_for(tmp_path):
    spec = panoptic(tmp_path)
    for name, error in (("objects/1.png", DataError), ("images/1.jpg", DataError), ("objects.json", FileNotFoundError)):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(error, match="is no file"):
            open_dataset(spec)[0]
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(kept)


# -------------------------------------------------------------------------------------------- outlines, when a photo is


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([[3, 2, 1, 9, 2, 1, 9, 6, 1]], r"segmentation\[0\]: 9 numbers, which are no pairs x, y"),
        ([[3, 2, 9, 2, 9]], r"segmentation\[0\]: .*length >= 6"),
        ([[3, 2, 9, 2, 9, None]], r"segmentation\[0\]\[5\]: .*got `null`"),
        ([[3, 2, 9, 2, 9, "6"]], r"segmentation\[0\]\[5\]: .*got `str`"),
        ([[3, 2, 9, 2, 9, True]], r"segmentation\[0\]\[5\]: .*got `bool`"),
        ([[3, 2, 9, 2, 9, 1e300]], r"segmentation\[0\]\[5\]: .*found 1e"),
        ([[103, 2, 109, 2, 109, 6]], "all of it lies outside the photo of 16×12 pixels"),
        ([[-1e7, -1e7, 1e7, 1e7, 5, 1e7]], "outlines longer than 100768 pixels"),
        ([3, 2, 9, 2, 9, 6], r"segmentation\[0\]: Expected `array`"),
        ([], "expected polygons"),
        (None, "got `null`"),
        ("", "got `str`"),
        ({}, "missing required field"),
        (
            {"size": [WIDTH, HEIGHT], "counts": [192]},
            r"segmentation.size: \[16, 12\], but the image has the size \[12, 16\]",
        ),
        ({"size": [HEIGHT, WIDTH], "counts": [3, 4]}, "counts: a run-length encoding of 7 pixels for a photo of 192"),
        ({"size": [HEIGHT, WIDTH], "counts": [100, 100]}, "of 200 pixels for a photo of 192"),
        ({"size": [HEIGHT, WIDTH], "counts": [200, -8]}, r"counts\[1\]: .*found -8"),
        ({"size": [HEIGHT, WIDTH], "counts": [191.0, 1]}, r"counts\[0\]: .*got `float`"),
        ({"size": [HEIGHT, WIDTH], "counts": [True, 191]}, "got `bool`"),
        ({"size": [HEIGHT, WIDTH], "counts": compressed([38, 4])}, "of 42 pixels for a photo of 192"),
        ({"size": [HEIGHT, WIDTH], "counts": compressed([38, 4, 150])[:-1] + "h"}, "ends within a count"),
        ({"size": [HEIGHT, WIDTH], "counts": "o" * 20 + "0"}, "a count of 21 characters"),
        ({"size": [HEIGHT, WIDTH], "counts": compressed([38, 4, -7])}, "a run of -7 pixels"),
        ({"size": [HEIGHT, WIDTH], "counts": "#é"}, "character '#' at 0"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "of 0 pixels"),
        ({"size": [10**9, 10**9], "counts": "0"}, "size: "),
    ],
)
@pytest.mark.filterwarnings("ignore:.*outlines")
def test_an_outline_is_checked_before_it_is_drawn(tmp_path, outline, message):
    """That photo alone is refused."""
    pytest.importorskip("hotcoco")
    spec = instances(tmp_path, annotations={"segmentation": outline})
    dataset = open_dataset(spec)
    with pytest.raises(DataError, match=message) as error:
        dataset[0]
    assert "annotation 1 of 1.jpg" in str(error.value) and "$.annotations[0]" in str(error.value)
    assert dataset[1][1].areas().tolist() == [24]
    (problem,) = inspect(dataset).problems
    assert problem == str(error.value)


def test_unusable_outlines_are_counted_when_the_file_is_opened(tmp_path):
    with pytest.warns(UserWarning, match=r"2 outlines cannot be used, the first \$.annotations\[0\]"):
        dataset = open_dataset(
            instances(tmp_path, annotations=lambda all: [a | {"segmentation": [[1, 2]]} for a in all])
        )
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, collate_fn=list)
    with pytest.raises(DataError, match=r"objects.json: annotation 1 of 1.jpg"):
        next(iter(loader))


def test_compressed_counts_are_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for size in rng.integers(1, 40, (100, 2)):
        mask = rng.random(size) < rng.random()
        text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert text == compressed(run_lengths(mask)) and decompress(text) == run_lengths(mask)


def test_declared_sizes_cost_no_memory(tmp_path):
    """A photo that is said to be huge: the areas that the file does not have are counted without drawing masks."""
    pytest.importorskip("hotcoco")
    huge = {"height": 12_000, "width": 12_000}
    objects = [{"id": k, "image_id": 1, "category_id": 1, "segmentation": SQUARE} for k in range(300)]
    dataset = open_dataset(instances(tmp_path, images=huge, annotations=objects))
    assert dataset.annotation(0).recorded_areas.tolist() == [24] * 300  # 43 GB as masks
    with pytest.raises(DataError, match="the photo is 16×12, its annotation 12000×12000"):
        dataset[0]


# ----------------------------------------------------------------------------------------------- what is said, not lost


def test_ids_as_text_are_matched_and_counted(tmp_path):
    spec = instances(
        tmp_path, annotations=lambda all: [a | {"image_id": str(a["image_id"]), "category_id": "2"} for a in all]
    )
    with pytest.warns(UserWarning, match="2 annotations write the id of their image as text"):
        dataset = open_dataset(spec)
    assert [dataset.annotation(i).labels.tolist() for i in range(2)] == [[1], [1]]
    assert inspect(dataset).notes == list(dataset.notes) and dataset.notes[0] in inspect(dataset).text()


def test_a_root_category_with_the_name_of_its_child_is_left_out(tmp_path):
    categories = [
        {"id": 0, "name": "leaf"},
        {"id": 1, "name": "leaf", "supercategory": "leaf"},
        {"id": 2, "name": "dog"},
    ]
    with pytest.warns(UserWarning, match=r"1 categories without annotations are left out, .*: leaf \(0\)"):
        dataset = open_dataset(instances(tmp_path, categories=categories), classes=["leaf"])
    assert dataset.annotation(0).labels.tolist() == [0]


def test_images_masks_and_polygons_that_are_not_used_whole_are_counted(tmp_path):
    with pytest.warns(UserWarning, match="1 of 2 images have no annotation and are left out"):
        assert len(open_dataset(panoptic(tmp_path / "a", annotations=lambda entries: entries[:1]))) == 1
    with pytest.warns(UserWarning, match="1 polygon outlines reach beyond their photo"):
        open_dataset(instances(tmp_path / "b", annotations={"segmentation": [[3, 2, 30, 2, 9, 6]]}))
    folder = plain_folder(tmp_path / "c", np.zeros((HEIGHT, WIDTH), np.uint8), "soil\n")
    save(folder / "masks" / "lost.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.warns(UserWarning, match="1 masks have no photo, such as lost.png"):
        open_dataset(f"folder:{folder}:all", background="class")


# -------------------------------------------------------------------------------------------------- pictures of classes


def test_the_ids_of_json_and_png_are_the_same(tmp_path):
    dataset = open_dataset(panoptic(tmp_path))
    ids = np.full((HEIGHT, WIDTH), 600)
    ids[0] = 5
    for change, message in [
        (6, r"1 ids, \[6\], are not in its segments_info"),
        (600, r"no pixel of 1 segments.*\[5\]"),
    ]:
        ids[0] = change
        save(tmp_path / "objects" / "1.png", as_color(ids).astype(np.uint8))
        with pytest.raises(DataError, match=message):
            dataset.annotation(0)
    save(tmp_path / "objects" / "1.png", np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(DataError, match="the picture is 12×16, objects.json says 16×12"):
        dataset.annotation(0)


@pytest.mark.parametrize(("depth", "color"), [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (1, 3), (2, 3), (4, 3), (8, 3)])
def test_masks_of_any_depth_hold_what_was_drawn(tmp_path, depth, color):
    ids = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % min(4, 2**depth)
    folder = plain_folder(tmp_path, ids.astype(np.uint8), "a\nb\nc\nd\n")
    (folder / "masks" / "a.png").write_bytes(png(ids, depth, color, bytes(range(48)) if color == 3 else b""))
    assert (open_dataset(f"folder:{folder}:all", background="class").annotation(0).label_map() == ids).all()


def test_masks_whose_values_are_not_what_was_drawn_are_refused(tmp_path):
    ids = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2
    folder = plain_folder(tmp_path, ids.astype(np.uint8), "a\nb\n")
    dataset = open_dataset(f"folder:{folder}:all", background="class")
    path = folder / "masks" / "a.png"
    good = path.read_bytes()
    clear = np.concatenate([as_color(ids), np.full_like(ids, 9)[..., None]], -1)
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "a.jpg")
    Image.fromarray(ids.astype(np.uint8)).save(
        tmp_path / "a.tif", save_all=True, append_images=[Image.new("L", (16, 12))]
    )
    flipped = bytearray(good)
    flipped[good.index(b"IDAT") + 12] ^= 4
    bomb = bytearray(png(ids, 8, 0))
    bomb[16:24] = (10**6).to_bytes(4, "big") * 2
    for content, message in [
        (png(as_color(ids) * 257, 16, 2), "16 bits a colour"),
        (png(clear, 8, 6), "partly transparent"),
        ((tmp_path / "a.jpg").read_bytes(), "a picture in JPEG"),
        ((tmp_path / "a.tif").read_bytes(), "a picture in TIFF of 2 pages"),
        (bytes(flipped), "damaged at byte"),
        (bytes(bomb), "not a readable picture|pixels; expected at most"),
        (good[:-20], "damaged|cut off|not a readable picture"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            dataset.annotation(0)
        assert error.value.file == path
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="is no file"):
        dataset.annotation(0)


def test_an_8_bit_mask_among_masks_of_instances(tmp_path):
    """Its things would be one; a mask of stuff alone loses nothing."""
    table = [{"id": 1, "name": "table", "isthing": 0}, {"id": 2, "name": "fig", "isthing": 1}]
    folder = plain_folder(tmp_path, np.full((HEIGHT, WIDTH), 2001, np.uint16), table)
    photo(folder / "images" / "b.jpg")
    save(folder / "masks" / "b.png", np.full((HEIGHT, WIDTH), 1, np.uint8))
    dataset = open_dataset(f"folder:{folder}:all")
    assert dataset.annotation(1).labels.tolist() == [0]
    save(folder / "masks" / "b.png", np.full((HEIGHT, WIDTH), 2, np.uint8))
    with pytest.raises(DataError, match="an 8-bit mask with the class fig, whose things other masks tell apart"):
        dataset.annotation(1)


# ------------------------------------------------------------------------------------------- class tables, names, texts


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([{"id": 1, "name": "fig", "isthing": "false"}], r'\$\[0\].isthing: .*found "false"'),
        ([{"id": 1, "name": "fig", "isthing": None}], "isthing: .*got `null`"),
        ([{"id": True, "name": "fig", "isthing": 1}], "id: .*got `bool`"),
        ([{"id": 1, "name": 5, "isthing": 1}], "name: .*got `int`"),
        ([{"id": 1, "name": "fig", "isthing": 1, "color": "red"}], 'color: .*found "red"'),
        ([{"id": 1, "name": "fig", "isthing": 1, "color": [1, 2]}], "color: .*found"),
        ([{"id": 1, "name": "fig", "isthing": 1, "color": [1, 2, -3]}], r"color\[2\]: .*found -3"),
        ([{"id": 1, "name": n, "isthing": 1} for n in "ab"], r"\$\[1\]: the id 1, which \$\[0\] has already"),
        ([{"id": n, "name": "fig", "isthing": 1} for n in (1, 2)], r"\$\[1\]: the name 'fig', which \$\[0\]"),
        ([], "no class"),
        ("a\nb\na\n", "class 3: the name 'a', which class 1 has already"),
        ("\n".join(map(str, range(1001))), "1001 classes; expected class numbers below 1000"),
        ("\n", "no class"),
    ],
)
def test_class_tables(tmp_path, table, message):
    folder = plain_folder(tmp_path, np.zeros((HEIGHT, WIDTH), np.uint8), table)
    with pytest.raises(DataError, match=message):
        open_dataset(f"folder:{folder}:all", background="class" if isinstance(table, str) else None)


def test_class_names_that_are_no_text(tmp_path):
    folder = plain_folder(tmp_path, np.zeros((HEIGHT, WIDTH), np.uint8), "soil\n")
    (folder / "classes.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="classes.txt: no UTF-8 text"):
        open_dataset(f"folder:{folder}:all", background="class")


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (None, {}), (5, {}), ([None], {}), ([], {}), (b"folder:x", {}), ("folder:a\0b", {}), 
        ("folder:" + "x" * 5000, {}),
        ("folder:" + "x" * 300, {}), ("cityscapes:" + "x" * 300, {}), ("coco-instance:FOLDER:" + "y" * 300, {}),
        ("folder:\udcff", {}), ("cityscapes:FOLDER", {"split": None}), ("folder:FOLDER", {"split": "a\0"}),
        ("folder:FOLDER:all", {"background": []}),
        ("folder:FOLDER:all", {"background": "class", "classes": [["soil"]]}),
        ("folder:FOLDER:all", {"background": "class", "classes": 5}),
        ("coco-instance:FOLDER/images:FOLDER/no.json", {}),
    ],
)  # fmt: skip
def test_texts_that_name_no_dataset(tmp_path, spec, options):
    folder = plain_folder(tmp_path, np.zeros((HEIGHT, WIDTH), np.uint8), "soil\n")
    spec = spec.replace("FOLDER", str(folder)) if isinstance(spec, str) else spec
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        open_dataset(spec, **options)
    assert type(error.value) in (ValueError, DataError, FileNotFoundError) and len(str(error.value)) < 1000


def test_two_cities_with_a_photo_of_one_name(tmp_path):
    for city in ("ulm", "bonn"):
        photo(tmp_path / "leftImg8bit" / "val" / city / "a_leftImg8bit.png")
    with pytest.raises(DataError, match="several photos are named a"):
        open_dataset(f"cityscapes:{tmp_path}:val")


# ----------------------------------------------------------------------------------------------------------- evaluation


def test_no_photo_counts_twice(tmp_path):
    spec = panoptic(tmp_path)
    dataset = open_dataset(spec)
    for photos in (dataset.subset([0, 1, 0]), open_dataset([spec, spec])):
        with pytest.raises(ValueError, match="is there twice, by its (id|file)"):
            evaluate(Oracle(dataset), photos, tasks=["panoptic"])


def test_a_photo_of_another_size_is_named_before_it_is_measured(tmp_path):
    dataset = open_dataset(panoptic(tmp_path))
    oracle = Oracle(dataset)
    photo(tmp_path / "images" / "2.jpg", 24, 32)
    with pytest.raises(DataError, match=r"2.jpg: the photo is 32×24, its annotation 16×12"):
        evaluate(oracle, dataset, tasks=["panoptic"])


def test_measures_refuse_what_cannot_be_counted():
    classes = (ClassInfo("cat"), ClassInfo("sky", False))
    ids = np.ones((4, 4), np.int32)
    truth = IdMap(np.array([0]), np.array([True]), np.array([False]), ids)
    for labels in ([2], [-1]):
        with pytest.raises(ValueError, match="image 1: label ids must be from 0 to 1"):
            PanopticQuality(classes).update(1, ids, np.array(labels), truth)
        with pytest.raises(ValueError, match="image 1: label ids must be from 0 to 1"):
            MaskAveragePrecision(classes).update(1, ids[None] > 0, labels, [0.5], truth)
    with pytest.raises(ValueError, match="expected segments from 0 to 1"):
        PanopticQuality(classes).update(1, ids * 2, np.array([0]), truth)
    with pytest.raises(ValueError, match="scores that are not finite"):
        MaskAveragePrecision(classes).update(1, ids[None] > 0, [0], [float("nan")], truth)
    with pytest.raises(ValueError, match="label ids must be"):
        MeanIoU(classes).update(1, ids - 3, ids)


# ---------------------------------------------------------------------------------------------------- all of it at once


def test_a_large_file_takes_less_than_three_times_its_size(tmp_path):
    """While it is opened; what is kept is about its size. Decoded to Python's lists it would be six times."""
    rng = np.random.default_rng(0)
    outlines = [(rng.random((40, 2)) * (WIDTH, HEIGHT)).round(2).ravel().tolist() for _ in range(4000)]
    objects = [{"id": k, "image_id": k % 100, "category_id": 1, "area": 9.5, "iscrowd": 0, "segmentation": [outline],
                "bbox": [1.5, 2.5, 3.5, 4.5]} for k, outline in enumerate(outlines)]  # fmt: skip
    images = [{"id": k, "file_name": f"{k}.jpg", "height": HEIGHT, "width": WIDTH} for k in range(100)]
    spec = instances(tmp_path, images=images, annotations=objects)
    size = (tmp_path / "objects.json").stat().st_size
    tracemalloc.start()
    dataset = open_dataset(spec)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * size and kept < 1.2 * size and len(dataset) == 100


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_datasets_are_read_right_or_refused_by_name(tmp_path, kind):
    pytest.importorskip("hotcoco")
    pytest.importorskip("pycocotools")
    outcomes = []
    for seed in range(30):
        (tmp_path / str(seed)).mkdir()
        outcomes.append(check(make(kind, Random(f"{kind} {seed}"), tmp_path / str(seed))))
    assert "refused" in outcomes and ("right" in outcomes or kind == "text")
