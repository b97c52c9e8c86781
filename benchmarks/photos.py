"""The photos and the model of those parts that need real ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PHOTOS = Path(__file__).resolve().parents[2] / "shared/data/coco128_panoptic/val2017"  # beside the project
MISSING = "needs the photos of coco128_panoptic in a folder shared/data beside the project"


def photos(count: int) -> list[Path]:
    """The first photos by name, at most so many; none where they are not there."""
    return sorted(PHOTOS.glob("*.jpg"))[:count]


def has_demo() -> bool:
    from weights.bundled import DEMO_FOLDER

    return (DEMO_FOLDER / "config.json").is_file()


@contextmanager
def compact_model() -> Iterator[tuple[str, str]]:
    """(name or folder, what it is) of the compact model that comes with the package, or of a fresh one like it."""
    import weights
    from mask2former.data.classes import dataset_classes
    from mask2former.modeling.model import Mask2Former
    from weights.bundled import DEMO
    from weights.compact import compact_config

    if has_demo():
        yield DEMO, DEMO
        return
    with tempfile.TemporaryDirectory() as folder:
        weights.save_model(Mask2Former(compact_config("mask2former", dataset_classes("coco_panoptic"))), folder)
        yield folder, "compact model, random weights"
