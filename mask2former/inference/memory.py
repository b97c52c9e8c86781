"""How much memory a photo needs on its way through a predictor, and the windows that keep it below a ceiling.

An estimate in bytes above the loaded model, linear in pixels and float32 throughout:

    FIXED + input pixels × (network + around it) + photo pixels of the pass × POST + photo pixels × (photo + results)

The network's share an input pixel follows from the widths that its largest maps have: those of the pixel decoder (at
strides 4 and 8), the backbone's first (at stride 4), and one logit a query. The three weights were fitted from above to
peaks measured on a CPU, and `MARGIN` lies on top; `tests/test_windows.py` measures again.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mask2former.inference.windows import Window, cut, window_size
from mask2former.structures import PhotoSizes

HIDDEN, STEM, QUERY = 0.6, 0.3, 0.3  # float32 values an input pixel: a channel of hidden_dim, of C_1, a query
MARGIN = 1.2
FIXED = 160 * 2**20  # the chunks of post-processing, libraries that start on first use
INPUT = 64  # bytes an input pixel while a picture is normalised, and of the copy that the network gets
POST = 32  # bytes a pixel of the window (in the photo's own), while its segments are found
READING = 16  # bytes a pixel of the photo, as it is, and of another such photo that is read meanwhile
SMALLEST = 256  # side of the smallest square window, in the network's pixels
OVERLAP = 128  # of windows, in the network's pixels; a quarter of a window where that is less


class MemoryBudget:
    """A ceiling, and what a model needs below it."""

    def __init__(self, ceiling: int, model: nn.Module, instances: int):
        """ceiling: bytes above the loaded model, of the device it is on. instances: that a window may have.

        Raises ValueError where not even the smallest window fits.
        """
        config = model.config
        values = HIDDEN * config.hidden_dim + STEM * model.backbone.channels[0] + QUERY * config.num_queries
        self.ceiling, self.model, self.values = ceiling, model, values
        self.masks = instances / 8  # bytes a pixel: as if each covered half of the photo, held twice while merged
        needed = FIXED + SMALLEST**2 * (self.network + POST)
        if ceiling < needed:
            raise ValueError(
                f"memory={ceiling}: expected at least {round(needed)} bytes, which a window of {SMALLEST} × {SMALLEST} "
                "needs with this model; raise it, or take a smaller model"
            )

    @property
    def network(self) -> float:
        """Bytes an input pixel, of the model as it is now."""
        return MARGIN * self.values * max(4, next(self.model.parameters()).element_size()) + INPUT

    def needed(self, sizes: PhotoSizes, tasks: Sequence[str]) -> float:
        """Bytes for a photo that goes through the network whole."""
        return FIXED + _area(sizes.padded) * self.network + _area(sizes.photo) * (POST + self.held(tasks))

    def held(self, tasks: Sequence[str]) -> float:
        """Bytes a pixel of the photo that are held from its first window to its last."""
        return READING + sum(self.masks if task == "instance" else 4 for task in tasks)

    def together(self, sizes: PhotoSizes, tasks: Sequence[str], most: int) -> int:
        """How many such photos may share a batch: at most `most`, and one at least."""
        return max(1, min(most, int((self.ceiling - FIXED) / (self.needed(sizes, tasks) - FIXED))))

    def windows(self, sizes: PhotoSizes, tasks: Sequence[str]) -> list[Window]:
        """The windows that a photo has to be cut into, as few as fit; none where it fits whole.

        Raises ValueError where the photo itself and its results leave too little for the smallest window.
        """
        if self.needed(sizes, tasks) <= self.ceiling:
            return []
        whole = FIXED + _area(sizes.photo) * self.held(tasks)
        per_pixel = self.network + POST * _area(sizes.photo) / _area(sizes.resized)
        pixels = int((self.ceiling - whole) / per_pixel)
        if pixels < SMALLEST**2:
            (height, width), needed = sizes.photo, whole + SMALLEST**2 * per_pixel
            raise ValueError(
                f"{width} × {height} pixels need {round(needed)} bytes in windows of {SMALLEST} × {SMALLEST}, "
                f"{round(whole)} of them for the whole photo; memory={self.ceiling}: raise it, or shrink the photo"
            )
        size = window_size(sizes.padded, pixels)
        return cut(sizes, size, min(OVERLAP, int(pixels**0.5) // 128 * 32))


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
