"""A network, pictures and points small enough to train in a test, also from a process of its own.

`python -m tests.toy_training OUTPUT` trains; torchrun may start several of it.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from torch import nn

from mask2former.structures import Outputs, Targets
from mask2former.training.losses import Criterion
from mask2former.training.points import Points
from mask2former.training.trainer import Settings, train

CLASSES = 3


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(dim, dim), nn.LayerNorm(dim), nn.Dropout(0.1)

    def forward(self, x):
        return self.norm(x + self.dropout(self.linear(x).relu()))


class ToyNetwork(nn.Module):
    """Queries read the mean colour; three predictions."""

    def __init__(self, dim=8, queries=5):
        super().__init__()
        self.backbone = nn.Conv2d(3, dim, 4, stride=4)
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.layers = nn.ModuleList(Block(dim) for _ in range(2))
        self.class_head, self.mask_head = nn.Linear(dim, CLASSES + 1), nn.Linear(dim, dim)

    def forward(self, pixel_values):
        features = self.backbone(pixel_values)
        queries = self.queries + features.mean((2, 3))[:, None]
        predictions = [Outputs(self.class_head(queries), self.mask_head(queries), features)]
        for layer in self.layers:
            queries = layer(queries)
            predictions.append(Outputs(self.class_head(queries), self.mask_head(queries), features))
        predictions[-1].auxiliary = tuple(predictions[:-1])
        return predictions[-1]


class ToyPictures(torch.utils.data.Dataset):
    """Coloured rectangles on noise; the number of objects differs, one picture has none."""

    def __init__(self, count=6, dtype=torch.float32, noise=0.1):
        self.count, self.dtype, self.noise = count, dtype, noise

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        height, width = 32, 64
        pixel_values = torch.randn(3, height, width, dtype=self.dtype) * self.noise
        labels = torch.arange(index % 4) % CLASSES
        masks = torch.zeros(len(labels), height, width, dtype=torch.bool)
        for segment, label in enumerate(labels):
            masks[segment, 4 + index : 24, 16 * segment : 16 * segment + 12] = True
            pixel_values[label, masks[segment]] += 2
        return pixel_values, Targets(labels, masks)


class FixedPoints(Criterion):
    """The points of an image depend on nothing but its targets, so that it may be computed anywhere."""

    def draw_points(self, predictions, target, generator=None):
        content = repr((target.labels.tolist(), target.masks.nonzero().sum(0).tolist())).encode()
        seed = int.from_bytes(hashlib.blake2b(content, digest_size=6).digest(), "big")
        points = super().draw_points(predictions, target, torch.Generator().manual_seed(seed))
        return Points(points.matching.double(), points.oversampled.double(), points.uniform.double())


def double_toy():
    """Network, pictures and criterion in float64 without noise, dropout and random points."""
    torch.manual_seed(0)
    model = ToyNetwork().double()
    for layer in model.layers:
        layer.dropout.p = 0.0
    return model, ToyPictures(dtype=torch.float64, noise=0.0), FixedPoints(CLASSES, num_points=64)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--settings", default="{}", help="JSON")
    parser.add_argument("--double", action="store_true", help="see double_toy")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    toy = double_toy() if arguments.double else (ToyNetwork(), ToyPictures(), Criterion(CLASSES, num_points=64))
    settings = Settings(**json.loads(arguments.settings))
    model = train(*toy, settings, arguments.output, resume=arguments.resume)
    torch.save(model.state_dict(), arguments.output / "model.pt")


if __name__ == "__main__":
    main()
