"""The parts together can learn: from random weights a toy network segments the four photos it is shown, PQ > 0.9."""

import json
from dataclasses import replace

import pytest
import torch

from mask2former import Mask2Former, Mask2FormerConfig, Protocol
from mask2former.data import open_dataset
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.joined import JoinedDataset
from mask2former.data.transforms import TrainingTransform
from mask2former.data.window import Window
from mask2former.evaluation.evaluator import evaluate
from mask2former.inference.predictor import Predictor
from mask2former.inference.preprocess import Preprocess
from mask2former.training.losses import Criterion
from mask2former.training.trainer import Settings, train

from .conftest import SHARED, needs_shared

DATA = SHARED / "data"
PROTOCOL = Protocol(short_side=288, long_side=384, object_mask_threshold=0.5, overlap_threshold=0.5)


def four_photos(folder):
    """Two crowded photos (26 people, 11 horses and a ball of 175 pixels), the cats, and a bathroom."""
    sample = DATA / "panopticapi_sample"
    crowded = CocoPanoptic(
        sample / "sample_data" / "input_images", sample / "sample_data" / "panoptic_examples.json",
        sample / "sample_data" / "panoptic_examples",
    )  # fmt: skip
    cats, name = DATA / "coco_cats", "000000039769.png"
    content = {
        "images": [{"id": 39769, "file_name": name}],
        "annotations": [
            {
                "image_id": 39769,
                "file_name": name,
                "segments_info": json.loads((cats / "coco_panoptic_annotations.txt").read_text()),
            }
        ],
        "categories": json.loads((sample / "panoptic_coco_categories.json").read_text()),
    }
    (folder / "cats.json").write_text(json.dumps(content))
    val = open_dataset(f"coco-panoptic:{DATA / 'coco128_panoptic'}", "val")
    bathroom = val.subset([index for index in range(len(val)) if val.image_id(index) == 6818])
    return JoinedDataset([crowded, CocoPanoptic(cats, folder / "cats.json", cats / "coco_panoptic"), bathroom])


def as_in_inference(annotation):
    """The whole photo, resized and padded as the predictor does it: what is learned is what will be asked."""
    sizes = Preprocess.from_protocol(PROTOCOL).sizes(annotation.size)
    return replace(Window.whole(*sizes.photo), height=sizes.resized[0], width=sizes.resized[1], canvas=sizes.padded)


@needs_shared
@pytest.mark.slow
def test_panoptic_quality_above_nine_tenths_on_four_photos(tmp_path):
    """The official PQ over all 133 classes, at the photos' own size and with everything in their ground truth.

    The photos are the two of panopticapi_sample, the one with ground truth of coco_cats, and, since it has but one,
    COCO val 6818 out of coco128_panoptic: five large segments of five other classes. The network sees them with a short
    side of 288 pixels or less, and its masks are a quarter of that. The crowded photos come three times as often.
    """
    photos = four_photos(tmp_path)
    assert len(photos) == 4 and len(photos.classes) == 133
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        "convnext_tiny", dict(depths=(1, 1, 2, 1), dims=(16, 24, 32, 48)),
        num_classes=133, classes=photos.classes, protocol=PROTOCOL, num_queries=40, hidden_dim=64, mask_dim=64,
        num_heads=4, encoder_layers=2, encoder_feedforward_dim=128, decoder_layers=3, decoder_feedforward_dim=128,
    )  # fmt: skip
    model = Mask2Former(config)
    before = panoptic_quality(model, photos)

    lessons = photos.subset([0, 1, 0, 1, 0, 1, 2, 3])
    lessons.transform = TrainingTransform(as_in_inference, flip=0.0)
    settings = Settings(
        steps=1100, batch_size=1, lr=2e-3, backbone_multiplier=1.0, weight_decay=0.0, warmup=20, clip=1.0, workers=0
    )
    train(model, lessons, Criterion(133, num_points=2048), settings, tmp_path / "run")
    after = panoptic_quality(model, photos)
    assert before < 0.1 and after > 0.9


def panoptic_quality(model, photos):
    report = evaluate(Predictor(model), photos, ["panoptic"])["panoptic"]
    print({row["name"]: row for row in report["classes"] if row["PQ"] is not None})  # shown where the test fails
    return report["PQ"]
