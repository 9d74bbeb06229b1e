"""What a checkpoint is worth: official scores on unseen rendered drives, with its memory and without."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from bag_tools.nuscenes_source import NuScenesSource
from bag_tools.pipeline import Detected, detect_source, run
from bag_tools.rendered.dataset_writer import ALL_SCENES, scene_names, write_dataset
from streampetr_core.boxes import Boxes3D
from streampetr_core.console import atomic_output
from streampetr_core.detector import Detector
from tracking.config import TrackerConfig
from tracking.evaluation import Evaluation, evaluate_detection, evaluate_tracking
from tracking.tracker import Tracker

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
REMEMBERED, FORGOTTEN, NOT_TOLD = "as it is", "memory emptied each frame", "deviations not told"


@dataclass(frozen=True)
class Drives:
    """The drives to judge on; the defaults are no seeds that the shipped checkpoint was trained on.

    Attributes:
        scenes: number of drives.
        seconds: of each.
        seed: of the data set.
        size: width, height of the images.
    """

    scenes: int = 8
    seconds: float = 20.0
    seed: int = 900
    size: tuple[int, int] = (704, 396)


@dataclass(frozen=True)
class Scores:
    """Official metrics of one way to use the checkpoint; `detection` is None where it is that of another way."""

    detection: Evaluation | None
    tracking: Evaluation

    def numbers(self) -> dict[str, Any]:
        """The summaries of the official code."""
        return {
            "detection": None if self.detection is None else self.detection.summary,
            "tracking": self.tracking.summary,
        }


def score_checkpoint(
    detector: Detector, out: Path, drives: Drives, shown: Progress, lineages: Iterable[float] = (0.0,)
) -> dict[str, Scores]:
    """Scores by way of use; writes the data set (or takes the one that is there), submissions and scores.json.

    Args:
        detector: the checkpoint.
        out: folder of the results.
        drives: what to render.
        shown: wraps what takes long, with a title and a length.
        lineages: weights of lineage (`TrackerConfig.lineage`) to track with beside the usual one.

    Raises:
        RenderError, OutputError: on drives that cannot be rendered.
    """
    name = f"drives_{drives.seed}_{drives.scenes}x{drives.seconds:g}s_{drives.size[0]}x{drives.size[1]}"
    root, version = out / name, scene_names(drives.scenes)[0]
    if not root.is_dir():
        write_dataset(root, drives.scenes, drives.seconds, drives.seed, drives.size)
    source = NuScenesSource(root, version, ALL_SCENES)

    def judge(items: Iterable[Detected], folder: str, config: TrackerConfig, detections: bool = True) -> Scores:
        results = run(items, Tracker(config))
        submission, tracks = results.write_detections(out / folder), results.write_tracks(out / folder)
        found = evaluate_detection(submission, root, version, ALL_SCENES) if detections else None
        # the official code needs minutes; ours, equal to 1e-6, judges the variations
        fast = folder != "with_memory"
        return Scores(found, evaluate_tracking(tracks, root, version, ALL_SCENES, fast=fast))

    config = TrackerConfig()
    items = list(detect_source(shown(source, "with memory", len(source)), detector))
    scores = {REMEMBERED: judge(items, "with_memory", config)}
    blind = [item if item.boxes is None else replace(item, boxes=_bare(item.boxes)) for item in items]
    scores[NOT_TOLD] = judge(blind, "not_told", config, detections=False)
    for weight in lineages:
        way = f"lineage {weight:g}" if weight else "tracker without lineage"
        scores[way] = judge(items, way.replace(" ", "_"), replace(config, lineage=weight), detections=False)
    forgetful = detect_source(shown(source, "without memory", len(source)), detector, remember=False)
    scores[FORGOTTEN] = judge(list(forgetful), "without_memory", config)
    with atomic_output(out / "scores.json", overwrite=True) as temporary:
        found = {way: item.numbers() for way, item in scores.items()}
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    return scores


def _bare(boxes: Boxes3D) -> Boxes3D:
    """The boxes of a detector that does not know how far off they may be."""
    return replace(boxes, position_covariance=None, velocity_covariance=None)


def score_table(scores: dict[str, Scores], title: str) -> Table:
    """One row a metric, one column for each way of use."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for way in scores:
        table.add_column(way, justify="right")
    errors = {"mATE, m": "trans_err", "mASE": "scale_err", "mAOE, rad": "orient_err", "mAVE, m/s": "vel_err"}
    items = scores.values()
    summaries = [(item.detection.summary if item.detection else None, item.tracking.summary) for item in items]
    for name, key in {"mAP": "mean_ap", "NDS": "nd_score", **errors}.items():
        found = [d if d is None else d["tp_errors"][key] if key.endswith("err") else d[key] for d, _ in summaries]
        table.add_row(name, *("" if value is None else f"{value:.3f}" for value in found))
    for name, key in {"AMOTA": "amota", "AMOTP, m": "amotp", "MOTA": "mota", "recall": "recall"}.items():
        table.add_row(name, *(f"{tracking[key]:.3f}" for _, tracking in summaries))
    table.add_row("identity switches", *(f"{tracking['ids']:.0f}" for _, tracking in summaries))
    return table


def class_table(scores: dict[str, Scores]) -> Table:
    """Average precision and the errors of each class, as the checkpoint is."""
    detection = scores[REMEMBERED].detection
    assert detection is not None
    return detection.table()
