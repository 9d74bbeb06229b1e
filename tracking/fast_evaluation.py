"""The official nuScenes tracking metrics, computed for all score thresholds at once instead of one after another.

An implementation of its own that gives the numbers of nuscenes-devkit 1.2.0 with py-motmetrics 1.4.0. What they do
is followed to the last bit where a comparison hangs on it: score means, interpolated scores, distances, ties.

Legend: `T` thresholds, `N` ground truth boxes of a class.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracking.devkit import EvaluationError
from tracking.fast_matching import Matches, match
from tracking.fast_tracks import FlatTracks, TrackSet
from tracking.nuscenes_format import TRACKING_CLASSES

Array = NDArray[np.float64]

SECONDS_PER_FRAME = 0.5
"""What the official code takes for the time between key frames."""

_CURVES: tuple[str, ...] = (
    "recall",
    "motar",
    "gt",
    "mota",
    "motp",
    "mt",
    "ml",
    "faf",
    "tp",
    "fp",
    "fn",
    "ids",
    "frag",
    "tid",
    "lgd",
)
_METRICS: tuple[str, ...] = ("amota", "amotp", *_CURVES)
_SUMMED = ("mt", "ml", "tp", "fp", "fn", "ids", "frag")
_AVERAGED = {"amota": "motar", "amotp": "motp"}


def fast_tracking_metrics(tracks: TrackSet, config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and curves as the official `TrackingEval` (tracking_nips_2019) serialises them.

    Args:
        tracks: what `fast_tracks.load_tracks` gives.
        config: what `official_config` gives.

    Raises:
        EvaluationError: when more predictions than annotations match (a track id twice in a sample).
    """
    begun = time.time()
    details = {name: _curves(tracks.truth, tracks.found, name, config) for name in TRACKING_CLASSES}
    values: dict[str, dict[str, float]] = {metric: {} for metric in _METRICS}
    for name, curves in details.items():
        for metric, value in _label_metrics(curves, config["metric_worst"]).items():
            values[metric][name] = value
    summary: dict[str, Any] = {"label_metrics": values, "eval_time": time.time() - begun, "cfg": config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a metric that no class has is NaN
        for metric, of_class in values.items():
            mean_or_sum = np.nansum if metric in _SUMMED else np.nanmean
            summary[metric] = float(mean_or_sum(list(of_class.values())))
    return summary, {name: {key: c.tolist() for key, c in curves.items()} for name, curves in details.items()}


def _curves(truth: FlatTracks, found: FlatTracks, name: str, config: dict[str, Any]) -> dict[str, Array]:
    """Every metric of one class at each recall level, highest recall first; NaN where there is no value."""
    label, levels = TRACKING_CLASSES.index(name), int(config["num_thresholds"])
    truth, found = truth[truth.label == label], found[found.label == label]
    curves = {key: np.full(levels, np.nan) for key in ("confidence", "recall_hypo", *_CURVES)}
    if not len(truth):
        return curves
    limit = float(config["dist_th_tp"])
    scores = _matched_scores(found, match(truth, found, np.array([-np.inf]), limit))
    if not len(scores):
        return curves | _worst(truth, config)
    recalls = np.linspace(config["min_recall"], 1, levels).round(12)
    curves["confidence"] = _thresholds(scores, recalls, len(truth), name)[::-1]
    curves["recall_hypo"] = recalls[::-1]
    reached = ~np.isnan(curves["confidence"])
    if not reached.any():
        return curves | _worst(truth, config)
    # Many boxes of one score give one threshold many times: it is computed once.
    thresholds, which = np.unique(curves["confidence"][reached], return_inverse=True)
    for key, value in _metrics(truth, match(truth, found, thresholds, limit)).items():
        curves[key][reached] = value[which]
    return curves


def _matched_scores(found: FlatTracks, matches: Matches) -> Array:
    """Scores of the predictions that matched without a change of identity, highest first."""
    partner = matches.partner[0][(matches.partner[0] >= 0) & ~matches.switched[0]]
    key = found.frame * (found.track.max(initial=0) + 1) + found.track
    return np.sort(found.score[np.isin(key, key[partner])])[::-1]  # all boxes of a repeated id count


def _thresholds(scores: Array, recalls: Array, objects: int, name: str) -> Array:
    """The score at each recall level, NaN where the level is not reached.

    Args:
        scores: of the true positives, descending; recalls ascending; objects: number of ground truth boxes.
    """
    recall = np.arange(1, len(scores) + 1) / objects
    if recall[-1] > 1:
        raise EvaluationError(
            f"class {name}: {len(scores)} predictions match {objects} annotations; is an id twice in a sample?"
        )
    thresholds = np.interp(recalls, recall, scores, right=0)
    thresholds[recalls > recall[-1]] = np.nan
    return thresholds


def _worst(truth: FlatTracks, config: dict[str, Any]) -> dict[str, Array]:
    """The curves of a class of which no recall level is reached."""
    known = {"ml": len(np.unique(truth.track)), "gt": len(truth), "fn": len(truth)}
    values = {key: config["metric_worst"][key] for key in _CURVES}
    values = {key: known.get(key, np.nan) if value == -1 else value for key, value in values.items()}
    return {key: np.full(int(config["num_thresholds"]), float(value)) for key, value in values.items()}


def _metrics(truth: FlatTracks, matches: Matches) -> dict[str, Array]:
    """The CLEAR MOT metrics (T,) of one class, as defined by nuScenes (MOTA and MOTAR clipped at 0)."""
    objects, hit = len(truth), matches.partner >= 0
    detected, ids = hit.sum(axis=1), matches.switched.sum(axis=1)
    tp, fn, fp = detected - ids, objects - detected, matches.false_positives
    recall = tp / objects
    errors = fn + ids + fp
    with np.errstate(invalid="ignore", divide="ignore"):
        motar = np.maximum(0, 1 - (errors - (1 - recall) * objects) / (recall * objects))
        values = {
            "gt": np.full(len(hit), objects),
            "tp": tp,
            "fp": fp,
            "fn": fn,
            "ids": ids,
            "recall": detected / objects,
            "motar": np.where(tp == 0, np.nan, motar),
            "mota": np.maximum(0, 1 - errors / objects),
            "motp": np.where(detected == 0, np.nan, matches.distance.sum(axis=1) / detected),
            "faf": fp / matches.frames * 100,
        }
    return values | _per_object(truth.track, hit)


def _per_object(track: NDArray[np.int64], hit: NDArray[np.bool_]) -> dict[str, Array]:
    """Metrics (T,) over the lives of the objects: mostly tracked, lost, fragments, first hit, longest gap.

    An object has a box in every key frame between its first and its last (gaps were filled), so that positions
    within an object count key frames.
    """
    order = np.argsort(track, kind="stable")
    hit = hit[:, order]
    starts = np.flatnonzero(np.diff(track[order], prepend=-1))
    life = np.diff(starts, append=len(track))
    ratio = np.add.reduceat(hit, starts, axis=1, dtype=np.int64) / life
    found = ratio > 0
    index = np.arange(len(track))
    is_start = np.zeros(len(track), dtype=np.bool_)
    is_start[starts] = True

    begins = hit & (is_start | ~np.roll(hit, 1, axis=1))  # of a run of hits
    first = np.minimum.reduceat(np.where(hit, index, len(track)), starts, axis=1) - starts
    last_hit = np.maximum.accumulate(np.where(hit, index, np.where(is_start, index - 1, -1)), axis=1)
    gap = np.maximum.reduceat(index - last_hit, starts, axis=1)
    seen = found.sum(axis=1)
    with np.errstate(invalid="ignore"):  # nobody seen: NaN
        return {
            "mt": (ratio >= 0.8).sum(axis=1),
            "ml": (ratio < 0.2).sum(axis=1),
            "frag": begins.sum(axis=1) - seen,
            "tid": np.where(found, first, 0).sum(axis=1) * SECONDS_PER_FRAME / seen,
            "lgd": np.where(found, gap, 0).sum(axis=1) * SECONDS_PER_FRAME / seen,
        }


def _label_metrics(curves: dict[str, Array], worst: dict[str, float]) -> dict[str, float]:
    """One class's numbers: the averages over recall, and all else where MOTA is best (at the highest recall)."""
    values = dict.fromkeys(_METRICS, float("nan"))
    if not np.isnan(curves["mota"]).all():
        best = np.nanargmax(curves["mota"])
        values |= {key: float(curves[key][best]) for key in _CURVES}
    for metric, key in _AVERAGED.items():
        curve = curves[key]
        if not np.isnan(curve).all():
            values[metric] = float(np.mean(np.where(np.isnan(curve), worst[metric], curve)))
    return values
