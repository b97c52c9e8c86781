"""The audit finds what was put wrong on purpose, and nothing in good data."""

import json

import numpy as np
import pytest
from PIL import Image

from mask2former.data import open_dataset
from mask2former.data.contact_sheet import VOID_BRIGHTNESS, paint
from mask2former.data.inspect import inspect, inspect_dataset

from .conftest import SHARED, needs_shared
from .test_data_formats import ids_as_colors, photo, plain_folder, save


@needs_shared
def test_real_data_is_counted(tmp_path):
    spec = f"coco-panoptic:{SHARED / 'data' / 'coco128_panoptic'}"
    report = inspect_dataset(spec, tmp_path, split="val", classes="supercategory")
    assert (report.photos, report.inspected, len(report.sizes)) == (100, 100, 100)
    assert sum(c.segments for c in report.classes if c.is_thing) + sum(c.crowds for c in report.classes) == 712
    assert sum(c.crowds for c in report.classes) == 5 and report.problems == [] and report.empty == 0
    assert 0.05 < report.unlabelled_share < 0.2
    assert json.loads((tmp_path / "inspection.json").read_text())["most_segments"] == report.most_segments
    assert "person" in (tmp_path / "inspection.txt").read_text()
    assert Image.open(tmp_path / "samples.png").size[0] == 1280


def test_faults_are_found(tmp_path):
    """One folder with everything wrong: a value outside the table, a missing mask, another size, specks."""
    for k in range(6):
        photo(tmp_path / "images" / f"{k}.jpg")
        mask = np.zeros((12, 16), np.uint8)
        mask[0, k] = 1  # a single pixel
        save(tmp_path / "masks" / f"{k}.png", mask)
    save(tmp_path / "masks" / "1.png", np.full((12, 16), 9, np.uint8))
    save(tmp_path / "masks" / "2.png", np.zeros((6, 8), np.uint8))
    (tmp_path / "masks" / "3.png").unlink()
    save(tmp_path / "masks" / "4.png", np.zeros((12, 16), np.uint8))
    (tmp_path / "classes.txt").write_text("weed\nunicorn\n")
    report = inspect_dataset(f"folder:{tmp_path}:all", tmp_path / "report", background="ignore")
    assert [p.split(":")[0].rpartition("/")[2] for p in report.problems] == ["1.png", "2.jpg", "3.png"]
    assert (report.inspected, len(report.sizes), report.tiny, report.without_segments) == (6, 3, 2, 1)
    assert report.unlabelled_share == 1 - 2 / (3 * 192)
    advice = "\n".join(report.advice)
    for part in ("repair the 3 problems", "1 classes do not occur (unicorn)", "fewer than 10 times (weed)",
                 "100% of the pixels teach nothing", "background='class'", "2 of 2 masks have fewer than 64",
                 "1 of 6 photos have no segment"):  # fmt: skip
        assert (part in advice) == (part != "1 of 6 photos have no segment"), part
    assert "1.png" in report.text() and "… and 2 more" in report.text(problems=1)
    assert (tmp_path / "report" / "samples.png").is_file()


def test_ids_that_the_json_does_not_list(tmp_path):
    ids = np.zeros((12, 16), np.int32)
    ids[:, :4], ids[:, 4:8] = 5, 6
    photo(tmp_path / "train" / "1.jpg")
    save(tmp_path / "annotations" / "panoptic_train" / "1.png", ids_as_colors(ids))
    segments = [{"id": 5, "category_id": 1}, {"id": 8, "category_id": 1}]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 12, "width": 16}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
    }
    (tmp_path / "annotations" / "panoptic_train.json").write_text(json.dumps(content))
    report = inspect(open_dataset(f"coco-panoptic:{tmp_path}"))
    assert len(report.problems) == 1 and "1 ids, [6], are not in its segments_info" in report.problems[0]
    content["annotations"][0]["segments_info"].append({"id": 6, "category_id": 1})
    (tmp_path / "annotations" / "panoptic_train.json").write_text(json.dumps(content))
    report = inspect(open_dataset(f"coco-panoptic:{tmp_path}"))
    assert len(report.problems) == 1 and "has no pixel of 1 segments of its segments_info, [8]" in report.problems[0]


@pytest.mark.filterwarnings("ignore:.*reach beyond their photo")
def test_objects_twice_and_drawn_at_another_size(tmp_path):
    pytest.importorskip("hotcoco")
    photo(tmp_path / "images" / "1.jpg")
    outline = [[3, 2, 9, 2, 9, 600, 3, 6]]
    objects = [{"id": k, "image_id": 1, "category_id": 1, "segmentation": outline, "area": 9} for k in (1, 2)]
    image = {"id": 1, "file_name": "1.jpg", "height": 12, "width": 16}
    content = {"images": [image], "categories": [{"id": 1, "name": "cat"}], "annotations": objects}
    (tmp_path / "objects.json").write_text(json.dumps(content))
    report = inspect(open_dataset(f"coco-instance:{tmp_path}:all"))
    assert ["twice" in p or "drawn at another size" in p for p in report.problems] == [True, True]


def test_only_so_many_photos_are_read(tmp_path):
    for k in range(9):
        photo(tmp_path / "images" / f"{k}.jpg")
        save(tmp_path / "masks" / f"{k}.png", np.zeros((12, 16), np.uint8))
    plain_folder(tmp_path, np.zeros((12, 16), np.uint8), "soil\n")
    report = inspect(open_dataset(f"folder:{tmp_path}:all", background="class"), photos=4)
    assert (report.photos, report.inspected, report.classes[0].segments) == (10, 4, 4)


def test_painting_shows_segments_and_void(tmp_path):
    mask = np.zeros((12, 16), np.uint8)
    mask[:, :8] = 1
    dataset = open_dataset(f"folder:{plain_folder(tmp_path, mask, 'plant')}:all", background="ignore")
    picture, annotation = dataset[0]
    painted = np.asarray(paint(picture, annotation, dataset.classes, 100)).astype(int)
    assert painted.shape == (12, 16, 3)
    assert (abs(painted[:, 8:] - 128 * VOID_BRIGHTNESS) <= 1).all()  # void is dark
    assert (painted[:, 7] == 255).all()  # the outline
    color = np.array(dataset.classes[0].color)
    assert (abs(painted[5, 3] - (128 * 0.45 + color * 0.55)) <= 2).all()
