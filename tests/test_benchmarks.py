"""The benchmarks: their parts import and run at toy sizes, goals are judged by numbers, both sides compute the same."""

import gc
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import __main__ as command
from benchmarks import measure, models, network, own_process, peers, report, runtimes, sampling, scene, stream
from benchmarks.report import Row, at_least, at_most
from benchmarks.settings import Settings
from mask2former.kernels.feed_forward import feed_forward
from mask2former.kernels.linear import linear
from tests import toy_transformers

pytest.importorskip("transformers")

SETTINGS = Settings(repeats=1, threads=2)


@pytest.mark.parametrize("part", command.PARTS)
def test_every_part_can_be_asked_for_rows(part):
    assert callable(importlib.import_module(f"benchmarks.{part}").rows)


def test_goals_are_judged_by_the_number():
    assert Row("w", "s", "p", 1.0, 2.5, at_least(2.2)).verdict() == "≥ 2.2×: met"
    assert Row("w", "s", "p", 1.0, 2.1, at_least(2.2)).verdict() == "≥ 2.2×: missed"
    assert Row("w", "s", "peak MiB", 60.0, 100.0, at_most(0.6), "memory").verdict() == "≤ 0.6×: met"
    assert Row("w", "s", "peak MiB", 61.0, 100.0, at_most(0.6), "memory").verdict() == "≤ 0.6×: missed"
    assert Row("w", "s", "share", 0.84, goal=at_least(0.85), kind="figure").verdict() == "≥ 0.85: missed"
    assert Row("w", "s", "photos a second", 6.0, 3.0, at_least(2), "rate").verdict() == "≥ 2×: met"
    assert Row("w", "s", "p", 1.0, None, at_least(2)).verdict() == "≥ 2×: not compared"
    assert Row("w", "s", "p", 1.0, 2.0).verdict() == "–"
    with pytest.raises(ValueError, match="expected ≥ or ≤"):
        report.Goal("<", 1)


def test_the_result_is_one_markdown_table_with_its_notes():
    rows = [Row("network", "64×64", "all", 0.01234, 0.05), Row("network", "64×64", "peak MiB", 1234.5, kind="memory")]
    text = report.document("a machine", rows, ["a note", "a note"])
    lines = text.splitlines()
    assert lines[0] == "a machine" and text.count("* a note") == 1
    drawn = [line for line in lines if line.startswith("|")]
    assert [cell.strip() for cell in drawn[0].strip("|").split("|")] == list(report.HEADER)
    assert len({len(line) for line in drawn}) == 1 and len(drawn) == 4
    assert "0.0123" in drawn[2] and "4.05×" in drawn[2] and "1234" in drawn[3]


def test_the_scene_is_what_it_says():
    class_logits, embeddings, features = scene.predictions(24, 48, Q=40, K=11, N=12, C=64)
    assert class_logits.shape == (1, 40, 12) and embeddings.shape == (1, 40, 64) and features.shape == (1, 64, 24, 48)
    best = class_logits[0].softmax(-1).max(-1)
    assert ((best.indices < 11) & (best.values > 0.8)).nonzero()[:, 0].tolist() == list(range(12))
    again = scene.predictions(24, 48, Q=40, K=11, N=12, C=64)
    assert all(torch.equal(a, b) for a, b in zip((class_logits, embeddings, features), again, strict=True))


def test_medians_leave_the_first_round_out():
    asked = []
    found = measure.interleaved_medians({"a": lambda: asked.append("a"), "b": lambda: lambda: {"part": 2.0}}, 3)
    assert len(asked) == 4 and found["b"]["part"] == 2.0 and set(found["a"]) == {"all"}


def test_flops_count_the_fused_linear_layer():
    x, weight, first = torch.randn(5, 3), torch.randn(7, 3), nn.Linear(3, 7)
    assert measure.flops_of(lambda: F.linear(x, weight)) == 2 * 5 * 3 * 7
    assert measure.flops_of(lambda: linear(first, x)) == 2 * 5 * 3 * 7
    assert measure.flops_of(lambda: feed_forward(first, nn.Linear(7, 3), x, "gelu")) == 4 * 5 * 3 * 7


def test_both_sides_of_sampling_compute_the_same():
    inputs = sampling.Inputs.random((64, 96), 2, torch.device("cpu"), torch.float32)
    for sides in (sampling.operations(inputs), sampling.modules(inputs)):
        results, gradients = [], []
        for forward, leaves in sides.values():
            results.append(forward())
            results[-1].square().sum().backward()
            gradients.append(leaves[0].grad)
        torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


@pytest.fixture
def toy(monkeypatch):
    """The published architecture replaced by a toy one."""
    made = toy_transformers.mask2former(toy_transformers.swin(window_size=4))
    monkeypatch.setattr(models, "transformers_model", lambda name: made)


def test_network_rows_at_a_toy_size(toy):
    case = network.Case("mask2former_swin_tiny", (64, 64), goals={"float32 eager": at_least(0)}, limit=at_least(0))
    rows = [row for row in network.cpu_rows(case, SETTINGS) if isinstance(row, Row)]
    assert [row.part for row in rows[:4]] == [*models.STAGES, "float32 eager"]
    assert all(row.ours > 0 and row.theirs > 0 and row.size == "64×64" for row in rows)
    assert rows[3].verdict().endswith(": met") and rows[-1].verdict().endswith(": met")
    assert rows[3].ours >= sum(row.ours for row in rows[:3])


def test_peers_without_their_packages_say_how_to_get_them(toy, monkeypatch):
    monkeypatch.setattr(runtimes, "missing", lambda runtime: ["openvino"])
    with models.saved("toy") as folder:
        sides = [models.load(side, folder) for side in ("ours", "transformers")]
    found = list(peers.peer_rows(*sides, torch.randn(1, 3, 64, 64), SETTINGS, compiled=False))
    assert sum(peers.INSTALL in note for note in found if isinstance(note, str)) == len(runtimes.PACKAGES)
    assert [row.part for row in found if isinstance(row, Row)] == ["ours eager, transformers eager"]


@pytest.mark.slow
def test_peers_compute_what_transformers_does(toy):
    if any(map(runtimes.missing, runtimes.PACKAGES)):
        pytest.skip(f"needs {peers.INSTALL}")
    theirs, pixel_values = models.transformers_model("toy"), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = runtimes.TwoOutputs(theirs)(pixel_values)
    for name, run in runtimes.load(theirs, pixel_values, threads=2)[0].items():
        close = 0.2 if "bfloat16" in name else 1e-3
        for actual, wanted in zip(run(pixel_values.numpy()), expected, strict=True):
            torch.testing.assert_close(actual, wanted, atol=close * wanted.abs().max().item(), rtol=0)


def test_a_measurement_in_a_process_of_its_own():
    with pytest.raises(RuntimeError, match=r"memory:inference.*failed"):
        own_process.run("benchmarks.memory:inference", SETTINGS, folder="no such folder", side="ours", size=[64, 64])
    gc.collect()  # what other tests left must not go meanwhile
    assert own_process.peak_memory_of(lambda: torch.ones(2**26).sum(), torch.device("cpu")) > 128  # of 256 MiB


def test_the_stream_reads_what_the_command_says():
    said = "3 photos in segments; seconds a photo: network 0.100\nphotos a second: 8.12; of the network alone 9.87"
    assert stream.SAID.search(said).groups() == ("8.12", "9.87")


def test_one_command_prints_help_and_refuses_unknown_parts():
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "nothing"],
        capture_output=True, text=True, cwd=root, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "network" in done.stderr
    assert all(part in command.parser().format_help() for part in command.PARTS)
