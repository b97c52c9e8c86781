"""From an export to a trained model with `--data FOLDER` alone; broken photos, dense scenes, empty classes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mask2former import Mask2Former, Mask2FormerConfig, Protocol
from mask2former.cli import main
from mask2former.data import DataError, SegmentationDataset, open_dataset
from mask2former.data.annotation import Shapes
from mask2former.evaluation.evaluator import evaluate, table
from mask2former.evaluation.instance import MaskAveragePrecision
from mask2former.inference.predictor import Predictor
from mask2former.structures import ClassInfo

from .exports import coco_tools, pictures, tools
from .test_data_faults import change

pytest.importorskip("hotcoco")

QUICK = ["--steps", "2", "--batch-size", "2", "--size", "64", "--points", "64", "--workers", "0", "--device", "cpu"]
SIZES = {
    "backbone": "mobilenetv3_small_050", "num_queries": 6, "hidden_dim": 64, "mask_dim": 32, "num_heads": 4,
    "encoder_layers": 1, "decoder_layers": 1, "encoder_feedforward_dim": 32, "decoder_feedforward_dim": 32,
    "protocol": Protocol(short_side=64, long_side=96),
}  # fmt: skip


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def truncate(path) -> None:
    path.write_bytes(path.read_bytes()[:1500])


def test_from_an_export_to_a_model_with_one_option(tmp_path, capsys, monkeypatch):
    folder = coco_tools.label_studio(tmp_path / "export", "images\\{upload}")
    monkeypatch.chdir(tmp_path)
    assert run("train", "--data", folder, *QUICK) == 0
    said = capsys.readouterr().out
    assert "data: COCO from Label Studio: 3 classes, 3 photos; 4 paths with back slashes" in said
    assert "1 of 4 photos held out for validation" in said and "evaluate on" in said and "AP" in said
    assert run("evaluate", "--data", folder, "--model", "run/model", "--device", "cpu", "--size", "64") == 0
    assert "1 photos held out for validation, as mask2former-split.json says" in capsys.readouterr().out
    assert run("inspect", folder) == 0
    assert "COCO from Label Studio: 3 classes, 4 photos" in capsys.readouterr().out


def test_semantic_training_from_outlines_is_judged_with_its_background(tmp_path, capsys):
    folder = tools.labelme(tmp_path / "export")
    model = tmp_path / "run" / "model"
    assert run("train", "--data", folder, "--task", "semantic", "--output", tmp_path / "run", *QUICK) == 0
    said = capsys.readouterr().out
    assert "4 classes (date, fig, nut, background)" in said and "the smaller is on top" in said
    arguments = ("--model", model, "--device", "cpu", "--size", "64", "--output", tmp_path / "evaluation")
    assert run("evaluate", "--data", folder, *arguments) == 0
    assert "background" in capsys.readouterr().out


def test_a_broken_photo_ends_a_run_with_a_checkpoint_or_is_skipped(tmp_path, capsys, monkeypatch):
    folder = coco_tools.cvat(tmp_path / "export")
    for name in ("bowl_2.jpg", "c.jpg"):
        truncate(folder / "images" / "default" / name)
    read, calls = SegmentationDataset.item, []

    def breaks_later(dataset, index):
        calls.append(index)
        if len(calls) == 3:  # of the second step
            raise DataError("c.jpg", "not a readable picture", "replace it")
        return read(dataset, [k for k in range(len(dataset)) if dataset.image_id(k) in ("bowl one", "d")][0])

    arguments = ["train", "--data", folder, "--output", tmp_path / "run", *QUICK]
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationDataset, "item", breaks_later)
        assert run(*arguments, "--save-every", "100") == 2
    assert "c.jpg: not a readable picture" in capsys.readouterr().err
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 1
    assert run(*arguments, "--resume", "--skip-bad", "--steps", "6") == 0
    said = capsys.readouterr().out
    assert "2 broken photos were skipped" in said or "1 broken photos were skipped" in said
    assert "not a readable picture" in (tmp_path / "run" / "skipped_photos.txt").read_text()


@pytest.fixture
def toy():
    classes = tuple(ClassInfo(name, True) for name in ("fig", "date", "nut"))
    config = Mask2FormerConfig(**SIZES, num_classes=3, classes=classes)
    return Mask2Former(config).eval()


def test_evaluation_goes_past_broken_photos_and_says_what_its_means_leave_out(tmp_path, toy):
    folder = coco_tools.cvat(tmp_path / "export")
    truncate(folder / "images" / "default" / "bowl_2.jpg")  # the only photo of nuts
    predictor = Predictor(toy, size=64)
    with pytest.raises((DataError, ValueError), match="bowl_2"):
        evaluate(predictor, open_dataset(folder, "all"))
    report = evaluate(predictor, open_dataset(folder, "all", skip_bad=True))
    assert report["photos"] == 3 and "bowl_2.jpg" in report["notes"][0]
    assert "instance: means go over 2 of 3 classes; nothing to judge of nut" in report["notes"]
    assert "note: instance: means go over 2 of 3 classes" in table(report)


def test_masks_of_0_and_255_are_no_perfect_score(tmp_path, toy):
    pictures.binary(tmp_path / "masks", "background\nfruit\n")
    classes = tuple(ClassInfo(name, False) for name in ("background", "fruit"))
    config = replace(
        toy.config, num_classes=2, classes=classes, protocol=replace(toy.config.protocol, tasks=("semantic",))
    )
    predictor = Predictor(Mask2Former(config).eval(), size=64)
    named = open_dataset(f"folder:{tmp_path / 'masks'}:all", background="class")
    report = evaluate(predictor, named)
    assert "semantic: means go over 1 of 2 classes; nothing to judge of fruit" in report["notes"]
    assert any("of the pixels are ignored" in note for note in report["notes"])
    alone = evaluate(predictor, open_dataset(tmp_path / "masks", "all"))
    assert alone["notes"] == [] and [row["pixels"] > 0 for row in alone["semantic"]["classes"]] == [True, True]
    nothing = open_dataset(f"folder:{tmp_path / 'masks'}:all", background="class", classes=["fruit"])
    config = replace(config, num_classes=1, classes=classes[1:])
    with pytest.raises(DataError, match="no target at all"):
        evaluate(Predictor(Mask2Former(config).eval(), size=64), nothing)


@pytest.mark.parametrize("limit", [100, 250])
def test_more_objects_than_detections_count_is_said(limit):
    things = [[[x, y, x + 7, y, x + 7, y + 7, x, y + 7]] for y in range(0, 80, 8) for x in range(0, 160, 8)]
    n = len(things)
    truth = Shapes(np.zeros(n, np.int64), np.ones(n, bool), np.zeros(n, bool), tuple((t,) for t in things),
                   np.full(n, 49.0), (80, 160))  # fmt: skip
    metric = MaskAveragePrecision((ClassInfo("cell"),), limit)
    metric.update(1, truth.masks().numpy().astype(np.uint8), [0] * n, np.linspace(1, 0.5, n), truth)
    report, notes = metric.compute(), metric.notes()
    if limit < n:
        assert report["AP"] == pytest.approx(51 / 101, abs=0.01)
        assert "1 photos have more than 100 objects, one of them 200, but AP counts 100 detections" in notes[0]
    else:
        assert report["AP"] == pytest.approx(1) and report["AR250"] == pytest.approx(1) and not notes


def test_few_detections_can_be_the_limit():
    truth = Shapes(np.zeros(1, np.int64), np.ones(1, bool), np.zeros(1, bool), (([[0, 0, 9, 0, 9, 9, 0, 9]],),),
                   np.array([81.0]), (20, 20))  # fmt: skip
    for limit in (1, 5, 10):
        metric = MaskAveragePrecision((ClassInfo("cell"),), limit)
        metric.update(1, truth.masks().numpy().astype(np.uint8), [0], [0.9], truth)
        assert metric.compute()["AP"] == pytest.approx(1)


def test_convert_data(tmp_path, capsys):
    folder = coco_tools.roboflow(tmp_path / "export")
    assert run("convert-data", folder, tmp_path / "yolo", "--to", "yolo") == 0
    said = capsys.readouterr().out
    assert "categories without objects left out" in said and "train 2, val 1, test 1 photos as yolo" in said
    assert run("convert-data", folder, tmp_path / "yolo", "--to", "yolo") == 2
    assert "is there and not empty" in capsys.readouterr().err


def test_strict_is_an_option(tmp_path, capsys):
    folder = coco_tools.label_studio(tmp_path / "export")
    change(folder / "result.json", lambda content: content["annotations"][0].update(segmentation=None))
    assert run("inspect", folder, "--strict", "--output", tmp_path / "a") == 2
    assert "strict, but to be repaired: 1 objects without an outline" in capsys.readouterr().err
    assert run("inspect", folder, "--output", tmp_path / "b") == 0
    notes = json.loads((tmp_path / "b" / "inspection.json").read_text())["notes"]
    assert "1 objects without an outline left out" in notes[0]


def test_data_that_is_named_apart_is_taken_whole(tmp_path, capsys):
    first, second = coco_tools.cvat(tmp_path / "a"), tools.labelme(tmp_path / "b")
    classes = ["--classes", "fig", "date", "nut"]
    assert run("train", "--data", first, "--val-data", second, "--output", tmp_path / "run", *classes, *QUICK) == 0
    said = capsys.readouterr().out
    assert said.count("4 photos; the data is not split, and all of it is taken") == 2
    arguments = ("--model", tmp_path / "run" / "model", "--device", "cpu", "--size", "64", *classes)
    assert run("evaluate", "--data", second, "--output", tmp_path / "evaluation", *arguments) == 0
    assert "the data is not split, and all of it is taken" in capsys.readouterr().out
    assert not list(tmp_path.rglob("mask2former-split.json"))
