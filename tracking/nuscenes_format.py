"""nuScenes submission files: boxes to rows and back, with the published class ranges and attribute rule."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
from streampetr_core.console import atomic_output
from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import inverse, yaw_from_quaternion

Kind = Literal["detection", "tracking"]
Row = dict[str, Any]

CLASS_RANGE: dict[str, float] = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}
"""Planar distance from the ego in metres up to which a class is scored (nuScenes detection_cvpr_2019)."""

TRACKING_CLASSES: tuple[str, ...] = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
"""The seven classes of the nuScenes tracking task."""

MAX_BOXES_PER_SAMPLE = 500

CAMERA_ONLY: dict[str, bool] = {
    "use_camera": True,
    "use_lidar": False,
    "use_radar": False,
    "use_map": False,
    "use_external": False,
}
"""The `meta` of a camera-only submission."""

MOVING_SPEED = 0.2
"""Metres per second above which a box counts as moving (the published attribute rule)."""

_VEHICLES = ("car", "truck", "bus", "trailer", "construction_vehicle")
_WHEN_MOVING = dict.fromkeys(_VEHICLES, "vehicle.moving") | {
    "bicycle": "cycle.with_rider",
    "motorcycle": "cycle.with_rider",
    "pedestrian": "pedestrian.moving",
}
_WHEN_STILL = dict.fromkeys(_VEHICLES, "vehicle.parked") | {
    "bus": "vehicle.stopped",
    "bicycle": "cycle.without_rider",
    "motorcycle": "cycle.without_rider",
    "pedestrian": "pedestrian.standing",
}


class FormatError(StreamPETRError):
    """A submission file or a row that breaks the nuScenes format."""


@dataclass(frozen=True)
class Submission:
    """What a submission file says.

    Attributes:
        kind: "detection" or "tracking".
        results: sample token -> rows; rows are as in the file.
        meta: which sensors were used.
    """

    kind: Kind
    results: Mapping[str, list[Row]]
    meta: Mapping[str, bool] = field(default_factory=lambda: dict(CAMERA_ONLY))

    def __len__(self) -> int:
        return sum(map(len, self.results.values()))


def in_class_range(boxes: Boxes3D, map_from_ego: ArrayLike | None = None) -> NDArray[np.bool_]:
    """(N,) True where the planar distance to the ego is within the class range (inclusive).

    Args:
        boxes: in base_link, or in the map when `map_from_ego` (4, 4) is given.

    Classes outside the nuScenes list have no limit.
    """
    limit = np.array([CLASS_RANGE.get(name, math.inf) for name in boxes.class_names])
    center = boxes.center
    if map_from_ego is not None:
        ego_from_map = inverse(map_from_ego)
        center = center @ ego_from_map[:3, :3].T + ego_from_map[:3, 3]
    return np.hypot(center[:, 0], center[:, 1]) <= limit[boxes.label]


def with_attributes(boxes: Boxes3D) -> Boxes3D:
    """The boxes with every empty attribute filled by the published rule from class and speed.

    Faster than 0.2 m/s: vehicles "vehicle.moving", cycles "cycle.with_rider". Otherwise vehicles
    "vehicle.parked" (bus "vehicle.stopped"), cycles "cycle.without_rider", pedestrians "pedestrian.standing".
    A missing velocity counts as standing still; barriers and cones have no attribute.
    """
    speed = np.nan_to_num(np.hypot(boxes.velocity[:, 0], boxes.velocity[:, 1]))
    moving = np.array([_WHEN_MOVING.get(name, "") for name in boxes.class_names])[boxes.label]
    still = np.array([_WHEN_STILL.get(name, "") for name in boxes.class_names])[boxes.label]
    ruled = np.where(speed > MOVING_SPEED, moving, still)
    return replace(boxes, attribute=np.where(boxes.attribute == "", ruled, boxes.attribute))


def detection_rows(boxes: Boxes3D, map_from_ego: ArrayLike, sample_token: str) -> list[Row]:
    """Rows of the detection submission for one key frame.

    Args:
        boxes: in base_link at the sample's reference instant. Boxes beyond their class range are dropped, the
            `MAX_BOXES_PER_SAMPLE` best kept.
        map_from_ego: (4, 4) at that instant.

    Raises:
        FormatError: when the boxes are in another frame.
    """
    if boxes.frame_id != "base_link":
        raise FormatError(f"sample {sample_token}: boxes are in '{boxes.frame_id}'; detection rows want base_link")
    kept = _best(with_attributes(boxes[in_class_range(boxes)]))
    rows = _geometry_rows(kept.transformed(map_from_ego, "map"), sample_token)
    names, scores = kept.names().tolist(), kept.score.tolist()
    for row, name, score, attribute in zip(rows, names, scores, kept.attribute.tolist(), strict=True):
        row.update(detection_name=name, detection_score=score, attribute_name=attribute)
    return rows


def tracking_rows(tracks: Boxes3D, sample_token: str) -> list[Row]:
    """Rows of the tracking submission for one key frame: the boxes of the seven tracking classes.

    Args:
        tracks: in the map frame with ids.

    Raises:
        FormatError: when the tracks are in another frame or one has no id.
    """
    if tracks.frame_id != "map":
        raise FormatError(f"sample {sample_token}: tracks are in '{tracks.frame_id}'; tracking rows want map")
    if (tracks.track_id < 0).any():
        raise FormatError(f"sample {sample_token}: a box has no track id; run the tracker first")
    kept = _best(tracks[np.isin(tracks.names(), TRACKING_CLASSES)])
    rows = _geometry_rows(kept, sample_token)
    names, scores, ids = kept.names().tolist(), kept.score.tolist(), kept.track_id.tolist()
    for row, name, score, track_id in zip(rows, names, scores, ids, strict=True):
        row.update(tracking_name=name, tracking_score=score, tracking_id=str(track_id))
    return rows


def boxes_from_rows(rows: list[Row], stamp_ns: int, class_names: tuple[str, ...] = NUSCENES_CLASSES) -> Boxes3D:
    """The map-frame boxes of one sample's detection or tracking rows; ids are kept where they are numbers.

    Raises:
        FormatError: on an unknown class or a value that is not a finite number.
    """
    if not rows:
        return Boxes3D.empty("map", stamp_ns, class_names)
    kind = "detection" if "detection_name" in rows[0] else "tracking"
    number = {name: i for i, name in enumerate(class_names)}
    try:
        size = np.array([row["size"] for row in rows], dtype=np.float64).reshape(-1, 3)
        ids = [str(row.get("tracking_id", -1)) for row in rows]
        boxes = Boxes3D(
            center=np.array([row["translation"] for row in rows], dtype=np.float64),
            size=size[:, [1, 0, 2]],
            yaw=yaw_from_quaternion(np.array([row["rotation"] for row in rows], dtype=np.float64)),
            velocity=np.array([row.get("velocity") or (np.nan, np.nan) for row in rows], dtype=np.float64)[:, :2],
            score=np.array([row[f"{kind}_score"] for row in rows], dtype=np.float64),
            label=np.array([number[row[f"{kind}_name"]] for row in rows], dtype=np.int64),
            track_id=np.array([int(i) if i.lstrip("-").isdigit() else -1 for i in ids], dtype=np.int64),
            attribute=np.array([row.get("attribute_name", "") for row in rows], dtype=np.str_),
            frame_id="map",
            stamp_ns=stamp_ns,
            class_names=class_names,
        )
    except (KeyError, ValueError, TypeError, IndexError) as error:
        token = rows[0].get("sample_token", "?")
        raise FormatError(f"sample {token}: a row is no {kind} row ({type(error).__name__}: {error})") from error
    if not (np.isfinite(boxes.center).all() and np.isfinite(boxes.yaw).all() and np.isfinite(boxes.score).all()):
        raise FormatError(f"sample {rows[0].get('sample_token', '?')}: a row has NaN or infinity in its numbers")
    return boxes


def write_submission(path: Path | str, submission: Submission, overwrite: bool = True) -> None:
    """Write the submission; the file is whole or absent.

    Raises:
        OutputError: when the folder cannot be written, or the file exists and `overwrite` is False.
    """
    content = {"meta": dict(submission.meta), "results": dict(submission.results)}
    with atomic_output(path, overwrite=overwrite) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False))


def read_submission(path: Path | str, kind: Kind | None = None) -> Submission:
    """Read and check a submission file.

    Args:
        kind: what the caller needs; None takes either.

    Raises:
        FormatError: when the file is missing, is no JSON, lacks a field, or holds the other kind of rows.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise FormatError(f"{file}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{file}: not a JSON file ({error}); was its writing interrupted?") from error
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise FormatError(f"{file}: no 'results' object; this is not a nuScenes submission")
    if not isinstance(content.get("meta"), dict):
        raise FormatError(f"{file}: no 'meta' object; a submission names its sensors, see CAMERA_ONLY")
    found: Kind | None = None
    for token, rows in content["results"].items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise FormatError(f"{file}: sample {token} holds no list of rows")
        if len(rows) > MAX_BOXES_PER_SAMPLE:
            raise FormatError(f"{file}: sample {token} has {len(rows)} boxes; {MAX_BOXES_PER_SAMPLE} are allowed")
        for row in rows:
            found = _check_row(row, token, file, found or kind)
    return Submission(found or kind or "detection", content["results"], content["meta"])


def _check_row(row: Row, token: str, file: Path, wanted: Kind | None) -> Kind:
    kind: Kind = "tracking" if "tracking_name" in row else "detection"
    if wanted is not None and kind != wanted:
        other = f"a {wanted} submission is needed here"
        raise FormatError(f"{file}: sample {token} holds {kind} rows; {other}")
    known = TRACKING_CLASSES if kind == "tracking" else NUSCENES_CLASSES
    needed = ("sample_token", "translation", "size", "rotation", "velocity", f"{kind}_name", f"{kind}_score")
    for name in (*needed, "tracking_id") if kind == "tracking" else (*needed, "attribute_name"):
        if name not in row:
            raise FormatError(f"{file}: sample {token}: a {kind} row lacks '{name}'")
    name = row[f"{kind}_name"]
    if name not in known:
        raise FormatError(f"{file}: sample {token}: unknown class '{name}'; known: {', '.join(known)}")
    if row["sample_token"] != token:
        raise FormatError(f"{file}: sample {token} holds a row of sample {row['sample_token']}")
    numbers = (("translation", 3), ("size", 3), ("rotation", 4), (f"{kind}_score", 0))
    for name, length in numbers:
        if not _is_numbers(row[name], length):
            shape = "a finite number" if length == 0 else f"{length} finite numbers"
            raise FormatError(f"{file}: sample {token}: {name} is {row[name]!r}, not {shape}")
    return kind


def _is_numbers(value: Any, length: int) -> bool:
    values = [value] if length == 0 else value
    if not isinstance(values, (list, tuple)) or len(values) != max(length, 1):
        return False
    return all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in values)


def _best(boxes: Boxes3D) -> Boxes3D:
    """At most the allowed number of boxes, in their order."""
    if len(boxes) <= MAX_BOXES_PER_SAMPLE:
        return boxes
    best = np.argsort(-boxes.score, kind="stable")[:MAX_BOXES_PER_SAMPLE]
    return boxes[np.sort(best)]


def _geometry_rows(boxes: Boxes3D, sample_token: str) -> list[Row]:
    """What both kinds share; size turns to width, length, height, an unknown velocity to zero."""
    columns = zip(
        boxes.center.tolist(),
        boxes.size[:, [1, 0, 2]].tolist(),
        boxes.quaternions().tolist(),
        np.nan_to_num(boxes.velocity).tolist(),
        strict=True,
    )
    return [
        {
            "sample_token": sample_token,
            "translation": center,
            "size": size,
            "rotation": rotation,
            "velocity": velocity,
        }
        for center, size, rotation, velocity in columns
    ]
