"""Everything beside the official numbers that is worth knowing of one set of tracks."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streampetr_core.console import atomic_output
from tracking.clear import add_counts, clear_counts, clear_scores
from tracking.events import Event, find_events
from tracking.fast_tracks import TrackSet
from tracking.hota import ALPHAS, hota, total
from tracking.operating import Outcome, operating_points
from tracking.ranges import RangeRow, range_rows

if TYPE_CHECKING:
    from rich.table import Table

ALL = "all"
_COLUMNS = {
    "hota": ("HOTA", 3),
    "deta": ("DetA", 3),
    "assa": ("AssA", 3),
    "idf1": ("IDF1", 3),
    "mota": ("MOTA", 3),
    "motp": ("MOTP", 2),
    "recall": ("recall", 3),
    "precision": ("prec.", 3),
    "ids": ("IDS", 0),
    "frag": ("FRAG", 0),
    "mt": ("MT", 0),
    "ml": ("ML", 0),
}


@dataclass(frozen=True)
class Analysis:
    """Scores, rings of range and events, all at the operating point of each class (`tracking.operating`).

    Attributes:
        classes: class, or "all" (every box counts the same), -> score or count by name.
        hota_curves: class or "all" -> (19,) HOTA over the similarity thresholds.
        ranges: rows of all classes together, then by class.
        events: switches and fragmentations in time order.
        outcomes: what became of every box, class by class.
    """

    classes: dict[str, dict[str, float]]
    hota_curves: dict[str, list[float]]
    ranges: list[RangeRow]
    events: list[Event]
    outcomes: list[Outcome]

    def write(self, folder: Path | str) -> tuple[Path, Path]:
        """Write `analysis.json` (scores, curves, ranges) and `events.json`; returns both paths."""
        paths = Path(folder) / "analysis.json", Path(folder) / "events.json"
        rows = [
            asdict(row) | {key: getattr(row, key) for key in ("recall", "precision", "mota")}
            for row in self.ranges
        ]
        scores = {
            "classes": self.classes,
            "hota_curves": {"alpha": ALPHAS.round(2).tolist(), **self.hota_curves},
            "ranges": rows,
        }
        for path, content in zip(paths, (scores, [asdict(event) for event in self.events]), strict=True):
            with atomic_output(path, overwrite=True) as temporary:
                temporary.write_text(json.dumps(without_nan(content), indent=1))
        return paths

    def class_table(self) -> Table:
        """Scores by class."""
        table = _table("CLEAR, identity and HOTA scores", ["class", *(title for title, _ in _COLUMNS.values())])
        for name in (ALL, *(outcome.name for outcome in self.outcomes)):
            values = (number(self.classes[name][key], digits) for key, (_, digits) in _COLUMNS.items())
            table.add_row(name, *values, end_section=name == ALL)
        return table

    def range_table(self) -> Table:
        """Rows of the rings, all classes together."""
        titles = ["metres", "objects", "recall", "precision", "MOTA", "error m", "IDS", "FP", "FN"]
        table = _table("by distance from the robot, all classes", titles)
        for row in self.ranges:
            if row.class_name == ALL:
                shares = (number(value, 3) for value in (row.recall, row.precision, row.mota))
                counts = (str(value) for value in (row.ids, row.fp, row.fn))
                ring = f"{row.near:.0f}-{row.far:.0f}"
                table.add_row(ring, str(row.objects), *shares, number(row.error_m, 2), *counts)
        return table

    def event_counts(self) -> Counter[str]:
        """How many events there are of each kind."""
        return Counter(event.kind for event in self.events)


def analyse(tracks: TrackSet, details: Mapping[str, Any]) -> Analysis:
    """Score the boxes of an evaluation in all other ways.

    Args:
        tracks: the boxes that were scored.
        details: the official or fast curves of these boxes by class, which name the operating points.
    """
    outcomes = operating_points(tracks, details)
    counts = [clear_counts(outcome) for outcome in outcomes]
    higher = [hota(outcome.truth, outcome.found, tracks.frames.scene) for outcome in outcomes]
    named = [(o.name, c, h) for o, c, h in zip(outcomes, counts, higher, strict=True)]
    classes = {}
    curves = {}
    for name, count, sums in ((ALL, add_counts(counts), total(higher)), *named):
        classes[name] = count | clear_scores(count) | sums.scores()
        curves[name] = sums.curve().tolist()
    for outcome in outcomes:
        classes[outcome.name]["threshold"] = outcome.threshold
    return Analysis(classes, curves, range_rows(outcomes), find_events(outcomes), outcomes)


def number(value: float, digits: int) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if not math.isfinite(value) else f"{value:.{digits}f}"


def without_nan(content: Any) -> Any:
    """The content with null for what JSON has no number for: NaN and infinity."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    if isinstance(content, (float, np.floating)):
        return float(content) if math.isfinite(content) else None
    return content


def _table(title: str, columns: list[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, padding=0, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    return table
