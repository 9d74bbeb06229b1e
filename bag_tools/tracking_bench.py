"""The tracker on whole data sets: its score and its time, for `streampetr bench tracking`."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from bag_tools.nuscenes_tables import NuScenesTables
from bag_tools.pipeline import Detected, Results, detections_of_split
from tracking.ablation import Variant
from tracking.bench import Load
from tracking.devkit import official_config
from tracking.fast_evaluation import fast_tracking_metrics
from tracking.fast_tracks import load_tracks
from tracking.nuscenes_format import Row, Submission, read_submission

_COLUMNS = ("amota", "mota", "ids", "fp", "car", "pedestrian")


@dataclass(frozen=True)
class DataSet:
    """Detections of a split, ready for the tracker, and where their ground truth is.

    Attributes:
        name: for a table.
        folder: of the tables.
        scenes: names of the scenes that are scored.
        names: scene token -> name.
        items: the detections in time order.
    """

    name: str
    folder: Path
    scenes: tuple[str, ...]
    names: Mapping[str, str]
    items: tuple[Detected, ...]

    def of(self, scenes: Collection[str]) -> DataSet:
        """The part with these scenes."""
        items = tuple(item for item in self.items if self.names[item.scene] in scenes)
        return replace(self, scenes=tuple(name for name in self.scenes if name in scenes), items=items)


@dataclass(frozen=True)
class Score:
    """Official metrics of one run, and what it cost.

    Attributes:
        summary: as the official evaluation gives it.
        milliseconds: of one core a frame.
    """

    summary: dict[str, Any]
    milliseconds: float

    @property
    def values(self) -> dict[str, float]:
        """The columns of a table: amota, mota, ids, fp of all classes, and the AMOTA of single ones."""
        classes = self.summary["label_metrics"]["amota"]
        return {name: float(classes[name] if name in classes else self.summary[name]) for name in _COLUMNS}


def open_set(root: Path, detections: str, version: str, split: str) -> DataSet:
    """Read the detections of a split with their stamps and poses.

    Raises:
        FormatError, PipelineError, NuScenesError: for what a file lacks.
    """
    below = root / detections
    tables = NuScenesTables(root, version, split)
    submission = read_submission(below if below.exists() else Path(detections), "detection")
    items = tuple(detections_of_split(submission, tables))
    names = {scene["token"]: scene["name"] for scene in tables.scenes}
    return DataSet(f"{root.name} {split}", root / version, tuple(names.values()), names, items)


def track_set(data: DataSet, variant: Variant) -> tuple[Results, float]:
    """The tracks of a data set, and milliseconds of one core a frame."""
    tracker, results, spent = variant.make(), Results(), 0
    for item in data.items:
        if item.boxes is None:
            results.add(item)
            continue
        boxes = variant.change(item.in_map())
        begun = time.thread_time_ns()
        tracks = tracker.step(boxes, item.map_from_ego, scene=item.scene)
        spent += time.thread_time_ns() - begun
        results.add(item, tracks)
    return results, spent * 1e-6 / max(len(data.items), 1)


def metrics_of(data: DataSet, tracks: dict[str, list[Row]]) -> dict[str, Any]:
    """The official summary of tracks on a data set."""
    official = official_config()
    submission = Submission("tracking", tracks)
    found = load_tracks(submission, data.folder, data.scenes, official["class_range"])
    return fast_tracking_metrics(found, official)[0]


def score(data: DataSet, variant: Variant) -> Score:
    """Track a data set and score the tracks."""
    results, milliseconds = track_set(data, variant)
    return Score(metrics_of(data, results.tracks), milliseconds)


def time_table(loads: list[Load]) -> Table:
    """Milliseconds by number of boxes."""
    table = Table("boxes a frame", "tracks", "ms p50", "ms p90", "us a box", title="time of one core")
    for load in loads:
        each = f"{load.p50 * 1e3 / load.boxes:.1f}"
        table.add_row(str(load.boxes), str(load.tracks), f"{load.p50:.2f}", f"{load.p90:.2f}", each)
    return table


def score_table(title: str, rows: list[tuple[str, Score]]) -> Table:
    """Scores on one data set by variant."""
    table = Table("tracker", title=title)
    for name in (*_COLUMNS, "ms a frame"):
        table.add_column(name, justify="right")
    for name, result in rows:
        cells = (f"{v:.0f}" if key in ("ids", "fp") else f"{v:.3f}" for key, v in result.values.items())
        table.add_row(name, *cells, f"{result.milliseconds:.2f}")
    return table


def spread_table(title: str, mean: dict[str, float], deviation: dict[str, float]) -> Table:
    """Mean and standard deviation of scores over thinned copies of a data set."""
    table = Table("", title=f"{title}, thinned copies")
    for name in mean:
        table.add_column(name, justify="right")
    for row, values in (("mean", mean), ("standard deviation", deviation)):
        table.add_row(row, *(f"{value:.1f}" if value > 2 else f"{value:.3f}" for value in values.values()))
    return table
