"""Each idea of the tracker switched off in turn, to see what it brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from streampetr_core.boxes import Boxes3D
from tracking.association import mahalanobis
from tracking.config import ClassParameters, TrackerConfig
from tracking.tracker import Tracker
from tracking.tracks import Seen


@dataclass(frozen=True)
class Variant:
    """The tracker with one thing changed.

    Attributes:
        name: for a table.
        make: the tracker.
        change: what happens to the boxes before it gets them.
    """

    name: str
    make: Callable[[], Tracker]
    change: Callable[[Boxes3D], Boxes3D] = lambda boxes: boxes


class _RawScores(Tracker):
    """Takes scores at their face value."""

    def _measure(self, boxes: Boxes3D, ego: np.ndarray | None) -> Seen:
        return replace(super()._measure(boxes, ego), standing=np.clip(boxes.score, 0.0, 1.0))


class _LatestScore(Tracker):
    """Gives a track the standing of its last box instead of all it took."""

    def _update(self, rows: np.ndarray, seen: Seen) -> None:
        super()._update(rows, seen)
        self._tracks.evidence[rows] = self._tracks.weight[rows] * seen.standing


class _PlainDistance(Tracker):
    """Compares Mahalanobis distances without log determinants; the gates let 99 % of the boxes through."""

    def _reach(self, gate: np.ndarray, seen: Seen) -> np.ndarray:
        return super()._reach(gate + 6.0, seen)

    def _costs(
        self, rows: np.ndarray, seen: Seen, columns: np.ndarray, limit: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, columns, cost = super()._costs(rows, seen, columns, limit + 20.0)
        covariance = self._tracks.covariance
        still = np.zeros((len(rows), 2))
        _, place = mahalanobis(still, covariance[rows, :2, :2] + seen.fresh_noise()[columns])
        _, speed = mahalanobis(still, covariance[rows, 2:4, 2:4] + seen.speed_noise[columns])
        return rows, columns, cost - place - np.where(seen.moving[columns], speed, 0.0)


def variants(config: TrackerConfig | None = None) -> list[Variant]:
    """The whole tracker first, then without each idea."""
    base = config or TrackerConfig()

    def changed(name: str, **settings: float) -> Variant:
        return Variant(name, lambda: Tracker(replace(base, **settings)))  # type: ignore[arg-type]

    def by_class(name: str, change: Callable[[ClassParameters], ClassParameters]) -> Variant:
        classes = {label: change(row) for label, row in base.classes.items()}
        return Variant(name, lambda: Tracker(replace(base, classes=classes, other=change(base.other))))

    def class_setting(name: str, **settings: float) -> Variant:
        return by_class(name, lambda row: replace(row, **settings))  # type: ignore[arg-type]

    return [
        Variant("as it is", lambda: Tracker(base)),
        class_setting("motion in any direction", sideways=0.0),
        Variant("measured velocities ignored", lambda: Tracker(base), _without_velocity),
        Variant("zero velocities taken as measured", lambda: Tracker(base), _with_zeros),
        changed("all of the error new in every frame", slow_share=0.0),
        by_class("noise the same in all directions", _round),
        by_class("noise as along the ray, in all directions", lambda row: replace(row, lateral=row.radial)),
        by_class("four times the process noise", lambda row: replace(row, acceleration=4 * row.acceleration)),
        class_setting("no merging along the ray", merge=0.0),
        changed("sizes not compared", size_limit=0.0),
        changed("a new track reaches no farther", lone_gate=0.0),
        changed("classes never flip", flip=1e3),
        Variant("scores at face value", lambda: _RawScores(base)),
        Variant("score of the last box only", lambda: _LatestScore(base)),
        changed("new tracks not doubted", doubt=0.0),
        changed("lost tracks not shown", coast_time=0.0),
        changed("lost tracks at full score", coast_score=1.0),
        changed("tracks die after 1.2 s", max_age=1.2),
        Variant("no log determinants", lambda: _PlainDistance(replace(base, classes=_plain(base)))),
        by_class("gates 1 tighter", _gate(-1.0)),
        by_class("gates 1 wider", _gate(1.0)),
    ]


def _plain(config: TrackerConfig) -> dict[str, ClassParameters]:
    """Gates of the chi-square distribution: 9.2 with two degrees of freedom, 13.3 with four."""
    return {name: replace(row, gate=9.2, velocity_gate=4.1) for name, row in config.classes.items()}


def _gate(more: float) -> Callable[[ClassParameters], ClassParameters]:
    return lambda row: replace(row, gate=row.gate + more)


def _round(row: ClassParameters) -> ClassParameters:
    (a, b), (c, d) = row.lateral, row.radial
    mean = (float(np.sqrt(a * c)), float(np.sqrt(b * d)))
    return replace(row, lateral=mean, radial=mean)


def _without_velocity(boxes: Boxes3D) -> Boxes3D:
    return replace(boxes, velocity=np.full_like(boxes.velocity, np.nan))


def _with_zeros(boxes: Boxes3D) -> Boxes3D:
    zero = ~np.isfinite(boxes.velocity).all(1) | (boxes.velocity == 0).all(1)
    return replace(boxes, velocity=np.where(zero[:, None], 1e-9, boxes.velocity))
