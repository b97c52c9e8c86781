"""The loop: what it computes does not depend on how often it is killed, nor on how the work is shared."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mask2former.modeling.config import Mask2FormerConfig
from mask2former.modeling.model import Mask2Former
from mask2former.structures import ClassInfo, Targets
from mask2former.training.batches import BatchOrder, collate, seed_of, seeded
from mask2former.training.checkpoint import trained_weights
from mask2former.training.losses import Criterion
from mask2former.training.points import Points
from mask2former.training.processes import repeated_blocks
from mask2former.training.trainer import Learner, Settings, train
from oneformer.config import OneFormerConfig
from oneformer.losses import OneFormerCriterion
from oneformer.model import OneFormer
from oneformer.targets import TaskDataset
from tests.conftest import SHARED, needs_shared
from tests.toy_training import CLASSES, ToyNetwork, ToyPictures, double_toy

QUICK = {"steps": 6, "batch_size": 4, "lr": 0.01, "workers": 0, "log_every": 1, "save_every": 2}


def run(output, settings, *flags, processes=0):
    """The toy training in a process of its own, or in several started by torchrun."""
    program = [sys.executable, "-m", "tests.toy_training"]
    if processes:
        program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        program += ["-m", "tests.toy_training"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*program, str(output), "--settings", json.dumps(settings), *flags],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def losses(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def in_process(output, criterion=None, dataset=None, **changes):
    torch.manual_seed(0)
    model = ToyNetwork()
    criterion = criterion or Criterion(CLASSES, num_points=64)
    return train(model, dataset or ToyPictures(), criterion, Settings(**{**QUICK, **changes}), output)


def test_training_lowers_the_loss_and_keeps_a_record(tmp_path):
    seen = []

    def evaluate(model):
        seen.append(model.training)
        return {"score": 0.5}

    torch.manual_seed(0)
    settings = Settings(**{**QUICK, "steps": 60, "log_every": 5, "evaluate_every": 30})
    model = train(ToyNetwork(), ToyPictures(), Criterion(CLASSES, num_points=64), settings, tmp_path, evaluate)
    history = losses(tmp_path)
    assert list(history) == list(range(5, 61, 5))
    assert history[60] < 0.8 * history[5]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "score" in line] == [30, 60] and seen == [False, False]
    assert {"class", "mask_0", "dice_1", "lr", "grad_norm", "seconds_per_step"} <= set(lines[0])
    assert model.training and sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "metrics.jsonl"]


@pytest.mark.slow
def test_killed_and_resumed_it_computes_the_same(tmp_path):
    settings = {**QUICK, "steps": 120, "save_every": 7, "average": 0.9, "workers": 1, "precision": "bf16"}
    finish(run(tmp_path / "whole", settings))
    killed = run(tmp_path / "killed", settings)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 20) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = len(losses_if_complete(metrics))
    assert 20 < before < 120, "the run was over before it could be killed"
    finish(run(tmp_path / "killed", settings, "--resume"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 120
    states = [torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "killed")]
    for part in ("module", "average"):
        for name, tensor in states[0][part].items():
            assert torch.equal(tensor, states[1][part][name]), (part, name)
    assert any(not torch.equal(tensor, states[0]["average"][name]) for name, tensor in states[0]["module"].items())
    final = [torch.load(tmp_path / name / "model.pt") for name in ("whole", "killed")]
    assert all(torch.equal(tensor, final[1][name]) for name, tensor in final[0].items())
    stored = trained_weights(tmp_path / "killed" / "checkpoint.pt")
    assert stored.keys() == final[0].keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in final[0].items())


def losses_if_complete(metrics):
    return [line for line in metrics.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_interrupted_it_saves_what_it_has_and_goes_on_from_there(tmp_path, number):
    settings = {**QUICK, "steps": 400, "save_every": 10_000, "workers": 1}
    stopped = run(tmp_path, settings)
    metrics = tmp_path / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 5) and time.monotonic() < deadline:
        time.sleep(0.01)
    stopped.send_signal(number)
    assert stopped.wait(60) != 0
    before = len(losses_if_complete(metrics))
    assert 5 < before < 400 and (tmp_path / "checkpoint.pt").exists()
    finish(run(tmp_path, settings, "--resume"))
    assert list(losses(tmp_path)) == list(range(1, 401))


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_equal_one_with_the_joint_batch(tmp_path, shard):
    settings = {**QUICK, "average": 0.9, "shard": shard}
    finish(run(tmp_path / "two", settings, "--double", processes=2))
    train(*double_toy(), Settings(**settings), tmp_path / "one")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 6 and two == pytest.approx(one, rel=1e-12)
    states = [torch.load(tmp_path / name / "checkpoint.pt") for name in ("one", "two")]
    for part in ("module", "average"):
        for name, tensor in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], tensor, rtol=1e-9, atol=1e-12)


def test_passes_of_a_step_equal_one_pass(tmp_path):
    """Where every image has as many targets; otherwise each pass divides by its own number of masks."""

    class SameCount(ToyPictures):
        def __getitem__(self, index):
            return super().__getitem__(4 * index + 2)

    weights = []
    for accumulate in (1, 2):
        model, _, criterion = double_toy()
        pictures, settings = SameCount(4, torch.float64, noise=0.0), Settings(**{**QUICK, "accumulate": accumulate})
        weights.append(train(model, pictures, criterion, settings, tmp_path / str(accumulate)).state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-9, atol=1e-12)


def test_recomputed_activations_change_no_number(tmp_path):
    plain = in_process(tmp_path / "plain").state_dict()
    again = in_process(tmp_path / "again", checkpoint_activations=True).state_dict()
    assert losses(tmp_path / "plain") == losses(tmp_path / "again")
    assert all(torch.equal(tensor, again[name]) for name, tensor in plain.items())


@pytest.mark.slow
def test_compiled_training_computes_the_same(tmp_path):
    for compiled in (False, True):
        model, dataset, criterion = double_toy()
        train(model, dataset, criterion, Settings(**{**QUICK, "compile": compiled}), tmp_path / str(compiled))
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=1e-9)


def test_tensorboard_gets_the_same_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    in_process(tmp_path, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    written = {event.step: event.value for event in events.Scalars("loss")}
    assert written == pytest.approx(losses(tmp_path), rel=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_stays_close(tmp_path, precision):
    in_process(tmp_path / "plain")
    in_process(tmp_path / "mixed", precision=precision)
    plain, mixed = losses(tmp_path / "plain"), losses(tmp_path / "mixed")
    assert plain != mixed and mixed == pytest.approx(plain, rel=0.05)


def test_a_finished_run_is_neither_overwritten_nor_continued_differently(tmp_path):
    in_process(tmp_path)
    with pytest.raises(FileExistsError, match="resume that run"):
        in_process(tmp_path)
    settings = Settings(**{**QUICK, "lr": 0.02})
    with pytest.raises(ValueError, match="lr was 0.01 and is 0.02"):
        train(ToyNetwork(), ToyPictures(), Criterion(CLASSES), settings, tmp_path, resume=True)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    in_process(tmp_path, steps=2)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def failing(state, file):
        file.write(b"half of a")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="disk full"):
        settings = Settings(**{**QUICK, "steps": 4})
        train(ToyNetwork(), ToyPictures(), Criterion(CLASSES, num_points=64), settings, tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_broken_picture_stops_training_with_the_reason(tmp_path):
    class Broken(ToyPictures):
        def __getitem__(self, index):
            pixel_values, targets = super().__getitem__(index)
            return pixel_values * torch.nan, targets

    with pytest.raises(FloatingPointError, match="is not finite"):
        in_process(tmp_path, dataset=Broken())
    assert not (tmp_path / "checkpoint.pt").exists()


def test_settings_are_checked():
    with pytest.raises(ValueError, match="precision='int8': expected one of"):
        Settings(precision="int8")
    with pytest.raises(ValueError, match="steps=0: expected 1 or more"):
        Settings(steps=0)
    with pytest.raises(ValueError, match="schedule='cosine': expected one of"):
        Settings(schedule="cosine")


def test_every_image_comes_once_an_epoch_whoever_asks():
    alone = list(BatchOrder(10, 4, 15, 0, 1, 0, 1, seed=3))
    assert len(alone) == 15 and [place for batch in alone for place, _ in batch] == list(range(60))
    indices = [index for batch in alone for _, index in batch]
    assert all(sorted(indices[first : first + 10]) == list(range(10)) for first in range(0, 60, 10))
    assert indices[:10] != indices[10:20]
    assert list(BatchOrder(10, 4, 15, 6, 1, 0, 1, seed=3)) == alone[6:]  # continued
    shared = [list(BatchOrder(10, 4, 15, 0, 2, rank, 2, seed=3)) for rank in range(2)]  # 2 passes of 2 processes
    for step, batch in enumerate(alone):
        passes = [shared[rank][2 * step + turn] for turn in range(2) for rank in range(2)]
        assert [item for part in passes for item in part] == batch
    with pytest.raises(ValueError, match="3 passes of 2 processes"):
        BatchOrder(10, 4, 15, 0, 3, 0, 2, seed=3)


def test_random_numbers_belong_to_a_place_and_disturb_nobody():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with seeded(seed_of(0, "image", 7)):
        first = torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    with seeded(seed_of(0, "image", 7)):
        assert torch.equal(torch.rand(3), first)
    assert len({seed_of(seed, kind, place) for seed in range(5) for kind in ("a", "b") for place in range(50)}) == 500


def test_collate_pads_to_a_common_multiple_of_32():
    one = Targets(torch.tensor([1]), torch.ones(1, 30, 50, dtype=torch.bool))
    none = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 40, 20, dtype=torch.bool))
    items = [
        (torch.ones(3, 30, 50), one, "panoptic", torch.ones(2)),
        (torch.ones(3, 40, 20), none, "semantic", torch.ones(2)),
    ]
    pixel_values, targets, (tasks, texts) = collate(items)
    assert pixel_values.shape == (2, 3, 64, 64) and pixel_values.sum((1, 2, 3)).tolist() == [4500, 2400]
    assert targets[0].masks.shape == (1, 64, 64) and targets[0].masks.sum() == 1500
    assert targets[1].masks.shape == (0, 64, 64)
    assert tasks == ["panoptic", "semantic"] and texts.shape == (2, 2)


def test_repeated_blocks_are_the_innermost_ones():
    model = Mask2Former(toy_config(Mask2FormerConfig, encoder_layers=2))
    kinds = [type(block).__name__ for block in repeated_blocks(model)]
    assert sorted(kinds) == sorted(["BasicBlock"] * 8 + ["DeformableEncoderLayer"] * 2 + ["DecoderLayer"] * 3)


def toy_config(kind, **changes):
    sizes = {
        "backbone": "resnet18", "num_classes": CLASSES, "num_queries": 6, "hidden_dim": 64, "mask_dim": 32,
        "num_heads": 4, "encoder_layers": 1, "decoder_layers": 3, "encoder_feedforward_dim": 32,
        "decoder_feedforward_dim": 32,
    }  # fmt: skip
    return kind(**sizes | changes)


def toy_oneformer():
    config = toy_config(OneFormerConfig, text_branch=True, text_width=64, text_layers=1, text_contexts=2)
    return OneFormer(config), OneFormerCriterion(Criterion(CLASSES, num_points=64))


def toy_tasks():
    """Pictures of which a task is drawn, each text told apart by its length."""
    classes = [ClassInfo("cat"), ClassInfo("sky", is_thing=False), ClassInfo("dog")]
    return TaskDataset(ToyPictures(), classes, lambda texts: torch.tensor([[len(t)] * 77 for t in texts]), 4)


@pytest.mark.parametrize("index", [0, 3])  # without targets and with
@pytest.mark.parametrize("family", ["mask2former", "oneformer"])
def test_no_parameter_goes_unused(family, index):
    if family == "oneformer":
        model, criterion = toy_oneformer()
        batch = collate([toy_tasks()[index]] * 2)
    else:
        model, criterion = Mask2Former(toy_config(Mask2FormerConfig)), Criterion(CLASSES, num_points=64)
        batch = collate([ToyPictures()[index]] * 2)
    learner = Learner(model, criterion).train()
    learner(*batch)[1].backward()
    unused = [
        name for name, parameter in learner.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert not unused
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.requires_grad)


def test_oneformer_trains_on_drawn_tasks_and_learns_its_logit_scale(tmp_path):
    model, criterion = toy_oneformer()
    train(model, toy_tasks(), criterion, Settings(**QUICK), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6 and all(line["contrastive"] > 0 for line in lines)
    assert criterion.logit_scale.item() != pytest.approx(math.log(1 / 0.07), abs=1e-6)
    assert "criterion.logit_scale" in torch.load(tmp_path / "checkpoint.pt")["module"]


@needs_shared
@pytest.mark.slow
def test_bfloat16_stays_finite_over_fifty_steps_on_real_photos(tmp_path):
    from mask2former.data import open_dataset, training_transform

    dataset = open_dataset(
        f"coco-panoptic:{SHARED / 'data' / 'coco128_panoptic'}",
        classes="supercategory",
        transform=training_transform("coco", 128),
    )
    config = toy_config(Mask2FormerConfig, num_classes=len(dataset.classes), num_queries=25)
    criterion = Criterion(config.num_classes, num_points=784)
    settings = Settings(steps=50, batch_size=4, lr=1e-3, precision="bf16", workers=0, log_every=1, save_every=50)
    train(Mask2Former(config), dataset, criterion, settings, tmp_path)
    history = losses(tmp_path)
    assert list(history) == list(range(1, 51)) and torch.tensor(list(history.values())).isfinite().all()
    first, last = (sum(history[step] for step in steps) for steps in (range(1, 11), range(41, 51)))
    assert last < first


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["swin", "resnet"])
def test_trajectory_equals_transformers_over_twenty_steps(backbone, tmp_path, monkeypatch):
    """The same weights, pictures, points and AdamW: the losses of 20 steps in float64."""
    pytest.importorskip("transformers")
    from tests import toy_transformers

    P, steps = 48, 20
    theirs = toy_transformers.mask2former(
        {"swin": lambda: toy_transformers.swin(4), "resnet": toy_transformers.resnet}[backbone](),
        train_num_points=P,
        num_labels=CLASSES,
    )
    ours = toy_transformers.ours_from(theirs, tmp_path)
    models = ours.double().train(), theirs.double().train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # ours are frozen, as in the papers
            module.eval().requires_grad_(False)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05) for model in models]
    draws = torch.rand(steps, 3 * P, 2, dtype=torch.float64)  # all masks of a step see the same points
    pictures = ToyPictures(dtype=torch.float64)
    items = [pictures[index] for index in (1, 2, 3)]
    history = {"ours": [], "theirs": []}
    for step in range(steps):
        pixel_values, targets, _ = collate([items[step % 3], items[(step + 1) % 3]])
        points = [
            Points(*(draws[step, :count].expand(5, *masks, -1, -1) for count, *masks in
                     ((P,), (3 * P, len(t.labels)), (P // 4, len(t.labels)))))
            for t in targets
        ]  # fmt: skip
        total = Criterion(CLASSES, num_points=P)(models[0](pixel_values), targets, points=points)[1]
        with monkeypatch.context() as patch:
            patch.setattr(
                torch, "rand", lambda masks, count, _, step=step, **__: draws[step, :count].repeat(masks, 1, 1)
            )
            expected = models[1](
                pixel_values,
                mask_labels=[t.masks.double() for t in targets],
                class_labels=[t.labels for t in targets],
            ).loss
        for name, model, optimizer, loss in zip(history, models, optimizers, (total, expected), strict=True):
            history[name].append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
    assert history["ours"] == pytest.approx(history["theirs"], rel=1e-6)
    assert history["ours"][-1] < history["ours"][0]
