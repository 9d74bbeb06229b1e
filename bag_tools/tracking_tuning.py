"""Search for the tracker's settings, and what settings are worth on scenes they were not chosen on.

The search is the cross-entropy method (Rubinstein, The cross-entropy method for combinatorial and continuous
optimization, 1999): settings are drawn around a mean, which moves to the mean of the best. Each is scored on
thinned copies of the data, so that what wins by a single box of luck does not win.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bag_tools.tracking_bench import DataSet, Score, metrics_of, score, track_set
from streampetr_core.boxes import Boxes3D
from tracking.ablation import Variant
from tracking.config import ClassParameters, TrackerConfig
from tracking.nuscenes_format import Row
from tracking.tracker import Tracker

GROUPS: dict[str, tuple[str, ...]] = {
    "car": ("car",),
    "large": ("truck", "bus", "trailer", "construction_vehicle"),
    "cycle": ("bicycle", "motorcycle"),
    "pedestrian": ("pedestrian",),
}
"""Classes that share their settings."""
GUESS: dict[str, ClassParameters] = {
    "car": ClassParameters(speed=4.0, sideways=0.5),
    "large": ClassParameters(speed=4.0, sideways=0.5, lateral=(0.4, 0.02), radial=(0.6, 0.06)),
    "cycle": ClassParameters(speed=3.0, sideways=0.5, max_range=40.0),
    "pedestrian": ClassParameters(acceleration=0.2, speed=1.2, sideways=0.5, velocity_noise=0.4, max_range=40.0),
}
"""Where a search begins: round numbers from before any search."""
THINNED = 0.04
"""Share of the boxes that a thinned copy lacks."""

_LOGARITHMIC = ("acceleration", "speed", "sideways", "velocity_noise", "merge")
_PAIRS = ("lateral", "radial")
_LINEAR = ("gate", "velocity_gate")
_SPREAD = np.array([0.35, 0.3, 0.4, 0.25, 0.4, 0.3, 0.3, 0.3, 0.2, 0.7, 0.7])


@dataclass(frozen=True)
class Budget:
    """How long to search."""

    rounds: int = 3
    candidates: int = 20
    copies: int = 2
    seed: int = 1


def thinned(seed: int, names: Sequence[str] | None = None) -> Callable[[Boxes3D], Boxes3D]:
    """A change that drops a few boxes of every frame, always the same ones; 0 drops none. With `names`, only boxes
    of these classes are kept."""

    def change(boxes: Boxes3D) -> Boxes3D:
        kept = np.ones(len(boxes), dtype=bool)
        if seed:
            kept = np.random.default_rng((seed, boxes.stamp_ns)).random(len(boxes)) >= THINNED
        if names is not None:
            kept &= np.isin(boxes.names(), names)
        return boxes[kept]

    return change


def search(sets: Sequence[DataSet], group: str, base: TrackerConfig, budget: Budget) -> ClassParameters:
    """The settings of a group of classes that do best on all sets together."""
    rng = np.random.default_rng(budget.seed)
    names, start = GROUPS[group], GUESS[group]
    mean, spread = _vector(start), _SPREAD.copy()
    for index in range(budget.rounds):
        drawn = mean + spread * rng.normal(size=(budget.candidates, len(mean)))
        drawn[0] = mean
        copies = [1 + index * budget.copies + copy for copy in range(budget.copies)]
        worth = [_worth(sets, names, with_group(base, group, _row(x, start)), copies) for x in drawn]
        best = drawn[np.argsort(worth)[::-1][: max(budget.candidates // 4, 4)]]
        mean, spread = best.mean(0), 0.7 * best.std(0) + 0.15 * spread
    return _row(mean, start)


def with_group(base: TrackerConfig, group: str, row: ClassParameters) -> TrackerConfig:
    """The settings with those of a group of classes exchanged."""
    return replace(base, classes={**base.classes, **dict.fromkeys(GROUPS[group], row)})


def cross_validate(
    sets: Sequence[DataSet], budget: Budget, base: TrackerConfig, note: Callable[[str], None]
) -> list[Score]:
    """Scores on each set when every scene is tracked with settings found on other scenes.

    Scenes are dealt to two folds in turn; settings found on one fold of all sets track the other.
    """
    rows: list[dict[str, list[Row]]] = [{} for _ in sets]
    spent = [0.0 for _ in sets]
    for fold in (0, 1):
        chosen = base
        train = [data.of(data.scenes[1 - fold :: 2]) for data in sets]
        for group in GROUPS:
            found = search(train, group, base, budget)
            note(f"fold {fold}, {group}: {found}")
            chosen = with_group(chosen, group, found)
        for number, data in enumerate(sets):
            held_out = data.of(data.scenes[fold::2])
            results, milliseconds = track_set(held_out, Variant("", lambda chosen=chosen: Tracker(chosen)))
            rows[number] |= results.tracks
            spent[number] += milliseconds / 2
    return [
        Score(metrics_of(data, tracks), milliseconds)
        for data, tracks, milliseconds in zip(sets, rows, spent, strict=True)
    ]


def spread(data: DataSet, base: TrackerConfig, copies: int = 10) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation of every metric over thinned copies of a set."""
    found = [
        score(data, Variant("", lambda: Tracker(base), thinned(seed))).values for seed in range(1, copies + 1)
    ]
    table = {name: [values[name] for values in found] for name in found[0]}
    mean = {name: float(np.mean(values)) for name, values in table.items()}
    return mean, {name: float(np.std(values, ddof=1)) for name, values in table.items()}


def _worth(sets: Sequence[DataSet], names: Sequence[str], config: TrackerConfig, copies: Sequence[int]) -> float:
    total = 0.0
    for data in sets:
        for copy in copies:
            variant = Variant("", lambda: Tracker(config), thinned(copy, names))
            summary = score(data, variant).summary["label_metrics"]
            of_class = [
                summary["amota"][name] + 0.5 * summary["mota"][name] - 0.002 * summary["ids"][name]
                for name in names
                if np.isfinite(summary["amota"].get(name, np.nan))
            ]
            total += float(np.mean(of_class)) if of_class else 0.0
    return total


def _vector(row: ClassParameters) -> np.ndarray:
    """Positive settings by their logarithm."""
    positive = [getattr(row, name) for name in _LOGARITHMIC] + [x for name in _PAIRS for x in getattr(row, name)]
    return np.concatenate([np.log(positive), [getattr(row, name) for name in _LINEAR]])


def _row(vector: np.ndarray, base: ClassParameters) -> ClassParameters:
    positive = [float(value) for value in np.exp(vector[: len(_LOGARITHMIC) + 2 * len(_PAIRS)])]
    settings: dict[str, object] = dict(zip(_LOGARITHMIC, positive, strict=False))
    pairs = positive[len(_LOGARITHMIC) :]
    settings |= {name: (pairs[2 * number], pairs[2 * number + 1]) for number, name in enumerate(_PAIRS)}
    settings |= {name: float(value) for name, value in zip(_LINEAR, vector[-len(_LINEAR) :], strict=True)}
    return replace(base, **settings)  # type: ignore[arg-type]
