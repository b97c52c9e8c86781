"""Many masks of one photo, small: only the tiles that hold something, one bit a pixel.

Shape letters: N masks, H × W the photo, T the pixels along a tile's side, P kept tiles of all masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

BITS_SET = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


class PackedMasks:
    """N boolean masks of an H × W photo that may overlap. Index it for one mask, `dense()` for all of them."""

    def __init__(
        self, size: tuple[int, int], bits: np.ndarray, tiles: np.ndarray, starts: np.ndarray, rows: np.ndarray
    ):
        """bits (P, T, T / 8) uint8, first pixel in the highest bit; tiles (P,) where each lies, in row-major order of
        the photo's tiles; the tiles of mask n are those from starts[rows[n]] up to starts[rows[n] + 1]."""
        self.size = size
        self._bits, self._tiles, self._starts, self._rows = bits, tiles, starts, rows

    @classmethod
    def from_tiles(
        cls, size: tuple[int, int], bits: np.ndarray, tiles: np.ndarray, masks: np.ndarray, count: int
    ) -> PackedMasks:
        """From tiles in any order, empty ones too: bits (P, T, T / 8) as `pack` makes them, the (P,) places where they
        lie, and the (P,) masks they belong to, of `count`."""
        kept = np.flatnonzero(bits.any((1, 2)))
        kept = kept[np.argsort(masks[kept], kind="stable")]
        starts = np.searchsorted(masks[kept], np.arange(count + 1))
        return cls(size, bits[kept], tiles[kept], starts, np.arange(count))

    @classmethod
    def from_dense(cls, masks: np.ndarray, tile: int = 16) -> PackedMasks:
        """From (N, H, W) bool."""
        if masks.ndim != 3 or masks.dtype != bool:
            raise ValueError(f"masks are {masks.dtype} of shape {masks.shape}: expected bool (N, H, W)")
        count, height, width = masks.shape
        down, across = -(-height // tile), -(-width // tile)
        padded = np.pad(masks, ((0, 0), (0, down * tile - height), (0, across * tile - width)))
        bits = np.packbits(padded, axis=2).reshape(count, down, tile, across, tile // 8).swapaxes(2, 3)
        places = np.tile(np.arange(down * across), count)
        owners = np.repeat(np.arange(count), down * across)
        return cls.from_tiles((height, width), bits.reshape(-1, tile, tile // 8), places, owners, count)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.ndarray:
        """One mask, (H, W) bool."""
        bits, down, across = self._of(self._rows[index])
        tile = self._bits.shape[1]
        rows, columns = -(-self.size[0] // tile), -(-self.size[1] // tile)
        grid = np.zeros((rows, tile, columns, tile // 8), np.uint8)
        grid[down, :, across] = bits
        whole = np.unpackbits(grid.reshape(rows * tile, columns * (tile // 8)), axis=1)
        return whole[: self.size[0], : self.size[1]].view(bool)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Sequence[int] | np.ndarray) -> PackedMasks:
        """Some of the masks, in the order given, a mask as often as it is named; the bits are shared."""
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        return PackedMasks(self.size, self._bits, self._tiles, self._starts, rows)

    def dense(self) -> np.ndarray:
        """(N, H, W) bool."""
        return np.stack(list(self)) if len(self) else np.zeros((0, *self.size), bool)

    def areas(self) -> list[int]:
        """Pixels of each mask."""
        return [int(BITS_SET[self._of(row)[0]].sum(dtype=np.int64)) for row in self._rows]

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """(x0, y0, x1, y1) of each mask in pixels, x1 and y1 exclusive; zeros for an empty one."""
        return [self._box(*self._of(row)) for row in self._rows]

    def _of(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tiles of one mask: bits (p, T, T / 8), and how many tiles down (p,) and across (p,) they lie."""
        span = slice(self._starts[row], self._starts[row + 1])
        down, across = np.divmod(self._tiles[span], -(-self.size[1] // self._bits.shape[1]))
        return self._bits[span], down, across

    def _box(self, bits: np.ndarray, down: np.ndarray, across: np.ndarray) -> tuple[int, int, int, int]:
        if not len(bits):
            return 0, 0, 0, 0
        tile = self._bits.shape[1]
        x0, x1 = _extent(across, np.unpackbits(np.bitwise_or.reduce(bits, axis=1), axis=1).astype(bool), tile)
        y0, y1 = _extent(down, bits.any(2), tile)
        return x0, y0, x1, y1


def pack(masks: Tensor) -> np.ndarray:
    """(…, T) bool tensor, T a multiple of 8, to (…, T / 8) bytes as numpy.packbits would, but where the tensor is."""
    eights = masks.contiguous().view(torch.int64)  # eight pixels, each a byte of 0 or 1
    # The product moves byte i to bit 63 − i and no two of its terms meet, so nothing carries into the top byte.
    gathered = eights * -0x7FBFDFEFF7FBFDFF >> 56  # 0x8040201008040201 as a signed number
    return gathered.to(torch.uint8).cpu().numpy()


def _extent(places: np.ndarray, used: np.ndarray, tile: int) -> tuple[int, int]:
    """First and one past the last used pixel along a side: places (p,) in tiles, used (p, T) bool, one True in each."""
    first, last = used.argmax(1), tile - used[:, ::-1].argmax(1)
    return int((places * tile + first).min()), int((places * tile + last).max())
