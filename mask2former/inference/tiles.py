"""Mask logits at the photo's size, computed only in the tiles of it where they matter.

Post-processing asks two things of N masks at every pixel of a photo: which is the largest, and which are above zero.
Bilinear resizing makes each pixel a convex combination of a few logits, so the smallest and the largest logit in the
window that a tile reads bound all its pixels. The bounds settle most tiles; only the others are resized, exactly.

Shape letters: N masks, h × w their logits, H × W the photo, t tiles in row-major order, T the pixels along a tile's
side, P chosen tiles, r × c the window of logits that a tile reads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mask2former.structures import PhotoSizes

CELLS = 3  # a tile spans at least this many logits along a side: smaller tiles settle more pixels, but are more tiles
CHUNK = 2**22  # values held at once; what the caches of a CPU and the memory of a GPU both like


class TileGrid:
    """A photo of H × W pixels cut into T × T tiles, and the way from mask logits to the pixels of each tile.

    The way is the papers' own: resize to the padded input, crop to the resized photo, resize to the photo itself, all
    bilinear, the sigmoid after both. Where a model has the semantic task alone the sigmoid comes between the two
    resizes (`sigmoid_first`): then `resize` leads up to it and `finish` on from it.
    """

    def __init__(
        self,
        logits_size: tuple[int, int],
        sizes: PhotoSizes,
        sigmoid_first: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        sides = list(zip(logits_size, sizes.padded, sizes.resized, sizes.photo, strict=True))
        pixels_per_logit = max(padded / logits * photo / resized for logits, padded, resized, photo in sides)
        self.tile = 8
        while self.tile < CELLS * pixels_per_logit and self.tile < 256:
            self.tile *= 2
        sigmoid_first = sigmoid_first and sizes.photo != sizes.resized
        self.rows, self.columns = (_Side(*side, self.tile, sigmoid_first, device, dtype) for side in sides)
        self.size, self.width = sizes.photo, logits_size[1]
        self.count = self.rows.count * self.columns.count
        self.pixels = (self.rows.pixels[:, None] * self.columns.pixels).flatten()  # (t,) pixels inside the photo
        self.is_ragged = any(photo % self.tile for photo in sizes.photo)
        self.values_per_tile = max(self.tile**2, self.rows.first.shape[1] * self.columns.first.shape[1])

    def bounds(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest of the (h, w, N) logits that each tile reads: two (t, N)."""
        low, high = [], []
        height = self.rows.window.shape[1]
        for start in self.rows.window[:, 0].tolist():
            band = logits[start : start + height]
            low.append(band.amin(0)[self.columns.window].amin(1))
            high.append(band.amax(0)[self.columns.window].amax(1))
        return torch.cat(low), torch.cat(high)

    def windows(self, tiles: Tensor) -> Tensor:
        """Where in the h × w logits, row by row, the windows of some (P,) tiles lie: (P, r, c)."""
        y, x = self.split(tiles)
        return self.rows.window[y][:, :, None] * self.width + self.columns.window[x][:, None]

    def resize(self, window: Tensor, tiles: Tensor) -> Tensor:
        """All N masks in some (P,) tiles, from their windows (P, r, c, N) to (P, m × m, N), where m is T, or with
        `sigmoid_first` the pixels of the resized photo that a tile reads."""
        y, x = self.split(tiles)
        return _apply(self.rows.first[y], self.columns.first[x], window)

    def finish(self, values: Tensor, tiles: Tensor) -> Tensor:
        """The resize that follows the sigmoid, if one does: (P, m × m, N) values to (P, T × T, N)."""
        if self.rows.second is None:
            return values
        y, x = self.split(tiles)
        rows, columns = self.rows.second[y], self.columns.second[x]
        return _apply(rows, columns, values.view(len(tiles), rows.shape[2], columns.shape[2], -1))

    def resize_pairs(self, logits: Tensor, tiles: Tensor, masks: Tensor) -> Tensor:
        """One mask (P,) in each of some (P,) tiles: (h, w, N) logits to (P, T, T)."""
        y, x = self.split(tiles)
        spots = self.windows(tiles) * logits.shape[2] + masks[:, None, None]
        window = logits.flatten().index_select(0, spots.flatten()).view(spots.shape)
        return torch.bmm(torch.bmm(self.rows.first[y], window), self.columns.first[x].transpose(1, 2))

    def resize_some(self, logits: Tensor, tiles: Tensor, masks: Tensor) -> Tensor:
        """M masks (P, M) in each of some (P,) tiles: (h, w, N) logits to (P, T, M, T)."""
        y, x = self.split(tiles)
        spots = self.windows(tiles)[:, :, None] * logits.shape[2] + masks[:, None, :, None]  # (P, r, M, c)
        window = logits.flatten().index_select(0, spots.flatten()).view(len(tiles), -1, spots.shape[3])
        stretched = torch.bmm(window, self.columns.first[x].transpose(1, 2))  # (P, r × M, T)
        full = torch.bmm(self.rows.first[y], stretched.view(*spots.shape[:2], -1))  # (P, T, M × T)
        return full.view(len(tiles), self.tile, -1, self.tile)

    def inside(self, tiles: Tensor) -> Tensor:
        """Which pixels of some (P,) tiles lie in the photo, as those of the last row and column may not: (P, T, T)."""
        y, x = self.split(tiles)
        along = torch.arange(self.tile, device=tiles.device)
        rows, columns = along < self.rows.pixels[y][:, None], along < self.columns.pixels[x][:, None]
        return rows[:, :, None] & columns[:, None]

    def picture(self, tiles: Tensor) -> Tensor:
        """Puts (t, T, T) tiles together: (H, W)."""
        grid = tiles.view(self.rows.count, self.columns.count, self.tile, self.tile).transpose(1, 2)
        whole = grid.reshape(self.rows.count * self.tile, self.columns.count * self.tile)
        return whole[: self.size[0], : self.size[1]].contiguous()

    def split(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """How many tiles down and across some (P,) tiles lie: two (P,)."""
        y = tiles.div(self.columns.count, rounding_mode="floor")
        return y, tiles - y * self.columns.count


class TileCensus:
    """How many pixels each code has, and which rows and columns of the photo it touches.

    Code 2 n means a pixel that mask n owns without holding it, 2 n + 1 one that it owns and holds, 2 N no pixel.
    """

    def __init__(self, grid: TileGrid, masks: int, device: torch.device):
        self.grid = grid
        self.counts = torch.zeros(2 * masks + 1, dtype=torch.int64, device=device)
        self.rows = torch.zeros(2 * masks + 1, grid.rows.count, grid.tile, dtype=torch.bool, device=device)
        self.columns = torch.zeros(2 * masks + 1, grid.columns.count, grid.tile, dtype=torch.bool, device=device)

    def add_tiles(self, code: Tensor, tiles: Tensor) -> None:
        """code (t,): one for all pixels of a tile; only some (P,) tiles count."""
        y, x = self.grid.split(tiles)
        self.counts.index_add_(0, code[tiles], self.grid.pixels[tiles])
        self.rows[code[tiles], y] = True
        self.columns[code[tiles], x] = True

    def add_pixels(self, codes: Tensor, tiles: Tensor) -> None:
        """codes (P, T, T) of some (P,) tiles."""
        y, x = (places[:, None, None] for places in self.grid.split(tiles))
        along = torch.arange(self.grid.tile, device=tiles.device)
        self.counts += codes.flatten().bincount(minlength=len(self.counts))
        codes = codes.long()
        for touched, place, pixel in ((self.rows, y, along[:, None]), (self.columns, x, along)):
            touched.view(-1)[((codes * touched.shape[1] + place) * self.grid.tile + pixel).flatten()] = True


class _Side:
    """One side of the photo, cut into tiles of T pixels.

    window: (tiles, r) positions of the logits that each tile reads, next to each other.
    first: (tiles, m, r) weights from that window to m pixels; each row sums to one.
    second: (tiles, T, m) weights from those to the tile's pixels, or None where m = T are these.
    pixels: (tiles,) how many of the T lie in the photo; in the last tile the others repeat the photo's last pixel.
    """

    def __init__(self, logits, padded, resized, photo, tile, sigmoid_first, device, dtype):
        self.count = -(-photo // tile)
        pixels = torch.arange(self.count * tile).clamp(max=photo - 1).view(self.count, tile)
        middle, second = _gather_taps(resized, photo, pixels)  # (tiles, m) pixels of the resized photo
        window, first = _gather_taps(logits, padded, middle)
        if not sigmoid_first:
            first, second = second @ first, None
        self.window = window.to(device)
        self.first = first.to(device, dtype)
        self.second = None if second is None else second.to(device, dtype)
        self.pixels = (photo - torch.arange(self.count) * tile).clamp(max=tile).to(device)


def _gather_taps(source: int, target: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear resizing (align_corners False) of a side from `source` to `target`, for some (tiles, m) target pixels:
    the window of source positions each tile reads (tiles, r), and the weights (tiles, m, r)."""
    center = ((torch.arange(target, dtype=torch.float64) + 0.5) * source / target - 0.5).clamp(min=0)
    left = center.floor()
    share = center - left
    right = (left + share.ceil()).clamp(max=source - 1)  # a tap of no weight would widen the window for nothing
    position = torch.stack([left, right], 1).long()[pixels]  # (tiles, m, 2)
    weight = torch.stack([1 - share, share], 1)[pixels]
    start = position.flatten(1).amin(1)
    width = int((position.flatten(1).amax(1) - start).max()) + 1
    start = start.clamp(max=source - width)[:, None]
    weights = weight.new_zeros(*pixels.shape, width)
    weights.scatter_add_(2, position - start[:, :, None], weight)
    return start + torch.arange(width), weights


def _apply(rows: Tensor, columns: Tensor, window: Tensor) -> Tensor:
    """rows (P, a, r), columns (P, b, c), window (P, r, c, N) to (P, a × b, N)."""
    columns = columns.repeat_interleave(window.shape[1], 0)  # (P × r, b, c)
    stretched = torch.bmm(columns, window.flatten(0, 1))  # (P × r, b, N)
    full = torch.bmm(rows, stretched.view(*window.shape[:2], -1))  # (P, a, b × N)
    return full.view(len(full), -1, window.shape[3])
