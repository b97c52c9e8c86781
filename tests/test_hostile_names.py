"""Names of files: nobody takes another's, whatever they are and whoever writes at the same time."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

import weights
from mask2former.cli import main
from mask2former.inference.segmentation import Segmentation
from tests.test_commands import QUICK, photos_and_masks
from tests.test_formats import overlapping, regions
from tests.test_predictor import toy
from tests.toy_outputs import begin, hidden, one_sentence, regions_named, write_photo

ROOT = Path(__file__).resolve().parents[1]


def test_photos_of_one_name_and_arrays_keep_their_own_files(named_photos, tmp_path):
    first, second = overlapping(), regions()
    first.name = second.name = "photo"
    first.task, written = "instance", []
    pytest.importorskip("hotcoco")
    for result in (regions(), regions(), overlapping(), overlapping()):
        result.name = "photo"
        written += result.save(tmp_path)
    assert len(written) == len(set(written)) == len([path for path in tmp_path.iterdir() if path.is_file()])
    names = {path.name for path in tmp_path.iterdir()}
    assert {"photo.panoptic.png", "photo_2.panoptic.png", "photo.coco.json", "photo_2.coco.json"} <= names
    content = json.loads((tmp_path / "photo_2.panoptic.json").read_text())
    assert content["images"][0]["file_name"] == content["annotations"][0]["file_name"] == "photo_2.panoptic.png"
    before = (tmp_path / "photo.panoptic.png").read_bytes()
    assert regions_named("photo").save(tmp_path, overwrite=True)[0].name == "photo.panoptic.jpg"
    assert (tmp_path / "photo.panoptic.png").read_bytes() == before and {p.name for p in tmp_path.iterdir()} == names


def test_many_at_once_save_into_one_folder(tmp_path):
    written, threads = [], []
    for _ in range(6):
        threads.append(threading.Thread(target=lambda: written.extend(regions().save(tmp_path / "out"))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == len(set(written)) == 18 == len(list((tmp_path / "out").iterdir()))


def test_a_second_run_replaces_nothing_unasked(toy_model, named_photos, tmp_path, capsys):
    command = ["predict", "--model", toy_model, "--output", str(tmp_path / "out")]
    assert main([*command, *named_photos]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {"1.panoptic.png", "1_2.panoptic.png", "c.panoptic.png", "panoptic.json"} <= set(before)
    capsys.readouterr()
    for again in ([named_photos[0]], [named_photos[2]], [named_photos[2], "--format", "panoptic"]):
        assert main([*command, *again]) == 2
        one_sentence(capsys, "holds panoptic.json", "--overwrite")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert main([*command, named_photos[1], "--task", "semantic"]) == 0, "these names are free"
    assert main([*command, named_photos[0], "--task", "semantic"]) == 2, "and these are another photo's"
    capsys.readouterr()
    assert main([*command, named_photos[2], "--overwrite"]) == 0
    assert "files of an earlier run" in capsys.readouterr().out
    images = json.loads((tmp_path / "out/panoptic.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["c.panoptic.png"]
    assert not hidden(tmp_path)


def test_two_at_once_into_one_folder(toy_model, named_photos, tmp_path, capsys, monkeypatch):
    data, folder = photos_and_masks(tmp_path / "data"), tmp_path / "out"
    commands = (
        ["predict", named_photos[0], "--model", toy_model, "--output"],
        ["evaluate", "--model", toy_model, "--data", data, "--output"],
        ["inspect", data, "--output"],
        ["train", "--data", data, "--model", toy_model, *QUICK, "--output"],
        ["convert", toy_model, "--to", "native"],
    )
    code = "import sys; from mask2former.output_folder import OutputFolder\n" \
           "with OutputFolder(sys.argv[1]): print('held', flush=True); sys.stdin.read()"  # fmt: skip
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr(weights, "create_model", lambda *_, **__: pytest.fail("work was begun"))
        monkeypatch.setattr(weights, "create_predictor", lambda *_, **__: pytest.fail("work was begun"))
        for command in commands:
            assert main([*command, str(folder)]) == 2
            one_sentence(capsys, f"{folder} is being written into by process {holder.pid}")
        with pytest.raises(FileExistsError, match=f"process {holder.pid}"):
            weights.save_model(toy(), folder)
        with pytest.raises(FileExistsError, match=f"process {holder.pid}"):
            begin(folder)
    finally:
        holder.communicate("")
    assert not folder.exists(), "it was made for nothing"


def test_a_name_too_long_or_odd_is_made_fit(toy_model, tmp_path):
    photos = [write_photo(tmp_path / "in" / f"{letter * 251}.png", seed) for seed, letter in enumerate("ab")]
    photos += [write_photo(tmp_path / "in" / name) for name in ("ä" * 125 + ".png", "new\nline.png", "-.png", " .png")]
    photos.append(write_photo(Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff\xfe.png"))))
    out = tmp_path / "out"
    assert main(["predict", "--model", toy_model, "--output", str(out), "--", *photos]) == 0
    images = json.loads((out / "panoptic.json").read_text())["images"]
    files = [image["file_name"] for image in images]
    assert len(set(files)) == len(photos) and all((out / file).is_file() for file in files)
    assert len(list(out.iterdir())) == 2 * len(photos) + 1 and not any("\n" in file for file in files)
    for name in ("../up", "a/b", "..", "", "a\0b", "x" * 500, "ä" * 500, "\ud800"):
        assert all(
            path.parent == tmp_path / "own" and path.is_file() for path in regions_named(name).save(tmp_path / "own")
        )
    assert not (tmp_path / "up.panoptic.png").exists()


def test_what_cannot_be_written_is_that_photos_error(toy_model, named_photos, tmp_path, capsys, monkeypatch):
    drawn = []

    def overlay(self, *_):
        drawn.append(self.name)
        if len(drawn) == 2:
            raise OSError("the pencil broke")
        return Image.new("RGB", self.size[::-1])

    monkeypatch.setattr(Segmentation, "overlay", overlay)
    assert main(["predict", *named_photos, "--model", toy_model, "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert f"1 of 3 photos failed:\n  {named_photos[1]}: the pencil broke" in said.err and "2 photos in" in said.out
    images = json.loads((tmp_path / "out/panoptic.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["1.panoptic.png", "c.panoptic.png"]
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_image_ids_with_slashes_have_their_worst_pictures(toy_model, tmp_path):
    pytest.importorskip("hotcoco")
    ids = ("../a/" + "x" * 300, "../a_" + "x" * 300, "a\0b")
    content = {
        "images": [{"id": name, "file_name": f"{n}.png", "height": 60, "width": 80} for n, name in enumerate(ids)],
        "annotations": [
            {"id": n, "image_id": name, "category_id": 1, "iscrowd": 0, "area": 100, "bbox": [5, 5, 10, 10],
             "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]}
            for n, name in enumerate(ids, start=1)
        ],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(7)],
    }  # fmt: skip
    for n in range(len(ids)):
        write_photo(tmp_path / "photos" / f"{n}.png", n)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    data = f"coco-instance:{tmp_path / 'photos'}:{tmp_path / 'instances.json'}"
    arguments = ["evaluate", "--model", toy_model, "--data", data, "--worst", "3", "--output", str(tmp_path / "scores")]
    for more, code in (([], 0), ([], 2), (["--overwrite"], 0)):  # the report stays unless it may go
        assert main([*arguments, *more]) == code
        assert len(list((tmp_path / "scores/worst_instance").iterdir())) == 3 and not hidden(tmp_path)
