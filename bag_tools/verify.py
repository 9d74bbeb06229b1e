"""A written bag compared with the data set it came from: reread message by message, one line a check."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bag_tools import layout, messages
from bag_tools.bag_file import BagFile
from bag_tools.convert import SceneReport, ego_poses
from bag_tools.markers import MARKER_ARRAY
from bag_tools.nuscenes_source import NuScenesSource
from bag_tools.nuscenes_tables import Row, nanoseconds
from streampetr_core.geometry import apply
from streampetr_core.transform_tree import TransformError, TransformTree

POSE_TOLERANCE = 1e-9
"""Metres and rotation-matrix entries: quaternions are normalised on the way, nothing else happens to poses."""
BOX_TOLERANCE = 1e-6
"""Metres, after boxes went to base_link and back."""


@dataclass(frozen=True)
class Check:
    """One property of a bag: what was looked at, and what differs ("" = nothing)."""

    name: str
    detail: str
    difference: str = ""

    @property
    def ok(self) -> bool:
        return not self.difference

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'} {self.name}: {self.difference or self.detail}"


def verify_bag(path: Path | str, source: NuScenesSource, scene: Row, sweeps: bool = True) -> list[Check]:
    """Compare a bag with a scene of the root it was converted from.

    Counts, stamps, JPEG hashes, intrinsics, mounting, ego poses, samples, ground truth. With `sweeps` False the
    images between key frames are not expected.

    Raises:
        BagError: when the bag cannot be read at all.
    """
    expected = _expected_images(source, scene, sweeps)
    seen = _Seen()
    order_errors = 0
    with BagFile(path) as bag:
        last = 0
        for message in bag.messages():
            order_errors += message.log_ns < last
            last = message.log_ns
            seen.take(message.topic, message.log_ns, bag.decode(message), message.type_name)
        lost = bag.lost_bytes
    return [
        Check("file", "whole", f"{lost} bytes at the end are cut off" if lost else ""),
        Check("order", "log times rise", f"{order_errors} messages out of order" if order_errors else ""),
        Check("stamps", "header stamp = log time", "; ".join(seen.stamp_errors[:3]) if seen.stamp_errors else ""),
        *_check_images(source, expected, seen),
        _check_calibration(source, expected, seen),
        _check_mounting(source, scene, seen),
        *_check_motion(source, scene, seen),
        _check_samples(source, scene, expected, seen),
        _check_ground_truth(source, scene, seen),
    ]


class _Seen:
    """What a bag holds, condensed while it is read."""

    def __init__(self) -> None:
        self.images: dict[str, dict[int, str]] = defaultdict(dict)  # topic -> stamp -> sha256
        self.image_counts: dict[str, int] = defaultdict(int)
        self.infos: dict[str, dict[int, Any]] = defaultdict(dict)
        self.tree = TransformTree()
        self.static_stamps: list[int] = []
        self.poses: dict[int, Any] = {}
        self.odometry: dict[int, Any] = {}
        self.samples: list[Any] = []
        self.truth: dict[int, Any] = {}
        self.markers: dict[int, int] = {}
        self.stamp_errors: list[str] = []
        self.first_ns = -1

    def take(self, topic: str, log_ns: int, message: Any, kind: str) -> None:
        if self.first_ns < 0:
            self.first_ns = log_ns
        if kind == messages.TF_MESSAGE:
            for item in message.transforms:
                self._stamp(topic, log_ns, item.header)
                matrix = messages.transform_matrix(item)
                if topic == layout.TF_STATIC_TOPIC:
                    self.tree.set(item.header.frame_id, item.child_frame_id, matrix)
                    self.static_stamps.append(log_ns)
                elif (item.header.frame_id, item.child_frame_id) == (layout.MAP_FRAME, layout.BASE_FRAME):
                    self.poses[log_ns] = matrix
            return
        if kind == MARKER_ARRAY:
            self.markers[log_ns] = len(message.markers) - 1
            return
        self._stamp(topic, log_ns, message.header)
        if kind == messages.COMPRESSED_IMAGE:
            self.images[topic][log_ns] = hashlib.sha256(message.data).hexdigest()
            self.image_counts[topic] += 1
        elif kind == messages.CAMERA_INFO:
            self.infos[topic][log_ns] = message
        elif kind == messages.ODOMETRY:
            self.odometry[log_ns] = messages.pose_matrix(message.pose.pose)
        elif kind == messages.SAMPLE_INFO:
            self.samples.append(message)
        elif kind == messages.BOX_ARRAY:
            self.truth[log_ns] = message

    def _stamp(self, topic: str, log_ns: int, header: Any) -> None:
        stamp = messages.stamp_to_ns(header.stamp)
        if stamp != log_ns:
            self.stamp_errors.append(f"{topic} logged at {log_ns} is stamped {stamp}")


def _expected_images(source: NuScenesSource, scene: Row, sweeps: bool) -> dict[str, dict[int, Row]]:
    """camera -> stamp -> record, of the images that are there."""
    everything = source.tables.sweeps(scene)
    return {
        name: {
            nanoseconds(row["timestamp"]): row
            for row in everything.get(name, [])
            if (sweeps or row["is_key_frame"]) and (source.root / row["filename"]).is_file()
        }
        for name in source.tables.camera_channels
        if name in everything
    }


def _check_images(source: NuScenesSource, expected: dict[str, dict[int, Row]], seen: _Seen) -> list[Check]:
    total, counted, hashes = 0, [], []
    unknown = set(seen.images) - {layout.image_topic(name) for name in expected}
    counted += [f"unexpected topic {topic}" for topic in sorted(unknown)]
    for name, records in expected.items():
        topic = layout.image_topic(name)
        got = seen.images.get(topic, {})
        total += len(records)
        if set(got) != set(records) or seen.image_counts[topic] != len(got):
            missing = sorted(set(records) - set(got))
            counted.append(
                f"{topic}: {seen.image_counts[topic]} images for {len(records)} files"
                + (f", first missing at {missing[0]} ns" if missing else "")
            )
        for stamp in sorted(set(got) & set(records)):
            path = source.root / records[stamp]["filename"]
            if hashlib.sha256(path.read_bytes()).hexdigest() != got[stamp]:
                hashes.append(f"{topic} at {stamp} ns differs from {path.name}")
    return [
        Check("images", f"{total} files, as many messages, at the sensors' stamps", "; ".join(counted[:3])),
        Check("JPEG bytes", f"{total} SHA-256 equal", _first(hashes)),
    ]


def _check_calibration(source: NuScenesSource, expected: dict[str, dict[int, Row]], seen: _Seen) -> Check:
    wrong, total = [], 0
    for name, records in expected.items():
        infos = seen.infos.get(layout.info_topic(name), {})
        if not infos:
            wrong.append(f"no {layout.info_topic(name)}")
        for stamp, row in records.items():
            if stamp not in infos:
                wrong.append(f"no {layout.info_topic(name)} at {stamp} ns")
                continue
            total += 1
            info, camera = infos[stamp], source.camera(name, row)
            good = (
                (info.width, info.height) == (camera.width, camera.height)
                and np.array_equal(np.reshape(info.k, (3, 3)), camera.intrinsics)
                and np.array_equal(np.reshape(info.p, (3, 4))[:, :3], camera.intrinsics)
                and np.array_equal(np.reshape(info.r, (3, 3)), np.eye(3))
                and info.distortion_model == "plumb_bob"
                and np.array_equal(info.d, np.zeros(5))
                and info.header.frame_id == layout.optical_frame(name)
            )
            if not good:
                wrong.append(f"{layout.info_topic(name)} at {stamp} ns differs from calibrated_sensor")
    return Check("intrinsics", f"{total} camera_info equal calibrated_sensor", _first(wrong))


def _check_mounting(source: NuScenesSource, scene: Row, seen: _Seen) -> Check:
    rig = source.rig(next(sample for sample in source.samples if sample.scene == scene["token"]))
    frames = {layout.optical_frame(camera.name): camera.ego_from_camera for camera in rig.cameras}
    frames[layout.LIDAR_FRAME] = rig.ego_from_model
    wrong, largest = [], 0.0
    for name, matrix in frames.items():
        try:
            largest = max(largest, float(np.abs(seen.tree.lookup(layout.BASE_FRAME, name) - matrix).max()))
        except TransformError as error:
            wrong.append(str(error))
    if largest > POSE_TOLERANCE:
        wrong.append(f"a mounting differs by {largest:.2g}")
    if set(seen.static_stamps) != {seen.first_ns}:
        wrong.append("not sent once, at the beginning")
    return Check("mounting", f"{len(frames)} static transforms, largest difference {largest:.1g}", _first(wrong))


def _check_motion(source: NuScenesSource, scene: Row, seen: _Seen) -> list[Check]:
    expected = ego_poses(source, scene)
    checks = []
    for name, poses in ((layout.TF_TOPIC, seen.poses), (layout.ODOMETRY_TOPIC, seen.odometry)):
        wrong = ""
        largest = 0.0
        if set(poses) != set(expected):
            wrong = f"{len(poses)} stamps, the data set has {len(expected)}"
        else:
            largest = max(float(np.abs(poses[stamp] - expected[stamp]).max()) for stamp in expected)
            wrong = f"a pose differs by {largest:.2g}" if largest > POSE_TOLERANCE else ""
        checks.append(Check(name, f"{len(expected)} ego poses, largest difference {largest:.1g}", wrong))
    return checks


def _check_samples(source: NuScenesSource, scene: Row, expected: dict[str, dict[int, Row]], seen: _Seen) -> Check:
    rows = {row["token"]: row for row in source.tables.samples(scene)}
    keys = {info.sample_token: info for info in seen.samples if info.is_key_frame}
    wrong = []
    if set(keys) != set(rows):
        wrong.append(f"{len(keys)} key frames, the data set has {len(rows)}")
    for token in set(keys) & set(rows):
        info, row = keys[token], rows[token]
        records = source.tables.sample_data(row)
        stamps = [nanoseconds(records[n]["timestamp"]) if n in records else -1 for n in info.camera_names]
        stamps = [s if s in expected[n] else -1 for n, s in zip(info.camera_names, stamps, strict=True)]
        if messages.stamp_to_ns(info.header.stamp) != nanoseconds(row["timestamp"]):
            wrong.append(f"sample {token} is stamped {messages.stamp_to_ns(info.header.stamp)} ns")
        if list(info.image_stamps_ns) != stamps:
            wrong.append(f"sample {token} names images at {list(info.image_stamps_ns)}")
        if info.scene != scene["token"]:
            wrong.append(f"sample {token} is in scene '{info.scene}'")
    named = {(n, s) for i in seen.samples for n, s in zip(i.camera_names, i.image_stamps_ns, strict=True)}
    between = len(seen.samples) - len(keys)
    unnamed = sum((name, stamp) not in named for name, stamps in expected.items() for stamp in stamps)
    detail = f"{len(rows)} key frames, {between} sets between them, {unnamed} images in no set"
    return Check(layout.SAMPLE_TOPIC, detail, _first(wrong))


def _check_ground_truth(source: NuScenesSource, scene: Row, seen: _Seen) -> Check:
    tables, wrong, total, largest = source.tables, [], 0, 0.0
    samples = tables.samples(scene)
    if len(seen.truth) != len(samples) or set(seen.markers) != set(seen.truth):
        wrong.append(f"{len(seen.truth)} messages, {len(seen.markers)} marker arrays for {len(samples)} samples")
    for sample in samples:
        message = seen.truth.get(nanoseconds(sample["timestamp"]))
        rows = [row for row in tables.annotations(sample) if tables.detection_name(row)]
        if message is None or len(message.boxes) != len(rows):
            wrong.append(f"sample {sample['token']}: {len(message.boxes) if message else 0} of {len(rows)} boxes")
            continue
        if not rows:
            continue
        boxes = messages.boxes_from_message(message)
        center = apply(messages.pose_matrix(message.map_from_base), boxes.center)
        wanted = np.array([row["translation"] for row in rows])
        sizes = np.array([row["size"] for row in rows])[:, [1, 0, 2]]
        largest = max(largest, float(np.abs(center - wanted).max()), float(np.abs(boxes.size - sizes).max()))
        if [tables.detection_name(row) for row in rows] != list(boxes.names()):
            wrong.append(f"sample {sample['token']}: classes differ")
        total += len(rows)
    if largest > BOX_TOLERANCE:
        wrong.append(f"a box differs by {largest:.2g} m")
    return Check("ground truth", f"{total} boxes, largest difference {largest:.1g} m", _first(wrong))


def _first(differences: list[str]) -> str:
    """The first differences and how many more there are."""
    return "; ".join(differences[:2]) + (f" and {len(differences) - 2} more" if len(differences) > 2 else "")


def verify_reports(reports: list[SceneReport], root: Path, version: str, sweeps: bool = True) -> bool:
    """Verify every bag of a conversion, printing a line a check; True where nothing differs."""
    good = True
    for report in reports:
        if report.path is None:
            continue
        source = NuScenesSource(root, version, scenes=[report.scene])
        checks = verify_bag(report.path, source, source.tables.scenes[0], sweeps)
        print(f"verify {report.path}", *(f"  {check}" for check in checks), sep="\n")
        good &= all(check.ok for check in checks)
    return good
