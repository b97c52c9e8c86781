"""From a mask to the polygons around it, along the edges of its pixels: drawn again, they are that mask exactly."""

from __future__ import annotations

import numpy as np

STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up, as x and y


def outlines(mask: np.ndarray) -> list[list[float]]:
    """One ring x, y, x, y, … for each part of a mask (H, W) bool; a part with holes is one ring through bridges.

    Parts that touch at corners alone are rings of their own.
    """
    outer, inner = [], []
    for loop in loops(mask):
        (outer if signed_area(loop) > 0 else inner).append(loop)
    for hole in sorted(
        inner, key=lambda loop: -loop[:, 0].max()
    ):  # from the right, so that bridges stay within the part
        into = min(
            (k for k, ring in enumerate(outer) if contains(ring, hole)), key=lambda k: abs(signed_area(outer[k]))
        )
        outer[into] = bridged(outer[into], hole)
    return [ring.ravel().astype(float).tolist() for ring in outer]


def loops(mask: np.ndarray) -> list[np.ndarray]:
    """Closed walks along pixel edges with the mask on the right hand, corners alone: (points, 2) x, y each.

    Outer ones go clockwise as seen on the screen, those around holes the other way.
    """
    padded = np.pad(mask.astype(bool), 1)
    inside = padded[1:-1, 1:-1]
    edges: dict[tuple[int, int], list[int]] = {}  # from a corner in which directions
    for direction, neighbour in enumerate((padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])):
        ys, xs = np.nonzero(inside & ~neighbour)
        dx, dy = ((0, 0), (1, 0), (1, 1), (0, 1))[direction]  # where the walk along that side of the pixel starts
        for x, y in zip((xs + dx).tolist(), (ys + dy).tolist(), strict=True):
            edges.setdefault((x, y), []).append(direction)
    found = []
    while edges:
        start = next(iter(edges))
        at, direction, corners = start, edges[start][0], []
        while True:
            here = edges[at]
            # Where two ways lead on, the right turn stays at the same pixel, so that corners do not join parts.
            turn = min(here, key=lambda d: (d - direction - 1) % 4) if corners else direction
            here.remove(turn)
            if not here:
                del edges[at]
            if not corners or turn != direction:
                corners.append(at)
            direction = turn
            at = (at[0] + STEPS[turn][0], at[1] + STEPS[turn][1])
            if at == start and (start not in edges or direction_closes(edges, start, direction)):
                break
        found.append(np.array(corners))
    return found


def direction_closes(edges: dict[tuple[int, int], list[int]], start: tuple[int, int], direction: int) -> bool:
    """Whether a walk that comes back to a corner two walks go through is at its end: the way on is the other's."""
    return (direction + 1) % 4 not in edges[start]


def signed_area(loop: np.ndarray) -> float:
    """Positive for a walk that is clockwise on the screen."""
    x, y = loop.T.astype(float)
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def contains(ring: np.ndarray, hole: np.ndarray) -> bool:
    """Whether a point just inside the hole's first corner lies in the ring."""
    x, y = hole[0] + 0.25 * np.sign(hole.mean(0) - hole[0])
    x0, y0 = ring.T
    x1, y1 = np.roll(ring, -1, 0).T
    crosses = (y0 <= y) != (y1 <= y)
    at = x0[crosses] + (y - y0[crosses]) * (x1 - x0)[crosses] / (y1 - y0)[crosses]
    return bool((at > x).sum() % 2)


def bridged(ring: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """A ring with a hole cut in, by a way there and back along one row: of no width, so that nothing is lost."""
    first = int(np.argmax(hole[:, 0]))
    x, y = hole[first]
    rows = []
    for k, (a, b) in enumerate(zip(ring, np.roll(ring, -1, 0), strict=True)):
        if min(a[1], b[1]) <= y <= max(a[1], b[1]) and a[0] == b[0] and a[0] >= x:
            rows.append((a[0], k))
    edge, k = min(rows)
    way = [(edge, y), *np.roll(hole, -first, 0), (x, y), (edge, y)]
    return np.array([*ring[: k + 1], *way, *ring[k + 1 :]])
