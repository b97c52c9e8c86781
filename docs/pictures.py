"""The pictures of the documents, made by the library itself: the bundled model on the bundled photo.

`python docs/pictures.py FOLDER` writes them; the site makes them anew at every build. `overlay.jpg` alone is also
committed, for the README, and `tests/test_documents.py` holds it against what this file makes.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

import weights
from mask2former.inference.predictor import Predictor
from mask2former.inference.visualize import font_of, layer_masks
from mask2former.modeling.deformable_attention import MultiScaleDeformableAttention
from mask2former.modeling.transformer_decoder import attention_mask
from weights.bundled import DEMO, PHOTO

CELL = 224  # pixels of a panel's side
GAP = 6
STRIDES = (32, 16, 8)  # of the three levels, in the pixel decoder's order
VEIL = (70, 90, 170)
COLOURS = ((230, 60, 50), (40, 120, 230), (240, 170, 20))  # of the levels


def pictures() -> dict[str, bytes]:
    """Name → the picture's file."""
    torch.manual_seed(0)
    predictor = weights.create_predictor(DEMO, device="cpu")
    photo = Image.open(PHOTO).convert("RGB")
    with torch.inference_mode():
        pixel_values = predictor.preprocess(photo)[0][None]
        with Listener(predictor.model) as heard:
            outputs = predictor.model(pixel_values)
    classes = predictor.classes
    queries = best_queries(outputs, 4)
    return {
        "overlay.jpg": jpeg(predictor(photo).overlay()),
        "levels.jpg": jpeg(levels(photo, heard)),
        "layers.jpg": jpeg(layer_masks(outputs, classes, queries=5, side=150)),
        "attention.jpg": jpeg(attention(photo, outputs, heard.levels, classes, queries)),
        "sampling.jpg": jpeg(sampling(photo, predictor, heard)),
    }


class Listener:
    """Hears what the pixel decoder gives and what its attention layers get, for as long as it is entered."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.attention: list[tuple[MultiScaleDeformableAttention, tuple]] = []

    def __enter__(self) -> Listener:
        self.handles = [self.model.pixel_decoder.register_forward_hook(self.decoded)]
        for layer in self.model.pixel_decoder.encoder:
            self.handles.append(layer.attention.register_forward_hook(self.attended))
        return self

    def __exit__(self, *_) -> None:
        for handle in self.handles:
            handle.remove()

    def decoded(self, module, inputs, outputs) -> None:
        self.features, (self.mask_features, self.levels) = inputs[0], outputs

    def attended(self, module, inputs, outputs) -> None:
        self.attention.append((module, inputs))


def best_queries(outputs, number: int) -> list[int]:
    """The surest queries of the last prediction."""
    return outputs.class_logits[0].softmax(-1)[:, :-1].amax(1).topk(number).indices.tolist()


def levels(photo: Image.Image, heard: Listener) -> Image.Image:
    """What goes into the pixel decoder, above, and what comes out, below: three principal components as colours."""
    above = [(f"backbone, stride {stride}", m) for stride, m in zip((4, 8, 16, 32), heard.features, strict=True)]
    below = [("mask features, stride 4", heard.mask_features)]
    below += [(f"level, stride {s}", m) for s, m in zip((8, 16, 32), reversed(heard.levels), strict=True)]
    return sheet([[(name, components(m[0])) for name, m in row] for row in (above, below)])


def components(feature_map: torch.Tensor) -> Image.Image:
    """(C, h, w) → a picture whose red, green and blue are the first three principal components."""
    rows = feature_map.flatten(1).T.double()  # (h · w, C)
    rows = (rows - rows.mean(0)) / (rows.std(0) + 1e-6)
    basis = torch.linalg.eigh(rows.T @ rows).eigenvectors[:, -3:].flip(1)  # the largest last
    basis = basis * basis.sum(0).sign()  # an eigenvector's sign is nobody's choice
    colours = rows @ basis
    low, high = colours.quantile(0.02, 0), colours.quantile(0.98, 0)
    colours = ((colours - low) / (high - low)).clamp(0, 1).unflatten(0, feature_map.shape[1:])
    return Image.fromarray((colours * 255).byte().numpy())


def attention(photo: Image.Image, outputs, maps, classes, queries) -> Image.Image:
    """Where each query may look in each decoder layer: the photo is veiled where it may not. A column a query."""
    labels = outputs.class_logits[0].softmax(-1)[:, :-1].argmax(1)
    small_photo, rows = np.asarray(photo.resize((CELL, CELL)), np.float32), []
    for i, prediction in enumerate(outputs.auxiliary):  # the mask of prediction i guides layer i + 1
        row, shape = [], maps[i % len(maps)].shape[2:]
        small = F.interpolate(prediction.mask_features, shape, mode="bilinear", align_corners=False)
        for query in queries:
            may_look = attention_mask(prediction.mask_embeddings[:, query : query + 1], small.flatten(2))
            light = Image.fromarray(may_look[0, 0, 0].unflatten(0, shape).numpy())
            light = np.asarray(light.resize((CELL, CELL), Image.Resampling.NEAREST))
            panel = np.where(light[..., None], small_photo, 0.2 * small_photo + 0.8 * np.array(VEIL))
            name = f"{classes[labels[query]].name}, layer {i + 1}, stride {STRIDES[i % 3]}"
            row.append((name, Image.fromarray(panel.astype(np.uint8))))
        rows.append(row)
    return sheet(rows)


@torch.inference_mode()
def sampling(photo: Image.Image, predictor: Predictor, heard: Listener) -> Image.Image:
    """Where one token, a cross, looks in each encoder layer: a dot's colour is the level, its size the weight."""
    row = []
    x, y = 0.37, 0.27  # of the photo: the photographer's face
    for number, (module, (query, *_, shapes)) in enumerate(heard.attention, start=1):
        height, width = shapes[-1]  # the finest level, whose tokens come last
        row_of_token, column = int(y * height), int(x * width)
        token = sum(h * w for h, w in shapes[:-1]) + row_of_token * width + column
        centre = torch.tensor([(column + 0.5) / width, (row_of_token + 0.5) / height])
        points = (module.num_heads, module.num_levels, module.num_points)
        offsets = module.sampling_offsets(query[0, token]).unflatten(0, (*points, 2))  # (M, L, P, x or y)
        shares = module.attention_weights(query[0, token]).unflatten(0, (module.num_heads, -1)).softmax(1)
        sizes = torch.tensor([(w, h) for h, w in shapes])[:, None]
        places = (centre + offsets / sizes) * CELL  # offsets are in pixels of the level
        panel = photo.resize((CELL, CELL)).point(lambda value: 96 + value // 2)
        draw = ImageDraw.Draw(panel)
        for level, colour in enumerate(COLOURS):
            of_level = zip(
                places[:, level].flatten(0, 1), shares.unflatten(1, points[1:])[:, level].flatten(), strict=True
            )
            for (px, py), share in of_level:
                radius = 1 + 12 * share.item() ** 0.5
                draw.ellipse((px - radius, py - radius, px + radius, py + radius), outline=colour, width=2)
        cx, cy = (centre * CELL).tolist()
        draw.line((cx - 7, cy, cx + 7, cy), "white", 2)
        draw.line((cx, cy - 7, cx, cy + 7), "white", 2)
        row.append((f"encoder layer {number}", panel))
    return sheet([row])


def sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """Named panels in rows, all of one size."""
    head, font = 20, font_of(13)
    width = max(len(row) for row in rows) * (CELL + GAP) - GAP
    page = Image.new("RGB", (width, len(rows) * (CELL + head + GAP) - GAP), "white")
    draw = ImageDraw.Draw(page)
    for i, row in enumerate(rows):
        for j, (name, panel) in enumerate(row):
            x, y = j * (CELL + GAP), i * (CELL + head + GAP)
            draw.text((x + 2, y + 3), name, "black", font)
            page.paste(panel.resize((CELL, CELL), Image.Resampling.NEAREST), (x, y + head))
    return page


def jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=78, optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="such as overlay.jpg")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures().items():
        if name in (options.only or [name]):
            (options.folder / name).write_bytes(content)
            print(f"{options.folder / name}: {len(content) / 1000:.0f} kB")
