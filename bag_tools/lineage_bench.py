"""What the lineage of boxes is worth to the tracker, on simulated detections of rendered drives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from bag_tools.pipeline import Detected
from bag_tools.simulated_detector import Lineage, Moment, detect, moments, with_lineage
from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
from tracking.config import TrackerConfig
from tracking.devkit import official_config
from tracking.fast_evaluation import fast_tracking_metrics
from tracking.fast_tracks import Box, KeyFrames, tracks_of_boxes
from tracking.nuscenes_format import TRACKING_CLASSES
from tracking.tracker import Tracker

DRIVES = 10
SECONDS = 20.0
WEIGHTS: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0)
LINEAGES: dict[str, Lineage] = {
    "kept 0.95": Lineage(0.95),
    "kept 0.80": Lineage(0.8),
    "kept 0.50": Lineage(0.5),
    "a third swapped": Lineage(0.8, swapped=0.33),
    "shuffled": Lineage(0.95, shuffled=True),
}
_NUMBER = np.array([TRACKING_CLASSES.index(n) if n in TRACKING_CLASSES else -1 for n in NUSCENES_CLASSES])


@dataclass(frozen=True)
class Simulation:
    """Drives and what a detector said of them.

    Attributes:
        drives: each a run of key frames.
        items: the detections of each drive.
    """

    drives: tuple[tuple[Moment, ...], ...]
    items: tuple[tuple[Detected, ...], ...]

    def told(self, lineage: Lineage | None) -> list[list[Detected]]:
        """The detections with lineage, or with none."""
        if lineage is None:
            unknown = (with_lineage(drive, Lineage(0.0)) for drive in self.items)
            return [[replace(item, boxes=replace(_boxes(item), lineage=None)) for item in d] for d in unknown]
        return [with_lineage(drive, lineage, seed) for seed, drive in enumerate(self.items)]


def simulate(drives: Iterable[Sequence[Moment]], seed: int) -> Simulation:
    """Detections of drives; another seed, other errors."""
    drives = tuple(tuple(drive) for drive in drives)
    return Simulation(drives, tuple(tuple(detect(drive, seed)) for drive in drives))


def summary_of(simulation: Simulation, items: Sequence[Sequence[Detected]], tracker: Tracker) -> dict[str, Any]:
    """The official summary of the tracks that a tracker makes of detections of the drives."""
    truth: list[Box] = []
    found: list[Box] = []
    stamps, scenes, egos = [], [], []
    for scene, (drive, detected) in enumerate(zip(simulation.drives, items, strict=True)):
        for moment, item in zip(drive, detected, strict=True):
            frame = len(stamps)
            stamps.append(moment.stamp_ns // 1000)
            scenes.append(scene)
            egos.append(moment.map_from_ego[:3, 3])
            annotated = moment.truth.boxes.transformed(moment.map_from_ego, "map")
            truth += _rows(frame, annotated, moment.truth.points)
            found += _rows(frame, tracker.step(item.in_map(), item.map_from_ego, item.scene), None)
    names = tuple(drive[0].scene for drive in simulation.drives)
    numbers = {str(i): i for i in range(len(stamps))}
    frames = KeyFrames(numbers, np.array(stamps), np.array(scenes), np.array(egos), names)
    official = official_config()
    return fast_tracking_metrics(tracks_of_boxes(truth, found, frames, official["class_range"]), official)[0]


def lineage_table(
    seeds: Sequence[int],
    repeats: int = 3,
    base: TrackerConfig | None = None,
    shown: Callable[[Sequence[Any]], Iterable[Any]] = iter,
) -> Table:
    """AMOTA and identity switches by the weight of the cue and by how well the lineage follows the objects.

    Args:
        seeds: of the drives.
        repeats: draws of the detector's errors, over which means and standard deviations are taken.
        base: all other settings of the tracker.
        shown: wraps the runs, to show how far they are.
    """
    drives = [moments(seed, SECONDS) for seed in shown(seeds)]
    runs = [(seed, name) for seed in range(repeats) for name in LINEAGES]
    settings = base or TrackerConfig()
    cells: dict[tuple[str, float], list[tuple[float, float]]] = {}
    simulations = [simulate(drives, seed) for seed in range(repeats)]
    for seed, name in shown(runs):
        items = simulations[seed].told(LINEAGES[name])
        for weight in WEIGHTS:
            result = summary_of(simulations[seed], items, Tracker(replace(settings, lineage=weight)))
            cells.setdefault((name, weight), []).append((result["amota"], result["ids"]))
    title = f"lineage: {len(drives)} rendered drives of {SECONDS:.0f} s, simulated detector, AMOTA / switches"
    table = Table("lineage", *(f"weight {weight:g}" for weight in WEIGHTS), title=title)
    for name in LINEAGES:
        table.add_row(name, *(_cell(cells[name, weight]) for weight in WEIGHTS))
    return table


def _cell(values: list[tuple[float, float]]) -> str:
    (amota, ids), (spread, ids_spread) = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
    return f"{amota:.3f}±{spread:.3f} / {ids:.0f}±{ids_spread:.0f}"


def _boxes(item: Detected) -> Boxes3D:
    assert item.boxes is not None
    return item.boxes


def _rows(frame: int, boxes: Boxes3D, points: np.ndarray | None) -> list[Box]:
    """The boxes of the classes that are tracked."""
    label = _NUMBER[boxes.label]
    counted = np.full(len(boxes), -1) if points is None else points
    return [
        (frame, int(boxes.track_id[i]), int(label[i]), boxes.center[i].tolist(), int(counted[i]), float(score))
        for i, score in enumerate(boxes.score if points is None else np.full(len(boxes), -1.0))
        if label[i] >= 0
    ]
