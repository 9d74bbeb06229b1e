"""The nodes as processes over real DDS: boxes from images, bad input named, rewinds, restarts, an end in time."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from streampetr.processes import Child, Processes

pytestmark = pytest.mark.ros

ROBOT = Path(__file__).with_name("fake_robot.py")
CAMERAS = ["CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"]
READY = 60.0

Start = Callable[..., Child]


@pytest.fixture
def node(processes: Processes, ros_env: dict[str, str]) -> Start:
    """`node("perception_node", model="tiny", ...)` starts a node with parameters."""

    def start(name: str, *ros_arguments: str, **parameters: Any) -> Child:
        words = [sys.executable, "-m", f"streampetr.{name}", "--ros-args", *ros_arguments]
        for key, value in parameters.items():
            words += ["-p", f"{key}:={json.dumps(value)}"]
        return processes.start(name, words, ros_env | {"OMP_NUM_THREADS": "2"})

    return start


@pytest.fixture
def robot(processes: Processes, ros_env: dict[str, str]) -> Callable[..., Child]:
    """Starts the fake robot; it ends by itself after `seconds`."""

    def start(seconds: float, cameras: list[str] = CAMERAS, **told: Any) -> Child:
        told |= {"seconds": seconds, "cameras": cameras}
        return processes.start("robot", [sys.executable, str(ROBOT), json.dumps(told)], ros_env)

    return start


def perception(node: Start, **parameters: Any) -> Child:
    child = node("perception_node", **({"model": "tiny", "weights": "random", "threads": 1} | parameters))
    assert child.wait_for_line("ready", READY), child.tail()
    return child


def said(robot: Child, kind: str) -> list[dict[str, Any]]:
    """What the robot printed of one kind."""
    return [json.loads(line.split(" ", 1)[1]) for line in robot.lines if line.startswith(f"{kind} ")]


def finish(robot: Child, seconds: float = 60.0) -> dict[str, Any]:
    """Wait for the robot's end; the latest diagnostics."""
    assert robot.wait(seconds) == 0, robot.tail()
    return said(robot, "diagnostics")[-1]


def end(child: Child, how: signal.Signals = signal.SIGINT) -> float:
    """Seconds that a node takes to end, which is with status 0."""
    began = time.monotonic()
    child.send(how)
    assert child.wait(10.0) == 0, child.tail()
    return time.monotonic() - began


def test_boxes_tracks_and_everything_around_them(node: Start, robot: Start) -> None:
    detector = perception(node, marker_min_score=0.0)
    tracker = node("tracker_node", "-r", "boxes:=perception_node/boxes", marker_min_score=0.0)
    assert tracker.wait_for_line("ready", READY)
    car = robot(10.0, reset_after=10)
    health = finish(car)
    boxes, tracks = said(car, "boxes"), said(car, "tracks")
    assert len(boxes) >= 6
    assert [b["sequence"] for b in boxes] == list(range(len(boxes)))
    assert all(b["frame"] == "base_link" and b["n"] > 0 and b["velocity"] and not b["missing"] for b in boxes)
    start = 1_600_000_000_000_000_000
    for b in boxes:  # map -> odom -> base_link, at the anchor camera's stamp
        assert b["x"] == pytest.approx(1.0 + 8.0 * (b["stamp"] - start) / 1e9, abs=1e-6)
    assert boxes[0]["reset"] == "first_frame"
    assert sorted(b["reset"] for b in boxes[1:] if b["reset"]) == ["request"]
    assert said(car, "reset") == [{"success": True}]
    assert {t["stamp"] for t in tracks} <= {b["stamp"] for b in boxes}
    assert len(tracks) >= len(boxes) - 1
    assert all(t["frame"] == "map" and t["ids"] for t in tracks)
    assert said(car, "model")[0]["model"] == "tiny"
    assert said(car, "model")[0]["cameras"] == CAMERAS
    assert len(said(car, "model")[0]["classes"]) == 10
    detections = said(car, "detections")[-1]
    assert detections["n"] == boxes[-1]["n"]
    assert detections["variances"] == boxes[-1]["variances"]
    assert len(detections["variances"]) == detections["n"]
    assert min(detections["variances"]) > 0
    assert said(car, "markers")
    assert said(car, "trails")
    for name in CAMERAS:
        assert health[f"perception_node: {name}"]["message"] == "OK"
        assert int(health[f"perception_node: {name}"]["values"]["used"]) >= 6
    assert int(health["perception_node: synchroniser"]["values"]["complete"]) >= 6
    assert health["perception_node: detector"]["values"]["memory reset: request"] == "1"
    assert float(health["perception_node: detector"]["values"]["latency p50 ms"]) > 0
    assert end(detector) < 5.0
    assert end(tracker, signal.SIGTERM) < 5.0


def test_bad_input_is_named_and_costs_only_its_camera(node: Start, robot: Start) -> None:
    perception(node, calibration_wait=1.0)
    faults = {
        "CAM_FRONT_RIGHT": "corrupt",
        "CAM_FRONT_LEFT": "nan",
        "CAM_BACK": "size",
        "CAM_BACK_LEFT": "noinfo",
        "CAM_BACK_RIGHT": "nomount",
    }
    car = robot(10.0, faults=faults)
    health = finish(car)
    boxes = said(car, "boxes")
    assert len(boxes) >= 4
    assert boxes[-1]["missing"] == CAMERAS[1:]
    assert boxes[-1]["n"] > 0
    sentence = {name: health[f"perception_node: {name}"]["message"] for name in CAMERAS}
    assert sentence["CAM_FRONT"] == "OK"
    assert "truncated" in sentence["CAM_FRONT_RIGHT"]
    assert "intrinsics contains NaN" in sentence["CAM_FRONT_LEFT"]
    assert "/sensing/camera/cam_front_left/camera_info" in sentence["CAM_FRONT_LEFT"]
    assert "image is 320x180 but the calibration is for 640x180" in sentence["CAM_BACK"]
    assert "no camera_info has come on /sensing/camera/cam_back_left/camera_info" in sentence["CAM_BACK_LEFT"]
    assert "no transform from 'cam_back_right_optical_frame' to 'base_link'" in sentence["CAM_BACK_RIGHT"]
    assert int(health["perception_node: CAM_FRONT_RIGHT"]["values"]["refused"]) >= 4


def test_without_motion_nothing_is_guessed(node: Start, robot: Start) -> None:
    perception(node)
    car = robot(7.0, motion="none")
    health = finish(car)
    assert not said(car, "boxes")
    assert "no transform from 'base_link' to 'map'" in health["perception_node: ego motion"]["message"]
    assert "nothing has come yet on /tf" in health["perception_node: ego motion"]["message"]
    assert int(health["perception_node: synchroniser"]["values"]["no pose"]) >= 4


def test_a_drive_that_begins_again_resets_the_memory_once(node: Start, robot: Start) -> None:
    detector = perception(node)
    tracker = node("tracker_node", "-r", "boxes:=perception_node/boxes")
    assert tracker.wait_for_line("ready", READY)
    car = robot(12.0, rewind_after=12)
    health = finish(car)
    assert [b["reset"] for b in said(car, "boxes") if b["reset"]] == ["first_frame", "time_back"]
    counts = health["perception_node: detector"]["values"]
    found = {key: count for key, count in counts.items() if key.startswith("memory reset: ")}
    assert found == {"memory reset: first_frame": "1", "memory reset: time_back": "1"}
    assert "the memory begins anew: time went back by 5.5" in detector.tail(200)
    assert [t["reset"] for t in said(car, "tracks") if t["reset"]] == ["time_back"]
    stamps = [b["stamp"] for b in said(car, "boxes")]
    turn = next(i for i in range(1, len(stamps)) if stamps[i] < stamps[i - 1])
    assert len(stamps) - turn >= 4
    assert health["perception_node: synchroniser"]["values"]["rewinds"] == "1"


def test_killed_and_started_again_it_gives_boxes_again(node: Start, robot: Start) -> None:
    first = perception(node)
    car = robot(30.0)
    assert car.wait_for_line("boxes ", 20.0), car.tail()
    first.send(signal.SIGKILL)
    first.wait(5.0)
    before = len(said(car, "boxes"))
    perception(node)
    deadline = time.monotonic() + 15.0
    while len(said(car, "boxes")) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    again = said(car, "boxes")[before:]
    assert len(again) >= 2
    assert (again[0]["sequence"], again[0]["reset"], again[1]["reset"]) == (0, "first_frame", "")


def test_raw_images_and_odometry(node: Start, robot: Start) -> None:
    images = {
        "transport": "raw",
        "image_topic": "/sensing/camera/{camera}/image_raw",
        "image_reliability": "reliable",
    }
    perception(node, cameras=CAMERAS[:2], ego_motion="odometry", **images)
    car = robot(8.0, cameras=CAMERAS[:2], transport="raw", motion="odometry", reliable=True)
    finish(car)
    boxes = said(car, "boxes")
    assert len(boxes) >= 4
    assert not boxes[-1]["missing"]


def test_a_qos_that_does_not_fit_and_a_silent_topic_are_named(node: Start, robot: Start) -> None:
    child = perception(node, image_reliability="reliable", cameras=[*CAMERAS[:2], "CAM_TOP"])
    car = robot(6.0, cameras=CAMERAS[:2], reliable=False)
    health = finish(car)
    assert not said(car, "boxes")
    sentence = health["perception_node: CAM_FRONT"]["message"]
    assert "offers another reliability" in sentence
    assert "qos_overrides./sensing/camera/cam_front/image_rect/compressed.subscription.reliability" in sentence
    silent = health["perception_node: CAM_TOP"]["message"]
    assert "nothing has come yet on /sensing/camera/cam_top/image_rect/compressed (nobody publishes it)" in silent
    assert "offers another reliability" in child.tail(200)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"model": "r50_704_428"}, "r50_704_428q"),
        ({"weights": "/no/such/file.safetensors"}, "/no/such/file.safetensors"),
        ({"max_skw": 0.05}, "unknown parameter 'max_skw'; did you mean 'max_skew'?"),
        ({"min_cameras": 9}, "min_cameras 9"),
        ({"max_wait": "long"}, "max_wait"),
        ({"ego_motion": "gps"}, "tf, odometry"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_two(node: Start, parameters: dict[str, Any], says: str) -> None:
    child = node("perception_node", **({"model": "tiny"} | parameters))
    assert child.wait(60.0) == 2, child.tail()
    lines = [line for line in child.lines if line.startswith("perception_node: ")]
    assert len(lines) == 1, child.tail()
    assert says in lines[0]
    assert "Traceback" not in child.tail()


def test_a_wrong_checkpoint_is_one_line_and_status_two(node: Start, tmp_path: Path) -> None:
    other, noise = tmp_path / "other.safetensors", tmp_path / "noise.pth"
    save_file({"backbone.stem.weight": torch.zeros(2)}, other)
    noise.write_bytes(b"no checkpoint" * 100)
    children = {path: node("perception_node", model="tiny", weights=str(path)) for path in (other, noise)}
    for path, child in children.items():
        assert child.wait(60.0) == 2, child.tail()
        (line,) = [line for line in child.lines if line.startswith("perception_node: ")]
        assert str(path) in line
        assert "Traceback" not in child.tail()
    tail = children[other].tail()
    assert "1 keys unexpected, first backbone.stem.weight" in tail
    assert "keys missing, first " in tail


def test_interrupted_while_starting(node: Start) -> None:
    child = node("perception_node", model="r50_704_428q", weights="recipe")
    time.sleep(1.0)
    assert end(child) < 5.0
