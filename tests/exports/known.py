"""Four photos with known objects, which every exporter here writes in its own layout."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("fig", "date", "nut")


def ellipse(x: float, y: float, across: float, down: float, points: int = 40) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], 1).round(2)


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


@dataclass(frozen=True, eq=False)
class Thing:
    label: str
    polygon: np.ndarray  # (points, 2) x, y in pixels

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool: the pixels whose centre is inside, by the crossings of a ray."""
        ys, xs = (grid + 0.5 for grid in np.mgrid[: size[0], : size[1]])
        inside = np.zeros(size, bool)
        for (x0, y0), (x1, y1) in zip(self.polygon, np.roll(self.polygon, -1, 0), strict=True):
            crosses = (y0 <= ys) != (y1 <= ys)
            at = x0 + (ys - y0) * (x1 - x0) / (y1 - y0 if y1 != y0 else 1)
            inside ^= crosses & (xs < at)
        return inside


@dataclass(frozen=True, eq=False)
class Photo:
    name: str
    size: tuple[int, int]
    things: tuple[Thing, ...]
    split: str  # train, val or test

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0]

    def class_map(self, first: int = 1) -> np.ndarray:
        """(H, W) uint8: 0 background, `first` + k for class k."""
        values = np.zeros(self.size, np.uint8)
        for thing in self.things:
            values[thing.mask(self.size)] = first + CLASSES.index(thing.label)
        return values

    def object_map(self) -> np.ndarray:
        values = np.zeros(self.size, np.uint8)
        for k, thing in enumerate(self.things, start=1):
            values[thing.mask(self.size)] = k
        return values


PHOTOS = (
    Photo(
        "bowl one.jpg",
        (240, 320),
        (Thing("fig", ellipse(90, 100, 70, 60)), Thing("date", box(180, 40, 300, 200))),
        "train",
    ),
    Photo(
        "bowl_2.jpg",
        (320, 240),
        (Thing("nut", ellipse(120, 90, 80, 70)), Thing("nut", box(20, 190, 220, 300))),
        "train",
    ),
    Photo("c.jpg", (200, 300), (Thing("date", ellipse(150, 100, 120, 80, 60)),), "val"),
    Photo("d.jpg", (260, 260), (Thing("fig", box(10, 10, 120, 120)), Thing("fig", ellipse(190, 190, 60, 60))), "test"),
)


def jpeg(photo: Photo) -> bytes:
    rng = np.random.default_rng(len(photo.name))
    pixels = rng.integers(60, 120, (*photo.size, 3), dtype=np.uint8)
    for k, thing in enumerate(photo.things):
        pixels[thing.mask(photo.size)] = (200, 60 * k, 40)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_photo(photo: Photo, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(photo))
    return path


def write_png(values: np.ndarray, path: Path, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image.putpalette(voc_colormap().ravel().tolist())
    image.save(path)
    return path


def voc_colormap(n: int = 256) -> np.ndarray:
    """The colours of PASCAL VOC: each bit of the number is spread over red, green and blue."""
    colors = np.zeros((n, 3), np.uint8)
    for number in range(n):
        rest = number
        for bit in range(8):
            for channel in range(3):
                colors[number, channel] |= ((rest >> channel) & 1) << (7 - bit)
            rest >>= 3
    return colors
