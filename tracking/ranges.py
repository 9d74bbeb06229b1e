"""How well objects are tracked near and far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tracking.operating import Outcome, ego_range

EDGES: tuple[float, ...] = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0)
"""Metres between which boxes are counted together; each bin takes its lower edge."""


@dataclass(frozen=True)
class RangeRow:
    """The boxes of one class (or "all") in one ring around the ego.

    Attributes:
        near, far: metres; an annotated box belongs where it is, a false positive where it was predicted.
        objects: annotated boxes.
        tp, fn, fp, ids: matched (switches among them), missed, false and switched boxes.
        error_m: mean distance of the matched, NaN where there are none.
    """

    class_name: str
    near: float
    far: float
    objects: int
    tp: int
    fn: int
    fp: int
    ids: int
    error_m: float

    @property
    def recall(self) -> float:
        """Share of the annotated boxes that were matched; NaN where nothing is annotated."""
        return self.tp / self.objects if self.objects else float("nan")

    @property
    def precision(self) -> float:
        """Share of the predictions that matched; NaN where nothing was predicted."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else float("nan")

    @property
    def mota(self) -> float:
        """1 - (fn + fp + ids) / objects, not clipped; NaN where nothing is annotated."""
        return 1 - (self.fn + self.fp + self.ids) / self.objects if self.objects else float("nan")


def range_rows(outcomes: Sequence[Outcome], edges: Sequence[float] = EDGES) -> list[RangeRow]:
    """Rows of all classes together, then of each class, near to far; rings without any box are left out."""
    parts = [row for outcome in outcomes for row in _rows(outcome, edges)]
    rings = list(pairwise(edges))
    together = [_sum("all", ring, [row for row in parts if (row.near, row.far) == ring]) for ring in rings]
    return [row for row in (*together, *parts) if row.objects + row.fp]


def _rows(outcome: Outcome, edges: Sequence[float]) -> Iterable[RangeRow]:
    away = ego_range(outcome.truth, outcome.frames)
    false_away = ego_range(outcome.found[outcome.alarms], outcome.frames)
    hit = outcome.partner >= 0
    for near, far in pairwise(edges):
        here = (away >= near) & (away < far)
        matched = here & hit
        error = float(outcome.distance[matched].mean()) if matched.any() else float("nan")
        yield RangeRow(
            outcome.name,
            near,
            far,
            int(here.sum()),
            int(matched.sum()),
            int((here & ~hit).sum()),
            int(((false_away >= near) & (false_away < far)).sum()),
            int((here & outcome.switched).sum()),
            error,
        )


def _sum(name: str, ring: tuple[float, float], rows: Sequence[RangeRow]) -> RangeRow:
    objects, tp, fn, fp, ids = (
        sum(getattr(row, key) for row in rows) for key in ("objects", "tp", "fn", "fp", "ids")
    )
    error = sum(row.error_m * row.tp for row in rows if row.tp) / tp if tp else float("nan")
    return RangeRow(name, *ring, objects, tp, fn, fp, ids, error)
