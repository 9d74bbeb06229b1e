"""HOTA (Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021).

The similarity of two boxes is 1 at the same planar centre and falls to 0 at `ZERO_DISTANCE`. HOTA is the geometric
mean of detection and association accuracy, averaged over 19 similarity thresholds.

Legend: `A` thresholds, `G` annotated tracks, `K` predicted tracks; in one frame `n` objects, `k` predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tracking.fast_tracks import FlatTracks

Array = NDArray[np.float64]

ZERO_DISTANCE = 2.0
"""Metres at which the similarity is zero: the official limit of a match."""

ALPHAS: Array = np.arange(1, 20) * 0.05
"""(A,) similarity thresholds, 0.05 to 0.95."""

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Hota:
    """Sums over frames, from which the scores follow; those of several classes can be added.

    Attributes:
        tp, fn, fp: (A,) counts.
        association, recall, precision: (A,) sums over the true positives of their association scores.
        similarity: (A,) sum of similarities over the true positives.
    """

    tp: Array
    fn: Array
    fp: Array
    association: Array
    recall: Array
    precision: Array
    similarity: Array

    def __add__(self, other: Hota) -> Hota:
        return Hota(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def curve(self) -> Array:
        """(A,) HOTA at each threshold."""
        detection = self.tp / np.maximum(1, self.tp + self.fn + self.fp)
        return np.sqrt(detection * self.association / np.maximum(1, self.tp))

    def scores(self) -> dict[str, float]:
        """The means over the thresholds: hota, deta, assa, loca, and the recalls and precisions of both halves.

        Where nothing matches at a threshold its localisation counts as 1, as in the authors' code.
        """
        hits = np.maximum(1, self.tp)
        loca = np.where(self.tp > 0, self.similarity / hits, 1.0)
        columns = {
            "hota": self.curve(),
            "deta": self.tp / np.maximum(1, self.tp + self.fn + self.fp),
            "assa": self.association / hits,
            "detre": self.tp / np.maximum(1, self.tp + self.fn),
            "detpr": self.tp / np.maximum(1, self.tp + self.fp),
            "assre": self.recall / hits,
            "asspr": self.precision / hits,
            "loca": loca,
        }
        return {name: float(np.mean(column)) for name, column in columns.items()}


def similarities(places: Array, found: Array) -> Array:
    """(n, k) from planar centres (n, 2) and (k, 2)."""
    apart = np.linalg.norm(places[:, None] - found[None], axis=-1)
    return np.maximum(0, 1 - apart / ZERO_DISTANCE)


def hota(truth: FlatTracks, found: FlatTracks, scene: NDArray[np.int64]) -> Hota:
    """Score the predictions of one class (their scores are not looked at) against its annotations.

    Args:
        scene: (F,) scene number by key frame; tables of object against track are made scene by scene.
    """
    scenes = np.unique(scene[np.concatenate([truth.frame, found.frame])])
    return total(_hota(truth[scene[truth.frame] == s], found[scene[found.frame] == s]) for s in scenes)


def total(parts: Iterable[Hota]) -> Hota:
    """The sum over scenes or classes: every box counts the same."""
    zero = np.zeros(len(ALPHAS))
    return sum(parts, start=Hota(*(zero,) * 7))


def _hota(truth: FlatTracks, found: FlatTracks) -> Hota:
    objects, object_of = np.unique(truth.track, return_inverse=True)
    tracks, track_of = np.unique(found.track, return_inverse=True)
    lengths = np.bincount(object_of, minlength=len(objects))[:, None]
    lives = np.bincount(track_of, minlength=len(tracks))[None]
    frames = [
        (object_of[a], track_of[b], similarities(truth.xy[a], found.xy[b]))
        for a, b in _common_frames(truth.frame, found.frame)
    ]
    together = np.zeros((len(objects), len(tracks)))
    for mine, theirs, alike in frames:  # how well any two tracks fit, over all time
        rivals = alike.sum(0, keepdims=True) + alike.sum(1, keepdims=True) - alike
        together[np.ix_(mine, theirs)] += np.divide(alike, rivals, where=rivals > 0, out=0 * alike)
    fit = together / np.maximum(lengths + lives - together, _ROUNDING)

    levels = len(ALPHAS)
    matched = np.zeros((levels, len(objects), len(tracks)))
    similarity, tp = np.zeros(levels), np.zeros(levels)
    for mine, theirs, alike in frames:
        rows, columns = linear_sum_assignment(-fit[np.ix_(mine, theirs)] * alike)
        level = alike[rows, columns]
        good = level >= ALPHAS[:, None] - _ROUNDING
        tp += good.sum(axis=1)
        similarity += good @ level
        matched[:, mine[rows], theirs[columns]] += good
    association = matched / np.maximum(1, lengths + lives - matched)
    return Hota(
        tp,
        len(truth) - tp,
        len(found) - tp,
        np.sum(matched * association, axis=(1, 2)),
        np.sum(matched * matched / np.maximum(1, lengths), axis=(1, 2)),
        np.sum(matched * matched / np.maximum(1, lives), axis=(1, 2)),
        similarity,
    )


def _common_frames(
    truth: NDArray[np.int64], found: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows of both in each frame that has both; frames need not ascend."""
    mine, theirs = np.argsort(truth, kind="stable"), np.argsort(found, kind="stable")
    for frame in np.intersect1d(truth, found):
        a = slice(*np.searchsorted(truth[mine], [frame, frame + 1]))
        b = slice(*np.searchsorted(found[theirs], [frame, frame + 1]))
        yield mine[a], theirs[b]
