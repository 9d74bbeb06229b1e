"""A tiny nuScenes-format root written by the test itself: two cameras, a moving robot, one car, sweeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from bag_tools import convert_nuscenes
from bag_tools.bag_file import BagFile, RawMessage
from bag_tools.messages import typestore
from bag_tools.nuscenes_tables import TABLES
from streampetr_core import Frame
from streampetr_core.geometry import quaternion_from_yaw

CAMERAS = ("CAM_FRONT", "CAM_BACK")
START_US = 1_600_000_000_000_000
STAGGER_US = {"LIDAR_TOP": 0, "CAM_FRONT": -35_000, "CAM_BACK": -10_000}
OPTICAL = {"CAM_FRONT": [0.5, -0.5, 0.5, -0.5], "CAM_BACK": [0.5, -0.5, -0.5, 0.5]}
SIZE = (96, 64)


@dataclass
class TinyRoot:
    """What was written, for tests to compare with."""

    path: Path
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in TABLES})

    def put(self, table: str, token: str, **fields: Any) -> str:
        self.rows[table].append({"token": token, **fields})
        return token

    def write(self) -> None:
        folder = self.path / "v1.0-mini"
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.rows.items():
            (folder / f"{name}.json").write_text(json.dumps(rows))


def write_tiny_root(path: Path, key_frames: int = 4, scenes: tuple[str, ...] = ("scene-0103",)) -> TinyRoot:
    """A root with key frames at 2 Hz, camera sweeps at 10 Hz and lidar sweeps at 20 Hz between them."""
    root = TinyRoot(path)
    for number, channel in enumerate(("LIDAR_TOP", *CAMERAS)):
        modality = "lidar" if channel == "LIDAR_TOP" else "camera"
        root.put("sensor", f"sensor-{channel}", channel=channel, modality=modality)
        matrix = [[80.0, 0, 48], [0, 80, 32], [0, 0, 1]] if modality == "camera" else []
        rotation = OPTICAL.get(channel, [0.70710678, 0, 0, -0.70710678])
        root.put(
            "calibrated_sensor",
            f"calibration-{channel}",
            sensor_token=f"sensor-{channel}",
            translation=[1.0 - number, 0.1 * number, 1.5],
            rotation=rotation,
            camera_intrinsic=matrix,
        )
    root.put("log", "log", logfile="log", vehicle="v", date_captured="2020-01-01", location="nowhere")
    root.put("map", "map", log_tokens=["log"], category="semantic_prior", filename="maps/blank.png")
    (path / "maps").mkdir(parents=True)
    cv2.imwrite(str(path / "maps" / "blank.png"), np.zeros((1, 1), np.uint8))
    root.put("category", "category-car", name="vehicle.car", description="")
    root.put("category", "category-animal", name="animal", description="")
    root.put("attribute", "attribute-moving", name="vehicle.moving", description="")
    root.put("visibility", "4", level="v80-100", description="")
    for index, scene in enumerate(scenes):
        _write_scene(root, scene, START_US + index * 60_000_000, key_frames)
    root.write()
    return root


def _write_scene(root: TinyRoot, name: str, start: int, key_frames: int) -> None:
    token = f"token-{name}"
    samples = [f"{name}-sample-{number}" for number in range(key_frames)]
    root.put(
        "scene",
        token,
        log_token="log",
        nbr_samples=key_frames,
        first_sample_token=samples[0],
        last_sample_token=samples[-1],
        name=name,
        description="",
    )
    for number, sample in enumerate(samples):
        root.put(
            "sample",
            sample,
            timestamp=start + number * 500_000,
            scene_token=token,
            prev=samples[number - 1] if number else "",
            next=samples[number + 1] if number + 1 < key_frames else "",
        )
    for channel, period, per_key in (("LIDAR_TOP", 50_000, 10), *((camera, 100_000, 5) for camera in CAMERAS)):
        _write_channel(root, name, channel, start, period, per_key, samples)
    for instance, (category, speed) in {"car": ("category-car", 3.0), "dog": ("category-animal", 1.0)}.items():
        _write_instance(root, f"{name}-{instance}", category, speed, samples)


def _write_channel(
    root: TinyRoot, scene: str, channel: str, start: int, period: int, per_key: int, samples: list[str]
) -> None:
    count = (len(samples) - 1) * per_key + 1
    tokens = [f"{scene}-{channel}-{number}" for number in range(count)]
    for number, token in enumerate(tokens):
        is_key = number % per_key == 0
        stamp = start + number * period + STAGGER_US[channel]
        seconds = (stamp - start) * 1e-6
        yaw = 0.2 * seconds
        root.put(
            "ego_pose",
            f"pose-{token}",
            timestamp=stamp,
            translation=[600.0 + 5.0 * seconds, 1600.0 + 0.5 * seconds**2, 0.0],
            rotation=quaternion_from_yaw(yaw).tolist(),
        )
        folder = "samples" if is_key else "sweeps"
        is_camera = channel in CAMERAS
        filename = f"{folder}/{channel}/{scene}_{number:03d}" + (".jpg" if is_camera else ".pcd.bin")
        root.put(
            "sample_data",
            token,
            sample_token=samples[-(-number // per_key)],
            ego_pose_token=f"pose-{token}",
            calibrated_sensor_token=f"calibration-{channel}",
            timestamp=stamp,
            fileformat="jpg" if is_camera else "pcd",
            is_key_frame=is_key,
            width=SIZE[0] if is_camera else 0,
            height=SIZE[1] if is_camera else 0,
            filename=filename,
            prev=tokens[number - 1] if number else "",
            next=tokens[number + 1] if number + 1 < count else "",
        )
        if is_camera:
            picture = np.full((SIZE[1], SIZE[0], 3), 40 + 3 * number, np.uint8)
            picture[:, (5 * number) % SIZE[0] :, CAMERAS.index(channel)] = 200
            (root.path / filename).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root.path / filename), picture)


def _write_instance(root: TinyRoot, instance: str, category: str, speed: float, samples: list[str]) -> None:
    annotations = [f"{instance}-{number}" for number in range(len(samples))]
    root.put(
        "instance",
        instance,
        category_token=category,
        nbr_annotations=len(samples),
        first_annotation_token=annotations[0],
        last_annotation_token=annotations[-1],
    )
    for number, (token, sample) in enumerate(zip(annotations, samples, strict=True)):
        root.put(
            "sample_annotation",
            token,
            sample_token=sample,
            instance_token=instance,
            visibility_token="4",
            attribute_tokens=["attribute-moving"] if "car" in instance else [],
            translation=[620.0 + speed * 0.5 * number, 1603.0, 0.9],
            size=[1.9, 4.5, 1.7],
            rotation=quaternion_from_yaw(0.3).tolist(),
            prev=annotations[number - 1] if number else "",
            next=annotations[number + 1] if number + 1 < len(samples) else "",
            num_lidar_pts=0 if number == 1 else 12,
            num_radar_pts=0,
        )


Changed = Iterable[tuple[str, str, int, bytes]]


def rewrite_bag(source: Path, target: Path, change: Callable[[RawMessage], Changed]) -> Path:
    """A copy of a bag in which every message became what `change` makes of it: topic, type, log time, bytes."""
    with BagFile(source) as bag, Writer(target, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for message in bag.messages():
            for topic, kind, log_ns, data in change(message):
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=typestore())
                writer.write(connections[topic], log_ns, data)
    return target


def assert_same_frames(left: Frame, right: Frame, pose_tolerance: float = 1e-9) -> None:
    """Two frames are the same: pixels and boxes exactly, poses to a tolerance."""
    assert (left.stamp_ns, left.scene, left.sample_token, left.is_key_frame) == (
        right.stamp_ns,
        right.scene,
        right.sample_token,
        right.is_key_frame,
    )
    np.testing.assert_array_equal(left.image_stamps_ns, right.image_stamps_ns)
    np.testing.assert_array_equal(left.present, right.present)
    for one, other in zip(left.images, right.images, strict=True):
        if one is not None and other is not None:
            np.testing.assert_array_equal(one, other)
    for name in ("map_from_ego", "map_from_ego_at_camera"):
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=0, atol=pose_tolerance)
    assert left.rig.names == right.rig.names
    np.testing.assert_allclose(left.rig.ego_from_model, right.rig.ego_from_model, rtol=0, atol=pose_tolerance)
    for one, other in zip(left.rig.cameras, right.rig.cameras, strict=True):
        assert (one.width, one.height) == (other.width, other.height)
        np.testing.assert_array_equal(one.intrinsics, other.intrinsics)
        np.testing.assert_allclose(one.ego_from_camera, other.ego_from_camera, rtol=0, atol=pose_tolerance)
    assert (left.ground_truth is None) == (right.ground_truth is None)
    if left.ground_truth is not None and right.ground_truth is not None:
        for name in ("center", "size", "yaw", "velocity", "score", "label", "track_id", "attribute"):
            one, other = getattr(left.ground_truth, name), getattr(right.ground_truth, name)
            np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.fixture
def rewrite() -> Callable[[Path, Path, Callable[[RawMessage], Changed]], Path]:
    """`rewrite_bag`."""
    return rewrite_bag


@pytest.fixture
def same_frames() -> Callable[..., None]:
    """`assert_same_frames`."""
    return assert_same_frames


@pytest.fixture(scope="session")
def real_bag(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scene-0103 of the real data as a bag; not to be changed."""
    root = shared / "data" / "nuscenes_mini_val"
    report = convert_nuscenes(root, tmp_path_factory.mktemp("bags"), scenes=["scene-0103"])[0]
    assert report.path is not None
    return report.path


@pytest.fixture
def tiny_bag(tiny_root: TinyRoot, tmp_path: Path) -> Path:
    """The tiny root as a bag, sweeps included."""
    report = convert_nuscenes(tiny_root.path, tmp_path / "tiny_bags")[0]
    assert report.path is not None
    return report.path


@pytest.fixture
def tiny_root(tmp_path: Path) -> TinyRoot:
    """A fresh root that the test may change (call `write` after changing rows)."""
    return write_tiny_root(tmp_path / "tiny_root")
