"""What the program says when something goes wrong that is not the data's fault."""

import subprocess
import sys
from pathlib import Path

import pytest

from mask2former.cli import main
from tests.toy_outputs import one_sentence

ROOT = Path(__file__).resolve().parents[1]


def test_a_pipe_that_is_closed_and_an_output_that_is_full():
    closed = subprocess.run(f"{sys.executable} -u -m mask2former models | head -n 1", shell=True, cwd=ROOT,
                            capture_output=True, text=True)  # fmt: skip
    assert closed.stdout.startswith("name") and closed.stderr == ""
    full = subprocess.run(f"{sys.executable} -m mask2former models > /dev/full", shell=True, cwd=ROOT,
                          capture_output=True, text=True)  # fmt: skip
    assert full.returncode == 2
    assert full.stderr == "mask2former: the standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("error, code, said", [
    (MemoryError(), 2, "out of memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:1] . : can't allocate memory: 1 byte"), 2, "out of memory"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (OSError(28, "No space left on device"), 2, "the standard output cannot be written: No space left"),
    (FloatingPointError("the mask loss is not finite"), 2, "the mask loss is not finite"),
])  # fmt: skip
def test_what_the_user_can_mend_is_a_sentence(error, code, said, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr("weights.zoo.list_models", fail)
    assert main(["models"]) == code
    one_sentence(capsys, said)


def test_our_own_faults_show_where_they_are(monkeypatch):
    monkeypatch.setattr("weights.zoo.list_models", lambda *_: [] + None)
    with pytest.raises(TypeError):
        main(["models"])
