"""The tracker on whole data sets: its score and its time, for `streampetr bench tracking`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from bag_tools.nuscenes_tables import NuScenesTables
from bag_tools.pipeline import Detected, Results, detections_of_split
from tracking.ablation import Variant
from tracking.bench import Load
from tracking.fast_evaluation import fast_tracking_metrics, official_config
from tracking.fast_tracks import load_tracks
from tracking.nuscenes_format import Submission, read_submission

_COLUMNS = ("amota", "mota", "ids", "fp", "car", "pedestrian")


@dataclass(frozen=True)
class DataSet:
    """Detections of a split, ready for the tracker, and where their ground truth is."""

    name: str
    folder: Path
    scenes: tuple[str, ...]
    items: tuple[Detected, ...]


@dataclass(frozen=True)
class Score:
    """Official metrics of one run, and what it cost.

    Attributes:
        values: by name: amota, mota, ids, fp, and the AMOTA of single classes.
        milliseconds: of one core a frame.
    """

    values: dict[str, float]
    milliseconds: float


def open_set(root: Path, detections: str, version: str, split: str) -> DataSet:
    """Read the detections of a split with their stamps and poses.

    Raises:
        FormatError, PipelineError, NuScenesError: for what a file lacks.
    """
    below = root / detections
    tables = NuScenesTables(root, version, split)
    submission = read_submission(below if below.exists() else Path(detections), "detection")
    items = tuple(detections_of_split(submission, tables))
    scenes = tuple(scene["name"] for scene in tables.scenes)
    return DataSet(f"{root.name} {split}", root / version, scenes, items)


def score(data: DataSet, variant: Variant) -> Score:
    """Track a data set and score the tracks."""
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
    official = official_config()
    submission = Submission("tracking", results.tracks)
    found = load_tracks(submission, data.folder, data.scenes, official["class_range"])
    summary, _ = fast_tracking_metrics(found, official)
    classes = summary["label_metrics"]["amota"]
    values = {name: float(classes[name] if name in classes else summary[name]) for name in _COLUMNS}
    return Score(values, spent * 1e-6 / max(len(data.items), 1))


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
