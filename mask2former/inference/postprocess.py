"""From the network's outputs to segments: semantic, instance and panoptic, as stateless functions.

Each takes the outputs for one photo and the sizes that the photo went through, and answers in the photo's own pixels,
as the papers' code does: Cheng et al. 2021 (MaskFormer) §3.4, Cheng et al. 2022 §4.1, with two bilinear resizes of the
logits and the sigmoid after both. Queries are chosen before their masks are multiplied out, and masks are resized
only where they are read (`tiles.py`).

Shape letters: Q queries, N chosen ones, K classes, C mask channels, h × w mask logits, H × W the photo, t tiles of it,
T pixels along a tile's side, P chosen tiles or (tile, mask) pairs, M rival classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mask2former.inference.packed_masks import PackedMasks, pack
from mask2former.inference.tiles import CHUNK, TileCensus, TileGrid
from mask2former.structures import ClassInfo, Outputs, PhotoSizes, Segment

SLACK = 0.2  # what the queries that semantic segmentation first leaves out may add to a class


def panoptic(
    outputs: Outputs,
    sizes: PhotoSizes,
    classes: Sequence[ClassInfo],
    object_mask_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> tuple[Tensor, list[Segment]]:
    """Every pixel to at most one segment: the (H, W) int32 map of their ids, 0 for none, and the segments in id order.

    Queries compete at each pixel with score × mask probability among those that name a class with a score above
    `object_mask_threshold`. One that keeps less than `overlap_threshold` of its own mask is dropped whole; segments
    of the same stuff class are merged (score: the best of them).
    """
    class_logits, masks = _of_one_photo(outputs)
    scores, labels = class_logits.softmax(-1).max(-1)
    chosen = ((labels < len(classes)) & (scores > object_mask_threshold)).nonzero()[:, 0]
    if not len(chosen):
        return torch.zeros(sizes.photo, dtype=torch.int32, device=scores.device), []
    scores, labels = scores[chosen], labels[chosen]
    logits = masks(chosen)  # (h, w, N)
    grid = TileGrid(logits.shape[:2], sizes, device=logits.device, dtype=logits.dtype)

    low, high = (bound.sigmoid() for bound in grid.bounds(logits))  # (t, N)
    rivals = high * scores >= (low * scores).amax(1, keepdim=True)  # may be the largest somewhere in the tile
    crossing = (low < 0.5) & (high >= 0.5)
    is_open = (rivals.sum(1) > 1) | crossing.any(1)
    needed = (rivals | crossing) & is_open[:, None]
    owner = rivals.to(torch.uint8).argmax(1)
    code = 2 * owner + (low.gather(1, owner[:, None])[:, 0] >= 0.5)  # whose it is, and whether its own mask holds it
    census = TileCensus(grid, len(chosen), logits.device)
    census.add_tiles(code, (~is_open).nonzero()[:, 0])
    whole = ((low >= 0.5) * grid.pixels[:, None]).sum(0)  # (N,) pixels of each mask, whoever owns them

    rivals_in = needed.sum(1)
    open_tiles = rivals_in.argsort(descending=True)[: int(is_open.sum())]  # those with most rivals first
    codes = torch.empty(len(open_tiles), grid.tile, grid.tile, dtype=torch.int16, device=logits.device)
    step = CHUNK * len(open_tiles) // max(1, int(rivals_in.sum()) * grid.tile**2)
    for tiles, found in _chunks(step, open_tiles, codes):
        place, query = needed[tiles].nonzero().unbind(1)  # (P,) pairs, tile by tile
        rank = torch.arange(len(place), device=place.device) - torch.searchsorted(place, place)
        order = rank.argsort(stable=True)  # now the first rival of each tile, then the second of those with a second…
        place, query = place[order], query[order]
        score = grid.resize_pairs(logits, tiles[place], query).sigmoid_()  # (P, T, T)
        in_photo = grid.inside(tiles)
        crosses = crossing[tiles[place], query].nonzero()[:, 0]
        whole.index_add_(0, query[crosses], ((score[crosses] >= 0.5) & in_photo[place[crosses]]).flatten(1).sum(1))
        score *= scores[query, None, None]
        best, owner = _largest(score, query.to(torch.int16), rank.bincount().tolist())
        found[:] = 2 * owner + (best >= 0.5 * scores[owner.int()])
        found.masked_fill_(~in_photo, 2 * len(chosen))
        census.add_pixels(found, tiles)

    ids, segments = _segments(census, whole, scores, labels, classes, overlap_threshold)
    ids = torch.tensor(ids, dtype=torch.int32, device=logits.device)  # (2 N + 1,) by code
    picture = ids[code][:, None, None].repeat(1, grid.tile, grid.tile)
    picture[open_tiles] = ids[codes.int()]
    return grid.picture(picture), segments


def instance(
    outputs: Outputs,
    sizes: PhotoSizes,
    classes: Sequence[ClassInfo],
    instances: int = 100,
    score_threshold: float = 0.0,
) -> tuple[PackedMasks, list[Segment]]:
    """The best (query, thing class) pairs, best first: their masks, which may overlap, and as many segments.

    `instances` pairs are taken by class probability among all classes, then those that are things stay. A mask is
    where its logit exceeds 0; its score is the class probability × the mean mask probability inside it. Only those
    scoring at least `score_threshold` and holding a pixel are returned; the papers keep them all. A segment's
    `label_id` is its position among all `classes`; `thing_positions` gives that among the things.
    """
    class_logits, masks = _of_one_photo(outputs)
    probabilities = class_logits.softmax(-1)[:, : len(classes)]
    best, pair = probabilities.flatten().topk(min(instances, probabilities.numel()))
    label = pair % len(classes)
    is_thing = torch.tensor([c.is_thing for c in classes], device=best.device)
    kept = (is_thing[label] & (best >= score_threshold)).nonzero()[:, 0]  # a mask's mean probability is at most 1
    best, label = best[kept], label[kept]
    chosen, row = (pair[kept] // len(classes)).unique(return_inverse=True)  # a query may be taken for several classes
    logits = masks(chosen)  # (h, w, N)
    grid = TileGrid(logits.shape[:2], sizes, device=logits.device, dtype=logits.dtype)

    reaches = grid.bounds(logits)[1] > 0  # (t, N) where a mask may hold a pixel
    count = reaches.sum(1)
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64
    total = logits.new_zeros(len(chosen), dtype=wide)
    bits, places, owners = [np.zeros((0, grid.tile, grid.tile // 8), np.uint8)], [np.zeros(0, int)], [np.zeros(0, int)]
    for tiles, most in _by_count(count, CHUNK // grid.tile**2):
        found = reaches[tiles].float().topk(most).indices  # (P, M), with others where there are fewer
        pixels = grid.resize_some(logits, tiles, found)  # (P, T, M, T)
        if grid.is_ragged:
            pixels.masked_fill_(~grid.inside(tiles)[:, :, None], -torch.inf)
        bits.append(pack(pixels > 0).swapaxes(1, 2).reshape(-1, grid.tile, grid.tile // 8))
        places.append(tiles.repeat_interleave(found.shape[1]).cpu().numpy())
        owners.append(found.flatten().cpu().numpy())
        above_half = pixels.sigmoid_().sub_(0.5).clamp_(min=0)  # inside a mask, where the logit exceeds 0
        total.index_add_(0, found.flatten(), above_half.sum(1).sum(2).to(wide).flatten())

    found = (np.concatenate(parts) for parts in (bits, places, owners))
    masks = PackedMasks.from_tiles(sizes.photo, *found, len(chosen))
    areas, boxes = masks.areas(), masks.boxes()
    area = torch.tensor(areas, dtype=wide, device=total.device)
    score = best * ((total + 0.5 * area) / (area + 1e-6)).to(best.dtype)[row]
    order = score.argsort(descending=True, stable=True)
    order = order[(area[row][order] > 0) & (score[order] >= score_threshold)].tolist()
    row, label, score = row.tolist(), label.tolist(), score.tolist()
    segments = [
        Segment(number, label[i], classes[label[i]].name, score[i], areas[row[i]], boxes[row[i]], True)
        for number, i in enumerate(order, start=1)
    ]
    return masks.select([row[i] for i in order]), segments


def semantic(outputs: Outputs, sizes: PhotoSizes, sum_first: bool = False) -> Tensor:
    """The best class at every pixel, as its position in the class list: (H, W) int32.

    A class scores the sum over the queries of class probability × mask probability. `sum_first` adds up at the resized
    photo and resizes the sums to the photo itself, as the papers do where a model has no other task.
    """
    class_logits, masks = _of_one_photo(outputs)
    probabilities = class_logits.softmax(-1)[:, :-1]  # (Q, K)
    order = probabilities.amax(1).argsort(descending=True)
    probabilities = probabilities[order]
    grid = TileGrid(masks.size, sizes, sum_first, class_logits.device, masks.dtype)

    # The queries that name a class settle most tiles, whatever the others add to a class: at most `slack`.
    left = probabilities.flip(0).cumsum(0).flip(0)  # (Q, K) what the queries from here on can add
    heavy = max(1, int((left.amax(1) > SLACK).sum()))
    slack = left[heavy] if heavy < len(left) else 0
    logits = masks(order[:heavy])  # (h, w, heavy)
    low, high = (bound.sigmoid_() @ probabilities[:heavy] for bound in grid.bounds(logits))  # (t, K)
    high += slack
    winner, rivals = _contest(low, high)
    picture = winner.int()[:, None, None].repeat(1, grid.tile, grid.tile)

    # In the other tiles every query counts: multiply out the rest of the logits that they read, and bound them again.
    open_tiles = (rivals > 1).nonzero()[:, 0]
    used = torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device).flatten()
    used[grid.windows(open_tiles).flatten()] = True
    points = used.nonzero()[:, 0]
    rest = masks(order[heavy:], points)
    logits = torch.cat([_rows(logits.flatten(0, 1), points), rest], 1)  # (points, Q)
    row = used.cumsum(0) - 1  # of `logits`, for each of the h × w positions
    tiles_at_once = CHUNK // (grid.values_per_tile * len(order))
    for (tiles,) in _chunks(tiles_at_once, open_tiles):
        window = _rows(logits, row[grid.windows(tiles)]).flatten(1, 2)  # (P, r × c, Q)
        low, most = (bound.sigmoid_() @ probabilities for bound in (window.amin(1), window.amax(1)))  # (P, K)
        winner, rivals[tiles] = _contest(low, most)
        picture[tiles], high[tiles] = winner.int()[:, None, None], most

    # What is open still is added up at every pixel, for the rival classes alone.
    open_tiles = rivals.argsort()[int((rivals == 1).sum()) :]  # so that those of a chunk have about as many rivals
    for (tiles,) in _chunks(tiles_at_once, open_tiles):
        candidates = high[tiles].topk(int(rivals[tiles[-1]])).indices
        candidates = candidates.sort(1).values  # (P, M), so that of equal classes the first wins
        shares = probabilities.T[candidates].transpose(1, 2)  # (P, Q, M)
        masks = grid.resize(_rows(logits, row[grid.windows(tiles)]), tiles).sigmoid_()  # (P, m × m, Q)
        labels = candidates.gather(1, grid.finish(masks @ shares, tiles).argmax(2))  # (P, T × T)
        picture[tiles] = labels.int().view(-1, grid.tile, grid.tile)
    return grid.picture(picture)


def semantic_scores(outputs: Outputs, sizes: PhotoSizes, sum_first: bool = False) -> Tensor:
    """The scores behind `semantic`, for every class: (K, H, W), from 0 up (they are sums, and do not add up to 1)."""
    class_logits, masks = _of_one_photo(outputs)
    probabilities = class_logits.softmax(-1)[:, :-1]  # (Q, K)
    logits = masks(torch.arange(len(class_logits), device=class_logits.device)).flatten(0, 1)  # (h × w, Q)
    grid = TileGrid(masks.size, sizes, sum_first, logits.device, logits.dtype)
    picture = logits.new_empty(probabilities.shape[1], *sizes.photo)
    across = grid.columns.count
    for start in range(0, grid.count, across):  # one row of tiles at a time
        tiles = torch.arange(start, start + across, device=logits.device)
        masks = grid.resize(_rows(logits, grid.windows(tiles)), tiles).sigmoid_()  # (P, m × m, Q)
        scores = grid.finish(masks @ probabilities, tiles)  # (P, T × T, K)
        band = scores.view(across, grid.tile, grid.tile, -1).permute(3, 1, 0, 2).flatten(2)  # (K, T, P × T)
        y = start // across * grid.tile
        picture[:, y : y + grid.tile] = band[:, : sizes.photo[0] - y, : sizes.photo[1]]
    return picture


def thing_positions(classes: Sequence[ClassInfo]) -> list[int | None]:
    """For each class its position among the thing classes alone, None for stuff: how ADE20K's instance task numbers
    the classes of a model that knows stuff too."""
    positions = iter(range(len(classes)))
    return [next(positions) if c.is_thing else None for c in classes]


class _Masks:
    """The mask logits of one photo, for some queries, in float32 or better."""

    def __init__(self, outputs: Outputs):
        self.finished = vars(outputs).get("mask_logits")  # where somebody has read them, they are there
        parts = (outputs.mask_embeddings[0], outputs.mask_features[0])
        self.embeddings, self.features = (_at_least_float32(x) for x in parts)  # (Q, C), (C, h, w)
        self.size, self.dtype = self.features.shape[1:], self.features.dtype

    def __call__(self, queries: Tensor, points: Tensor | None = None) -> Tensor:
        """Of N queries: (h, w, N); or at some of the h × w positions alone, points (n,): (n, N)."""
        if self.finished is not None:
            logits = _at_least_float32(self.finished[0].flatten(1)[queries])
            logits = (logits if points is None else logits.index_select(1, points)).T.contiguous()
        else:
            features = self.features.flatten(1)
            logits = (features if points is None else features.index_select(1, points)).T @ self.embeddings[queries].T
        return logits if points is not None else logits.view(*self.size, len(queries))


def _of_one_photo(outputs: Outputs) -> tuple[Tensor, _Masks]:
    """Class logits (Q, K + 1) in float32 or better, and what gives the mask logits."""
    if len(outputs.class_logits) != 1:
        raise ValueError(f"outputs for {len(outputs.class_logits)} photos: expected one; index them, outputs[0]")
    return _at_least_float32(outputs.class_logits[0]), _Masks(outputs)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.detach() if x.dtype == torch.float64 else x.detach().float()


def _rows(logits: Tensor, rows: Tensor) -> Tensor:
    """Some rows of (n, N) logits: rows (…) to (…, N)."""
    return logits.index_select(0, rows.flatten()).view(*rows.shape, logits.shape[1])


def _contest(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Between which bounds (t, K) each class scores in a tile: the class that wins the whole tile if any does (t,), and
    how many may win some of it (t,)."""
    best, winner = low.max(1)
    return winner, (high >= best[:, None]).sum(1)


def _chunks(size: int, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in step, at most `size` rows at a time and at least one; nothing where they have none."""
    if len(rows[0]):
        yield from zip(*(tensor.split(max(1, size)) for tensor in rows), strict=True)


def _by_count(count: Tensor, budget: int) -> Iterator[tuple[Tensor, int]]:
    """Tiles that need about as many masks each, and how many at most: count (t,) is what each needs. At most `budget`
    masks at a time, in all tiles together; tiles that need none are left out."""
    least, largest = 0, int(count.max())
    while least < largest:
        most = min(max(1, 2 * least), largest)
        for (tiles,) in _chunks(budget // most, ((count > least) & (count <= most)).nonzero()[:, 0]):
            yield tiles, most
        least = most


def _largest(values: Tensor, names: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The largest of several (T, T) values at each pixel of each tile, and the name of what holds it, of equal ones the
    first. values (P, T, T) and names (P,) hold the first of every tile, then the second of the tiles that have one, and
    so on: `lengths` many, ever fewer, always of the first tiles."""
    best = values[: lengths[0]].clone()
    holder = names[: lengths[0], None, None].expand(best.shape).clone()
    start = lengths[0]
    for length in lengths[1:]:
        rivals, held = values[start : start + length], names[start : start + length, None, None]
        holder[:length] = torch.where(rivals > best[:length], held, holder[:length])
        torch.maximum(best[:length], rivals, out=best[:length])
        start += length
    return best, holder


def _segments(
    census: TileCensus,
    whole: Tensor,
    scores: Tensor,
    labels: Tensor,
    classes: Sequence[ClassInfo],
    overlap_threshold: float,
) -> tuple[list[int], list[Segment]]:
    """Decides which queries become segments: the id of every code, and the segments."""
    height, width = census.grid.size
    owned, held = census.counts[:-1].view(-1, 2).sum(1).tolist(), census.counts[1::2].tolist()
    rows = census.rows[1::2].flatten(1)[:, :height].cpu().numpy()
    columns = census.columns[1::2].flatten(1)[:, :width].cpu().numpy()
    whole, scores, labels = whole.tolist(), scores.tolist(), labels.tolist()
    members: dict[int, list[int]] = {}  # id → queries
    stuff: dict[int, int] = {}  # class → id
    ids = [0] * len(census.counts)
    for query, label in enumerate(labels):
        if not held[query] or owned[query] / whole[query] < overlap_threshold:
            continue
        number = stuff.get(label, len(members) + 1)
        if not classes[label].is_thing:
            stuff[label] = number
        members.setdefault(number, []).append(query)
        ids[2 * query + 1] = number
    segments = []
    for number, queries in members.items():
        info, label = classes[labels[queries[0]]], labels[queries[0]]
        (y,), (x,) = rows[queries].any(0).nonzero(), columns[queries].any(0).nonzero()
        box = int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1
        area, score = sum(held[q] for q in queries), max(scores[q] for q in queries)
        segments.append(Segment(number, label, info.name, score, area, box, info.is_thing))
    return ids, segments
