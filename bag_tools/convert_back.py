"""Bags become a nuScenes-format root that the unmodified devkit loads: images, tables, poses, ground truth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bag_tools import messages
from bag_tools.bag_file import BagError, RawMessage, decode_message
from bag_tools.bag_plan import BagTopics
from bag_tools.bag_reader import BagReader, PosedSet, decode_image
from bag_tools.nuscenes_source import LIDAR
from bag_tools.nuscenes_tables import Row
from bag_tools.nuscenes_writer import CATEGORY_OF, TableWriter, chain, make_token
from streampetr_core.boxes import Boxes3D
from streampetr_core.cameras import CameraModel
from streampetr_core.console import atomic_output, progress
from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import apply, quaternion_from_matrix, quaternion_from_yaw, transform

KEY_FRAME_NS = 500_000_000
"""nuScenes scores at 2 Hz: in bags that do not name their key frames, the first set of each half second is one."""
JPEG_QUALITY = 95


@dataclass(frozen=True)
class BagConversion:
    """What a conversion wrote."""

    root: Path
    scenes: int
    key_frames: int
    images: int
    copied: int
    boxes: int
    skipped: dict[str, int]

    def __str__(self) -> str:
        encoded = f" ({self.images - self.copied} encoded anew)" if self.copied < self.images else ""
        lost = "".join(f", {count} {what}" for what, count in self.skipped.items())
        return (
            f"{self.root}: {self.scenes} scenes, {self.key_frames} key frames, {self.images} images{encoded}, "
            f"{self.boxes} boxes{lost}"
        )


def convert_bag(
    bags: Path | str | Sequence[Path | str],
    out: Path | str,
    version: str = "v1.0-mini",
    topics: BagTopics | None = None,
) -> BagConversion:
    """Write the nuScenes-format root `out` from bags, one scene each; it appears when it is whole.

    JPEG bytes are copied as they are; raw, PNG and distorted images are made rectified JPEGs. Key frames, tokens
    and names are those of `/streampetr/sample`; without it a key frame comes every half second and the scene is
    named after the bag. Ego poses are those at each image's stamp. Annotations come from the ground-truth topic;
    boxes of score 0 get no lidar points. nuScenes counts in microseconds: finer stamps are cut.

    Raises:
        BagError: when a bag cannot be used, or two hold the same scene.
        OutputError: when `out` exists.
    """
    paths = [bags] if isinstance(bags, str | Path) else list(bags)
    with atomic_output(out) as folder:
        output = _Output(folder)
        for path in paths:
            reader = BagReader(path, topics)
            scene = _Scene(output, reader)
            for group in progress(reader.sets(), Path(path).stem, len(reader)):
                scene.add(group)
            scene.finish()
            output.skipped.update(reader.counts)
        output.tables.write(folder, version)
    rows = output.tables.rows
    return BagConversion(
        root=Path(out),
        scenes=len(paths),
        key_frames=len(rows["sample"]),
        images=output.images,
        copied=output.copied,
        boxes=len(rows["sample_annotation"]),
        skipped=dict(output.skipped),
    )


class _Output:
    """The root that grows: its tables, its folder, and what was done."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tables = folder, TableWriter()
        self.images = self.copied = 0
        self.skipped: Counter[str] = Counter()

    def save(self, message: RawMessage, camera: CameraModel, filename: Path) -> bool:
        """Write an image's file; False, and counted, where it cannot be decoded and so not be written."""
        path = self.folder / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if message.type_name == messages.COMPRESSED_IMAGE and camera.is_rectified:
                data = memoryview(decode_message(message).data)
                if bytes(data[:2]) == b"\xff\xd8":
                    path.write_bytes(data)
                    self.images += 1
                    self.copied += 1
                    return True
            from streampetr_core.preprocessing import undistort  # costs the import of torch

            rgb = undistort(decode_image(message), camera)
        except StreamPETRError:
            self.skipped["images that cannot be decoded"] += 1
            return False
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        path.write_bytes(cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[1].tobytes())
        self.images += 1
        return True


class _Scene:
    """One bag on its way into the tables."""

    def __init__(self, output: _Output, reader: BagReader) -> None:
        self.output, self.tables, self.reader = output, output.tables, reader
        self.token = self.name = ""
        self.samples: list[Row] = []
        self.data: dict[str, list[Row]] = defaultdict(list)  # channel -> rows by time
        self.last_key_ns: int | None = None

    def add(self, group: PosedSet) -> None:
        """File one camera set."""
        if not self.token:
            self._begin(group)
        is_key = self._is_key_frame(group)
        first = len(self.samples)
        if is_key:
            self._add_sample(group)
        elif group.images.stamp_ns not in {stamp for stamp, _ in group.images.images.values()}:
            self._add_lidar(group, False, first)  # the reference instant of a set between key frames
        for name, (stamp, message) in group.images.images.items():
            camera = next(camera for camera in group.rig.cameras if camera.name == name)
            folder = Path("samples" if is_key else "sweeps") / name
            filename = folder / f"{self.name}__{name}__{stamp // 1000}.jpg"
            if self.output.save(message, camera, filename):
                sensor = self._sensor(camera.name, camera.ego_from_camera, camera)
                size = {"width": camera.width, "height": camera.height, "fileformat": "jpg"}
                self._add_data(name, stamp, group.at(stamp), sensor, is_key, first, filename=str(filename), **size)

    def finish(self) -> None:
        """Chain what follows one another, and write the scene's own row."""
        if not self.samples:
            raise BagError(f"{self.reader.path}: no key frames; the bag is shorter than one set of images")
        chain(self.samples)
        for rows in self.data.values():
            chain(sorted(rows, key=lambda row: row["timestamp"]))
            for row in rows:  # sweeps belong to the key frame that follows; the last ones to the last
                row["sample_token"] = self.samples[min(row["sample_token"], len(self.samples) - 1)]["token"]
        self._chain_annotations()
        self.tables.put(
            "scene",
            self.token,
            log_token=make_token("log", self.token),
            nbr_samples=len(self.samples),
            first_sample_token=self.samples[0]["token"],
            last_sample_token=self.samples[-1]["token"],
            name=self.name,
            description="converted from a ROS 2 bag",
        )

    def _begin(self, group: PosedSet) -> None:
        self.name = group.images.scene_name or self.reader.path.stem
        named = self.reader.plan.has_samples and group.images.scene
        self.token = group.images.scene if named else make_token("scene", self.name)
        if make_token("log", self.token) in self.tables.rows["log"]:
            raise BagError(f"{self.reader.path}: scene {self.name} is in an earlier bag already; give each once")
        log = {"logfile": self.name, "vehicle": "", "date_captured": "", "location": ""}
        self.tables.put("log", make_token("log", self.token), **log)

    def _is_key_frame(self, group: PosedSet) -> bool:
        if self.reader.plan.has_samples:
            return group.images.is_key_frame
        stamp = group.images.stamp_ns
        if self.last_key_ns is not None and stamp < self.last_key_ns + KEY_FRAME_NS - KEY_FRAME_NS // 20:
            return False
        self.last_key_ns = stamp
        return True

    def _add_sample(self, group: PosedSet) -> None:
        stamp = group.images.stamp_ns
        token = group.images.sample_token or make_token("sample", self.token, stamp)
        index = len(self.samples)
        self.samples.append({"token": token, "timestamp": stamp // 1000, "scene_token": self.token})
        self.tables.rows["sample"][token] = self.samples[-1]
        self._add_lidar(group, True, index)
        if group.ground_truth is not None:
            self._add_annotations(group.ground_truth, group.at(stamp), token)

    def _add_lidar(self, group: PosedSet, is_key: bool, index: int) -> None:
        """The record that carries the reference instant and its pose; the point cloud is in no bag of ours."""
        stamp = group.images.stamp_ns
        sensor = self._sensor(LIDAR, group.rig.ego_from_model, None)
        folder = "samples" if is_key else "sweeps"
        name = f"{folder}/{LIDAR}/{self.name}__{LIDAR}__{stamp // 1000}.pcd.bin"
        size = {"width": 0, "height": 0, "fileformat": "pcd"}
        self._add_data(LIDAR, stamp, group.at(stamp), sensor, is_key, index, filename=name, **size)

    def _add_data(
        self,
        channel: str,
        stamp: int,
        map_from_ego: NDArray[np.float64],
        sensor: str,
        is_key: bool,
        sample_index: int,
        **fields: Any,
    ) -> None:
        token = make_token("data", self.token, channel, stamp)
        pose = self.tables.put_pose("ego_pose", make_token("pose", token), map_from_ego, timestamp=stamp // 1000)
        row = {
            "token": token,
            "sample_token": sample_index,  # becomes a token when the scene is finished
            "ego_pose_token": pose,
            "calibrated_sensor_token": sensor,
            "timestamp": stamp // 1000,
            "is_key_frame": is_key,
            **fields,
        }
        self.tables.rows["sample_data"][token] = row
        self.data[channel].append(row)

    def _sensor(self, channel: str, ego_from_sensor: NDArray[np.float64], camera: CameraModel | None) -> str:
        """Row of `calibrated_sensor`, one for each calibration that occurs in the scene."""
        modality = "lidar" if camera is None else "camera"
        sensor = self.tables.put("sensor", make_token("sensor", channel), channel=channel, modality=modality)
        intrinsics = [] if camera is None else camera.intrinsics.tolist()
        token = make_token("calibration", self.token, channel, ego_from_sensor.tolist(), intrinsics)
        fields = {"sensor_token": sensor, "camera_intrinsic": intrinsics}
        return self.tables.put_pose("calibrated_sensor", token, ego_from_sensor, **fields)

    def _add_annotations(self, boxes: Boxes3D, map_from_ego: NDArray[np.float64], sample: str) -> None:
        centers = apply(map_from_ego, boxes.center)
        for row, name in enumerate(boxes.names()):
            category = CATEGORY_OF[str(name)]
            number = int(boxes.track_id[row])
            instance = make_token("instance", self.token, number if number >= 0 else f"{sample}/{row}")
            category_token = self.tables.put(
                "category", make_token("category", category), name=category, description=""
            )
            attribute = str(boxes.attribute[row])
            attributes = []
            if attribute:
                token = make_token("attribute", attribute)
                attributes.append(self.tables.put("attribute", token, name=attribute, description=""))
            self.tables.put("instance", instance, category_token=category_token)
            heading = map_from_ego @ transform(np.zeros(3), quaternion_from_yaw(boxes.yaw[row]))
            length, width, height = boxes.size[row].tolist()
            self.tables.put(
                "sample_annotation",
                make_token("annotation", sample, instance),
                sample_token=sample,
                instance_token=instance,
                visibility_token="4",
                attribute_tokens=attributes,
                translation=centers[row].tolist(),
                size=[width, length, height],
                rotation=quaternion_from_matrix(heading).tolist(),
                num_lidar_pts=int(boxes.score[row] > 0),
                num_radar_pts=0,
            )

    def _chain_annotations(self) -> None:
        """Follow each instance from sample to sample."""
        order = {sample["token"]: index for index, sample in enumerate(self.samples)}
        tracks: dict[str, list[Row]] = defaultdict(list)
        for row in self.tables.rows["sample_annotation"].values():
            if row["sample_token"] in order:
                tracks[row["instance_token"]].append(row)
        for instance, rows in tracks.items():
            rows.sort(key=lambda row: order[row["sample_token"]])
            chain(rows)
            self.tables.rows["instance"][instance] |= {
                "nbr_annotations": len(rows),
                "first_annotation_token": rows[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
