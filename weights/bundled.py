"""The model and the photo that come with the package, so that a first try needs no download."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("bundled")
DEMO = "mask2former_compact_demo"  # small, trained on 200 photos; see MODEL_CARD.md beside its weights
DEMO_FOLDER = FOLDER / DEMO
PHOTO = FOLDER / "photo.jpg"
