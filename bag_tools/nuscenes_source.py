"""A nuScenes-format root as a sequence of frames, one a key frame, with what the data set knows beside each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bag_tools.nuscenes_tables import NuScenesError, NuScenesTables, Row, nanoseconds
from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
from streampetr_core.cameras import CameraModel, CameraRig
from streampetr_core.frame import Frame
from streampetr_core.geometry import inverse, yaw_from_quaternion

LIDAR = "LIDAR_TOP"


@dataclass(frozen=True)
class Sample:
    """A key frame before anything is decoded.

    Attributes:
        token, scene, scene_name: sample token, scene token and name.
        stamp_ns: the reference instant (lidar stamp).
        images: per camera of the scene the file of its image, None where the file is absent.
    """

    token: str
    scene: str
    scene_name: str
    stamp_ns: int
    images: tuple[Path | None, ...]

    @property
    def has_images(self) -> bool:
        """True where at least one camera's file is there."""
        return any(path is not None for path in self.images)


class NuScenesSource:
    """Key frames of a nuScenes-format root, scene after scene, each in time order.

    Iterating yields `Frame`; images are decoded one frame at a time. `samples` lists them undecoded.
    The reference instant is the sample's (lidar) stamp; `map_from_ego` is the ego pose of the LIDAR_TOP record.
    Absent and corrupt images are None, the latter with a warning in the frame.

    Args:
        root, version, split, scenes: see `NuScenesTables`.

    Raises:
        NuScenesError: at once, when tables, version, split or scenes are missing.
    """

    def __init__(
        self,
        root: Path | str,
        version: str = "v1.0-mini",
        split: str | None = None,
        scenes: list[str] | tuple[str, ...] | None = None,
    ) -> None:
        self.tables = NuScenesTables(root, version, split, scenes)
        self.root = self.tables.root
        self.samples: tuple[Sample, ...] = tuple(
            self._sample(scene, row) for scene in self.tables.scenes for row in self.tables.samples(scene)
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Frame]:
        return (self.frame(sample) for sample in self.samples)

    def __getitem__(self, index: int) -> Frame:
        return self.frame(self.samples[index])

    def frame(self, sample: Sample, decode: bool = True) -> Frame:
        """The frame of one sample; with `decode` False all images are None and their stamps are kept."""
        from streampetr_core.preprocessing import ImageError, decode_jpeg  # costs the import of torch

        tables, row = self.tables, self.tables.get("sample", sample.token)
        data = tables.sample_data(row)
        rig, map_from_ego = self.rig(sample), self.map_from_ego(sample)
        images: list[NDArray[np.uint8] | None] = [None] * len(rig)
        stamps = np.full(len(rig), sample.stamp_ns, dtype=np.int64)
        poses = np.repeat(map_from_ego[None], len(rig), axis=0)
        warnings: list[str] = []
        for index, (name, path) in enumerate(zip(rig.names, sample.images, strict=True)):
            if path is None:
                continue
            if decode:
                try:
                    images[index] = decode_jpeg(path.read_bytes())
                except (ImageError, OSError) as error:
                    warnings.append(f"{name}: {error}")
                    continue
            stamps[index] = nanoseconds(data[name]["timestamp"])
            poses[index] = tables.ego_pose(data[name])
        return Frame(
            stamp_ns=sample.stamp_ns,
            images=tuple(images),
            image_stamps_ns=stamps,
            rig=rig,
            map_from_ego=map_from_ego,
            map_from_ego_at_camera=poses,
            scene=sample.scene,
            sample_token=sample.token,
            ground_truth=self.ground_truth(sample),
            warnings=tuple(warnings),
        )

    def rig(self, sample: Sample) -> CameraRig:
        """The cameras of the sample's scene, as calibrated for this sample."""
        row = self.tables.get("sample", sample.token)
        first, own = self._scene_cameras(sample.scene), self.tables.sample_data(row)
        records = {name: own.get(name, record) for name, record in first.items()}
        cameras = [(r["calibrated_sensor_token"], r["width"], r["height"]) for r in records.values()]
        return self._rig(tuple(records), tuple(cameras), self._lidar(row)["calibrated_sensor_token"])

    def map_from_ego(self, sample: Sample) -> NDArray[np.float64]:
        """(4, 4) ego pose at the reference instant."""
        return self.tables.ego_pose(self._lidar(self.tables.get("sample", sample.token)))

    def ground_truth(self, sample: Sample) -> Boxes3D:
        """Annotated boxes of the ten detection classes in base_link at the reference instant.

        `score` is 1 for boxes with a lidar or radar point and 0 for those without, which the official evaluation
        leaves out. `velocity` is the horizontal part of `NuScenesTables.velocity`, NaN where unknown. `track_id`
        numbers the instances of the scene by first appearance (`instances` gives their tokens).
        """
        tables = self.tables
        rows = [
            row
            for row in tables.annotations(tables.get("sample", sample.token))
            if tables.detection_name(row) is not None
        ]
        if not rows:
            return Boxes3D.empty("base_link", sample.stamp_ns)
        numbers = {token: number for number, token in enumerate(self.instances(sample.scene))}
        return Boxes3D(
            center=np.array([row["translation"] for row in rows]),
            size=np.array([row["size"] for row in rows])[:, [1, 0, 2]],  # tables hold width, length, height
            yaw=yaw_from_quaternion([row["rotation"] for row in rows]),
            velocity=np.array([tables.velocity(row)[:2] for row in rows]),
            score=np.array([float(row["num_lidar_pts"] + row["num_radar_pts"] > 0) for row in rows]),
            label=np.array([NUSCENES_CLASSES.index(tables.detection_name(row) or "") for row in rows]),
            track_id=np.array([numbers[row["instance_token"]] for row in rows]),
            attribute=np.array([tables.attribute(row) for row in rows]),
            frame_id="map",
            stamp_ns=sample.stamp_ns,
        ).transformed(inverse(self.map_from_ego(sample)), "base_link")

    @lru_cache(maxsize=4)  # noqa: B019  (a source lives as long as its command)
    def instances(self, scene: str) -> tuple[str, ...]:
        """Instance tokens of a scene by first appearance: `track_id` indexes this."""
        tables = self.tables
        seen: dict[str, None] = {}
        for row in tables.samples(tables.get("scene", scene)):
            for annotation in tables.annotations(row):
                if tables.detection_name(annotation) is not None:
                    seen.setdefault(annotation["instance_token"])
        return tuple(seen)

    def _sample(self, scene: Row, row: Row) -> Sample:
        data = self.tables.sample_data(row)
        paths = []
        for name in self._scene_cameras(scene["token"]):
            path = self.root / data[name]["filename"] if name in data else None
            paths.append(path if path is not None and path.is_file() else None)
        stamp = nanoseconds(row["timestamp"])
        return Sample(row["token"], scene["token"], scene["name"], stamp, tuple(paths))

    def _lidar(self, row: Row) -> Row:
        """The record whose ego pose holds at the reference instant."""
        data = self.tables.sample_data(row)
        if LIDAR not in data:
            raise NuScenesError(
                f"{self.root}: sample {row['token']} has no {LIDAR} record in sample_data.json; its ego pose "
                "gives the reference instant (the record is needed, its point cloud is not)"
            )
        return data[LIDAR]

    @lru_cache(maxsize=8)  # noqa: B019
    def _scene_cameras(self, scene: str) -> dict[str, Row]:
        """channel -> first key-frame record, for every camera that occurs in a scene, in rig order."""
        found: dict[str, Row] = {}
        for row in self.tables.samples(self.tables.get("scene", scene)):
            for name, record in self.tables.sample_data(row).items():
                found.setdefault(name, record)
        cameras = {name: found[name] for name in self.tables.camera_channels if name in found}
        if not cameras:
            name = self.tables.get("scene", scene)["name"]
            raise NuScenesError(f"{self.root}: {name} has no camera records in sample_data.json")
        return cameras

    @lru_cache(maxsize=64)  # noqa: B019
    def _rig(self, names: tuple[str, ...], sensors: tuple[tuple[str, int, int], ...], lidar: str) -> CameraRig:
        """Keyed by calibration, so that equal rigs are one object."""
        cameras = tuple(self._camera(name, *sensor) for name, sensor in zip(names, sensors, strict=True))
        return CameraRig(cameras, self.tables.calibration(lidar)[0])

    def camera(self, name: str, record: Row) -> CameraModel:
        """The camera as it was when a `sample_data` row was taken."""
        return self._camera(name, record["calibrated_sensor_token"], record["width"], record["height"])

    @lru_cache(maxsize=64)  # noqa: B019
    def _camera(self, name: str, token: str, width: int, height: int) -> CameraModel:
        ego_from_camera, intrinsics = self.tables.calibration(token)
        return CameraModel(name, width, height, np.array(intrinsics), ego_from_camera)
