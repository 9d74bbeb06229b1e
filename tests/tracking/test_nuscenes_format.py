"""Rows as the published rules want them, files that are whole, and errors that say what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pyquaternion import Quaternion

from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
from streampetr_core.geometry import quaternion_from_yaw, transform
from tracking.nuscenes_format import (
    CLASS_RANGE,
    MAX_BOXES_PER_SAMPLE,
    FormatError,
    Submission,
    boxes_from_rows,
    detection_rows,
    read_submission,
    tracking_rows,
    with_attributes,
    write_submission,
)


def ten(distance: float = 5.0, speed: float = 0.0) -> Boxes3D:
    """One box of every class, on a circle around the ego."""
    angle = np.linspace(0, 6, 10)
    return Boxes3D(
        center=np.column_stack([distance * np.cos(angle), distance * np.sin(angle), np.full(10, 0.7)]),
        size=np.column_stack([np.full(10, 4.0), np.full(10, 2.0), np.full(10, 1.5)]),
        yaw=angle - 3,
        velocity=np.full((10, 2), speed / np.sqrt(2)),
        score=np.linspace(0.9, 0.1, 10),
        label=np.arange(10),
    )


MOVING = dict.fromkeys(("car", "truck", "construction_vehicle", "bus", "trailer"), "vehicle.moving") | {
    "motorcycle": "cycle.with_rider",
    "bicycle": "cycle.with_rider",
    "pedestrian": "pedestrian.moving",
    "barrier": "",
    "traffic_cone": "",
}
STILL = dict.fromkeys(("car", "truck", "construction_vehicle", "trailer"), "vehicle.parked") | {
    "bus": "vehicle.stopped",
    "motorcycle": "cycle.without_rider",
    "bicycle": "cycle.without_rider",
    "pedestrian": "pedestrian.standing",
    "barrier": "",
    "traffic_cone": "",
}


@pytest.mark.parametrize(
    ("speed", "expected"), [(0.0, STILL), (0.199, STILL), (0.201, MOVING), (9.0, MOVING), (np.nan, STILL)]
)
def test_attributes_follow_class_and_speed(speed: float, expected: dict[str, str]) -> None:
    boxes = with_attributes(ten(speed=speed))
    assert dict(zip(boxes.names().tolist(), boxes.attribute.tolist(), strict=True)) == expected


def test_an_attribute_that_is_there_stays() -> None:
    boxes = ten()
    kept = with_attributes(Boxes3D(**{**vars(boxes), "attribute": np.array(["pedestrian.moving"] * 10)}))
    assert set(kept.attribute) == {"pedestrian.moving"}


@pytest.mark.parametrize("distance", [29.9, 30.1, 39.9, 40.1, 49.9, 50.1])
def test_boxes_beyond_their_class_range_are_dropped(distance: float) -> None:
    pose = transform((600, -300, 0), quaternion_from_yaw(2.0))
    rows = detection_rows(ten(distance), pose, "s")
    wanted = {name for name in NUSCENES_CLASSES if CLASS_RANGE[name] >= distance}
    assert {row["detection_name"] for row in rows} == wanted


def test_rows_are_in_the_global_frame_with_width_first() -> None:
    pose = transform((100, 50, 2), quaternion_from_yaw(np.pi / 2))
    box = Boxes3D(
        center=np.array([[10.0, 0, 1]]),
        size=np.array([[4.0, 2.0, 1.5]]),
        yaw=np.array([0.3]),
        velocity=np.array([[3.0, 0.0]]),
        score=np.array([0.7]),
    )
    row = detection_rows(box, pose, "token")[0]
    assert row["translation"] == pytest.approx([100, 60, 3])
    assert row["size"] == [2.0, 4.0, 1.5]
    assert row["rotation"] == pytest.approx(quaternion_from_yaw(np.pi / 2 + 0.3).tolist())
    assert row["velocity"] == pytest.approx([0, 3])
    assert (row["sample_token"], row["detection_name"], row["detection_score"]) == ("token", "car", 0.7)
    assert row["attribute_name"] == "vehicle.moving"


def test_rows_come_back_as_the_same_boxes() -> None:
    pose = transform((1000, 2000, 0), quaternion_from_yaw(1.0))
    boxes = ten(speed=1.0)
    back = boxes_from_rows(detection_rows(boxes, pose, "s"), 7)
    expected = boxes.transformed(pose, "map")
    assert (back.frame_id, back.stamp_ns) == ("map", 7)
    for name in ("center", "size", "yaw", "velocity", "score", "label"):
        np.testing.assert_allclose(getattr(back, name), getattr(expected, name), atol=1e-9, err_msg=name)


def test_tracking_rows_hold_the_seven_classes() -> None:
    tracks = Boxes3D(**{**vars(ten()), "frame_id": "map", "track_id": np.arange(10) + 100})
    rows = tracking_rows(tracks, "s")
    assert {row["tracking_name"] for row in rows} == {
        "bicycle",
        "bus",
        "car",
        "motorcycle",
        "pedestrian",
        "trailer",
        "truck",
    }
    assert all(isinstance(row["tracking_id"], str) for row in rows)
    assert boxes_from_rows(rows, 0).track_id.tolist() == [int(row["tracking_id"]) for row in rows]


def test_at_most_five_hundred_boxes_the_best() -> None:
    n = MAX_BOXES_PER_SAMPLE + 20
    score = np.random.default_rng(0).permutation(np.linspace(0, 1, n))
    boxes = Boxes3D(np.zeros((n, 3)), np.ones((n, 3)), np.zeros(n), score=score)
    rows = detection_rows(boxes, np.eye(4), "s")
    assert len(rows) == MAX_BOXES_PER_SAMPLE
    assert min(row["detection_score"] for row in rows) == pytest.approx(np.sort(score)[20])


def test_wrong_frames_and_missing_ids_are_refused() -> None:
    with pytest.raises(FormatError, match="base_link"):
        detection_rows(Boxes3D(**{**vars(ten()), "frame_id": "map"}), np.eye(4), "s")
    with pytest.raises(FormatError, match="map"):
        tracking_rows(ten(), "s")
    with pytest.raises(FormatError, match="track id"):
        tracking_rows(Boxes3D(**{**vars(ten()), "frame_id": "map"}), "s")


def test_files_are_written_whole_and_read_back(tmp_path) -> None:
    rows = detection_rows(ten(speed=np.nan), np.eye(4), "a")
    path = tmp_path / "new" / "detections.json"
    write_submission(path, Submission("detection", {"a": rows, "b": []}))
    back = read_submission(path, "detection")
    assert back.kind == "detection"
    assert dict(back.results) == {"a": rows, "b": []}
    assert back.meta["use_camera"] is True
    assert back.meta["use_lidar"] is False
    assert [item.name for item in path.parent.iterdir()] == ["detections.json"]


def _row(**changes) -> dict:
    return {**detection_rows(ten()[:1], np.eye(4), "a")[0], **changes}


def _content(row: dict) -> str:
    return json.dumps({"meta": {}, "results": {"a": [row]}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a JSON file"),
        ('{"meta": {}, "results": {"a": [', "not a JSON file"),
        ("[]", "results"),
        ('{"meta": {}}', "results"),
        ('{"results": {}}', "meta"),
        ('{"meta": {}, "results": {"a": 3}}', "list of rows"),
        (_content({"sample_token": "a"}), "lacks 'translation'"),
        (_content(_row(detection_name="tank")), "unknown class 'tank'"),
        (_content(_row(sample_token="b")), "sample b"),
        (_content(_row(translation=[1, 2])), "translation"),
        (_content(_row(translation=[1, 2, "x"])), "translation"),
        (_content(_row(detection_score=float("nan"))), "detection_score"),
        (_content(_row(rotation=None)), "rotation"),
        (json.dumps({"meta": {}, "results": {"a": [_row()] * 501}}), "501 boxes"),
    ],
)
def test_malformed_files_are_named(tmp_path, text: str, says: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(FormatError, match=says) as error:
        read_submission(path, "detection")
    assert str(path) in str(error.value)


def test_missing_files_and_the_other_kind_are_named(tmp_path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        read_submission(tmp_path / "none.json")
    path = tmp_path / "d.json"
    path.write_text(_content(_row()))
    with pytest.raises(FormatError, match="detection rows; a tracking submission"):
        read_submission(path, "tracking")


def test_rotations_keep_the_tilt_of_the_model_frame_as_published() -> None:
    """The published export turns a box that stands upright for the lidar into the ego frame, then into the map."""
    ego_from_lidar = transform([0.94, 0.0, 1.84], Quaternion(axis=[0.1, -0.3, 1.0], degrees=-89.0).q)
    map_from_ego = transform([600.0, 1600.0, 0.0], Quaternion(axis=[0.3, -0.2, 1.0], degrees=120.0).q)
    yaw = np.linspace(-3.1, 3.1, 10)
    in_lidar = replace(ten(), yaw=yaw, frame_id="model")
    rows = detection_rows(in_lidar.transformed(ego_from_lidar, "base_link"), map_from_ego, "token")
    turn = Quaternion(matrix=map_from_ego) * Quaternion(matrix=ego_from_lidar)
    assert abs((turn * Quaternion(axis=[0, 0, 1], radians=1.0)).yaw_pitch_roll[1]) > 0.02
    for row, angle in zip(rows, yaw, strict=True):
        expected = turn * Quaternion(axis=[0, 0, 1], radians=angle)
        assert Quaternion.absolute_distance(Quaternion(row["rotation"]), expected) < 1e-9


def test_boxes_upright_in_the_map_have_rotations_about_z_only() -> None:
    map_from_ego = transform([10.0, 20.0, 0.0], Quaternion(axis=[0, 0, 1], degrees=30.0).q)
    for row in detection_rows(ten(), map_from_ego, "token"):
        assert row["rotation"][1:3] == [0.0, 0.0]
