"""Pictures for people: segments painted over the photo with a legend, and masks layer by layer.

Shape letters: H × W the photo, N segments, Q queries, h × w mask logits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from mask2former.structures import ClassInfo, Outputs, Segment

OPACITY = 0.55  # of a segment's colour over the photo
LEGEND_COLUMN = 18  # width of a column of the legend, in letters


def overlay(
    photo: Image.Image,
    segments: Sequence[Segment],
    mask: Callable[[int], np.ndarray],
    classes: Sequence[ClassInfo],
) -> Image.Image:
    """The photo with every segment in its class's colour, things outlined and numbered, and a legend below.

    mask: the (H, W) bool mask of the n-th segment. The first segments are painted last, on top.
    """
    pixels = np.array(photo.convert("RGB"))
    number, seen = [], Counter()  # a thing's number counts its class alone
    for segment in segments:
        seen[segment.label_id] += 1
        number.append(str(seen[segment.label_id]))
    tags = []  # (text, (x, y))
    for n in reversed(range(len(segments))):
        segment = segments[n]
        x0, y0, x1, y1 = segment.box
        part, inside = pixels[y0:y1, x0:x1], mask(n)[y0:y1, x0:x1]
        color = np.array(classes[segment.label_id].color, np.float32)
        part[inside] = (part[inside] * (1 - OPACITY) + color * OPACITY).round().astype(np.uint8)
        if segment.is_thing:
            part[outline(inside)] = 255
            x, y = anchor(inside)
            tags.append((number[n], (x0 + x, y0 + y)))
    picture = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(picture), font_of(max(10, min(picture.size) // 40))
    for text, spot in tags:
        draw.text(spot, text, "white", font, "mm", stroke_width=2, stroke_fill="black")
    return with_legend(picture, segments, classes)


def with_legend(picture: Image.Image, segments: Sequence[Segment], classes: Sequence[ClassInfo]) -> Image.Image:
    """The picture, and below it each class that occurs: its colour, its name, and how many of it if it is a thing."""
    counts = Counter(segment.label_id for segment in segments)
    if not counts:
        return picture
    size = min(28, max(11, picture.width // 60))
    font, row, column = font_of(size), size * 3 // 2, size * LEGEND_COLUMN * 3 // 5
    per_row = max(1, picture.width // column)
    rows = -(-len(counts) // per_row)
    page = Image.new("RGB", (picture.width, picture.height + rows * row + size // 2), "white")
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    for k, (label, count) in enumerate(counts.most_common()):
        x, y = k % per_row * column + size // 2, picture.height + k // per_row * row + size // 2
        draw.rectangle((x, y, x + size, y + size), fill=classes[label].color, outline="black")
        text = f"{classes[label].name} ({count})" if classes[label].is_thing else classes[label].name
        draw.text((x + size * 3 // 2, y + size // 2), text[: LEGEND_COLUMN + 4], "black", font, "lm")
    return page


def layer_masks(outputs: Outputs, classes: Sequence[ClassInfo] = (), queries: int = 6, side: int = 160) -> Image.Image:
    """How masks grow from layer to layer, for one photo: a row for each prediction, the one before any decoder layer
    first; a column for each of the `queries` surest of the last prediction, headed by its class and score.

    White is inside the mask, black outside, as the padded input sees it; `side` is the longer side of each picture.
    """
    if len(outputs.class_logits) != 1:
        raise ValueError(f"outputs for {len(outputs.class_logits)} photos: expected one")
    scores, labels = outputs.class_logits[0].float().softmax(-1)[:, :-1].max(-1)
    best = scores.topk(min(queries, len(scores))).indices
    predictions = (*outputs.auxiliary, outputs)
    height, width = outputs.mask_features.shape[2:]
    cell = max(1, round(width * side / max(height, width))), max(1, round(height * side / max(height, width)))
    font, head, margin = font_of(12), 18, 64
    page = Image.new("RGB", (margin + len(best) * (cell[0] + 4), head + len(predictions) * (cell[1] + 4)), "white")
    draw = ImageDraw.Draw(page)
    for column, query in enumerate(best.tolist()):
        name = classes[labels[query]].name if classes else f"class {labels[query].item()}"
        draw.text((margin + column * (cell[0] + 4), 2), f"{name} {scores[query]:.2f}"[: cell[0] // 6], "black", font)
    for row, prediction in enumerate(predictions):
        y = head + row * (cell[1] + 4)
        draw.text((2, y + 2), f"layer {row}" if row else "before", "black", font)
        logits = torch.einsum("qc,chw->qhw", prediction.mask_embeddings[0, best], prediction.mask_features[0])
        for column, mask in enumerate((logits.float().sigmoid() * 255).byte().cpu().numpy()):
            small = Image.fromarray(mask).resize(cell, Image.Resampling.BILINEAR)
            page.paste(small, (margin + column * (cell[0] + 4), y))
    return page


def outline(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a mask that have a neighbour outside it, or lie at the border."""
    core = np.zeros_like(mask)
    core[1:-1, 1:-1] = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return mask & ~core


def anchor(mask: np.ndarray) -> tuple[float, float]:
    """A point (x, y) well inside a mask: the middle of the widest run of its middle row."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return 0.0, 0.0
    y = rows[len(rows) // 2]
    edges = np.flatnonzero(np.diff(np.pad(mask[y].astype(np.int8), 1)))  # starts and ends of the runs, in turn
    starts, ends = edges[::2], edges[1::2]
    widest = (ends - starts).argmax()
    return float(starts[widest] + ends[widest]) / 2, float(y)


def font_of(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
