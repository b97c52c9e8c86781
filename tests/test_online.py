"""Real published weights, for a machine that reaches the hub: `python -m pytest -m online` (about 2 GB of downloads).

What is compared and with which figures is said in `weights/verify.py`; the same is tested without a network, with
random weights, in `test_verify.py`.
"""

import json

import pytest

import weights.verify
from tests.conftest import SHARED
from weights.checkpoint import CONFIGS
from weights.zoo import ZOO

pytestmark = pytest.mark.online

RECORDED = json.loads(weights.verify.FILE.read_text())["models"]
CATS = SHARED / "data" / "coco_cats" / "000000039769.png"


def smallest_of_coco():
    """One name for each network family, kind of backbone and main task among the published models of COCO."""
    rows = {}
    for row in ZOO.values():  # the small backbones come first
        if row.dataset == "coco":
            rows.setdefault((row.family, row.backbone.split("_")[0].rstrip("0123456789"), row.tasks[0]), row)
    return [row.name for row in rows.values()]


def check(name):
    verification = weights.verify.verify(name, CATS if CATS.is_file() else None)
    assert verification.figures and not verification.differing, verification


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: row["id"])
def test_logits_are_as_others_recorded_them(row):
    if row["family"] not in CONFIGS:
        pytest.skip(f"this library has no {row['family']}")
    check(row["id"])


@pytest.mark.parametrize("name", smallest_of_coco())
def test_two_cats_and_two_remotes(name):
    check(name)
