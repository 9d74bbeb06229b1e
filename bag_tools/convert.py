"""A nuScenes-format root becomes rosbag2 folders (MCAP), one a scene, with the original JPEG bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from scipy.spatial.transform import Rotation

from bag_tools import layout, messages
from bag_tools.markers import boxes_to_markers
from bag_tools.nuscenes_source import LIDAR, NuScenesSource, Sample
from bag_tools.nuscenes_tables import Row, nanoseconds
from bag_tools.record_sets import RecordSet, record_sets
from streampetr_core.cameras import CameraRig
from streampetr_core.console import OutputError, atomic_output, progress
from streampetr_core.errors import StreamPETRError

BAG_VERSION = 8
"""rosbag2 metadata version: the newest whose QoS notation Humble reads too."""
TWIST_WINDOW_NS = 100_000_000
"""Velocities are differences over this much time to either side: poses a few milliseconds apart are too noisy."""


class ConvertError(StreamPETRError):
    """A data set from which no bag can be made."""


@dataclass(frozen=True)
class SceneReport:
    """What became of one scene; `path` is None where it has no image at all and no bag was written."""

    scene: str
    path: Path | None
    images: int
    absent_images: int
    key_frames: int
    sweep_sets: int
    messages: int

    def __str__(self) -> str:
        absent = f", {self.absent_images} absent images skipped" if self.absent_images else ""
        if self.path is None:
            return f"{self.scene}: none of {self.absent_images} images is there, no bag written"
        sweeps = f" + {self.sweep_sets} sets between them" if self.sweep_sets else ""
        return (
            f"{self.path}: {self.key_frames} key frames{sweeps}, {self.images} images{absent}, "
            f"{self.messages} messages"
        )


@dataclass(frozen=True)
class _Event:
    """One message to be; sorted by time, then `order`: transforms, calibration, images, sets."""

    stamp_ns: int
    order: int
    topic: str
    make: Callable[[], Any]


def convert_nuscenes(
    root: Path | str,
    out: Path | str,
    version: str = "v1.0-mini",
    split: str | None = None,
    scenes: list[str] | None = None,
    sweeps: bool = True,
) -> list[SceneReport]:
    """Write `out/<scene name>/` for every chosen scene that has images.

    A bag appears when it is whole; an interrupted one leaves nothing. Stamps and log times are the sensors'.

    Args:
        root, version, split, scenes: see `NuScenesTables`.
        sweeps: also the images between key frames, where the data set has them.

    Raises:
        NuScenesError: for what the root lacks.
        OutputError: when one of the bags exists; then none is written.
        ConvertError: when no chosen scene has an image.
    """
    source = NuScenesSource(root, version, split, scenes)
    out = Path(out)
    existing = [out / scene["name"] for scene in source.tables.scenes if (out / scene["name"]).exists()]
    if existing:
        names = ", ".join(map(str, existing))
        raise OutputError(f"{names} exists; bags are never overwritten: choose another folder or remove it first")
    reports = [_convert_scene(source, scene, out, sweeps) for scene in source.tables.scenes]
    if not any(report.path for report in reports):
        absent = sum(report.absent_images for report in reports)
        raise ConvertError(f"{root}: all {absent} images of the chosen scenes are absent; download samples/ first")
    return reports


def _convert_scene(source: NuScenesSource, scene: Row, out: Path, sweeps: bool) -> SceneReport:
    samples = [sample for sample in source.samples if sample.scene == scene["token"]]
    rig = source.rig(samples[0])
    sets = record_sets(source.tables, scene, rig.names, sweeps)
    records = [(name, row) for group in sets for name, row in group.records.items()]
    present = {row["token"] for _, row in records if (source.root / row["filename"]).is_file()}
    key_frames = sum(group.sample is not None for group in sets)
    report = partial(
        SceneReport,
        scene=scene["name"],
        images=len(present),
        absent_images=len(records) - len(present),
        key_frames=key_frames,
        sweep_sets=len(sets) - key_frames,
    )
    if not present:
        return report(path=None, messages=0)
    events = [
        *_motion_events(source, scene, rig),
        *_camera_events(source, scene, rig, sets, present),
        *_sample_events(source, samples, rig, sets, present),
    ]
    start = min(event.stamp_ns for event in events)
    events.append(_Event(start, 0, layout.TF_STATIC_TOPIC, partial(_static_transforms, rig, start)))
    events.sort(key=lambda event: (event.stamp_ns, event.order))
    with atomic_output(out / scene["name"]) as folder:
        _write(folder, scene, events)
    return report(path=out / scene["name"], messages=len(events))


def _write(folder: Path, scene: Row, events: list[_Event]) -> None:
    """A rosbag2 folder of the events, its storage named after the scene."""
    store = messages.typestore()
    folder.mkdir()
    inner = folder / scene["name"]  # the writer names the storage after its folder, so it gets one and is unpacked
    connections: dict[str, Connection] = {}
    with Writer(inner, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.set_custom_data("scene", scene["token"])
        writer.set_custom_data("scene_name", scene["name"])
        for event in progress(events, scene["name"]):
            message = event.make()
            kind = message.__msgtype__
            if event.topic not in connections:
                connections[event.topic] = writer.add_connection(
                    event.topic, kind, typestore=store, offered_qos_profiles=layout.qos(event.topic)
                )
            writer.write(connections[event.topic], event.stamp_ns, store.serialize_cdr(message, kind))
    for path in inner.iterdir():
        path.rename(folder / path.name)
    inner.rmdir()


def ego_poses(source: NuScenesSource, scene: Row) -> dict[int, NDArray[np.float64]]:
    """stamp_ns -> map_from_ego (4, 4) of every distinct ego-pose stamp of a scene, by time; the lidar's wins."""
    everything = source.tables.sweeps(scene)
    poses = {
        nanoseconds(row["timestamp"]): row
        for channel in sorted(everything, key=lambda name: name == LIDAR)
        for row in everything[channel]
    }
    return {stamp: source.tables.ego_pose(poses[stamp]) for stamp in sorted(poses)}


def twists(
    stamps_ns: NDArray[np.int64], map_from_ego: NDArray[np.float64], window_ns: int = TWIST_WINDOW_NS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Linear (N, 3) m/s and angular (N, 3) rad/s velocity in base_link: differences over +-`window_ns`."""
    index = np.arange(len(stamps_ns))
    low = np.minimum(np.searchsorted(stamps_ns, stamps_ns - window_ns), np.maximum(index - 1, 0))
    high = np.searchsorted(stamps_ns, stamps_ns + window_ns, side="right") - 1
    high = np.maximum(high, np.minimum(index + 1, len(index) - 1))
    seconds = np.maximum((stamps_ns[high] - stamps_ns[low]) * 1e-9, 1e-9)[:, None]  # one pose alone stands still
    moved = map_from_ego[high, :3, 3] - map_from_ego[low, :3, 3]
    rotation = map_from_ego[:, :3, :3]
    turned = np.swapaxes(rotation[low], 1, 2) @ rotation[high]
    linear = np.einsum("nji,nj->ni", rotation, moved) / seconds
    return linear, Rotation.from_matrix(turned).as_rotvec() / seconds


def _motion_events(source: NuScenesSource, scene: Row, rig: CameraRig) -> Iterator[_Event]:
    poses = ego_poses(source, scene)
    stamps = np.fromiter(poses, dtype=np.int64)
    linear, angular = twists(stamps, np.array(list(poses.values())))
    for row, (stamp, pose) in enumerate(poses.items()):
        yield _Event(stamp, 1, layout.TF_TOPIC, partial(_ego_transform, pose, stamp))
        odometry = partial(_odometry, pose, linear[row], angular[row], stamp)
        yield _Event(stamp, 2, layout.ODOMETRY_TOPIC, odometry)


def _camera_events(
    source: NuScenesSource, scene: Row, rig: CameraRig, sets: list[RecordSet], present: set[str]
) -> Iterator[_Event]:
    calibrated: set[str] = set()
    for group in sets:
        for name, row in group.records.items():
            if row["token"] not in present:
                continue
            calibrated.add(name)
            stamp = nanoseconds(row["timestamp"])
            path = source.root / row["filename"]
            yield _Event(stamp, 4, layout.image_topic(name), partial(_image, path, name, stamp))
            yield _info_event(source, row, name, stamp)
    for name in set(rig.names) - calibrated:  # no image at all: the rig must still be known from the bag
        row = source.tables.sweeps(scene)[name][0]
        yield _info_event(source, row, name, nanoseconds(row["timestamp"]))


def _info_event(source: NuScenesSource, row: Row, name: str, stamp: int) -> _Event:
    camera = source.camera(name, row)
    make = partial(messages.camera_info, camera, stamp, layout.optical_frame(name))
    return _Event(stamp, 3, layout.info_topic(name), make)


def _sample_events(
    source: NuScenesSource, samples: list[Sample], rig: CameraRig, sets: list[RecordSet], present: set[str]
) -> Iterator[_Event]:
    by_token = {sample.token: sample for sample in samples}
    for group in sets:
        stamp = group.stamp_ns
        make = partial(_sample_info, samples[0], group, rig.names, present)
        yield _Event(stamp, 5, layout.SAMPLE_TOPIC, make)
        if group.sample is None:
            continue
        sample = by_token[group.sample["token"]]
        yield _Event(stamp, 6, layout.GROUND_TRUTH_TOPIC, partial(_ground_truth, source, sample))
        yield _Event(stamp, 7, layout.GROUND_TRUTH_MARKERS_TOPIC, partial(_ground_truth_markers, source, sample))


def _static_transforms(rig: CameraRig, stamp: int) -> Any:
    message = messages.new_message(messages.TF_MESSAGE)
    frames = {layout.optical_frame(camera.name): camera.ego_from_camera for camera in rig.cameras}
    frames[layout.LIDAR_FRAME] = rig.ego_from_model
    message.transforms = [
        messages.transform_message(layout.BASE_FRAME, name, matrix, stamp) for name, matrix in frames.items()
    ]
    return message


def _ego_transform(map_from_ego: NDArray[np.float64], stamp: int) -> Any:
    message = messages.new_message(messages.TF_MESSAGE)
    message.transforms = [messages.transform_message(layout.MAP_FRAME, layout.BASE_FRAME, map_from_ego, stamp)]
    return message


def _odometry(
    map_from_ego: NDArray[np.float64], linear: NDArray[np.float64], angular: NDArray[np.float64], stamp: int
) -> Any:
    message = messages.new_message(messages.ODOMETRY)
    messages.fill_header(message.header, stamp, layout.MAP_FRAME)
    message.child_frame_id = layout.BASE_FRAME
    messages.fill_pose(message.pose.pose, map_from_ego)
    messages.fill_vector(message.twist.twist.linear, linear)
    messages.fill_vector(message.twist.twist.angular, angular)
    return message


def _image(path: Path, camera: str, stamp: int) -> Any:
    message = messages.new_message(messages.COMPRESSED_IMAGE)
    messages.fill_header(message.header, stamp, layout.optical_frame(camera))
    message.format = "jpeg"
    message.data = np.fromfile(path, dtype=np.uint8)
    return message


def _sample_info(first: Sample, group: RecordSet, cameras: tuple[str, ...], present: set[str]) -> Any:
    message = messages.new_message(messages.SAMPLE_INFO)
    messages.fill_header(message.header, group.stamp_ns, layout.BASE_FRAME)
    message.scene, message.scene_name = first.scene, first.scene_name
    message.is_key_frame = group.sample is not None
    message.sample_token = group.sample["token"] if group.sample is not None else ""
    message.camera_names = list(cameras)
    rows = [group.records.get(name) for name in cameras]
    stamps = [nanoseconds(row["timestamp"]) if row and row["token"] in present else -1 for row in rows]
    message.image_stamps_ns = np.array(stamps, dtype=np.int64)
    return message


def _ground_truth(source: NuScenesSource, sample: Sample) -> Any:
    boxes, pose = source.ground_truth(sample), source.map_from_ego(sample)
    return messages.boxes_to_message(boxes, map_from_base=pose, scene=sample.scene)


def _ground_truth_markers(source: NuScenesSource, sample: Sample) -> Any:
    return boxes_to_markers(source.ground_truth(sample), namespace="ground_truth")
