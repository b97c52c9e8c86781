"""Processes that die in the middle of writing, and disks that are full: real ones, in child processes and on a file
system of a few kilobytes."""

import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import weights
from mask2former.cli import main
from tests.test_commands import QUICK, photos_and_masks
from tests.test_predictor import toy
from tests.toy_outputs import begin, hidden, in_child, one_sentence, scaled, write_photo
from tests.toy_training import ToyNetwork

ROOT = Path(__file__).resolve().parents[1]


def renamed(network, prefix):
    classes = tuple(replace(c, name=f"{prefix} {k}") for k, c in enumerate(network.config.classes))
    network.config = replace(network.config, classes=classes)
    return network


@pytest.mark.parametrize("layout", ["native", "hub"])
def test_a_config_never_stands_beside_another_models_weights(layout, tmp_path):
    old, new = renamed(toy().float(), "old"), renamed(scaled(toy().float()), "new")
    sources = {}
    for name, network in (("old", old), ("new", new)):
        weights.save_model(network, tmp_path / "native" / name)
        weights.convert(tmp_path / "native" / name, tmp_path / layout / name, layout)
        sources[name] = weights.create_model(tmp_path / layout / name).state_dict()
    outcomes = set()
    for point in range(1, 40):
        folder = tmp_path / "torn"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / layout / "old", folder)

        def write(folder=folder, point=point):
            whole, calls = os.rename, [0]

            def rename(*arguments, **options):
                calls[0] += 1
                if calls[0] == point:
                    os._exit(9)
                return whole(*arguments, **options)

            os.rename = os.replace = rename
            weights.convert(tmp_path / "native/new", folder, layout)

        code = in_child(write)
        try:
            found = weights.create_model(folder)
            name = found.config.classes[0].name.split()[0]
            assert all(torch.equal(x, sources[name][key]) for key, x in found.state_dict().items()), "a mixture"
            outcomes.add(name)
        except ValueError as error:
            assert "belong to two different models" in str(error) and "write the folder anew" in str(error)
            outcomes.add("refused")
        weights.save_model(new, folder)  # the next one clears what was left
        assert not hidden(folder)
        if code == 0:
            break
        assert code == 9
    assert outcomes == {"old", "refused", "new"} and point > 4


def test_weights_without_an_id_are_believed(tmp_path):
    """As other software leaves them, which re-saves a folder."""
    from safetensors.torch import load_file, save_file

    weights.save_model(toy().float(), tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    weights.create_model(tmp_path)
    first = (tmp_path / "config.json").read_bytes()
    weights.save_model(weights.create_model(tmp_path), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == first, "the same weights have the same id"


def test_what_a_killed_run_left_is_cleared(toy_model, named_photos, tmp_path):
    out = tmp_path / "out"
    command = ["predict", *named_photos, "--model", toy_model, "--output", str(out)]

    def die():
        from mask2former import writing

        calls, whole = [], os.fsync
        writing.os.fsync = lambda file: os._exit(9) if len(calls) == 3 else (calls.append(1), whole(file))
        main(command)

    assert in_child(die) == 9
    left = hidden(out)
    assert any(name.startswith(".unfinished-") for name in left) and not (out / "panoptic.json").exists()
    assert main(command) == 0, "what an unfinished run has left may be replaced"
    assert not hidden(out) and len(json.loads((out / "panoptic.json").read_text())["images"]) == 3
    assert main(command) == 2, "what a finished one has left may not"


def test_the_work_of_living_processes_is_left_alone(tmp_path):
    from mask2former.unfinished import unfinished_name

    mine = tmp_path / unfinished_name()
    mine.write_text("half")
    dead = subprocess.run([sys.executable, "-c", "from mask2former.unfinished import unfinished_name as n; print(n())"],
                          cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    (tmp_path / dead).mkdir()
    (tmp_path / dead / "model.safetensors").write_text("half")
    weights.save_model(toy().float(), tmp_path)
    weights.convert(tmp_path, tmp_path / "toy.pkl", to="original")
    assert hidden(tmp_path) == [mine.name] and mine.read_text() == "half"


def test_a_lock_outlives_neither_its_process_nor_a_fork(tmp_path):
    from mask2former.output_folder import OutputFolder

    def fork_and_die():
        OutputFolder(tmp_path / "out").__enter__()
        if os.fork() == 0:  # as a DataLoader's worker, which may live on
            os.read(reader, 1)
            os._exit(0)
        os._exit(9)

    reader, writer = os.pipe()
    assert in_child(fork_and_die) == 9
    with OutputFolder(tmp_path / "out"), pytest.raises(FileExistsError, match=f"process {os.getpid()}"):
        OutputFolder(tmp_path / "out").__enter__()
    os.write(writer, b"x")


@contextmanager
def small_disk(folder, size):
    """A file system of its own, of so many kilobytes."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def files_may_have(size):
    """At most so many bytes, in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def valid_results(folder):
    """Every file is whole, and the JSON file names those pictures that are there. Returns how many."""
    named = [image["file_name"] for image in json.loads((folder / "panoptic.json").read_text())["images"]]
    for path in folder.iterdir():
        if path.suffix in (".png", ".jpg"):
            Image.open(path).load()
    assert {path.name for path in folder.glob("*.panoptic.png")} == set(named) and not hidden(folder)
    return len(named)


@pytest.mark.parametrize("size", [40, 60, 100])
def test_a_disk_that_fills_while_predicting(size, toy_model, tmp_path, capsys):
    photos = [write_photo(tmp_path / f"photo {k}.png", k) for k in range(40)]
    with small_disk(tmp_path / "disk", size) as disk:
        assert main(["predict", *photos, "--model", toy_model, "--output", str(disk / "out")]) == 2
        one_sentence(capsys, "cannot be written: ", "of 40 photos are in", ", whole")
        assert 0 < valid_results(disk / "out") < 40


def test_a_disk_too_full_for_everything_else(toy_model, tmp_path, capsys):
    data = photos_and_masks(tmp_path / "data", 4, tuple(f"class {k}" for k in range(7)))
    with small_disk(tmp_path / "disk", 24) as disk:
        (disk / "full").write_bytes(b"x" * 18_000)
        for command in (
            ["inspect", data, "--output"],
            ["evaluate", "--model", toy_model, "--data", data, "--worst", "1", "--task", "semantic", "--output"],
            ["convert", toy_model, "--to", "native"],
            ["convert", toy_model, "--to", "hub"],
            ["train", "--data", data, "--model", toy_model, *QUICK, "--output"],
        ):
            assert main([*command, str(disk / "out")]) == 2, command
            one_sentence(capsys, str(disk / "out"))
            assert not hidden(disk), command
            shutil.rmtree(disk / "out", ignore_errors=True)
        for name in ("toy.pkl", "toy.pth"):
            assert main(["convert", toy_model, str(disk / name), "--to", "original"]) == 2
            one_sentence(capsys, f"{disk / name} cannot be written", "more than are free")
        assert [path.name for path in disk.iterdir()] == ["full"]


def test_files_that_may_not_grow(toy_model, tmp_path, capsys):
    """As with a quota: there seems to be room until it is used."""
    network = weights.create_model(toy_model)
    weights.save_model(network, tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    with files_may_have(10_000):
        for to, name in (("native", "old"), ("hub", "old"), ("original", "toy.pkl"), ("original", "toy.pth")):
            assert main(["convert", toy_model, str(tmp_path / name), "--to", to]) == 2
            one_sentence(capsys, str(tmp_path / name), "File too large")
        with pytest.raises(OSError, match="checkpoint.pt cannot be written: File too large"):
            begin(tmp_path / "run", ToyNetwork(64))
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
    assert {path.name for path in tmp_path.rglob("*")} == {"old", *before, "run", "metrics.jsonl"}
