"""Photos with their annotations painted over them, many on one page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mask2former.data.annotation import Annotation
from mask2former.data.window import Window
from mask2former.structures import ClassInfo

OPACITY = 0.55  # of a segment's colour over the photo
VOID_BRIGHTNESS = 0.35  # what nobody annotated is shown dark
STRIPES = 6  # pixels from one stripe of a crowd to the next


def contact_sheet(
    samples: Sequence[tuple[str, Image.Image, Annotation]],
    classes: Sequence[ClassInfo],
    columns: int = 4,
    side: int = 320,
) -> Image.Image:
    """A page of (caption, photo, annotation), the photo fitted into side × side, and the classes seen below."""
    caption, legend_row = 16, 18
    seen = sorted({int(label) for _, _, annotation in samples for label in annotation.labels})
    rows, per_row = -(-len(samples) // columns), max(1, columns * side // 200)
    height = rows * (side + caption) + -(-len(seen) // per_row) * legend_row + 8
    page = Image.new("RGB", (columns * side, height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default()
    for k, (name, photo, annotation) in enumerate(samples):
        x, y = k % columns * side, k // columns * (side + caption)
        page.paste(paint(photo, annotation, classes, side - 4), (x + 2, y + caption))
        draw.text((x + 3, y + 2), name[-48:], fill="black", font=font)
    for k, label in enumerate(seen):
        x, y = k % per_row * 200 + 4, rows * (side + caption) + k // per_row * legend_row + 6
        draw.rectangle((x, y, x + 12, y + 12), fill=classes[label].color, outline="black")
        draw.text((x + 17, y), classes[label].name[:28], fill="black", font=font)
    return page


def paint(photo: Image.Image, annotation: Annotation, classes: Sequence[ClassInfo], side: int) -> Image.Image:
    """The photo within side × side pixels, each segment in its class's colour with a white outline.

    Crowds are striped; what no segment covers is dark.
    """
    scale = min(1.0, side / max(photo.size))
    width, height = (max(1, round(length * scale)) for length in photo.size)
    window = Window((0, 0, *photo.size), height, width, (height, width))
    picture = window.photo(photo).permute(1, 2, 0).numpy().astype(np.float32)  # (h, w, 3)
    masks = annotation.masks(window=window).numpy()  # (N, h, w)
    picture[~masks.any(0)] *= VOID_BRIGHTNESS
    stripes = np.add.outer(np.arange(height), np.arange(width)) % STRIPES < STRIPES // 2
    for mask, label, is_crowd in zip(masks, annotation.labels, annotation.is_crowd, strict=True):
        inside = mask & stripes if is_crowd else mask
        picture[inside] = picture[inside] * (1 - OPACITY) + np.array(classes[label].color) * OPACITY
    for mask in masks:
        picture[outline(mask)] = 255
    return Image.fromarray(picture.round().astype(np.uint8))


def outline(mask: np.ndarray) -> np.ndarray:
    """(h, w) bool: the pixels of a mask that have a neighbour outside it."""
    edge = np.zeros_like(mask)
    edge[1:] |= mask[1:] & ~mask[:-1]
    edge[:, 1:] |= mask[:, 1:] & ~mask[:, :-1]
    edge[:-1] |= mask[:-1] & ~mask[1:]
    edge[:, :-1] |= mask[:, :-1] & ~mask[:, 1:]
    return edge
