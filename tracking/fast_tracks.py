"""Ground truth and predicted tracks as flat arrays, filtered and completed as the official evaluation does it.

Legend: `N` boxes, `F` key frames (scene after scene, each in the order of its samples).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streampetr_core.geometry import matrix_from_quaternion
from tracking.devkit import EvaluationError, read_table
from tracking.nuscenes_format import TRACKING_CLASSES, Submission

CLASS_OF_CATEGORY: dict[str, str] = {
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""Tracking class of an annotated category; all other categories are left out."""

RACK = "static_object.bicycle_rack"
_NUMBER = {name: i for i, name in enumerate(TRACKING_CLASSES)}
_IN_RACKS = np.array([name in ("bicycle", "motorcycle") for name in TRACKING_CLASSES])


@dataclass(frozen=True)
class FlatTracks:
    """Boxes of many tracks, one row a box, ordered by key frame and within it as the official code lists them.

    Attributes:
        frame: (N,) key frame number.
        track: (N,) number of the (scene, tracking id) pair.
        label: (N,) index into `TRACKING_CLASSES`.
        xy: (N, 2) planar centre in the map, metres.
        score: (N,) mean over the track for predictions, -1 for ground truth.
        ids: what the tracks were called, by track number.
    """

    frame: NDArray[np.int64]
    track: NDArray[np.int64]
    label: NDArray[np.int64]
    xy: NDArray[np.float64]
    score: NDArray[np.float64]
    ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, index: NDArray[Any]) -> FlatTracks:
        frame, track, label = self.frame[index], self.track[index], self.label[index]
        return FlatTracks(frame, track, label, self.xy[index], self.score[index], self.ids)


@dataclass(frozen=True)
class KeyFrames:
    """Key frames of a split or of bags.

    Attributes:
        number: sample token (or stamp, where there are no samples) -> key frame number.
        stamp: (F,) microseconds.
        scene: (F,) scene number.
        ego: (F, 3) ego position in the map, metres; in a data set at the LIDAR_TOP record.
        scenes: names by scene number.
    """

    number: Mapping[str, int]
    stamp: NDArray[np.int64]
    scene: NDArray[np.int64]
    ego: NDArray[np.float64]
    scenes: tuple[str, ...]


@dataclass(frozen=True)
class TrackSet:
    """Everything that is scored: annotated and predicted boxes on common key frames."""

    truth: FlatTracks
    found: FlatTracks
    frames: KeyFrames


Box = tuple[int, Any, int, Sequence[float], int, float]
"""Key frame, tracking id, class, centre in the map, points in it (-1 = not counted), score."""
Racks = dict[int, list[dict[str, Any]]]


def load_tracks(
    submission: Submission, folder: Path, scenes: Sequence[str], ranges: Mapping[str, float]
) -> TrackSet:
    """Ground truth and predicted tracks of the scenes of a data set.

    Left out are boxes at or beyond the range of their class, annotations without a lidar or radar point, cycles
    whose centre lies in a bicycle rack. Gaps are filled by interpolation, predicted scores are track means.

    Args:
        submission: tracking rows of at least every sample of the scenes; other samples are ignored.
        folder: the version's folder of tables.
        scenes: scene names.
        ranges: metres per class.

    Raises:
        EvaluationError: when a table is missing or broken, or no box is annotated in these scenes.
    """
    frames = _key_frames(folder, set(scenes))
    annotations, racks = _annotations(folder, frames)
    if not annotations:
        raise EvaluationError(f"{folder}: none of the scenes {', '.join(scenes)} has an annotated box to score")
    rows = [(frames.number[token], row) for token in frames.number for row in submission.results[token]]
    rows.sort(key=lambda item: item[0])
    predictions = [
        (
            frame,
            row["tracking_id"],
            _NUMBER[row["tracking_name"]],
            row["translation"],
            int(row.get("num_pts", -1)),
            float(row["tracking_score"]),
        )
        for frame, row in rows
    ]
    return tracks_of_boxes(annotations, predictions, frames, ranges, racks)


def tracks_of_boxes(
    truth: list[Box],
    found: list[Box],
    frames: KeyFrames,
    ranges: Mapping[str, float],
    racks: Racks | None = None,
) -> TrackSet:
    """Ground truth and predicted tracks, from wherever they are, filtered and completed as in `load_tracks`.

    Args:
        truth, found: boxes by frame, in the order of the frames.
        racks: annotated bicycle racks by frame.
    """
    annotated = _flatten(truth, frames, racks or {}, ranges)
    predicted = _with_mean_scores(_flatten(found, frames, racks or {}, ranges))
    return TrackSet(_filled(annotated, frames.stamp), _filled(predicted, frames.stamp), frames)


def _key_frames(folder: Path, names: set[str]) -> KeyFrames:
    scenes = [scene for scene in read_table(folder / "scene.json") if scene["name"] in names]
    samples = {row["token"]: row for row in read_table(folder / "sample.json")}
    number: dict[str, int] = {}
    of_scene: list[int] = []
    for index, scene in enumerate(scenes):
        token = scene["first_sample_token"]
        while token not in number:
            if token not in samples:
                raise EvaluationError(f"{folder}: {scene['name']} goes on with sample '{token}', which is missing")
            number[token] = len(number)
            of_scene.append(index)
            if token != scene["last_sample_token"]:
                token = samples[token]["next"]
    stamps = np.array([samples[token]["timestamp"] for token in number], dtype=np.int64)
    sensors = {row["token"] for row in read_table(folder / "sensor.json") if row["channel"] == "LIDAR_TOP"}
    lidars = {
        row["token"] for row in read_table(folder / "calibrated_sensor.json") if row["sensor_token"] in sensors
    }
    poses = {
        row["sample_token"]: row["ego_pose_token"]
        for row in read_table(folder / "sample_data.json")
        if row["is_key_frame"] and row["calibrated_sensor_token"] in lidars
    }
    lost = [token for token in number if token not in poses]
    if lost:
        raise EvaluationError(f"{folder}: sample {lost[0]} has no LIDAR_TOP record, so no ego position")
    wanted = {poses[token] for token in number}
    place = {
        row["token"]: row["translation"] for row in read_table(folder / "ego_pose.json") if row["token"] in wanted
    }
    ego = np.array([place[poses[token]] for token in number], dtype=np.float64).reshape(-1, 3)
    return KeyFrames(number, stamps, np.array(of_scene, dtype=np.int64), ego, tuple(s["name"] for s in scenes))


def _annotations(folder: Path, frames: KeyFrames) -> tuple[list[Box], Racks]:
    """Annotated boxes of the tracking classes by frame, and the bicycle racks of each frame."""
    names = {row["token"]: row["name"] for row in read_table(folder / "category.json")}
    category = {row["token"]: names[row["category_token"]] for row in read_table(folder / "instance.json")}
    boxes: list[Box] = []
    racks: Racks = {}
    for row in read_table(folder / "sample_annotation.json"):
        frame = frames.number.get(row["sample_token"])
        if frame is None:
            continue
        name = category[row["instance_token"]]
        if name == RACK:
            racks.setdefault(frame, []).append(row)
        elif name in CLASS_OF_CATEGORY:
            label = _NUMBER[CLASS_OF_CATEGORY[name]]
            points = row["num_lidar_pts"] + row["num_radar_pts"]
            boxes.append((frame, row["instance_token"], label, row["translation"], points, -1.0))
    boxes.sort(key=lambda box: box[0])  # stable: within a frame the order of the table
    return boxes, racks


def _flatten(boxes: list[Box], frames: KeyFrames, racks: Racks, ranges: Mapping[str, float]) -> FlatTracks:
    """The boxes that are scored, as arrays; tracks are numbered by first appearance among these."""
    if not boxes:
        none = np.zeros(0, dtype=np.int64)
        return FlatTracks(none, none, none, np.zeros((0, 2)), np.zeros(0))
    columns = list(zip(*boxes, strict=True))
    frame, label, points = (np.array(columns[i], dtype=np.int64) for i in (0, 2, 4))
    center, score = np.array(columns[3], dtype=np.float64), np.array(columns[5], dtype=np.float64)
    offset = center[:, :2] - frames.ego[frame, :2]
    limit = np.array([ranges[name] for name in TRACKING_CLASSES])[label]
    kept = (np.sqrt(np.sum(offset**2, axis=1)) < limit) & (points != 0)
    for index in np.flatnonzero(kept & _IN_RACKS[label] & np.isin(frame, list(racks))):
        kept[index] = not any(_inside(rack, center[index]) for rack in racks[int(frame[index])])
    index = np.flatnonzero(kept)
    numbers: dict[tuple[int, Any], int] = {}
    scene = frames.scene[frame].tolist()
    track = [numbers.setdefault((scene[i], columns[1][i]), len(numbers)) for i in index.tolist()]
    ids = tuple(str(name) for _, name in numbers)
    track = np.array(track, dtype=np.int64)
    return FlatTracks(frame[index], track, label[index], center[index, :2].copy(), score[index], ids)


def _inside(box: Mapping[str, Any], point: NDArray[np.float64]) -> bool:
    """Whether a point (3,) lies in an annotated box (map frame, size as width, length, height), faces included."""
    local = matrix_from_quaternion(box["rotation"]).T @ (point - np.array(box["translation"]))
    width, length, height = box["size"]
    return bool((np.abs(local) <= np.array([length, width, height]) / 2).all())


def _with_mean_scores(boxes: FlatTracks) -> FlatTracks:
    """Every score replaced by the mean over its track, whatever the classes of its boxes.

    Each track is summed alone by numpy: equal scores are compared exactly later on, so the last bit counts.
    """
    order = np.argsort(boxes.track, kind="stable")
    counts = np.bincount(boxes.track)
    sorted_scores, start = boxes.score[order], 0
    means = np.empty(len(counts))
    for track, count in enumerate(counts.tolist()):
        means[track] = np.add.reduce(sorted_scores[start : start + count]) / count
        start += count
    return FlatTracks(boxes.frame, boxes.track, boxes.label, boxes.xy, means[boxes.track], boxes.ids)


def _filled(boxes: FlatTracks, stamp: NDArray[np.int64]) -> FlatTracks:
    """The boxes and one interpolated box for every key frame that a track leaves out between two of its boxes.

    The official interpolation gives the later box the weight (later - now) / (later - earlier), which mirrors the
    motion (a known defect of the devkit); a faithful score must do the same. A filled box has the later class
    and follows the frame's own boxes, tracks in the order of their first appearance.
    """
    order = np.argsort(boxes.track, kind="stable")  # within a track by frame, as the rows are
    left, right = order[:-1], order[1:]
    holes = np.where(boxes.track[left] == boxes.track[right], boxes.frame[right] - boxes.frame[left] - 1, 0)
    holes = np.maximum(holes, 0)
    left, right = np.repeat(left, holes), np.repeat(right, holes)
    within = np.arange(len(left)) - np.repeat(np.cumsum(holes) - holes, holes)
    frame = boxes.frame[left] + 1 + within
    before, after = stamp[boxes.frame[left]], stamp[boxes.frame[right]]
    weight = (after - stamp[frame]).astype(np.float64) / (after - before)
    xy = (1.0 - weight)[:, None] * boxes.xy[left] + weight[:, None] * boxes.xy[right]
    score = (1.0 - weight) * boxes.score[left] + weight * boxes.score[right]
    everything = FlatTracks(
        np.concatenate([boxes.frame, frame]),
        np.concatenate([boxes.track, boxes.track[right]]),
        np.concatenate([boxes.label, boxes.label[right]]),
        np.concatenate([boxes.xy, xy]),
        np.concatenate([boxes.score, score]),
        boxes.ids,
    )
    return everything[np.argsort(everything.frame, kind="stable")]
