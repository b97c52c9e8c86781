"""train, evaluate and inspect as somebody calls them, on toy networks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import weights
from mask2former import Mask2Former, Mask2FormerConfig, Protocol
from mask2former.cli import main
from mask2former.data import open_dataset
from mask2former.training.checkpoint import trained_weights
from oneformer import OneFormer, OneFormerConfig
from tests.conftest import SHARED, needs_shared
from weights.backbone_file import load_backbone
from weights.compact import compact_config

COCO = f"coco-panoptic:{SHARED / 'data' / 'coco128_panoptic'}"
FRUITS = f"coco-instance:{SHARED / 'data' / 'fruits_nuts'}:all"
SIZES = {
    "backbone": "mobilenetv3_small_050", "num_queries": 6, "hidden_dim": 64, "mask_dim": 32, "num_heads": 4,
    "encoder_layers": 1, "decoder_layers": 1, "encoder_feedforward_dim": 32, "decoder_feedforward_dim": 32,
    "protocol": Protocol(short_side=64, long_side=96),
}  # fmt: skip
QUICK = [
    "--steps", "2", "--batch-size", "2", "--size", "64", "--points", "64", "--workers", "0", "--log-every", "1",
    "--device", "cpu",
]  # fmt: skip


def photos_and_masks(folder: Path, photos: int = 4, names: tuple[str, ...] = ("sky", "fig")) -> str:
    """A folder of photos: the first class is stuff in the upper half, the second a thing in the lower."""
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True)
    for n in range(photos):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (64, 80, 3), np.uint8)).save(
            folder / f"images/{n}.png"
        )
        ids = np.full((64, 80), 1, np.uint16)
        ids[40:, 10 * n : 10 * n + 30] = 2001
        Image.fromarray(ids).save(folder / f"masks/{n}.png")
    table = [{"id": k + 1, "name": name, "isthing": int(k > 0)} for k, name in enumerate(names)]
    (folder / "classes.json").write_text(json.dumps(table))
    return f"folder:{folder}:all"


@pytest.fixture
def data(tmp_path):
    return photos_and_masks(tmp_path / "data")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A saved Mask2Former of 27 classes."""
    folder = tmp_path_factory.mktemp("toy")
    weights.save_model(Mask2Former(Mask2FormerConfig(num_classes=27, **SIZES)), folder)
    return str(folder)


def metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@needs_shared
def test_train_evaluate_predict_on_real_photos(toy, tmp_path, capsys):
    output = tmp_path / "run"
    arguments = ["--data", COCO, "--val-data", COCO, "--val-limit", "3", "--classes", "supercategory", "--ema", "0.9"]
    assert main(["train", *arguments, "--model", toy, "--output", str(output), *QUICK]) == 0
    said = capsys.readouterr()
    assert "100 photos, panoptic, 27 classes (person, vehicle" in said.out and "3 photos" in said.out
    assert "learning rate 1.25e-05 (1e-4 × images / 16" in said.out + said.err
    assert "panoptic\n  PQ" in said.out
    *steps, scores = metrics(output)
    assert [line["step"] for line in steps] == [1, 2] and {"panoptic/PQ", "semantic/mIoU"} <= set(scores)

    predictor = weights.create_predictor(output / "model", device="cpu")
    assert predictor.protocol.tasks == ("panoptic", "instance", "semantic")
    assert predictor.protocol.short_side == 64
    state = trained_weights(output / "checkpoint.pt")
    assert all(torch.equal(tensor, state[name]) for name, tensor in predictor.model.state_dict().items())
    photo = open_dataset(COCO, "val").photo(0)
    result = predictor(photo, task="semantic")
    assert result.segmentation.shape == photo.size[::-1]
    assert {segment.label for segment in result.segments} <= {
        c.name for c in open_dataset(COCO, classes="supercategory").classes
    }

    arguments = ["--model", str(output / "model"), "--classes", "supercategory", "--limit", "3", "--device", "cpu"]
    assert main(["evaluate", *arguments, "--data", COCO, "--output", str(tmp_path / "scores"), "--worst", "1"]) == 0
    said = capsys.readouterr().out
    assert "PQ" in said and "vehicle" in said
    report = json.loads((tmp_path / "scores/evaluation.json").read_text())
    assert report["photos"] == 3 and len(report["panoptic"]["classes"]) == 27
    # the averaged weights that the run ended with are the ones that it judged and saved
    assert report["semantic"]["mIoU"] == pytest.approx(scores["semantic/mIoU"], abs=1e-12)
    assert report["instance"]["AP"] == pytest.approx(scores["instance/AP"], abs=1e-12)
    assert len(list((tmp_path / "scores/worst_panoptic").iterdir())) == 1


@needs_shared
def test_fine_tuning_for_other_classes_keeps_all_but_the_head(toy, tmp_path, capsys):
    frozen = ["--lr", "1e-30", "--schedule", "constant", "--weight-decay", "0"]
    with pytest.warns(UserWarning, match="class head of .* is fresh, for 3 other classes"):
        code = main(["train", "--data", FRUITS, "--model", toy, "--output", str(tmp_path), *frozen, *QUICK])
    assert code == 0 and "18 photos, instance, 3 classes (date, fig, hazelnut)" in capsys.readouterr().out
    before, after = weights.create_model(toy), weights.create_model(tmp_path / "model")
    assert [c.name for c in after.config.classes] == ["date", "fig", "hazelnut"]
    assert after.config.protocol.tasks == ("instance",)
    theirs = after.state_dict()
    for name, tensor in before.state_dict().items():
        if "class_head" not in name:
            torch.testing.assert_close(theirs[name], tensor, msg=name)


def test_a_run_resumed_ends_where_an_uninterrupted_one_does(data, toy, tmp_path, capsys):
    def run(name, steps, *more):
        arguments = ["--data", data, "--model", toy, "--output", str(tmp_path / name), "--schedule", "constant", *QUICK]
        return main(["train", *arguments, "--steps", str(steps), *more])

    with pytest.warns(UserWarning, match="fresh"):
        assert run("whole", 4) == run("parts", 2) == 0
        begun = metrics(tmp_path / "parts")
        assert run("parts", 4) == 2
        assert "resume that run" in capsys.readouterr().err
        assert run("parts", 4, "--resume", "--seed", "1") == 2
        assert "seed was 0 and is 1" in capsys.readouterr().err
        assert run("parts", 4, "--resume") == 0
    whole, parts = (weights.create_model(tmp_path / name / "model").state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    continued = metrics(tmp_path / "parts")
    assert continued[:2] == begun  # with the times that they took: they were not computed again
    assert [line["step"] for line in continued] == [1, 2, 3, 4]


def test_oneformer_learns_the_tasks_it_is_given(data, tmp_path, capsys):
    pytest.importorskip("open_clip")
    text = {"text_branch": True, "text_width": 64, "text_layers": 1, "text_contexts": 2}
    model = OneFormer(OneFormerConfig(num_classes=2, **SIZES, **text))
    weights.save_model(model, tmp_path / "toy")
    arguments = ["train", "--data", data, "--model", str(tmp_path / "toy"), "--output", str(tmp_path / "run"), *QUICK]
    # by the other family's program: a folder says itself what it holds
    assert main([*arguments, "--tasks", "panoptic", "semantic", "--val-data", data, "--val-limit", "1"]) == 0
    assert "panoptic, semantic, 2 classes (sky, fig)" in capsys.readouterr().out
    *steps, scores = metrics(tmp_path / "run")
    assert all(line["contrastive"] > 0 for line in steps)
    assert "panoptic/PQ" in scores and "semantic/mIoU" in scores and "instance/AP" not in scores
    predictor = weights.create_predictor(tmp_path / "run/model", device="cpu")
    assert predictor.protocol.tasks == ("panoptic", "semantic")
    assert set(predictor(tmp_path / "data/images/0.png", task="all")) == {"panoptic", "semantic"}


@pytest.mark.parametrize("family, kind", [("mask2former", Mask2Former), ("oneformer", OneFormer)])
def test_the_compact_network_starts_from_a_backbone_file(family, kind, data, tmp_path, monkeypatch):
    if family == "oneformer":
        pytest.importorskip("open_clip")
    built = []
    monkeypatch.setattr("mask2former.training.trainer.train", lambda model, *others: built.append((model, *others)))
    monkeypatch.setattr("mask2former.training.checkpoint.trained_weights", lambda path: built[0][0].state_dict())
    published = timm.create_model("tf_efficientnet_lite0")
    torch.save(published.state_dict(), tmp_path / "backbone.pth")
    arguments = ["--model", "compact", "--backbone-weights", str(tmp_path / "backbone.pth"), "--output", str(tmp_path)]
    assert main(["train", "--data", data, *arguments, *QUICK], family) == 0
    model, dataset, criterion = built[0][:3]
    assert isinstance(model, kind) and model.config.num_queries == 60
    assert torch.equal(model.backbone.body.conv_stem.weight, published.conv_stem.weight)
    assert len(dataset) == 4 and len(dataset[0]) == (2 if family == "mask2former" else 4)
    assert any(parameter.requires_grad for parameter in criterion.parameters()) == (family == "oneformer")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"--data": "photos"}, "data 'photos': expected KIND:FOLDER or KIND:FOLDER:SPLIT with one of the kinds coco-"),
        ({"--data": "coco-panoptic:nowhere"}, "nowhere: no such folder; check its name"),
        ({"--val-data": "folder:nowhere"}, "nowhere: no such folder; check its name"),
        ({"--val-data": "OTHER"}, "--val-data has 2 classes (sky, date): expected the same"),
        ({"--classes": "plum"}, "not ['plum']"),
        ({"--background": "class"}, "classes.json says itself"),
        ({"--model": "mask2former_swin_tinny_coco_panoptic"}, "nearest published ones are mask2former_swin_tiny_coco"),
        ({"--backbone-weights": "nowhere.pth"}, "nowhere.pth does not exist"),
        ({"--task": "panoptic semantic"}, "a Mask2Former learns from one kind of targets"),
        ({"--precision": "fp32", "--batch-size": "3", "--accumulate": "2"}, "can share equally"),
        ({"--steps": "0"}, "--steps 0: expected 1 or more"),
        ({"--classes": "sky sky"}, "expected different names out of 2 (sky, fig); not ['sky']"),
        ({"--output": __file__}, f"--output {__file__}: {__file__} is a file; name a folder"),
        ({"--output": f"{__file__}/run"}, f"{__file__} is a file; name a folder"),
        ({"--val-limit": "0"}, "--val-limit 0: expected 1 or more"),
        ({"--workers": "-1"}, "--workers -1: expected 0 or more"),
        ({"--lr": "-1"}, "--lr -1: expected more than 0"),
        ({"--clip": "0"}, "--clip 0: expected more than 0"),
        ({"--ema": "1"}, "--ema 1: expected a decay between 0 and 1"),
        ({"--jitter": "2 0.5"}, "--jitter 2 0.5: expected two scales above 0, the smaller one first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:the class head")
def test_what_cannot_be_trained_is_said_before_the_work(changes, said, data, toy, tmp_path, capsys):
    if changes.get("--val-data") == "OTHER":
        changes = {"--val-data": photos_and_masks(tmp_path / "other", 1, ("sky", "date"))}
    given = dict(zip(QUICK[::2], QUICK[1::2], strict=True))
    given |= {"--data": data, "--model": toy, "--output": str(tmp_path / "run")} | changes
    assert main(["train", *(word for name, value in given.items() for word in (name, *value.split()))]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_task_that_the_data_cannot_teach(toy, tmp_path, capsys):
    spec = photos_and_masks(tmp_path / "data")
    for mask in (tmp_path / "data/masks").iterdir():  # 8 bits cannot tell things apart
        Image.fromarray((np.asarray(Image.open(mask)) > 1).astype(np.uint8) + 1).save(mask)
    with pytest.warns(UserWarning, match="fresh"):
        arguments = ["--model", toy, "--output", str(tmp_path / "run"), *QUICK]
        assert main(["train", "--data", spec, *arguments, "--task", "instance"]) == 2
        assert "can teach semantic alone" in capsys.readouterr().err
        assert main(["train", "--data", spec, *arguments]) == 0
    assert weights.create_model(tmp_path / "run/model").config.protocol.tasks == ("semantic",)
    assert main(["evaluate", "--data", spec, "--model", str(tmp_path / "run/model"), "--task", "panoptic"]) == 2
    assert "can judge ('semantic',)" in capsys.readouterr().err


def test_evaluating_a_model_of_other_classes(data, toy, tmp_path, capsys):
    assert main(["evaluate", "--data", data, "--model", toy, "--output", str(tmp_path / "scores")]) == 2
    error = capsys.readouterr().err
    assert "the model knows 27 classes, the dataset has 2" in error and "--classes" in error
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("--limit", "-1", "--limit -1: expected 1 or more"),
        ("--worst", "-1", "--worst -1: expected 0 or more"),
        ("--batch-size", "0", "--batch-size 0: expected 1 or more"),
        ("--output", __file__, "is a file; name a folder"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_the_work(option, value, said, data, toy, capsys):
    assert main(["evaluate", "--data", data, "--model", toy, option, value]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_inspect_reports_and_tells_broken_files_by_its_exit_code(data, tmp_path, capsys):
    output = tmp_path / "inspection"
    assert main(["inspect", data, "--output", str(output), "--samples", "2"]) == 0
    assert "4 photos" in capsys.readouterr().out
    assert {file.name for file in output.iterdir()} == {"inspection.txt", "inspection.json", "samples.png"}
    (tmp_path / "data/masks/3.png").write_bytes(b"broken")
    assert main(["inspect", data, "--output", str(output), "--limit", "2"]) == 1  # the first and the last
    assert "3.png" in capsys.readouterr().out
    assert main(["inspect", "folder:nowhere", "--output", str(output)]) == 2
    assert main(["inspect", data, "--output", __file__]) == 2
    assert f"--output {__file__}: {__file__} is a file; name a folder" in capsys.readouterr().err
    assert main(["inspect", data, "--limit", "0"]) == 2
    assert "--limit 0: expected 1 or more" in capsys.readouterr().err


def test_a_file_that_a_worker_cannot_read_is_named_in_one_line(data, toy, tmp_path, capsys):
    for mask in (tmp_path / "data/masks").iterdir():
        Image.fromarray(np.full((6, 8), 1, np.uint16)).save(mask)
    with pytest.warns(UserWarning, match="fresh"):
        arguments = ["--data", data, "--model", toy, "--output", str(tmp_path / "run"), *QUICK, "--workers", "1"]
        assert main(["train", *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"mask2former: {tmp_path / 'data/images'}") and "80×64, its annotation 8×6" in last
    assert "; annotations must be made at the photo's own size" in last


def test_the_help_says_what_data_may_be(capsys):
    for command in ("train", "evaluate", "inspect"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert "coco-panoptic:FOLDER[:SPLIT]     COCO's own layout" in capsys.readouterr().out


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "convnext_atto"])
@pytest.mark.parametrize("named_by_timm", [True, False])
def test_a_backbone_file_is_read_by_name_or_by_order(backbone, named_by_timm, tmp_path):
    published = timm.create_model(backbone).eval()
    state = {name: tensor for name, tensor in published.state_dict().items() if "num_batches" not in name}
    path = tmp_path / ("backbone.safetensors" if named_by_timm else "backbone.pth")
    if named_by_timm:
        save_file(state, path)
    else:
        torch.save({f"part{n}.{name.rpartition('.')[2]}": x for n, (name, x) in enumerate(state.items())}, path)
    model = Mask2Former(Mask2FormerConfig(**SIZES | {"backbone": backbone}, num_classes=2)).eval()
    load_backbone(model, path)
    pixel_values = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last = model.backbone.body(pixel_values)[-1]
        expected = published.forward_intermediates(pixel_values, intermediates_only=True, output_fmt="NCHW")[-1]
    torch.testing.assert_close(last, expected)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda state: state | {"extra": torch.zeros(1)}, "1 entries are none of resnet18's: extra"),
        (lambda state: {k: v for k, v in state.items() if k != "conv1.weight"}, "lacks 1 entries .* conv1.weight"),
        (lambda state: state | {"conv1.weight": torch.zeros(1)}, r"conv1.weight \(1,\) instead of \(64, 3, 7, 7\)"),
        (lambda state: {f"x{k}": v for k, v in list(state.items())[1:]}, "101 entries instead of its 102"),
        (lambda state: {f"x{k}": v[:1] for k, v in state.items()}, r"by order xconv1.weight \(1, 3, 7, 7\)"),
        (lambda state: {f"x{n}.weight": v for n, v in enumerate(state.values())}, r"by order x2.weight \(64,\)"),
    ],
)
def test_a_backbone_file_must_fit(change, said, tmp_path):
    model = Mask2Former(Mask2FormerConfig(num_classes=2, **SIZES | {"backbone": "resnet18"}))
    state = {k: v for k, v in timm.create_model("resnet18").state_dict().items() if "num_batches" not in k}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save(change(state), tmp_path / "backbone.pth")
    with pytest.raises(ValueError, match=said):
        load_backbone(model, tmp_path / "backbone.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_safetensors_file_has_no_order_to_go_by(tmp_path):
    save_file({"a.weight": torch.zeros(1)}, tmp_path / "backbone.safetensors")
    with pytest.raises(ValueError, match="keeps no order"):
        load_backbone(Mask2Former(Mask2FormerConfig(num_classes=2, **SIZES)), tmp_path / "backbone.safetensors")


def test_the_compact_configuration_serves_both_families():
    classes = Mask2FormerConfig(num_classes=3).classes
    one, two = (compact_config(family, classes) for family in ("mask2former", "oneformer"))
    assert type(one) is Mask2FormerConfig and type(two) is OneFormerConfig
    assert one.classes == two.classes == classes and one.hidden_dim == two.hidden_dim == 128
    parameters = sum(p.numel() for p in Mask2Former(one).parameters())
    assert 2 * parameters < 30e6  # bytes in float16


@pytest.mark.slow
def test_two_processes_train_and_evaluate_together(data, toy, tmp_path):
    arguments = ["--data", data, "--val-data", data, "--model", toy, "--output", str(tmp_path / "run"), *QUICK]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mask2former"]
    done = subprocess.run(
        [*command, "train", *arguments],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train on ") == done.stdout.count("the model is in ") == 1
    assert metrics(tmp_path / "run")[-1]["panoptic/PQ"] >= 0
    weights.create_model(tmp_path / "run/model")
