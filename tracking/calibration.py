"""What a score is worth, learnt while tracking: detectors squeeze their scores into very different ranges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ScoreCalibration:
    """Mean and spread of each class's scores (as log odds) so far, and from them a score's standing, 0 to 1.

    One detector gives most boxes 0.87 to 0.90, another spreads them from 0.02 to 0.97: thresholds and sums of raw
    scores mean nothing across detectors, but how a score compares with others of its class does. Classes seen
    rarely lean on what is known of all classes together. Old scores fade, so a changed detector is followed.

    Args:
        classes: how many there are.
        prior: weight, in boxes, of all classes together in each class's statistics.
        horizon: number of boxes of a class after which older ones fade.
    """

    def __init__(self, classes: int, prior: float = 10.0, horizon: float = 2000.0) -> None:
        self._prior, self._horizon = prior, horizon
        self._sums = np.zeros((3, classes))  # count, sum, sum of squares

    def learn(self, score: Array, label: NDArray[np.int64]) -> None:
        """Take (N,) scores of (N,) classes into account."""
        odds = _log_odds(score)
        classes = self._sums.shape[1]
        new = np.stack([np.bincount(label, weight, classes) for weight in (np.ones_like(odds), odds, odds**2)])
        self._sums += new
        fade = np.minimum(self._horizon / np.maximum(self._sums[0], 1e-9), 1.0)
        self._sums *= fade

    def standing(self, score: Array, label: NDArray[np.int64]) -> Array:
        """(N,) logistic of how many standard deviations each score lies above its class's mean."""
        pooled = self._sums.sum(axis=1)
        count, total, squares = self._sums + self._prior * (pooled / max(pooled[0], 1e-9))[:, None]
        mean = total / np.maximum(count, 1e-9)
        spread = np.sqrt(np.maximum(squares / np.maximum(count, 1e-9) - mean**2, 0.0)) + 1e-3
        return 1 / (1 + np.exp(-(_log_odds(score) - mean[label]) / spread[label]))


def _log_odds(score: Array) -> Array:
    bounded = np.clip(score, 1e-4, 1 - 1e-4)
    return np.log(bounded / (1 - bounded))
