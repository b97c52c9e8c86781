"""The program: what it writes, what it says, and its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import weights
from mask2former.cli import main
from mask2former.commands.options import bytes_of_memory
from mask2former.commands.predict import find_photos, unique_names
from mask2former.inference.predictor import Predictor
from mask2former.modeling.model import Mask2Former
from oneformer.__main__ import main as oneformer_main
from tests.test_predictor import toy

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in ("mask2former", "oneformer"):
        weights.save_model(toy(family).float(), folder / family)
    return folder


@pytest.fixture
def photos(tmp_path):
    """A folder of three photos, a broken one, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("a.jpg", (60, 80)), ("b.PNG", (80, 60)), ("c.jpg", (60, 80))):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_text("not a photo")
    (folder / "notes.txt").write_text("not a photo either")
    return folder


def test_predict_writes_overlay_and_the_tasks_format(models, photos, tmp_path, capsys):
    output = tmp_path / "out"
    code = main(["predict", str(photos / "a.jpg"), str(photos / "b.PNG"), "--model", str(models / "mask2former"),
                 "--output", str(output)])  # fmt: skip
    assert code == 0
    names = {"a.panoptic.jpg", "a.panoptic.png", "b.panoptic.jpg", "b.panoptic.png", "panoptic.json"}
    assert {path.name for path in output.iterdir()} == names
    content = json.loads((output / "panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == ["a.panoptic.png", "b.panoptic.png"]
    said = capsys.readouterr().out
    count = sum(len(a["segments_info"]) for a in content["annotations"])
    assert f"panoptic: {count} segments" in said and "2 photos in" in said
    assert all(part in said for part in ("reading", "network", "post-processing", "writing"))


def test_a_broken_photo_does_not_stop_the_others(models, photos, tmp_path, capsys):
    code = main(["predict", str(photos), "--model", str(models / "mask2former"), "--output", str(tmp_path / "out"),
                 "--task", "semantic", "--format", "semantic", "--batch-size", "2"])  # fmt: skip
    assert code == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.semantic.png" for name in "abc"}
    said = capsys.readouterr()
    assert "1 of 4 photos failed" in said.err and "broken.jpg is not a picture" in said.err
    assert "3 photos in" in said.out


def test_what_is_done_is_written_when_a_later_photo_fails(models, photos, tmp_path, monkeypatch, capsys):
    whole, calls = Predictor._predict, []

    def exhausted(self, *arguments):
        calls.append(1)
        if len(calls) > 2:
            raise torch.OutOfMemoryError("no memory left")
        return whole(self, *arguments)

    monkeypatch.setattr(Predictor, "_predict", exhausted)
    assert (
        main(["predict", str(photos), "--model", str(models / "mask2former"), "--output", str(tmp_path / "out")]) == 2
    )
    assert "out of memory (no memory left): take a smaller --size" in capsys.readouterr().err
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.panoptic.png", "b.panoptic.png"]


def test_all_tasks_and_formats(models, photos, tmp_path):
    pytest.importorskip("hotcoco")
    photo = str(photos / "a.jpg")
    for program, family in ((main, "mask2former"), (oneformer_main, "oneformer")):
        output = tmp_path / family
        command = ["predict", photo, "--model", str(models / family), "--output", str(output)]
        assert program([*command, "--task", "all", "--size", "64x96"]) == 0
        assert {path.name for path in output.iterdir()} == {
            "a.panoptic.jpg", "a.instance.jpg", "a.semantic.jpg", "a.panoptic.png", "a.semantic.png", "panoptic.json",
            "coco.json",
        }  # fmt: skip
        again = [*command, "--task", "instance", "--threshold", "0.999", "--format", "coco"]
        assert program(again) == 2 and program([*again, "--overwrite"]) == 0
        assert json.loads((output / "coco.json").read_text()) == []
    only = tmp_path / "only"
    assert main([*command[:-1], str(only), "--overlay"]) == 0
    assert [path.name for path in only.iterdir()] == ["a.panoptic.jpg"]


def test_what_cannot_be_done_is_said_in_one_line(models, photos, tmp_path, capsys):
    model = ["--model", str(models / "mask2former")]
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["predict", "a.jpg", *model, "--task", "all", "--format", "coco"], "leave --format out"),
        (["predict", "a.jpg", *model, "--task", "semantic", "--threshold", "0.5"], "no meaning for semantic"),
        (["predict", str(tmp_path / "empty"), *model], "holds no picture"),
        (["predict", str(tmp_path / "*.jpg"), *model], "matches nothing"),
        (["predict", "a.jpg", "--model", "mask2former_swin_tny_coco_panoptic"], "mask2former_swin_tiny_coco_panoptic"),
        (["predict", "a.jpg", *model, "--batch-size", "0"], "--batch-size 0: expected 1 or more"),
        (["predict", "a.jpg", *model, "--memory", "1MB"], "memory=1000000: expected at least"),
        (["predict", "a.jpg", *model, "--device", "foo"], "--device foo: expected one of cpu"),
        (["predict", "a.jpg", *model, "--device", "cuda:99"], "--device cuda:99: expected one of cpu"),
        (["models", "nothing*"], "no published model matches"),
        (["convert", str(tmp_path / "none.pkl"), "x", "--to", "hub"], "does not exist"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr()
        assert message in said.err and "Traceback" not in said.err and not said.out
    assert main(["predict", str(tmp_path / "none.jpg"), *model]) == 1
    assert "none.jpg: no such photo" in capsys.readouterr().err
    wrong = (["--task", "panoptik"], ["--size", "axb"], ["--memory", "4TB"], ["--memory", "-1"], ["--memory", "x"])
    for arguments in (*(["predict", "a.jpg", *options] for options in wrong), []):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_a_photo_in_windows(models, tmp_path):
    """At its own pixels and below a ceiling that it would exceed whole."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (320, 700, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    command = ["predict", str(tmp_path / "a.png"), "--model", str(models / "mask2former"), "--format", "semantic"]
    command += ["--task", "semantic", "--size", "photo", "--memory", "205MB", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    with Image.open(tmp_path / "out" / "a.semantic.png") as picture:
        assert picture.size == (700, 320)


@pytest.mark.parametrize(("text", "expected"), [("4000", 4000), ("4GB", 4 * 10**9), ("1.5 gib", 3 * 2**29),
                                                ("300MB", 3 * 10**8), ("2MiB", 2**21)])  # fmt: skip
def test_amounts_of_memory(text, expected):
    assert bytes_of_memory(text) == expected


def test_convert_there_and_back(models, tmp_path, capsys):
    source = models / "mask2former"
    for step, to in (("hub", "hub"), ("file.pkl", "original"), ("native", "native")):
        assert main(["convert", str(source), str(tmp_path / step), "--to", to]) == 0
        assert f"written to {tmp_path / step}" in capsys.readouterr().out
        source = tmp_path / step
    half = tmp_path / "half"
    assert main(["convert", str(source), str(half), "--to", "native", "--dtype", "float16"]) == 0
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, source)]
    assert sizes[0] < 0.6 * sizes[1] and weights.create_model(half).pixel_decoder.level_embedding.dtype == torch.float32
    before, after = (weights.create_model(path) for path in (models / "mask2former", source))
    assert isinstance(after, Mask2Former)
    assert all((value == after.state_dict()[name]).all() for name, value in before.state_dict().items())


def test_models_are_listed_with_the_licence_of_their_weights(capsys):
    assert main(["models", "*swin_tiny_coco*"]) == 0
    said = capsys.readouterr().out
    assert "mask2former_swin_tiny_coco_panoptic" in said and "CC-BY-NC" in said and "PQ 53.2" in said
    assert oneformer_main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) >= 20 and all(line.startswith("oneformer_") for line in lines)


def test_photos_are_found_and_named(photos):
    assert [path.name for path in find_photos([str(photos)]).photos] == ["a.jpg", "b.PNG", "broken.jpg", "c.jpg"]
    assert [path.name for path in find_photos([str(photos / "c.jpg"), str(photos / "*.jpg"), "x.jpg"]).photos] == [
        "c.jpg", "a.jpg", "broken.jpg", "x.jpg",
    ]  # fmt: skip
    paths = [Path("one/a.jpg"), Path("two/A.png"), Path("a_2.jpg"), Path("b.jpg")]
    assert unique_names(paths) == ["a", "A_2", "a_2_2", "b"]


def test_what_is_replaced_or_begun_anew_is_said(toy_model, tmp_path, capsys):
    for said in ("", ", in place of the model that was there"):
        assert main(["convert", toy_model, str(tmp_path / "copy"), "--to", "native"]) == 0
        assert capsys.readouterr().out == f"written to {tmp_path / 'copy'}{said}\n"
    assert main(["train", "--data", "x:y", "--model", toy_model, "--output", str(tmp_path / "run"), "--resume"]) == 2
    assert f"{tmp_path / 'run'} holds no checkpoint.pt to resume: the run begins anew" in capsys.readouterr().out


def test_without_a_folder_an_earlier_run_stays(toy_model, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("segments", "segments_2", "segments_3"):
        assert main(["predict", str(photos / "a.jpg"), "--model", toy_model, "--size", "64", "--device", "cpu"]) == 0
        assert f"photo in {name};" in capsys.readouterr().out and (tmp_path / name / "panoptic.json").is_file()


def test_what_a_folder_holds_and_is_not_read_is_said_and_counted(toy_model, tmp_path, capsys, monkeypatch):
    """Beside a 12-bit photo, which is read, and said to be."""
    monkeypatch.setattr("mask2former.inference.photo_files.reads_heif", lambda: False)
    folder = tmp_path / "photos"
    folder.mkdir()
    values = np.linspace(0, 4095, 80 * 60).astype(np.uint16).reshape(60, 80)
    Image.fromarray(values).save(folder / "deep.png")
    for name in ("a.heic", "b.HEIC", "c.nef", "notes.txt", "._deep.png"):
        (folder / name).write_bytes(b"x")
    options = ["--model", toy_model, "--size", "64", "--device", "cpu"]
    assert main(["predict", str(folder), *options, "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    for line in (
        "1 photo: of 16 bits, with values up to 4095: read as 12 bits",
        "left out: 2 photos, a.heic the first: HEIF: install pillow-heif to read it",
        "left out: c.nef: a camera's raw file: develop it to JPEG, PNG or TIFF first",
        "no photos: 1 .txt, 1 hidden",
    ):
        assert line in said.splitlines(), said
    (folder / "deep.png").unlink()
    assert main(["predict", str(folder), *options, "--output", str(tmp_path / "none")]) == 2
    assert "holds no picture that is read; left out: 2 photos, a.heic" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["mask2former", "oneformer"])
def test_both_programs_answer(package):
    said = subprocess.run(
        [sys.executable, "-m", package, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith(f"usage: {package} ") and "predict" in said.stdout


def test_the_models_named_to_beginners_are_published_ones_on_the_hub():
    from mask2former.commands.predict import PUBLISHED
    from weights.zoo import ZOO

    for family, name in PUBLISHED.items():
        assert ZOO[name].family == family
        assert ZOO[name].hub_id
