"""Tracks of a recording beside the ground truth of a drive, as the evaluation wants them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bag_tools import layout
from bag_tools.bag_file import BagFile
from bag_tools.pipeline import Detected, PipelineError, find_bags, recorded_boxes
from streampetr_core.boxes import Boxes3D
from tracking.devkit import official_config
from tracking.fast_tracks import Box, KeyFrames, TrackSet, tracks_of_boxes
from tracking.nuscenes_format import TRACKING_CLASSES, boxes_from_rows, read_submission

TRACKS_TOPIC = "/tracker_node/tracks"
NEAR_NS = 50_000_000
"""Tracks at most this far in time from a key frame count as its own, where no instant is the same."""


def bag_tracks(
    paths: Sequence[Path], tracks: Path | None = None, topic: str = TRACKS_TOPIC, recorded_only: bool = False
) -> tuple[TrackSet, tuple[str, ...]]:
    """Ground truth and tracks of bags, and what the reader should know of them.

    Args:
        paths: bags or folders of bags; one may hold the ground truth and another the tracks.
        tracks: where the tracks are instead: a tracking submission, its rows filed under sample tokens or stamps,
            or another recording.
        topic: of the tracks.
        recorded_only: score only the key frames from the first to the last of the tracks; otherwise all of the
            ground truth, and what was not recorded was missed.

    Raises:
        PipelineError: when there is no ground truth, no tracks, or none at the time of the other.
        BagError, FormatError: when a file cannot be read.
    """
    bags = [bag for path in paths for bag in find_bags(path)]
    if not bags:
        raise PipelineError(f"{', '.join(map(str, paths))}: neither a bag nor a folder of bags")
    truth = _sorted(item for bag in _with_topic(bags, layout.GROUND_TRUTH_TOPIC) for item in _truth_of(bag))
    if not truth:
        raise PipelineError(f"no ground truth ({layout.GROUND_TRUTH_TOPIC}) in {', '.join(map(str, bags))}")
    if tracks is not None and tracks.suffix == ".json":
        found = _rows_of(tracks, truth)
    else:
        found = _nearest(truth, _recorded(bags if tracks is None else find_bags(tracks), topic))
    present = [i for i, boxes in enumerate(found) if boxes is not None]
    if not present:
        raise PipelineError("the tracks and the ground truth have no instant in common; are they of one drive?")
    if recorded_only:
        kept = slice(present[0], present[-1] + 1)
        truth, found = truth[kept], found[kept]
    without = len(found) - len(present)
    notes = (f"{without} of {len(found)} key frames have no tracks: all that is there was missed",) * bool(without)
    return _track_set(truth, found), notes


def _with_topic(bags: Sequence[Path], topic: str) -> list[Path]:
    found = []
    for path in bags:
        with BagFile(path) as bag:
            if topic in bag.topics:
                found.append(path)
    return found


def _recorded(bags: Sequence[Path], topic: str) -> list[Detected]:
    items = _sorted(item for bag in _with_topic(bags, topic) for item in recorded_boxes(bag, topic))
    if not items:
        raise PipelineError(f"no tracks ({topic}) in {', '.join(map(str, bags))}; name the recording too")
    return items


def _truth_of(bag: Path) -> list[Detected]:
    """The ground truth of a bag, its scenes named after the bag: there one can jump to what happened."""
    items = list(recorded_boxes(bag, layout.GROUND_TRUTH_TOPIC))
    name, alone = bag.stem, len({item.scene for item in items}) == 1
    for item in items:
        if item.boxes is not None and (item.boxes.track_id < 0).any():
            raise PipelineError(f"{bag}: ground truth at {item.stamp_ns} ns has a box without track_id")
    return [replace(item, scene=name if alone else f"{name}:{item.scene[:8]}") for item in items]


def _sorted(items: Iterable[Detected]) -> list[Detected]:
    return sorted(items, key=lambda item: item.stamp_ns)


def _rows_of(path: Path, truth: Sequence[Detected]) -> list[Boxes3D | None]:
    results = read_submission(path, "tracking").results
    rows = [results.get(item.sample_token, results.get(str(item.stamp_ns))) for item in truth]
    return [None if row is None else boxes_from_rows(row, t.stamp_ns) for row, t in zip(rows, truth, strict=True)]


def _nearest(truth: Sequence[Detected], recorded: Sequence[Detected]) -> list[Boxes3D | None]:
    """The recorded boxes in the map nearest in time to each key frame; None where none is near."""
    stamps = np.array([item.stamp_ns for item in recorded])
    wanted = np.array([item.stamp_ns for item in truth])
    right = np.clip(np.searchsorted(stamps, wanted), 1, max(len(stamps) - 1, 1))
    pairs = np.stack([right - 1, np.minimum(right, len(stamps) - 1)])
    gaps = np.abs(stamps[pairs] - wanted)
    nearest = np.take_along_axis(pairs, gaps.argmin(axis=0)[None], axis=0)[0]
    return [
        recorded[i].in_map() if gap <= NEAR_NS else None
        for i, gap in zip(nearest.tolist(), gaps.min(axis=0).tolist(), strict=True)
    ]


def _track_set(truth: Sequence[Detected], found: Sequence[Boxes3D | None]) -> TrackSet:
    names = list(dict.fromkeys(item.scene for item in truth))
    frames = KeyFrames(
        {item.key: i for i, item in enumerate(truth)},
        np.array([item.stamp_ns // 1000 for item in truth], dtype=np.int64),
        np.array([names.index(item.scene) for item in truth], dtype=np.int64),
        np.array([item.map_from_ego[:3, 3] for item in truth], dtype=np.float64),
        tuple(names),
    )
    if len(frames.number) < len(truth):
        raise PipelineError("the ground truth has two key frames at one instant; is a bag named twice?")
    annotated = [item.in_map() for item in truth]
    # The converter gives annotations without a lidar or radar point the score 0; they are not scored.
    seen = [(boxes.score > 0).astype(np.int64) for boxes in annotated]
    predicted = [boxes or Boxes3D.empty("map") for boxes in found]
    unknown = [np.full(len(boxes), -1) for boxes in predicted]
    ranges = official_config()["class_range"]
    return tracks_of_boxes(_boxes(annotated, seen), _boxes(predicted, unknown), frames, ranges)


def _boxes(frames: Sequence[Boxes3D], points: Sequence[NDArray[np.int64]]) -> list[Box]:
    number = {name: i for i, name in enumerate(TRACKING_CLASSES)}
    rows: list[Box] = []
    for frame, (boxes, count) in enumerate(zip(frames, points, strict=True)):
        names, ids, scores = boxes.names().tolist(), boxes.track_id.tolist(), boxes.score.tolist()
        columns = zip(ids, names, boxes.center.tolist(), count.tolist(), scores, strict=True)
        rows += [(frame, i, number[name], xyz, n, s) for i, name, xyz, n, s in columns if name in number]
    return rows
