"""Which box continues which track, and which boxes of one frame are one object seen twice.

Only pairs within reach are looked at, found with a k-d tree, so the cost grows with the number of neighbours and
not with tracks times boxes. Legend: `T` tracks, `N` boxes, `K` pairs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_APART = 1e6
"""Metres between groups: what is in different groups is never within reach."""
_TABLE = 40_000
"""Pairs up to which it is quicker to look at all of them than to build a tree."""
_DENSE = 10_000
"""Cells of a table up to which one dense assignment is quicker than one for each connected part."""


def mahalanobis(delta: Array, covariance: Array) -> tuple[Array, Array]:
    """Squared length of (..., 2) differences in units of (..., 2, 2) covariances, and the log determinants."""
    a, b, d = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    x, y = delta[..., 0], delta[..., 1]
    determinant = a * d - b * b
    return (d * x * x - 2 * b * x * y + a * y * y) / determinant, np.log(determinant)


def variances(covariance: Array) -> Array:
    """(..., 2, 2) -> (..., 2) along the covariance's axes, the smaller first."""
    a, b, d = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    mean, half = (a + d) / 2, np.hypot((a - d) / 2, b)
    return np.stack([mean - half, mean + half], axis=-1)


def within_reach(
    place: Array, group: Indices, reach: Array, other: Array, other_group: Indices
) -> tuple[Indices, Indices]:
    """Rows and columns (K,) of the pairs of one group that lie within the row's reach, in order of rows.

    Args:
        place: (T, 2) in metres.
        group: (T,) small whole numbers.
        reach: (T,) metres.
        other: (N, 2).
        other_group: (N,).
    """
    if len(place) * len(other) <= _TABLE:
        # most pairs are too far apart in x alone
        x = (place[:, 0] + group * _APART)[:, None] - (other[:, 0] + other_group * _APART)
        row, column = np.divmod(np.flatnonzero(np.abs(x) <= reach[:, None]), max(len(other), 1))
        x, y = (place[row] - other[column]).T
        near = x * x + y * y <= (reach * reach)[row]
        return row[near], column[near]
    tree = KDTree(np.column_stack([other, other_group * _APART]))
    points = np.column_stack([place, group * _APART])
    # the tree takes one radius at a time: rows of like reach go together
    level = np.ceil(np.log2(np.maximum(reach, 4.0))).astype(np.int64)
    none = np.zeros(0, dtype=np.int64)
    found: list[tuple[Indices, Indices]] = [(none, none)]
    for step in np.unique(level):
        rows = np.flatnonzero(level == step)
        pairs = KDTree(points[rows]).sparse_distance_matrix(tree, 2.0**step, output_type="ndarray")
        near = pairs["v"] <= reach[rows][pairs["i"]]
        found.append((rows[pairs["i"][near]], pairs["j"][near]))
    row, column = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(row * len(other) + column)
    return row[order], column[order]


def assign(row: Indices, column: Indices, gain: Array) -> Indices:
    """Which of the pairs to take so that the sum of their gains is largest; none of zero gain or less.

    No row and no column is taken twice. A pair that is not taken costs nothing, so a track rather stays without a
    box than take one from a better track.

    Args:
        row, column: (K,) of the pairs.
        gain: (K,).
    """
    sure = lone(row, column, gain)
    left = gain > 0
    left[sure] = False
    pairs = np.flatnonzero(left)
    if not pairs.size:
        return sure
    (rows, r), (columns, c) = _compressed(row[pairs]), _compressed(column[pairs])
    if rows * columns <= _DENSE:
        return np.sort(np.concatenate([sure, _best(pairs, r, rows, c, columns, gain)]))
    graph = coo_array((np.ones(len(pairs)), (r, rows + c)), shape=(rows + columns,) * 2)
    count, part = connected_components(graph, directed=False)
    ends = np.stack([np.bincount(part[:rows], minlength=count), np.bincount(part[rows:], minlength=count)])
    part, star = part[r], (ends == 1).any(0)
    # in a part with one row or one column the best pair wins
    order = np.lexsort((-gain[pairs], part))
    first = order[np.diff(part[order], prepend=-1) > 0]
    taken = [sure, pairs[first[star[part[first]]]]]
    order = order[~star[part[order]]]
    for block in np.split(order, np.flatnonzero(np.diff(part[order])) + 1) if order.size else []:
        (rows, own_r), (columns, own_c) = _compressed(r[block]), _compressed(c[block])
        taken.append(_best(pairs[block], own_r, rows, own_c, columns, gain))
    return np.sort(np.concatenate(taken))


def _compressed(index: Indices) -> tuple[int, Indices]:
    """How many different numbers there are, and each one's rank among them."""
    present = np.zeros(index.max() + 1, dtype=bool)
    present[index] = True
    rank = np.cumsum(present) - 1
    return int(rank[-1]) + 1, rank[index]


def _best(pairs: Indices, r: Indices, rows: int, c: Indices, columns: int, gain: Array) -> Indices:
    """Those of the pairs, in rows `r` and columns `c`, that a dense assignment takes."""
    cost, which = np.zeros((rows, columns)), np.full((rows, columns), -1)
    cost[r, c], which[r, c] = -gain[pairs], pairs
    picked = which[linear_sum_assignment(cost)]
    return picked[picked >= 0]


def lone(row: Indices, column: Indices, gain: Array) -> Indices:
    """The pairs of positive gain that have no rival: the only one of their row and of their column.

    Where nothing else can be meant, a pair may be as unlikely as an object much faster than most.
    """
    good = np.flatnonzero(gain > 0)
    if not good.size:
        return good
    alone = (np.bincount(row[good])[row[good]] == 1) & (np.bincount(column[good])[column[good]] == 1)
    return good[alone]


def merge_groups(
    center: Array, noise: Array, group: Indices, distance: Array, reach: float
) -> tuple[Indices, NDArray[np.bool_]]:
    """(N,) index of the box that stands for each box: itself, or a better one that is the same object; and which
    boxes stand for themselves.

    Boxes are given best first. Two of a group are one object when their squared Mahalanobis distance under the sum
    of their noise is below `distance`; so boxes merge along the viewing ray before they merge across it. Greedy
    from the best box on, in rounds over all boxes at once.

    Args:
        center: (N, 2).
        noise: (N, 2, 2).
        group: (N,) small whole numbers.
        distance: (N,); 0 = never.
        reach: metres beyond which no two boxes are one object.
    """
    n = len(center)
    leader, kept = np.arange(n), np.ones(n, dtype=bool)
    better, worse = within_reach(center, group, np.full(n, reach), center, group)
    later = better < worse
    better, worse = better[later], worse[later]
    squared, _ = mahalanobis(center[better] - center[worse], noise[better] + noise[worse])
    near = squared < distance[worse]
    better, worse = better[near], worse[near]
    kept[worse] = False
    open_ = ~kept
    while open_.any():
        # a box goes with a kept neighbour; one whose better neighbours are all decided against is kept itself
        open_[worse[kept[better]]] = False
        waiting = np.zeros(n, dtype=bool)
        waiting[worse[open_[better] | kept[better]]] = True
        new = open_ & ~waiting
        kept |= new
        open_ &= ~new
    followers = kept[better] & ~kept[worse]
    best = np.full(n, n)
    np.minimum.at(best, worse[followers], better[followers])
    return np.where(kept, leader, best), kept
