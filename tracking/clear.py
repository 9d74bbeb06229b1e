"""CLEAR MOT and identity scores of each class, by py-motmetrics."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracking.fast_matching import distances
from tracking.operating import MATCH_DISTANCE, Outcome

_COUNTS = {
    "objects": "num_objects",
    "predictions": "num_predictions",
    "detections": "num_detections",
    "fp": "num_false_positives",
    "fn": "num_misses",
    "ids": "num_switches",
    "frag": "num_fragmentations",
    "mt": "mostly_tracked",
    "ml": "mostly_lost",
    "idtp": "idtp",
    "idfp": "idfp",
    "idfn": "idfn",
}
"""Our name -> py-motmetrics' name."""

Counts = dict[str, float]


def clear_counts(outcome: Outcome) -> Counts:
    """What py-motmetrics counts in one class (`_COUNTS`), and `error`, the sum of the distances of matches.

    Pairs within 2 m of planar centre distance may match, as in the official evaluation.
    """
    import motmetrics
    from motmetrics.metrics import create

    accumulator = motmetrics.MOTAccumulator()
    truth, found = outcome.truth, outcome.found
    frames = np.union1d(truth.frame, found.frame)
    bounds = [np.searchsorted(boxes.frame, frames, side) for boxes in (truth, found) for side in ("left", "right")]
    for frame, a, b, c, d in zip(frames.tolist(), *(bound.tolist() for bound in bounds), strict=True):
        apart = distances(truth.xy[a:b], found.xy[c:d])
        apart[apart >= MATCH_DISTANCE] = np.nan
        accumulator.update(truth.track[a:b], found.track[c:d], apart, frameid=frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations within motmetrics and pandas
        values: Any = create().compute(accumulator, metrics=[*_COUNTS.values(), "motp"], return_dataframe=False)
    counts = {ours: float(values[theirs]) for ours, theirs in _COUNTS.items()}
    motp = float(values["motp"]) if counts["detections"] else 0.0
    return counts | {"error": motp * counts["detections"]}


def add_counts(parts: Sequence[Counts]) -> Counts:
    """The counts of several classes together."""
    return {name: sum(part[name] for part in parts) for name in (*_COUNTS, "error")}


def clear_scores(counts: Mapping[str, float]) -> dict[str, float]:
    """MOTA (may be negative), MOTP in metres, recall, precision and the identity scores; NaN where undefined."""

    def ratio(over: float, under: float) -> float:
        return over / under if under else float("nan")

    objects, detections = counts["objects"], counts["detections"]
    return {
        "mota": 1 - ratio(counts["fn"] + counts["fp"] + counts["ids"], objects),
        "motp": ratio(counts["error"], detections),
        "recall": ratio(detections, objects),
        "precision": ratio(detections, detections + counts["fp"]),
        "idf1": ratio(2 * counts["idtp"], 2 * counts["idtp"] + counts["idfp"] + counts["idfn"]),
        "idp": ratio(counts["idtp"], counts["idtp"] + counts["idfp"]),
        "idr": ratio(counts["idtp"], counts["idtp"] + counts["idfn"]),
    }
