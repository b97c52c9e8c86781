"""Photos a second of the whole command, `mask2former predict FOLDER`, beside those of its network alone.

The command reads photos, runs the network, post-processes and writes; reading and writing should cost next to nothing
because they happen beside the network. The network alone runs over the same photos at the same sizes, already read, in
a process of its own that has all cores for it. The command's own speed is counted from the first photo, so the seconds
in which it starts up are not in it; they have a row.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch

from benchmarks import measure, own_process
from benchmarks.photos import MISSING, compact_model, photos
from benchmarks.report import Row, at_least
from benchmarks.settings import Settings

COUNT, QUICK_COUNT = 100, 8
RUNS = 3  # at most; each goes over all photos
SAID = re.compile(r"photos a second: ([\d.]+); of the network alone ([\d.]+)")


def rows(settings: Settings) -> Iterator[Row | str]:
    chosen = photos(QUICK_COUNT if settings.quick else COUNT)
    if not chosen:
        yield f"stream {MISSING}"
        return
    whole, inside, start_up, alone = [], [], [], []
    with compact_model() as (model, name):
        for _ in range(1 if settings.quick else min(settings.repeats, RUNS)):
            speed, network, before = command(model, chosen, settings)
            whole.append(speed)
            inside.append(network)
            start_up.append(before)
            alone.append(
                own_process.run(
                    "benchmarks.stream:network_alone", settings, model=model, files=[str(file) for file in chosen]
                )
            )
    work, size = f"predict, {name}", f"{len(chosen)} photos"
    yield Row(work, size, "whole command, photos a second", median(whole), kind="rate")
    yield Row(work, size, "its network as the command timed it, photos a second", median(inside), kind="rate")
    yield Row(work, size, "network alone, photos a second", median(alone), kind="rate")
    share = median(speed / other for speed, other in zip(whole, alone, strict=True))
    goal = None if settings.quick else at_least(0.85)
    yield Row(work, size, "whole command ÷ network alone", share, goal=goal, kind="figure")
    yield Row(work, size, "start-up of the command, seconds", median(start_up))


def command(model: str, chosen: Sequence[Path], settings: Settings) -> tuple[float, float, float]:
    """Photos a second, those of the network as the command itself timed it, and seconds before the first photo."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "photos")
        place.mkdir()
        for photo in chosen:
            (place / photo.name).symlink_to(photo)
        words = ["predict", str(place), "--model", model, "--output", str(Path(folder, "segments"))]
        environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "mask2former", *words, "--device", str(settings.device)],
            capture_output=True,
            text=True,
            check=False,
            cwd=own_process.ROOT,
            env=environment,
        )
        seconds = time.perf_counter() - start
    said = SAID.search(done.stdout)
    if done.returncode or said is None:
        raise RuntimeError(f"mask2former {' '.join(words)} failed: {(done.stderr or done.stdout)[-2000:]}")
    speed, network = map(float, said.groups())
    return speed, network, seconds - len(chosen) / speed


def network_alone(device: torch.device, model: str, files: Sequence[str]) -> float:
    """Photos a second; called in a process of its own. The first photo is run twice, to warm up."""
    import weights
    from mask2former.inference.network import run_network
    from mask2former.inference.photo import read_photo

    predictor = weights.create_predictor(model, device=device)
    inputs = [predictor.preprocess(read_photo(file))[0][None] for file in files]
    tasks = predictor.protocol.tasks[:1]
    with torch.inference_mode():
        run_network(predictor.model, inputs[0].to(device), tasks)
        measure.synchronise()
        start = time.perf_counter()
        for pixel_values in inputs:
            run_network(predictor.model, pixel_values.to(device), tasks)
        measure.synchronise()
    return len(files) / (time.perf_counter() - start)
