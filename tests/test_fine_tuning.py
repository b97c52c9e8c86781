"""The bundled model, fine-tuned by one command on photos of three new classes, finds them in photos held out."""

import json

import pytest
import torch

import weights
from mask2former.cli import main
from mask2former.data import open_dataset
from mask2former.evaluation.evaluator import evaluate
from mask2former.inference.predictor import Predictor
from weights.bundled import DEMO, DEMO_FOLDER

from .conftest import SHARED, needs_shared

FRUITS = SHARED / "data" / "fruits_nuts" / "data"
HELD_OUT = (2, 6, 10, 14)  # of 18; all three classes occur in them, each at least seven times
needs_bundled = pytest.mark.skipif(
    not (DEMO_FOLDER / "model.safetensors").is_file(), reason="the bundled model's weights are not in the package"
)


@pytest.fixture
def data(tmp_path):
    """14 photos to learn from, and 4 others to judge by, as DATA."""
    content = json.loads((FRUITS / "trainval.json").read_text())
    specs = []
    for name, wanted in (("train", False), ("val", True)):
        part = {
            **content,
            "images": [image for image in content["images"] if (image["id"] in HELD_OUT) == wanted],
            "annotations": [a for a in content["annotations"] if (a["image_id"] in HELD_OUT) == wanted],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
        specs.append(f"coco-instance:{FRUITS / 'images'}:{tmp_path / f'{name}.json'}")
    return specs


@needs_shared
@needs_bundled
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the class head")  # of course it is fresh
def test_average_precision_before_and_after(data, tmp_path):
    """About a minute of training: 80 steps of two photos. AP50 on the photos held out must rise above 0.15.

    It came to AP50 0.32, AP 0.16 (0.51 and 0.24 from an earlier demonstration model: four photos decide).
    """
    pytest.importorskip("hotcoco")
    train, val = data
    classes = open_dataset(val).classes
    assert [c.name for c in classes] == ["date", "fig", "hazelnut"]
    torch.manual_seed(0)  # the head's fresh weights
    before = average_precision(weights.create_model(DEMO, classes=classes), val)
    assert before["AP50"] < 0.05  # the fresh head knows nothing yet

    arguments = ["--data", train, "--model", DEMO, "--output", str(tmp_path / "run"), "--workers", "0"]
    recipe = (
        "--steps 80 --batch-size 2 --size 256 --jitter 1 2 --points 1024 --lr 5e-4 --backbone-lr 0.2 --warmup 10 "
        "--clip 0.1 --device cpu"
    )
    assert main(["train", *arguments, *recipe.split()]) == 0
    after = average_precision(weights.create_model(tmp_path / "run" / "model"), val)
    assert after["AP50"] > 0.15 and after["AP"] > before["AP"] + 0.04


def average_precision(model, spec):
    return evaluate(Predictor(model), open_dataset(spec), ["instance"])["instance"]
