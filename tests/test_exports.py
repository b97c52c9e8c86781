"""Any export of an annotation tool is opened by naming its folder, its masks are right, and every repair is said."""

import re
import shutil
import warnings
from functools import partial

import numpy as np
import pytest

from mask2former.data import open_dataset

from .conftest import SHARED, needs_shared
from .exports import coco_tools, pictures, tools
from .exports.known import CLASSES, PHOTOS

pytest.importorskip("hotcoco")

OUTLINES = {
    "COCO from Roboflow": coco_tools.roboflow,
    "COCO from CVAT": coco_tools.cvat,
    "COCO from Label Studio": coco_tools.label_studio,
    "COCO from VIA": coco_tools.via,
    "COCO from Supervisely": coco_tools.supervisely,
    "CVAT for images 1.1": tools.cvat_xml,
    "VIA": tools.via_json,
    "VIA ": partial(tools.via_json, project=False),
    "VIA  ": tools.via_csv,
    "Supervisely": partial(tools.supervisely, bitmaps=False),
    "LabelMe": tools.labelme,
    "YOLO": tools.yolo,
    "YOLO ": partial(tools.yolo, layout="roboflow"),
    "YOLO  ": partial(tools.yolo, layout="label_studio"),
}
EXACT = {  # masks kept pixel by pixel, things told apart
    "COCO from CVAT": partial(coco_tools.cvat, brush=True),
    "CVAT for images 1.1": partial(tools.cvat_xml, masks=True),
    "Supervisely": tools.supervisely,
    "VOC from LabelMe": partial(pictures.voc, tool="labelme"),
    "Segmentation mask 1.1": partial(pictures.voc, tool="cvat"),
    "COCO panoptic": pictures.coco_panoptic,
    "a plain folder": partial(pictures.plain, things=True),
}
SEMANTIC = {
    "VOC from LabelMe": partial(pictures.voc, tool="labelme", objects=False),
    "Segmentation mask 1.1": partial(pictures.voc, tool="cvat", objects=False),
    "colour masks in CamVid's layout": pictures.camvid,
    "colour masks with class_dict.csv": partial(pictures.camvid, table="class_dict.csv"),
    "semantic masks from Roboflow": pictures.roboflow_masks,
    "a plain folder": pictures.plain,
}


def opened(folder, **options):
    """The dataset and what was said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = open_dataset(folder, **({"split": "all"} | options))
    return dataset, dataset.notes[0]


def photo_of(dataset, index):
    name = dataset.photo_path(index).name.replace("-", " ").replace("_", " ").lower()
    name = re.sub("^[0-9a-f]{8} ", "", name)  # Label Studio's mark
    return next(p for p in PHOTOS if name.startswith(p.stem.replace("_", " ")))


def check_masks(dataset, least, renamed=None):
    """Every known object is there once, with its class and at least this overlap; nothing else is."""
    assert len(dataset) == len(PHOTOS)
    for index in range(len(dataset)):
        known, annotation = photo_of(dataset, index), dataset.ground_truth(index, "instance")
        dataset.photo(index, annotation.size)
        masks, labels = annotation.masks().numpy(), [dataset.classes[k].name for k in annotation.labels]
        assert len(masks) == len(known.things) and not annotation.is_crowd.any()
        for thing in known.things:
            truth = thing.mask(known.size)
            label = (renamed or {}).get(thing.label, thing.label)
            overlaps = [
                (m & truth).sum() / (m | truth).sum() for m, name in zip(masks, labels, strict=True) if name == label
            ]
            assert max(overlaps) >= least, (known.name, thing.label, overlaps)


@pytest.mark.parametrize("title", OUTLINES)
def test_outlines(title, tmp_path):
    dataset, said = opened(OUTLINES[title](tmp_path))
    assert said.startswith(f"{title.strip()}") and "3 classes, 4 photos" in said and "also holds" not in said
    assert sorted(c.name for c in dataset.classes) == sorted(CLASSES)
    check_masks(dataset, 0.99)


@pytest.mark.parametrize("title", EXACT)
def test_masks_pixel_by_pixel(title, tmp_path):
    dataset, said = opened(EXACT[title](tmp_path))
    assert said.startswith(title) and "also holds" not in said and set(CLASSES) <= {c.name for c in dataset.classes}
    check_masks(dataset, 1.0)


@pytest.mark.parametrize("title", SEMANTIC)
def test_class_maps(title, tmp_path):
    dataset, said = opened(SEMANTIC[title](tmp_path))
    assert said.startswith(title) and "also holds" not in said and dataset.tasks == ("semantic",) and len(dataset) == 4
    names = [c.name for c in dataset.classes]
    assert names == ["background", *CLASSES]
    for index in range(4):
        assert np.array_equal(dataset.annotation(index).label_map(), photo_of(dataset, index).class_map())


def test_published_layouts(tmp_path):
    dataset, said = opened(pictures.voc(tmp_path / "voc"))
    assert said.startswith("Pascal VOC: 21 classes")
    check_masks(dataset, 1.0, {"fig": "bottle", "date": "cat", "nut": "person"})
    ade, said = opened(pictures.ade20k(tmp_path / "ade"), split="train")
    assert said.startswith("ADE20K: 150 classes, 2 photos")
    assert np.array_equal(ade.annotation(0).label_map(), photo_of(ade, 0).class_map().astype(int) - 1)
    city, said = opened(pictures.cityscapes(tmp_path / "city"), split="train")
    assert said.startswith("Cityscapes: 19 classes, 2 photos") and len(city.annotation(0).labels) == 3


@needs_shared
def test_the_split_that_was_written_down_is_in_nobodys_way(tmp_path):
    """A folder that was trained on by its name alone opens by its kind, too."""
    folder = tmp_path / "fruits_nuts"
    shutil.copytree(SHARED / "data/fruits_nuts", folder)
    before = len(open_dataset(f"coco-instance:{folder}", "all"))
    assert len(open_dataset(folder, "train")) < before
    assert len(list(folder.glob("*mask2former-split.json"))) == 1
    assert len(open_dataset(f"coco-instance:{folder}", "all")) == before
