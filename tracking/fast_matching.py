"""The matching of the official tracking evaluation for all score thresholds at once.

Frame after frame, as the CLEAR MOT accumulator does it: an object first keeps the track it had last, if that track
is there within 2 m; what is left is assigned with the least total distance, as many pairs as possible.

Legend: `T` thresholds, `N` ground truth boxes, `P` predicted boxes; in one frame `n` objects, `k` tracks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tracking.fast_tracks import FlatTracks

Array = NDArray[np.float64]
_CLOSE_CALL = 1e-6
"""Metres from the limit within which rounding could decide whether a pair is allowed."""


@dataclass(frozen=True)
class Matches:
    """What became of every box at every threshold.

    Attributes:
        partner: (T, N) row of the matched prediction, -1 where the object was missed.
        switched: (T, N) True where the object changed its track.
        distance: (T, N) metres, 0 where missed.
        false_positives: (T,) predictions without an object.
        frames: (T,) key frames with an object or a prediction.
    """

    partner: NDArray[np.int64]
    switched: NDArray[np.bool_]
    distance: Array
    false_positives: NDArray[np.int64]
    frames: NDArray[np.int64]


@dataclass(frozen=True)
class _Frame:
    """One key frame with objects and tracks.

    Attributes:
        objects: (n,) object numbers, `tracks` (k,) track numbers.
        places, found: (n, 2) and (k, 2) centres.
        active: (T, k) which tracks pass each threshold; every row has at least one.
    """

    objects: NDArray[np.int64]
    tracks: NDArray[np.int64]
    places: Array
    found: Array
    active: NDArray[np.bool_]


def match(truth: FlatTracks, found: FlatTracks, thresholds: Array, limit: float) -> Matches:
    """Match the boxes of one class.

    Args:
        truth, found: ground truth and predictions of the class.
        thresholds: (T,) ascending; a prediction counts where its score is at least the threshold.
        limit: metres; a pair must be nearer.
    """
    shape = (len(thresholds), len(truth))
    partner, switched, distance = np.full(shape, -1), np.zeros(shape, dtype=np.bool_), np.zeros(shape)
    objects, object_of = np.unique(truth.track, return_inverse=True)
    tracks, track_of = np.unique(found.track, return_inverse=True)
    last = np.full((len(thresholds), len(objects)), -1)
    column = np.full(len(tracks) + 1, -1)  # the last entry answers for "no track yet"
    active = found.score >= thresholds[:, None]
    frames = np.unique(truth.frame)
    begin, end = (np.searchsorted(truth.frame, frames, side) for side in ("left", "right"))
    first, stop = (np.searchsorted(found.frame, frames, side) for side in ("left", "right"))
    for a, b, c, d in np.stack([begin, end, first, stop], axis=1).tolist():
        now = active[:, c:d]
        rows = int(now.any(axis=1).sum())  # thresholds ascend: those with a track come first
        if rows == 0:
            continue
        frame = _Frame(object_of[a:b], track_of[c:d], truth.xy[a:b], found.xy[c:d], now[:rows])
        chosen, new, length = _match_frame(frame, last[:rows], column, limit)
        partner[:rows, a:b] = np.where(chosen >= 0, chosen + c, -1)
        switched[:rows, a:b] = new
        distance[:rows, a:b] = length
    alone = ~np.isin(found.frame, frames)
    frame_count = len(frames) + _frames_with(found.frame[alone], active[:, alone])
    false_positives = active.sum(axis=1) - (partner >= 0).sum(axis=1)
    return Matches(partner, switched, distance, false_positives, frame_count)


def _frames_with(frame: NDArray[np.int64], active: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(T,) number of frames with at least one active box; `frame` ascends."""
    starts = np.flatnonzero(np.diff(frame, prepend=-1))
    if not len(starts):
        return np.zeros(len(active), dtype=np.int64)
    return np.logical_or.reduceat(active, starts, axis=1).sum(axis=1)


def distances(places: Array, found: Array) -> Array:
    """(n, k) planar distances, expanded as |x|^2 - 2 x.y + |y|^2 like scikit-learn, to its very rounding.

    Far from the map's origin the expansion is off by up to 0.02 mm, which shows where a box is met exactly.
    """
    squared = -2 * (places @ found.T)
    squared += np.einsum("ij,ij->i", places, places)[:, None]
    squared += np.einsum("ij,ij->i", found, found)[None]
    return np.sqrt(np.maximum(squared, 0))


def assign(costs: Array, allowed: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of as many allowed pairs as possible with the least total cost.

    Forbidden pairs get the constant that py-motmetrics gives them, and no row or column is taken out before, so
    that ties fall as they fall there.
    """
    if not allowed.any():
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if not allowed.all():
        highest = np.abs(costs[allowed]).max() + 1
        costs = np.where(allowed, costs, 2 * min(costs.shape) * highest + 1)
    rows, columns = linear_sum_assignment(costs)
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def _match_frame(
    frame: _Frame, last: NDArray[np.int64], column: NDArray[np.int64], limit: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_], Array]:
    """Match one frame at all thresholds.

    Args:
        last: (T, all objects) the track each object was last matched with, -1 for none; brought up to date.
        column: (all tracks + 1,) filled with -1; used as scratch and left so.

    Returns:
        (T, n) matched column or -1, (T, n) whether the track is another than before, (T, n) distance.
    """
    apart = distances(frame.places, frame.found)
    repeated = len(np.unique(frame.tracks)) < len(frame.tracks) or len(np.unique(frame.objects)) < len(
        frame.objects
    )
    if repeated or (np.abs(apart - limit) < _CLOSE_CALL).any():
        return _match_one_by_one(frame, last, limit)
    near = apart < limit
    before = last[:, frame.objects]
    chosen = np.full(before.shape, -1)
    free = frame.active.copy()

    # Objects keep their track. Two may claim one that passed between them: the first in the frame's order has it.
    column[frame.tracks] = np.arange(len(frame.tracks))
    kept = column[before]
    column[frame.tracks] = -1
    t, i = np.nonzero(kept >= 0)
    j = kept[t, i]
    valid = near[i, j] & frame.active[t, j]
    t, i, j = t[valid], i[valid], j[valid]
    claim = np.full(free.shape, len(frame.objects))
    np.minimum.at(claim, (t, j), i)  # writing i to [t, j] in reverse order would do, had numpy an order there
    valid = claim[t, j] == i
    t, i, j = t[valid], i[valid], j[valid]
    chosen[t, i] = j
    free[t, j] = False

    # Pairs of what is left. One that shares neither object nor track with another is certain.
    row, col = np.nonzero(near)
    open_pairs = (chosen < 0)[:, row] & free[:, col]
    changed = np.zeros(before.shape, dtype=np.bool_)
    if open_pairs.any():
        rivals = ((row[:, None] == row) | (col[:, None] == col)).astype(np.float32)
        lonely = open_pairs & (open_pairs.astype(np.float32) @ rivals == 1)
        t, p = np.nonzero(lonely)
        chosen[t, row[p]] = col[p]
        changed[t, row[p]] = True
        solved: dict[bytes, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for t in np.flatnonzero((open_pairs & ~lonely).any(axis=1)).tolist():
            key = frame.active[t].tobytes() + open_pairs[t].tobytes()
            if key not in solved:
                solved[key] = _solve(frame, apart, frame.active[t], (row[open_pairs[t]], col[open_pairs[t]]))
            chosen[t, solved[key][0]] = solved[key][1]
            changed[t, solved[key][0]] = True
    t, i = np.nonzero(changed)
    track = frame.tracks[chosen[t, i]]
    changed[t, i] = (before[t, i] >= 0) & (before[t, i] != track)
    last[t, frame.objects[i]] = track

    length = np.where(chosen >= 0, apart[np.arange(len(frame.objects)), chosen], 0.0)
    for t in np.flatnonzero(frame.active.sum(axis=1) == 1).tolist():
        j = int(frame.active[t].argmax())  # the product with one column rounds in another way
        length[t] = np.where(chosen[t] >= 0, distances(frame.places, frame.found[j : j + 1])[:, 0], 0.0)
    return chosen, changed, length


def _solve(
    frame: _Frame, apart: Array, active: NDArray[np.bool_], pairs: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Objects and columns assigned among the open pairs, in the matrix of the active columns."""
    there = np.flatnonzero(active)
    allowed = np.zeros(apart.shape, dtype=np.bool_)
    allowed[pairs] = True
    costs = apart[:, there] if len(there) > 1 else distances(frame.places, frame.found[there])
    rows, columns = assign(costs, allowed[:, there])
    return rows, there[columns]


def _match_one_by_one(
    frame: _Frame, last: NDArray[np.int64], limit: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_], Array]:
    """As `_match_frame`, threshold by threshold: for repeated ids and pairs at the limit to the last bit."""
    shape = (len(last), len(frame.objects))
    chosen, changed, length = np.full(shape, -1), np.zeros(shape, dtype=np.bool_), np.zeros(shape)
    for t in range(len(last)):
        there = np.flatnonzero(frame.active[t])
        apart = distances(frame.places, frame.found[there])
        near, tracks = apart < limit, frame.tracks[there]
        taken = np.zeros(len(there), dtype=np.bool_)
        for i, thing in enumerate(frame.objects):
            same = np.flatnonzero(~taken & (tracks == last[t, thing]))
            if len(same) and near[i, same[0]]:
                chosen[t, i], taken[same[0]] = there[same[0]], True
                length[t, i] = apart[i, same[0]]
        allowed = near & (chosen[t] < 0)[:, None] & ~taken
        for i, j in zip(*assign(apart, allowed), strict=True):
            thing = frame.objects[i]
            chosen[t, i], length[t, i] = there[j], apart[i, j]
            changed[t, i] = last[t, thing] not in (-1, tracks[j])
            last[t, thing] = tracks[j]
    return chosen, changed, length
