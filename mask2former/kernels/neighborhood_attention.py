"""Dilated neighborhood attention (Hassani and Shi 2022, §3): each pixel attends to the K × K nearest of its group.

Dilation d splits an axis into d groups (positions equal modulo d) that never meet; inside a group the attention is
undilated. The faster form cuts a group's queries into tiles; the windows of a tile's T queries lie within T + K − 1
consecutive keys. So each T × T tile of queries is one dense attention over (T + K − 1)² keys, with the relative
position bias where a key is in the query's window and −inf where not. Tiles with the same arrangement of windows (all
interior ones, say) share that bias and go through one call. Time and memory are linear in the number of pixels.

Forms: `textbook`; `tiles`. Proved equal to the textbook form, values and gradients, by
`tests/test_kernels_neighborhood_attention.py`.

Shape letters: B images, N heads, H × W the map, D channels a head, K kernel size, T side of a tile.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former.kernels import route


def textbook(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """softmax(q · kᵀ + bias) · v over each query's own window of keys; as much memory as H · W · K² keys take."""
    rows, row_offsets = windows(q.shape[2], k.shape[2], kernel_size, dilation, q.device)  # (H, K) each
    columns, column_offsets = windows(q.shape[3], k.shape[3], kernel_size, dilation, q.device)  # (W, K)
    at = rows[:, None, :, None], columns[None, :, None, :]  # together (H, W, K, K)
    keys, values = (t[:, :, at[0], at[1]].flatten(4, 5) for t in (k, v))  # (B, N, H, W, K², D)
    added = bias[:, row_offsets[:, None, :, None], column_offsets[None, :, None, :]].flatten(3)  # (N, H, W, K²)
    logits = (keys @ q[..., None]).squeeze(-1) + added.to(q.dtype)  # (B, N, H, W, K²)
    return (logits.softmax(-1)[..., None, :] @ values).squeeze(-2)  # (B, N, H, W, D)


def windows(
    length: int, key_length: int, kernel_size: int, dilation: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Along one axis, for each of `length` queries: its K keys, and their places in the bias; (length, K) each."""
    query = torch.arange(length, device=device)
    group, place = query % dilation, query // dilation  # place: inside the group
    size = (key_length - group + dilation - 1) // dilation  # keys in the group
    start = torch.minimum((place - kernel_size // 2).clamp(min=0), size - kernel_size)
    key = start[:, None] + torch.arange(kernel_size, device=device)
    return group[:, None] + dilation * key, key - place[:, None] + kernel_size - 1


def neighborhood_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """Each query attends to the K × K keys of its own dilation group nearest to it (Hassani and Shi 2022, §3).

    At a border the window stays whole and moves inwards, so every query sees exactly K × K keys.

    Args:
        q: (B, N, H, W, D), already scaled.
        k, v: (B, N, H', W', D), H' ≥ H and W' ≥ W, both ≥ K · dilation; the queries are their top left part.
        bias: (N, 2K − 1, 2K − 1), added at [key − query + K − 1] vertically, then horizontally, in steps of the
            dilation.
        kernel_size: K, odd.

    Returns:
        (B, N, H, W, D)
    """
    key_height, key_width = k.shape[2:4]
    if min(key_height, key_width) < kernel_size * dilation:
        raise ValueError(
            f"{key_height}×{key_width} keys are fewer than kernel × dilation = {kernel_size * dilation} a side: "
            "extend the map first"
        )
    if route.choose("neighborhood_attention", q) == "textbook":
        return textbook(q, k, v, bias, kernel_size, dilation)
    return by_tiles(q, k, v, bias, kernel_size, dilation)


TILE = 8  # T at most: larger tiles waste more of each product, smaller ones copy more keys
ELEMENTS_AT_ONCE = 2**22  # of keys copied for one call; bounds the memory on large maps, and fits caches


def by_tiles(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kernel_size: int, dilation: int) -> Tensor:
    """The same, some tiles of queries at a time."""
    B, N, H, W, D = q.shape
    key_height, key_width = k.shape[2:4]
    # What is copied together lies together: one pixel's heads. index_select would copy the rest of the map each time.
    q, k, v = (t.permute(0, 2, 3, 1, 4).flatten(1, 2).contiguous() for t in (q, k, v))  # (B, H·W, N, D)
    bias = F.pad(bias.to(q.dtype), (0, 1, 0, 1), value=-torch.inf)  # its last row and column: not in the window
    rows = axis_tiles(H, key_height, kernel_size, dilation, q.device)
    columns = axis_tiles(W, key_width, kernel_size, dilation, q.device)
    results, places = [], []
    for row_queries, row_keys, row_offsets in rows:
        for column_queries, column_keys, column_offsets in columns:
            queries = (row_queries[:, None, :, None] * W + column_queries[:, None]).flatten(2).flatten(0, 1)
            keys = (row_keys[:, None, :, None] * key_width + column_keys[:, None]).flatten(2).flatten(0, 1)
            mask = bias[:, row_offsets[:, None, :, None], column_offsets[:, None]]  # (N, T, T, keys, keys)
            mask = mask.flatten(3).flatten(1, 2)[None]  # fused kernels take four axes only
            at_once = max(1, ELEMENTS_AT_ONCE // (B * keys.shape[1] * N * D))
            for some_queries, some_keys in zip(queries.split(at_once), keys.split(at_once), strict=True):
                x = F.scaled_dot_product_attention(
                    gather(q, some_queries), gather(k, some_keys), gather(v, some_keys), attn_mask=mask, scale=1.0
                )  # (B · tiles, N, T², D)
                results.append(x.transpose(1, 2).reshape(B, -1, N, D))
                places.append(some_queries.flatten())
    order = torch.cat(places).argsort()
    x = torch.cat(results, dim=1).index_select(1, order).unflatten(1, (H, W))
    return x.permute(0, 3, 1, 2, 4)  # (B, N, H, W, D)


def gather(x: Tensor, places: Tensor) -> Tensor:
    """Pixels of x (B, H·W, N, D) at places (tiles, P) → (B · tiles, N, P, D)."""
    tiles, P = places.shape
    return x.index_select(1, places.flatten()).reshape(-1, P, *x.shape[2:]).transpose(1, 2)


def axis_tiles(
    length: int, key_length: int, kernel_size: int, dilation: int, device: torch.device
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The tiles along one axis of a map with so many queries and keys, those with the same windows together.

    Returns:
        For each arrangement of windows three index tensors: positions of the queries (tiles, T); positions of the keys
        any of them sees (tiles, T + K − 1 or fewer); and for each pair of them the place in the relative position bias
        (T, keys), 2K − 1 where the key is not in the query's window.
    """
    # First keys of a tile's windows, counted from its first query → where the tiles with such windows begin.
    origins: dict[tuple[int, ...], list[int]] = {}
    for group in range(min(dilation, length)):
        n, size = len(range(group, length, dilation)), len(range(group, key_length, dilation))
        starts = [min(max(i - kernel_size // 2, 0), size - kernel_size) for i in range(n)]
        T = math.ceil(n / math.ceil(n / TILE))  # no more tiles than with TILE itself, but of nearly equal sizes
        for first in range(0, n, T):
            windows = tuple(start - first for start in starts[first : first + T])
            origins.setdefault(windows, []).append(group + dilation * first)

    tiles = []
    for windows, places in origins.items():
        place = torch.tensor(places, device=device)[:, None]
        start = torch.tensor(windows, device=device)[:, None]
        query = torch.arange(len(windows), device=device)
        key = torch.arange(windows[0], windows[-1] + kernel_size, device=device)
        offset = key - query[:, None] + kernel_size - 1
        offset = offset.where((key >= start) & (key < start + kernel_size), 2 * kernel_size - 1)
        tiles.append((place + dilation * query, place + dilation * key, offset))
    return tiles
