"""The windows of a map (Swin, Liu et al. 2021, §3.2): cut out and put together again, all at once or some at a time.

A map is padded with zeros at the bottom and right to whole windows and, in odd blocks, rolled by half a window. That
brings together, in the last window of a row and of a column, regions that are no neighbours in the map.

Shape letters: B images, H × W a map, C its channels, w the window's side, T = w² places of a window, n windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former.kernels import route


def in_windows(attend: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, side: int, shift: int) -> Tensor:
    """attend(windows (n, T, C), region (n, T) or None) → (n, T, C), for all windows of a map (B, H, W, C) at once."""
    B, H, W, C = x.shape
    x = attend(cut(x, side, shift), shift_regions(x, side, shift))
    rows, columns = H + padding(H, side), W + padding(W, side)  # of the padded map
    x = x.view(B, rows // side, columns // side, side, side, C).transpose(2, 3).reshape(B, rows, columns, C)
    if shift:
        x = torch.roll(x, (shift, shift), dims=(1, 2))
    return crop(x, H, W)


class SomeWindows:
    """Some windows, and which tokens of the maps they hold.

    count: of windows; size: of their places, count · T. rows: those tokens, as rows of all maps (B · H · W, C). places:
    where they stand among the places of the windows, None if there are no others, that is no padding. region (count,
    T): see `shift_regions`, None if no window holds two.
    """

    def __init__(self, tokens: Tensor, region: Tensor | None):
        """tokens (count, T): the row of the token at each place, −1 at padding."""
        self.count, self.region = len(tokens), region
        self.rows, self.places = tokens.flatten(), None
        if (self.rows < 0).any():
            self.places = (self.rows >= 0).nonzero().flatten()
            self.rows = self.rows[self.places]
        self.size = tokens.numel()

    def spread(self, values: Tensor, at_padding: Tensor | None = None) -> Tensor:
        """Values of the tokens (rows, …) → of all places (size, …); `at_padding` (…,) or zeros elsewhere."""
        if self.places is None:
            return values
        if at_padding is None:
            at_padding = values.new_zeros(values.shape[1])
        return at_padding.repeat(self.size, 1).index_copy_(0, self.places, values)

    def gather(self, values: Tensor) -> Tensor:
        """Values of all places (size, …) → of the tokens (rows, …)."""
        return values if self.places is None else values.index_select(0, self.places)


def some_windows(x: Tensor, side: int, shift: int, most: int, most_at_borders: int) -> Iterator[SomeWindows]:
    """All windows of a map (B, H, W, C), `most` at a time; of those with padding or two regions `most_at_borders`."""
    B, H, W, _ = x.shape
    tokens = torch.arange(B * H * W, device=x.device).view(B, H, W, 1)
    tokens = cut(tokens, side, shift, fill=-1).flatten(1)  # (n, T)
    at_border, region = (tokens < 0).any(1), shift_regions(x, side, shift)
    if region is not None:
        at_border |= (region != region[:, :1]).any(1)
    for windows in (~at_border).nonzero().flatten().split(most):
        if len(windows):
            yield SomeWindows(tokens[windows], None)
    for windows in at_border.nonzero().flatten().split(most_at_borders):
        if len(windows):
            yield SomeWindows(tokens[windows], None if region is None else region[windows])


def cut(x: Tensor, side: int, shift: int, fill: int = 0) -> Tensor:
    """(B, H, W, C) → (n, T, C): padded with `fill`, rolled by `shift`, cut into windows."""
    B, H, W, C = x.shape
    x = F.pad(x, (0, 0, 0, padding(W, side), 0, padding(H, side)), value=fill)
    if shift:
        x = torch.roll(x, (-shift, -shift), dims=(1, 2))
    return x.view(B, x.shape[1] // side, side, x.shape[2] // side, side, C).transpose(2, 3).reshape(-1, side * side, C)


def shift_regions(x: Tensor, side: int, shift: int) -> Tensor | None:
    """(n, T) int: which region of its window each place of a rolled map (B, H, W, C) belongs to; None if unshifted."""
    if not shift:
        return None

    def regions(length: int) -> Tensor:  # (windows, side): which of the two regions a line of pixels belongs to
        length += padding(length, side)
        return (torch.arange(length, device=x.device) >= length - shift).view(-1, side)

    row, column = regions(x.shape[1]), regions(x.shape[2])
    region = row[:, None, :, None] * 2 + column[None, :, None, :]  # (rows, columns, w, w)
    return region.flatten(2).flatten(0, 1).repeat(len(x), 1)


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The top left of a map (B, H, W, C), as a view; inside the compiler as a copy, fused with what follows.

    Whether a cropped view is contiguous depends on whether anything was cut off, and a compiler that asks makes graphs
    of their own for sizes that need no padding.
    """
    if not route.is_traced():
        return x[:, :height, :width]
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    return x.index_select(1, rows).index_select(2, columns)


def padding(length: int, multiple: int) -> int:
    """What is missing to the next multiple. (Written without %, which symbolic sizes simplify less well.)"""
    return -(-length // multiple) * multiple - length
