"""Two runs on the same frames side by side, class by class."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streampetr_core.console import atomic_output
from streampetr_core.errors import StreamPETRError
from tracking.analysis import ALL, Analysis, number, without_nan
from tracking.evaluation import Evaluation
from tracking.events import Event

if TYPE_CHECKING:
    from rich.table import Table

MEASURES: dict[str, tuple[str, int, int]] = {
    "amota": ("AMOTA", 3, 1),
    "amotp": ("AMOTP", 3, -1),
    "recall": ("RECALL", 3, 1),
    "mota": ("MOTA", 3, 1),
    "hota": ("HOTA", 3, 1),
    "idf1": ("IDF1", 3, 1),
    "ids": ("IDS", 0, -1),
    "frag": ("FRAG", 0, -1),
    "fp": ("FP", 0, -1),
    "fn": ("FN", 0, -1),
}
"""What is compared: title, digits, and whether more (1) or less (-1) is better."""

PRINTED = ("amota", "mota", "hota", "idf1", "ids", "frag")
"""What fits into a terminal; the report and comparison.json have all."""

_OWN = ("hota", "idf1")


class ComparisonError(StreamPETRError):
    """Two runs that cannot be compared."""


@dataclass(frozen=True)
class Difference:
    """One measure of one class (or "all") in both runs; NaN where a run has no value."""

    class_name: str
    measure: str
    ours: float
    theirs: float

    @property
    def change(self) -> float:
        """Ours less theirs."""
        return self.ours - self.theirs

    @property
    def gain(self) -> float:
        """The change, positive where ours is better."""
        return self.change * MEASURES[self.measure][2]


@dataclass(frozen=True)
class Comparison:
    """How one run differs from another.

    Attributes:
        ours, theirs: what the runs are called.
        differences: by class, "all" first, and measure.
        new_events, gone_events: events that only our run has, and those that only theirs has; of the same object
            at the same key frame and of the same kind they are one.
    """

    ours: str
    theirs: str
    differences: list[Difference]
    new_events: list[Event]
    gone_events: list[Event]

    def classes(self) -> dict[str, list[Difference]]:
        """Class -> its measures, in the order of `MEASURES`."""
        names = dict.fromkeys(item.class_name for item in self.differences)
        return {name: [item for item in self.differences if item.class_name == name] for name in names}

    def write(self, folder: Path | str) -> Path:
        """Write `comparison.json`; returns its path."""
        path = Path(folder) / "comparison.json"
        content = {
            "ours": self.ours,
            "theirs": self.theirs,
            "differences": [asdict(item) | {"change": item.change} for item in self.differences],
            "new_events": [asdict(event) for event in self.new_events],
            "gone_events": [asdict(event) for event in self.gone_events],
        }
        with atomic_output(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(without_nan(content), indent=1))
        return path

    def table(self) -> Table:
        """Our value and the change against theirs; green where ours is better, red where it is worse."""
        from rich import box
        from rich.table import Table

        table = Table(title=f"{self.ours} against {self.theirs}", box=box.SIMPLE, padding=0, pad_edge=False)
        table.add_column("class", no_wrap=True)
        for measure in PRINTED:
            table.add_column(MEASURES[measure][0], justify="right", no_wrap=True)
        for name, items in self.classes().items():
            cells = (_cell(item) for item in items if item.measure in PRINTED)
            table.add_row(name, *cells, end_section=name == ALL)
        return table


def compare(ours: tuple[str, Evaluation, Analysis], theirs: tuple[str, Evaluation, Analysis]) -> Comparison:
    """Compare two runs that were scored on the same frames; each is named by its file.

    Raises:
        ComparisonError: when the frames are others.
    """
    frames = [set(outcome.frames.number) for run in (ours, theirs) for outcome in run[2].outcomes[:1]]
    if len(frames) == 2 and frames[0] != frames[1]:
        raise ComparisonError(
            f"{ours[0]} was scored on {len(frames[0])} key frames, {theirs[0]} on {len(frames[1])}, of which "
            f"{len(frames[0] & frames[1])} are the same; compare runs of the same drive, without --recorded-only"
        )
    names = [ALL, *(outcome.name for outcome in ours[2].outcomes)]
    differences = [
        Difference(name, measure, _value(ours, name, measure), _value(theirs, name, measure))
        for name in names
        for measure in MEASURES
    ]
    our_keys, their_keys = _keys(ours[2].events), _keys(theirs[2].events)
    new = [event for key, event in our_keys.items() if key not in their_keys]
    gone = [event for key, event in their_keys.items() if key not in our_keys]
    return Comparison(ours[0], theirs[0], differences, new, gone)


def _value(run: tuple[str, Evaluation, Analysis], name: str, measure: str) -> float:
    _, evaluation, analysis = run
    if measure in _OWN:
        return float(analysis.classes[name][measure])
    if name == ALL:
        return float(evaluation.summary[measure])
    return float(evaluation.summary["label_metrics"][measure].get(name, math.nan))


def _keys(events: Iterable[Event]) -> dict[tuple[str, str, str], Event]:
    return {(event.kind, event.sample, event.object): event for event in events}


def _cell(item: Difference) -> str:
    _, digits, _ = MEASURES[item.measure]
    if not math.isfinite(item.change) or abs(item.change) < 0.5 * 10**-digits:
        return number(item.ours, digits)
    colour = "green" if item.gain > 0 else "red"
    return f"{number(item.ours, digits)} [{colour}]{item.change:+.{digits}f}[/]"
