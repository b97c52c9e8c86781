"""A photo on its way through a predictor: read, through the network, done; or failed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from mask2former.inference.segmentation import Segmentation
from mask2former.inference.windows import Window
from mask2former.structures import PhotoSizes


@dataclass
class Prediction:
    """One photo, and what came of it so far."""

    source: Any  # the photo as it was given
    result: Segmentation | dict[str, Segmentation] | None = None
    error: Exception | None = None  # why there is no result
    notes: list[str] = field(default_factory=list)  # what was concluded when the photo was read, a sentence each
    seconds: dict[str, float] = field(default_factory=dict)  # reading, network, post-processing
    photo: Image.Image | None = None
    sizes: PhotoSizes | None = None
    pixel_values: Tensor | None = field(default=None, repr=False)  # until the network has seen them
    windows: list[Window] = field(default_factory=list, repr=False)  # of a photo that is too large to go whole
    together: int = 1  # how many of its size may share a batch

    @property
    def is_read(self) -> bool:
        """Ready for the network, and not yet through it."""
        return self.pixel_values is not None or (bool(self.windows) and not self.done)

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None

    @property
    def label(self) -> str:
        """What the photo is called in a message."""
        if isinstance(self.source, str | os.PathLike):
            return str(self.source)
        return f"the photo of {self.photo.width} × {self.photo.height} pixels" if self.photo else "the photo"

    @property
    def name(self) -> str:
        return Path(self.source).stem if isinstance(self.source, str | os.PathLike) else "photo"
