"""Cases for what the program writes and computes with: settings, command lines, kills at any moment, disks that fill.

Each case is drawn from a `random.Random` and raises AssertionError saying what was wrong. Commands run in copies of
this process, which has PyTorch loaded.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

import weights
from mask2former.cli import main
from mask2former.inference.predictor import Predictor
from mask2former.inference.preprocess import Preprocess
from mask2former.structures import Protocol
from mask2former.training.trainer import Settings
from tests.test_commands import QUICK, photos_and_masks
from tests.test_predictor import toy
from tests.toy_outputs import write_photo

LIMIT = 20.0  # seconds that a case may take
ODD = (
    None, True, False, 0, -1, 1, 2, 3, 10**400, -(10**400), 2**31, 2**63, 0.0, -0.0, 0.5, 1.5, -1.5, 1e-300, 1e300,
    math.nan, math.inf, -math.inf, "", "0.5", "nan", "photo", "cpu", "fp32", b"1", (), [], {}, (64, 64), [64, 64],
    (1, 2, 3), ("a", 1), (math.nan,) * 3, (0.0, 1.0, 1.0), np.int64(3), np.float32(0.5), np.float64("nan"),
    np.array([1, 2]), 1j, object, torch.float16,
)  # fmt: skip
WORDS = (
    "nan", "inf", "-inf", "1e999", "-1", "0", "1", "2", "0.5", "1e-300", "9" * 400, "-" + "9" * 400, "9" * 5000, "",
    " ", "x", "64x64", "64x", "0x0", "99999x99999", "4GB", "0.1GB", "-4GB", "1e5GB", "\x00", "é", "..", "/", "--", "%s",
)  # fmt: skip
SIZES = (8, 16, 24, 40, 80, 200, 600, 1500)  # kilobytes of a disk


@dataclass
class Place:
    """Where the cases of a run find a model, photos and data."""

    folder: Path
    model: str
    photos: list[str]
    data: str


def make_place(folder: Path) -> Place:
    weights.save_model(toy().float(), folder / "model")
    photos = [write_photo(folder / "photos" / f"{k}.png", k) for k in range(6)]
    data = photos_and_masks(folder / "data", 4, tuple(f"class {k}" for k in range(7)))
    return Place(folder, str(folder / "model"), photos, data)


# Settings: refused with a ValueError that names them, or taken and within their bounds


def check_settings(draw: Random, place: Place) -> None:
    kind = draw.choice((Predictor, Settings, Protocol, Preprocess))
    if kind is Predictor:
        names = ("device", "dtype", "preset", "size", "batch_size", "object_mask_threshold", "overlap_threshold",
                 "instances_per_image", "score_threshold", "max_pixels", "memory")  # fmt: skip
    else:
        names = [field.name for field in fields(kind)]
    changes = {draw.choice(names): draw.choice(ODD) for _ in range(draw.choice((1, 1, 2)))}
    try:
        made = Predictor(toy().float(), **changes) if kind is Predictor else kind(**changes)
    except ValueError as error:
        assert any(name in str(error) for name in (*changes, "pixels")) and len(str(error)) < 1000, (
            f"{changes}: {error}"
        )
        return
    if kind is Predictor:
        options = {**made.panoptic_options, **made.instance_options}
        assert all(0 <= options[k] <= 1 for k in options if "threshold" in k), changes
        height, width = made.preprocess.sizes((40, 60)).padded
        # more than 32 × 32: the toy's normalisation has groups of one channel, of which PyTorch asks for two pixels
        if 32 * 32 < height * width < 10**6 and made.max_pixels >= 2400:
            result = made(Image.new("RGB", (60, 40)), task="semantic")
            assert result.segmentation.shape == (40, 60), changes


# Command lines


def draw_command(draw: Random, place: Place, output: Path) -> list[str]:
    """A command with some of its options wrong."""
    options = {
        "predict": ("--task", "--format", "--dtype", "--batch-size", "--size", "--memory", "--preset", "--threshold",
                    "--classes", "--device", "--model", "--output"),
        "evaluate": ("--task", "--worst", "--limit", "--dtype", "--batch-size", "--size", "--preset", "--classes",
                     "--background", "--data", "--output"),
        "train": ("--lr", "--weight-decay", "--clip", "--ema", "--warmup", "--steps", "--accumulate", "--points",
                  "--seed", "--backbone-lr", "--log-every", "--save-every", "--evaluate-every", "--val-limit", "--size",
                  "--precision", "--schedule", "--output", "--jitter", "--batch-size"),
        "inspect": ("--limit", "--samples", "--classes", "--background", "--output"),
        "convert": ("--to", "--classes", "--dtype"),
    }  # fmt: skip
    name = draw.choice(list(options))
    command = base_command(name, place, output)
    for _ in range(draw.choice((1, 1, 2))):
        command += [draw.choice(options[name]), *(draw.choice(WORDS) for _ in range(draw.choice((1, 1, 1, 0, 2))))]
    return command


def base_command(name: str, place: Place, output: Path) -> list[str]:
    return {
        "predict": ["predict", *place.photos, "--model", place.model, "--output", str(output)],
        "evaluate": ["evaluate", "--data", place.data, "--model", place.model, "--limit", "2", "--output", str(output)],
        "train": ["train", "--data", place.data, "--model", place.model, *QUICK, "--output", str(output)],
        "inspect": ["inspect", place.data, "--output", str(output)],
        "convert": ["convert", place.model, str(output), "--to", "native"],
    }[name]


def check_command_line(draw: Random, place: Place) -> None:
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        command = draw_command(draw, place, Path(folder) / "out")
        code, said = run(command, Path(folder))
        judge(command, code, said)
        judge_files(Path(folder))


def run(command: list[str], folder: Path, kill_after: float | None = None) -> tuple[int, str]:
    """The exit code of a command, negative for a signal, and what it said, in a copy of this process."""
    log = folder.parent / f"{folder.name}.said"
    log.touch()
    if (pid := os.fork()) == 0:
        with open(log, "w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        os.chdir(folder)
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        try:
            code = main([word.replace("\x00", "\\0") for word in command])
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 99
        os._exit(code)
    started = time.monotonic()
    while (state := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        waited = time.monotonic() - started
        if waited > (LIMIT if kill_after is None else kill_after):
            os.kill(pid, signal.SIGKILL)
            state = os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    said = log.read_text(errors="replace")
    log.unlink()
    code = os.waitstatus_to_exitcode(state[1])
    assert kill_after is not None or code != -9, f"{command}: still at it after {LIMIT} seconds"
    return code, said


def judge(command: list[str], code: int, said: str) -> None:
    what = " ".join(word[:30] for word in command)
    assert code in (0, 1, 2), f"{what}: exit code {code}: {said[-600:]}"
    assert "Traceback" not in said, f"{what}: {said[-600:]}"
    if code == 2:
        lines = [line for line in said.splitlines() if line.strip()]
        assert lines and len(lines[-1]) < 1000 + 2 * len(" ".join(command)), f"{what}: {said[-600:]}"


def judge_files(folder: Path, after_kill: bool = False) -> None:
    """Every file that has its name is whole, and no other is there."""
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            assert after_kill, f"{path.name} was left"
        elif path.suffix in (".png", ".jpg"):
            with Image.open(path) as picture:
                picture.load()
        elif path.suffix == ".json":
            content = json.loads(path.read_bytes())
            if path.name == "panoptic.json":
                missing = [i["file_name"] for i in content["images"] if not (path.parent / i["file_name"]).is_file()]
                assert not missing, f"panoptic.json names {missing}, which are not there"
        elif path.name == "metrics.jsonl" and not after_kill:
            for line in path.read_text().splitlines():
                json.loads(line)
        elif path.name == "checkpoint.pt":
            torch.load(path, weights_only=True)
    for config in folder.rglob("config.json"):
        if not config.parent.name.startswith("."):
            try:
                weights.create_model(config.parent)
            except ValueError as error:
                assert after_kill and "two different models" in str(error), error


# Kills, and disks that fill


def check_kill(draw: Random, place: Place) -> None:
    """Killed at any moment, and begun again: everything is as if nothing had been."""
    name = draw.choice(("predict", "predict", "evaluate", "train", "inspect", "convert"))
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        output = Path(folder) / "out"
        command = base_command(name, place, output) + (["--save-every", "1"] if name == "train" else [])
        code, said = run(command, Path(folder), kill_after=draw.uniform(0.0, 0.6))
        assert code in (0, -9), said
        judge_files(Path(folder), after_kill=True)
        again = {"train": ["--resume"], "predict": ["--overwrite"], "evaluate": ["--overwrite"]}.get(name, [])
        code, said = run(command + again, Path(folder))
        assert code == 0, f"{command}, begun again: {code}: {said[-600:]}"
        judge_files(Path(folder))


def check_full_disk(draw: Random, place: Place) -> None:
    """A disk of a few kilobytes: one sentence, and what is there is whole."""
    name = draw.choice(("predict", "predict", "evaluate", "train", "inspect", "convert"))
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={draw.choice(SIZES)}k", "none", folder]
        mounted = subprocess.run(mount, capture_output=True)
        if mounted.returncode:
            return
        try:
            log = Path(tempfile.mkdtemp(dir=place.folder))  # what is said needs a disk of its own
            command = base_command(name, place, Path(folder) / "out")
            code, said = run(command, log)
            judge(command, code, said)
            judge_files(Path(folder))
        finally:
            subprocess.run(["umount", folder], check=True)


CHECKS: dict[str, Callable[[Random, Place], Any]] = {
    "settings": check_settings,
    "command lines": check_command_line,
    "kills": check_kill,
    "full disks": check_full_disk,
}
