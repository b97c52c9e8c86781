"""What the tests of outputs have in common: a photo, another network, and what must be left and said afterwards."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mask2former.training.losses import Criterion
from mask2former.training.trainer import Settings, train
from tests.test_formats import regions
from tests.toy_training import CLASSES, ToyNetwork, ToyPictures

NAN, INF = float("nan"), float("inf")
HUGE = "9" * 400
RUN = {"steps": 2, "batch_size": 2, "workers": 0, "log_every": 1, "save_every": 1}


def hidden(folder):
    return [path.name for path in Path(folder).rglob(".*")]


def one_sentence(capsys, *parts):
    said = capsys.readouterr().err
    assert "Traceback" not in said and all(part in said for part in parts), said
    lines = [line for line in said.splitlines() if line.startswith(("mask2former:", "oneformer:"))]
    assert len(lines) == 1 and len(lines[0]) < 600, said


def write_photo(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def regions_named(name):
    result = regions()
    result.name = name
    return result


def scaled(network):
    """Another network: the toy's weights are always the same."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network


def begin(folder, network=None, resume=False, **changes):
    """A training run of two steps, or its continuation."""
    criterion, settings = Criterion(CLASSES, num_points=64), Settings(**{**RUN, **changes})
    return train(network or ToyNetwork(), ToyPictures(), criterion, settings, folder, resume=resume)


def in_child(work):
    """Run something in a copy of this process; its exit code, 9 if it was killed on its way."""
    if (pid := os.fork()) == 0:
        try:
            torch.set_num_threads(1)
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
