"""Training continued from files that are not what they should be."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from tests.toy_outputs import begin, hidden
from tests.toy_training import ToyNetwork

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    begin(folder)
    return folder


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def packed(path, whole):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)


def flipped(path, whole):
    where = whole.index(b"\x00\x00\x80?") if b"\x00\x00\x80?" in whole else len(whole) // 2
    path.write_bytes(whole[:where] + bytes([whole[where] ^ 1]) + whole[where + 1 :])


def without(name):
    def change(path, whole):
        state = torch.load(path, weights_only=True)
        del state[name]
        torch.save(state, path)

    return change


def with_value(name, value):
    def change(path, whole):
        state = torch.load(path, weights_only=True)
        torch.save({**state, name: value(state[name]) if callable(value) else value}, path)

    return change


BROKEN = {
    "empty": lambda path, whole: path.write_bytes(b""),
    "one byte": lambda path, whole: path.write_bytes(whole[:1]),
    "cut at a tenth": lambda path, whole: path.write_bytes(whole[: len(whole) // 10]),
    "cut in half": lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
    "cut at the end": lambda path, whole: path.write_bytes(whole[:-1]),
    "text": lambda path, whole: path.write_text("step 3"),
    "zeros": lambda path, whole: path.write_bytes(bytes(len(whole))),
    "another archive": lambda path, whole: zipfile.ZipFile(path, "w").writestr("a.txt", "b"),
    "packed": packed,
    "one bit flipped": flipped,
    "a pickle": lambda path, whole: torch.save(torch.load(path), path, _use_new_zipfile_serialization=False),
    "code": lambda path, whole: torch.save({"step": Evil()}, path),
    "a tensor": lambda path, whole: torch.save(torch.zeros(3), path),
    "a list": lambda path, whole: torch.save([1, 2], path),
    "an empty dict": lambda path, whole: torch.save({}, path),
    "a state dict": lambda path, whole: torch.save(torch.load(path)["module"], path),
    **{f"no {name}": without(name) for name in ("step", "module", "optimizer", "scaler", "average", "settings")},
    "step a text": with_value("step", "2"),
    "step negative": with_value("step", -1),
    "step huge": with_value("step", 10**30),
    "module a list": with_value("module", []),
    "module of numbers": with_value("module", lambda module: dict.fromkeys(module, 1.0)),
    "module empty": with_value("module", {}),
    "module misshapen": with_value("module", lambda module: {name: x[None] for name, x in module.items()}),
    "optimizer empty": with_value("optimizer", {}),
    "optimizer odd": with_value("optimizer", {"state": 3, "param_groups": []}),
    "settings a list": with_value("settings", []),
    "a folder": lambda path, whole: (path.unlink(), path.mkdir()),
    "a pipe": lambda path, whole: (path.unlink(), os.mkfifo(path)),
    "another network": lambda path, whole: shutil.copy(other_network(path.parent / "other"), path),
}


def other_network(folder):
    begin(folder, ToyNetwork(16))
    return folder / "checkpoint.pt"


@pytest.mark.parametrize("how", BROKEN)
def test_a_checkpoint_that_cannot_be_continued_is_named(how, begun, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(begun, folder)
    path = folder / "checkpoint.pt"
    BROKEN[how](path, path.read_bytes())
    with pytest.raises(ValueError, match="cannot be continued") as raised:
        begin(folder, resume=True, steps=4)
    assert str(path) in str(raised.value) and "delete it to begin anew" in str(raised.value) or "settings" in how
    assert not (tmp_path / "evil").exists() and not hidden(folder)


def test_a_log_that_is_none_is_named_and_one_cut_short_is_mended(begun, tmp_path):
    for content in (b"\xff\xfe\n", b"[]\n", b'{"step": "x"}\n', b"hello\nworld\n"):
        folder = tmp_path / content.hex()
        shutil.copytree(begun, folder)
        (folder / "metrics.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=r"metrics.jsonl, line 1 is not what a run logs .* move that file"):
            begin(folder, resume=True, steps=4)
        assert (folder / "metrics.jsonl").read_bytes() == content
    folder = tmp_path / "cut"
    shutil.copytree(begun, folder)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    begin(folder, resume=True, steps=3)
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
