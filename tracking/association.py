"""Which box continues which track, and which boxes of one frame are one object seen twice.

Legend: `T` tracks, `N` boxes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


def mahalanobis(delta: Array, covariance: Array) -> tuple[Array, Array]:
    """Squared length of (..., 2) differences in units of (..., 2, 2) covariances, and the log determinants."""
    a, b, d = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    x, y = delta[..., 0], delta[..., 1]
    determinant = a * d - b * b
    return (d * x * x - 2 * b * x * y + a * y * y) / determinant, np.log(determinant)


def assign(cost: Array, gate: Array) -> tuple[Indices, Indices]:
    """Rows and columns of the pairs that make the total of `cost - gate` smallest; none at or above its gate.

    A pair that is not taken costs nothing, so a track rather stays without a box than take one from a better
    track.

    Args:
        cost: (T, N), infinite where a pair is out of the question.
        gate: (T, 1), (1, N) or (T, N).
    """
    gain = np.minimum(cost - gate, 0.0)
    rows, columns = np.flatnonzero((gain < 0).any(1)), np.flatnonzero((gain < 0).any(0))
    small = gain[np.ix_(rows, columns)]
    r, c = linear_sum_assignment(small)
    taken = small[r, c] < 0
    return rows[r[taken]], columns[c[taken]]


def lone_pairs(cost: Array, gate: Array) -> tuple[Indices, Indices]:
    """Rows and columns of the pairs below their gate that have no rival: neither the track nor the box.

    Where nothing else can be meant, a pair may be as unlikely as an object much faster than most.

    Args:
        cost: (T, N), infinite where a pair is out of the question.
        gate: (T, 1), (1, N) or (T, N).
    """
    near = cost < gate
    lone = near & (near.sum(1, keepdims=True) == 1) & (near.sum(0, keepdims=True) == 1)
    rows, columns = np.nonzero(lone)
    return rows, columns


def merge_groups(center: Array, noise: Array, label: Indices, order: Indices, distance: Array) -> Indices:
    """(N,) index of the box that stands for each box: itself, or a better one that is the same object.

    Two boxes of a class are one object when their squared Mahalanobis distance under the sum of their noise is
    below `distance`; so boxes merge along the viewing ray before they merge across it. Greedy from the best box
    on, in rounds over all boxes at once.

    Args:
        center: (N, 2).
        noise: (N, 2, 2).
        order: (N,) rank of each box, 0 the best; all different.
        distance: (N,) of each box's class; 0 = never.
    """
    squared, _ = mahalanobis(center[:, None] - center[None], noise[:, None] + noise[None])
    near = (squared < distance[:, None]) & (label[:, None] == label[None]) & (order[:, None] > order[None])
    n = len(order)
    kept, open_ = np.zeros(n, dtype=bool), np.ones(n, dtype=bool)
    while open_.any():
        # a box whose better neighbours are all decided against is kept; it takes its open neighbours with it
        new = open_ & ~(near & open_[None]).any(1)
        kept |= new
        open_ &= ~new & ~(near & new[None]).any(1)
    rank = np.where(near & kept[None], order[None], n)
    best = rank.argmin(1)
    return np.where(kept, np.arange(n), best)
