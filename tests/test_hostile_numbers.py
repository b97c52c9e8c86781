"""Numbers that are none, settings out of their bounds, and a model changed behind its predictor's back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import weights
from mask2former.cli import main
from mask2former.inference.predictor import Predictor
from mask2former.inference.preprocess import Preprocess
from mask2former.structures import Protocol
from mask2former.training.losses import Criterion
from mask2former.training.trainer import Settings
from tests.test_commands import QUICK, photos_and_masks
from tests.test_predictor import toy
from tests.toy_outputs import HUGE, INF, NAN, one_sentence, scaled

ROOT = Path(__file__).resolve().parents[1]


def overflowing(model, folder):
    """The same model with weights that are numbers, and whose sums are none."""
    broken = weights.create_model(model)
    with torch.no_grad():
        broken.transformer_decoder.class_head.weight.fill_(3e38)
    weights.save_model(broken, folder)
    return str(folder)


def test_outputs_that_are_not_finite_are_the_photos_error(toy_model, named_photos, tmp_path, capsys):
    broken = overflowing(toy_model, tmp_path / "broken")
    arguments = ["--model", broken, "--output", str(tmp_path / "out"), "--task"]
    for task in ("panoptic", "instance", "semantic", "all"):
        assert main(["predict", named_photos[0], named_photos[2], *arguments, task]) == 1
        said = capsys.readouterr().err
        assert "2 of 2 photos failed" in said and f"{named_photos[0]}: the network's outputs are not finite" in said
        assert "are not as they were trained" in said
    assert not (tmp_path / "out").exists(), "nothing was written"
    with pytest.raises(ValueError, match="not finite in float32"):
        weights.create_predictor(broken, device="cpu")(named_photos[0])
    data = photos_and_masks(tmp_path / "data", 2, tuple(f"class {k}" for k in range(7)))
    assert main(["evaluate", "--model", broken, "--data", data, "--output", str(tmp_path / "scores")]) == 2
    one_sentence(capsys, "photo ", "not finite")


def test_windows_are_judged_too(toy_model, named_photos, tmp_path):
    predictor = weights.create_predictor(
        overflowing(toy_model, tmp_path / "broken"), device="cpu", memory=205 * 10**6, size="photo"
    )
    with pytest.raises(ValueError, match="not finite"):
        predictor(Image.new("RGB", (700, 320)), task="semantic")


def test_an_overflow_names_the_types_to_take(toy_model, named_photos):
    network = weights.create_model(toy_model)
    with torch.no_grad():
        network.pixel_decoder.level_embedding.fill_(6e4)
        for parameter in network.transformer_decoder.class_head.parameters():
            parameter.fill_(6e4)
    with pytest.raises(ValueError, match="not finite in float16; .* take dtype bfloat16 or float32"):
        Predictor(network, dtype=torch.float16)(named_photos[0])


@pytest.mark.parametrize(
    "std", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, NAN), (INF, 1.0, 1.0), (1.0, 1.0), "123"]
)
def test_a_standard_deviation_that_is_none_is_refused(std):
    with pytest.raises(ValueError, match="pixel_std=.*expected 3 values, each more than 0"):
        Protocol(pixel_std=std)
    with pytest.raises(ValueError, match="std=.*expected 3 values, each more than 0"):
        Preprocess(std=std)


@pytest.mark.filterwarnings("ignore:the class head")
def test_training_refuses_what_is_no_number(toy_model, tmp_path, capsys):
    data = photos_and_masks(tmp_path / "data")
    command = ["train", "--data", data, "--model", toy_model, "--output", str(tmp_path / "run"), *QUICK]
    options = (
        "lr", "weight-decay", "clip", "ema", "backbone-lr", "warmup", "steps", "batch-size", "accumulate", "points",
        "seed", "workers", "log-every", "save-every", "evaluate-every", "val-limit",
    )  # fmt: skip
    for option in options:
        for value in ("nan", "inf", "-1e999", f"-{HUGE}", HUGE, "1e400"):
            try:
                code = main([*command, f"--{option}={value}"])
            except SystemExit as stopped:  # argparse itself: not a whole number
                code = stopped.code
            assert code == 2, (option, value)
            said = capsys.readouterr().err
            assert f"--{option}" in said and "Traceback" not in said and len(said.splitlines()[-1]) < 600, (
                option,
                value,
            )
    for values in (("nan", "1"), ("0.5", "inf"), ("0", "1"), ("2", "1"), ("1", "1e300")):
        assert main([*command, "--jitter", *values]) == 2
        one_sentence(capsys, "--jitter")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:the class head")
def test_weights_that_are_no_numbers_are_never_written(toy_model, tmp_path, capsys):
    data = photos_and_masks(tmp_path / "data")
    command = ["train", "--data", data, "--model", toy_model, "--output", str(tmp_path / "run"), *QUICK]
    assert main([*command, "--steps", "1", "--lr", "1e38", "--weight-decay", "1e30"]) == 2
    one_sentence(capsys, "not finite")
    assert not list(tmp_path.rglob("*.pt")) and not (tmp_path / "run/model").exists()
    assert main([*command, "--steps", "3", "--lr", "1e36"]) == 2  # the next loss tells
    one_sentence(capsys, "not finite")


def test_training_mode_is_undone(named_photos):
    torch.manual_seed(0)
    network = toy("oneformer").float()
    predictor = Predictor(network)
    expected = predictor(named_photos[0], task="semantic").segmentation
    network.train()
    with pytest.warns(UserWarning, match="training mode"):
        found = predictor(named_photos[0], task="semantic").segmentation
    assert np.array_equal(found, expected) and not network.training
    network.transformer_decoder.train()
    assert np.array_equal(predictor(named_photos[0], task="semantic").segmentation, expected)


def test_a_model_changed_afterwards_is_the_one_that_answers(named_photos):
    network, other = toy().float(), scaled(toy().float())
    predictor = Predictor(network)
    before = predictor(named_photos[0], task="semantic").segmentation
    network.load_state_dict(other.state_dict())
    expected = Predictor(other)(named_photos[0], task="semantic").segmentation
    assert np.array_equal(predictor(named_photos[0], task="semantic").segmentation, expected)
    assert not np.array_equal(before, expected)
    network.double()
    expected = Predictor(toy_copy(other).double())(named_photos[0], task="semantic").segmentation
    assert np.array_equal(predictor(named_photos[0], task="semantic").segmentation, expected)


def toy_copy(network):
    copy = toy().float()
    copy.load_state_dict(network.state_dict())
    return copy


@pytest.mark.parametrize("name, values", {
    "batch_size": (NAN, 0, -1, True, 1.5, "2", 10**400, None),
    "object_mask_threshold": (NAN, 5, -0.1, INF, True, "0.5"),
    "overlap_threshold": (NAN, 5, -0.1, True, "0.5"),
    "score_threshold": (NAN, 5, -0.1, True, None),
    "instances_per_image": (NAN, 0, -1, True, 2.0),
    "max_pixels": (NAN, 0, True, 1e6),
    "memory": (NAN, 0, -1, True, 1e9, 10**400),
    "size": (NAN, 0, -1, True, 1.5, "big", (64,), (64, 0), (64, 96, 3), (64, True), 10**400, (99_999, 99_999)),
    "preset": ("papers", None, 3),
    "compile": (3, NAN),
    "dtype": ("float16", torch.int8, torch.complex64, 3, np.array([1, 2])),
    "device": ("nowhere", 3.5),
}.items())  # fmt: skip
def test_settings_of_a_predictor_are_checked(name, values):
    network = toy().float()
    for value in values:
        with pytest.raises(ValueError, match=rf"{name}.*expected|{name}="):
            Predictor(network, **{name: value})


def test_numbers_of_numpy_are_numbers(named_photos):
    settings = {"batch_size": np.int64(2), "score_threshold": np.float32(0.5), "size": (np.int64(64), np.int32(96))}
    Predictor(toy().float(), **settings)(named_photos[0])


@pytest.mark.parametrize("changes", [
    {"lr": NAN}, {"lr": INF}, {"lr": 0}, {"lr": True}, {"weight_decay": NAN}, {"weight_decay": -1}, {"clip": INF},
    {"clip": 0}, {"steps": NAN}, {"steps": 10**400}, {"steps": 2.0}, {"steps": True}, {"average": NAN}, {"average": 1},
    {"warmup": -1}, {"backbone_multiplier": NAN}, {"seed": 10**30}, {"workers": -1}, {"compile": "yes"},
    {"precision": "int8"}, {"schedule": "cosine"}, {"evaluate_every": -1},
], ids=str)  # fmt: skip
def test_settings_of_training_are_checked(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))}=.*: expected"):
        Settings(**changes)


@pytest.mark.parametrize("changes", [
    {"short_side": 0}, {"short_side": NAN}, {"short_side": True}, {"long_side": 10**400}, {"hub_size": (384,)},
    {"hub_size": (0, 1)}, {"hub_sides": "ab"}, {"object_mask_threshold": NAN}, {"overlap_threshold": 2},
    {"instances_per_image": 0}, {"pixel_mean": (NAN, 0, 0)}, {"pixel_mean": 3}, {"dataset": 3}, {"tasks": "panoptic"},
    {"tasks": (1,)}, {"tasks": ({},)},
], ids=str)  # fmt: skip
def test_a_protocol_is_checked(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))}=.*: expected"):
        Protocol(**changes)


@pytest.mark.parametrize("arguments", [
    ["predict", "--batch-size", HUGE], ["predict", "--threshold", "nan"], ["predict", "--threshold", HUGE],
    ["predict", "--threshold", "-1"], ["predict", "--memory", HUGE], ["predict", "--memory", "9e999GB"],
    ["predict", "--memory", f"{HUGE}GB"], ["predict", "--size", HUGE], ["predict", "--size", f"{HUGE}x64"],
    ["predict", "--size", "99999x99999"], ["predict", "--size", "9" * 5000], ["predict", "--batch-size", "9" * 5000],
    *(["evaluate", "--data", "folder:nowhere", option, HUGE] for option in ("--limit", "--worst", "--batch-size")),
], ids=lambda arguments: " ".join(word[:12] for word in arguments))  # fmt: skip
def test_absurd_numbers_on_the_command_line(arguments, toy_model, named_photos, tmp_path, capsys):
    photo = named_photos[:1] if arguments[0] == "predict" else []
    try:
        code = main([*arguments, *photo, "--model", toy_model, "--output", str(tmp_path / "out")])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and "expected" in said or "invalid int value" in said
    assert not (tmp_path / "out").exists()


def test_weights_that_a_type_cannot_hold_are_not_converted(toy_model, tmp_path):
    network = weights.create_model(toy_model)
    with torch.no_grad():
        network.pixel_decoder.level_embedding[0, 0] = 70_000.0
    weights.save_model(network, tmp_path / "large")
    with pytest.raises(ValueError, match="level_embedding .*torch.float16 ends at 6.55e.04.; take dtype bfloat16"):
        weights.convert(tmp_path / "large", tmp_path / "half", dtype=torch.float16)
    weights.convert(tmp_path / "large", tmp_path / "half", dtype=torch.bfloat16)
    for dtype in (torch.int8, "float16"):
        with pytest.raises(ValueError, match="dtype=.*: expected one of torch.float32"):
            weights.convert(tmp_path / "large", tmp_path / "other", dtype=dtype)
    assert {path.name for path in tmp_path.iterdir()} == {"large", "half"}


@pytest.mark.parametrize(
    "changes", [{"num_points": NAN}, {"class_weight": NAN}, {"importance_sample_ratio": 2}], ids=str
)
def test_a_criterion_is_checked(changes):
    with pytest.raises(ValueError, match=f"{next(iter(changes))}=.*: expected"):
        Criterion(7, **changes)
