"""Training pictures: the photo and its masks stay aligned, sizes and chances are the papers', torch's seed decides."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image

from mask2former.data import TrainingTransform, training_transform
from mask2former.data.annotation import IdMap, Shapes
from mask2former.data.transforms import ColorDistortion, ScaleJitter, ShortEdgeCrop
from mask2former.data.window import Window

COLORS = torch.tensor([[0, 0, 0], [250, 20, 20], [20, 250, 20], [20, 20, 250], [240, 240, 20]], dtype=torch.uint8)
RECTANGLES = [(5, 8, 60, 40), (70, 3, 131, 50), (10, 50, 50, 93), (60, 60, 120, 90)]  # left, top, right, bottom
HEIGHT, WIDTH = 97, 131


def scene() -> tuple[Image.Image, IdMap, Shapes]:
    """Four rectangles, each of its own colour; the annotation as an id map and as polygons and RLE."""
    segment_map = np.zeros((HEIGHT, WIDTH), np.int32)
    shapes = []
    for k, (x0, y0, x1, y1) in enumerate(RECTANGLES, start=1):
        segment_map[y0:y1, x0:x1] = k
        polygon = [float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]
        down_the_columns = (segment_map == k).T.ravel()
        changes = np.flatnonzero(np.diff(down_the_columns, prepend=False, append=False))
        counts = np.diff(changes, prepend=0, append=HEIGHT * WIDTH).tolist()
        shapes.append(([polygon],) if k % 2 else ({"size": [HEIGHT, WIDTH], "counts": counts},))
    photo = Image.fromarray(COLORS.numpy()[segment_map])
    labels, things, crowds = np.arange(4), np.ones(4, bool), np.zeros(4, bool)
    areas = np.bincount(segment_map.ravel())[1:].astype(float)
    id_map = IdMap(labels, things, crowds, segment_map)
    return photo, id_map, Shapes(labels, things, crowds, tuple(shapes), areas, (HEIGHT, WIDTH))


def erode(mask: torch.Tensor, radius: int = 3) -> torch.Tensor:
    """The pixels of a mask that lie deeper in it, and in the picture, than the radius."""
    outside = torch.nn.functional.pad((~mask).float(), [radius] * 4, value=1.0)
    return torch.nn.functional.max_pool2d(outside[None], 2 * radius + 1, 1)[0] == 0


@pytest.mark.parametrize("kind", ["id map", "shapes"])
@pytest.mark.parametrize(
    "crop",
    [ScaleJitter((80, 64)), ScaleJitter((80, 200)), ShortEdgeCrop((48, 64))],
    ids=["shrunk", "wide", "short edge"],
)
def test_photo_and_masks_stay_aligned(kind, crop):
    """Inside a mask the picture has that object's colour; outside all masks it has none of the four colours."""
    photo, id_map, shapes = scene()
    if kind == "shapes":
        pytest.importorskip("hotcoco")
    transform = TrainingTransform(crop, pixel_mean=(0, 0, 0), pixel_std=(1, 1, 1))
    seen = 0
    for _ in range(40):
        pixel_values, targets = transform(photo, id_map if kind == "id map" else shapes)
        assert pixel_values.shape == (3, *crop.size) and pixel_values.dtype == torch.float32
        assert targets.masks.shape[1:] == crop.size
        for label, mask in zip(targets.labels, targets.masks, strict=True):
            colors = pixel_values[:, erode(mask)]
            assert ((colors - COLORS[label + 1].float()[:, None]).abs() <= 2).all()
            seen += colors.shape[1]
        nothing = pixel_values[:, erode(~targets.masks.any(0))]
        assert (nothing <= 2).all()
    assert seen > 1000


def test_both_kinds_of_annotation_give_the_same_masks():
    pytest.importorskip("hotcoco")
    _, id_map, shapes = scene()
    assert torch.equal(id_map.masks(), shapes.masks())
    jitter = ScaleJitter((80, 64))
    for _ in range(40):
        window = replace(jitter(id_map), flip=True)
        differ = (id_map.masks(window=window) ^ shapes.masks(window=window)).flatten(1).sum(1)
        assert (differ <= 2 * (window.height + window.width)).all()  # the edges alone


def test_window_equals_resizing_everything_and_cropping():
    """torchvision's resize, crop, flip and pad of the whole photo are the oracle."""
    torch.manual_seed(1)
    photo = Image.fromarray(torch.randint(256, (HEIGHT, WIDTH, 3), dtype=torch.uint8).numpy())
    _, id_map, _ = scene()
    for scaled, corner in [((130, 175), (20, 50)), ((97, 131), (0, 7)), ((40, 54), (0, 0)), ((194, 262), (100, 190))]:
        window = replace(Window.crop((HEIGHT, WIDTH), scaled, corner, (72, 72)), flip=True)
        box = (*corner, window.height, window.width)
        expected = F.horizontal_flip(F.crop(F.resize(photo, list(scaled)), *box))
        difference = window.photo(photo).int() - F.pil_to_tensor(expected).int()
        assert difference.abs().max() <= 1

        masks = torch.stack([torch.from_numpy(id_map.segment_map == k) for k in range(1, 5)])
        resized = F.resize(masks, list(scaled), F.InterpolationMode.NEAREST_EXACT)
        expected = F.pad(F.horizontal_flip(F.crop(resized, *box)), [0, 0, 72 - window.width, 72 - window.height])
        assert (window.pad(window.photo(photo))[:, window.height :] == 0).all()
        assert (id_map.masks(window=window) ^ expected).float().mean() < 1e-3  # ties of the nearest pixel


def test_large_scale_jitter_has_its_range():
    _, id_map, _ = scene()
    jitter, fit = ScaleJitter((262, 262)), 2.0  # at factor 1 the photo is 194 × 262
    scales = []
    for _ in range(300):
        window = jitter(id_map)
        assert window.canvas == (262, 262)
        left, _, right, _ = window.box
        scales.append(window.width / (right - left) / fit)
    assert 0.09 < min(scales) < 0.25 and 1.85 < max(scales) < 2.01 and 0.95 < np.mean(scales) < 1.15


def test_short_edge_crop_resizes_as_the_papers_do():
    _, id_map, _ = scene()
    crop = ShortEdgeCrop((64, 64))
    assert crop.short_edges[0] == 32 and crop.short_edges[-1] == 128 and len(crop.short_edges) == 16
    for _ in range(50):
        window = crop(id_map)
        left, top, right, bottom = window.box
        short = window.height / (bottom - top) * HEIGHT
        assert min(abs(short - s) for s in crop.short_edges) < 1
    wide = IdMap(*(np.zeros(0, t) for t in (int, bool, bool)), np.zeros((10, 400), np.int32))
    left, _, right, _ = (window := crop(wide)).box
    assert window.width / (right - left) * 400 <= 256.5  # the long edge's limit, 4 × 64


def test_crop_avoids_a_single_class():
    """Nine tenths are one class; with a limit most crops show enough of the other."""
    segment_map = np.ones((100, 100), np.int32)
    segment_map[:, 90:] = 2
    annotation = IdMap(np.array([0, 1]), np.zeros(2, bool), np.zeros(2, bool), segment_map)

    def share(limit: float) -> float:
        crop = ShortEdgeCrop((40, 40), short_edges=[100], max_class_share=limit)
        return np.mean([(annotation.areas(crop(annotation)) > 0).all() for _ in range(100)])

    assert share(1.0) < 0.35 and share(0.95) > 0.7


def test_colors_change_and_stay_colors():
    picture = torch.randint(256, (3, 20, 30), dtype=torch.uint8)
    changed = [ColorDistortion()(picture) for _ in range(20)]
    assert all(c.shape == picture.shape and c.dtype == torch.uint8 for c in changed)
    assert sum(not torch.equal(c, picture) for c in changed) >= 15
    # the masks do not notice
    photo, annotation, _ = scene()
    transform = TrainingTransform(lambda a: Window.whole(*a.size), flip=0, color=ColorDistortion())
    _, targets = transform(photo, annotation)
    assert torch.equal(targets.masks, annotation.masks())


def test_seed_decides_everything():
    photo, annotation, _ = scene()
    for recipe in ("coco", "ade20k", "cityscapes"):
        transform = training_transform(recipe, (64, 96))
        torch.manual_seed(3)
        first = [transform(photo, annotation) for _ in range(5)]
        torch.manual_seed(3)
        again = [transform(photo, annotation) for _ in range(5)]
        assert all(
            torch.equal(a[0], b[0]) and torch.equal(a[1].masks, b[1].masks) for a, b in zip(first, again, strict=True)
        )
        assert not torch.equal(first[0][0], first[1][0])
    with pytest.raises(ValueError, match="recipe 'voc'"):
        training_transform("voc", 64)


def test_pixel_values_are_normalised_and_padding_is_the_mean():
    photo = Image.new("RGB", (10, 10), (124, 116, 104))
    annotation = IdMap(*(np.zeros(0, t) for t in (int, bool, bool)), np.zeros((10, 10), np.int32))
    transform = TrainingTransform(lambda a: Window.crop((10, 10), (10, 10), (0, 0), (16, 16)))
    pixel_values, targets = transform(photo, annotation)
    assert targets.masks.shape == (0, 16, 16)
    assert (pixel_values[:, 10:] == 0).all() and (pixel_values[:, :, 10:] == 0).all()
    expected = (torch.tensor([124, 116, 104.0]) - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor(
        [58.395, 57.12, 57.375]
    )
    assert torch.allclose(pixel_values[:, 0, 0], expected)


def test_tasks_choose_the_targets():
    """Crowds teach nothing; instance leaves stuff out; semantic has one segment a class, crowds included."""
    segment_map = np.repeat(np.arange(5, dtype=np.int32), 2)[None].repeat(4, 0)  # void, cat, cat, crowd of cats, sky
    annotation = IdMap(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 0], bool), np.array([0, 0, 1, 0], bool), segment_map)
    assert annotation.targets().labels.tolist() == [0, 0, 1]
    assert annotation.for_task("instance").targets().labels.tolist() == [0, 0]
    semantic = annotation.for_task("semantic").targets()
    assert semantic.labels.tolist() == [0, 1] and semantic.masks.flatten(1).sum(1).tolist() == [24, 8]
    assert annotation.label_map()[0].tolist() == [-1, -1, 0, 0, 0, 0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="task 'depth'"):
        annotation.for_task("depth")


def test_shapes_regroup_into_classes():
    pytest.importorskip("hotcoco")
    _, id_map, shapes = scene()
    labels = np.array([0, 1, 0, 1])
    merged = replace(shapes, labels=labels).for_task("semantic")
    expected = replace(id_map, labels=labels).for_task("semantic")
    assert torch.equal(merged.masks(), expected.masks()) and merged.labels.tolist() == [0, 1]
    assert [e["area"] for e in merged.to_coco()] == [e["area"] for e in expected.to_coco()]
