"""Rendered drives as a data set in the nuScenes format, loaded and scored by the unmodified devkit."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bag_tools.nuscenes_source import LIDAR
from bag_tools.nuscenes_tables import Row
from bag_tools.nuscenes_writer import CATEGORY_OF, TableWriter, chain, make_token
from bag_tools.rendered.drive import RenderedDrive, RenderError, Truth
from streampetr_core.console import atomic_output, progress
from streampetr_core.frame import Frame
from streampetr_core.geometry import apply, quaternion_from_yaw, yaw_from_quaternion
from streampetr_core.geometry import quaternion_from_matrix as quaternion

MINI_VERSION, FULL_VERSION = "v1.0-mini", "v1.0-trainval"
ALL_SCENES = "rendered"
"""Split of all scenes of a rendered data set, in its splits.json."""
_MINI_SCENES = 10


@dataclass(frozen=True)
class RenderedDataSet:
    """What was written."""

    root: Path
    version: str
    scenes: tuple[str, ...]
    key_frames: int
    images: int
    boxes: int
    visible: int

    def __str__(self) -> str:
        return (
            f"{self.root}: {self.version}, {len(self.scenes)} scenes, {self.key_frames} key frames, "
            f"{self.images} images, {self.boxes} boxes ({self.visible} visible)"
        )


def scene_names(count: int) -> tuple[str, tuple[str, ...]]:
    """The version and the names that put `count` drives into official splits: mini_val, mini_train, val, train.

    Raises:
        RenderError: when there are not so many official scenes.
    """
    from nuscenes.utils import splits

    names = [*splits.mini_val, *splits.mini_train]
    if count > _MINI_SCENES:
        names += [name for name in (*splits.val, *splits.train) if name not in set(names)]
    if not 1 <= count <= len(names):
        raise RenderError(f"{count} scenes; choose 1 to 850, as many as the official splits have names for")
    return (MINI_VERSION if count <= _MINI_SCENES else FULL_VERSION), tuple(names[:count])


def write_dataset(
    out: Path | str,
    scenes: int = 2,
    seconds: float = 10.0,
    seed: int = 0,
    size: tuple[int, int] = (1600, 900),
    *,
    device: str = "auto",
    fog: float | None = None,
    sweeps: bool = False,
    quality: int = 90,
) -> RenderedDataSet:
    """Render `scenes` drives into the nuScenes-format root `out`; it appears when it is whole.

    Images lie under samples/ (and sweeps/ with `sweeps`: 12 Hz) as JPEGs of `quality`; key frames come at 2 Hz.
    The lidar has rows and poses but no point clouds. The split "rendered" has all scenes.
    Drive k is `RenderedDrive(drive_seed(seed, k), ...)`.

    Raises:
        RenderError: on arguments that cannot be rendered.
        OutputError: when `out` exists or cannot be written.
    """
    if not 1 <= quality <= 100:
        raise RenderError(f"JPEG quality {quality}; choose 1 to 100")
    if fog is not None and not 0.0 <= fog < 1.0:
        raise RenderError(f"fog {fog:g}; choose 0 (clear) to less than 1")
    version, names = scene_names(scenes)
    with atomic_output(out) as folder:
        tables = TableWriter()
        totals = np.zeros(4, dtype=np.int64)
        for number, name in enumerate(names):
            drive = RenderedDrive(
                drive_seed(seed, number), seconds, size, device=device, fog=fog, sweeps=sweeps, scene=name
            )
            totals += _write_scene(tables, folder, drive, quality)
        tables.write(folder, version)
        (folder / version / "splits.json").write_text(json.dumps({ALL_SCENES: names}) + "\n")
    key_frames, images, boxes, visible = totals.tolist()
    return RenderedDataSet(Path(out), version, names, key_frames, images, boxes, visible)


def drive_seed(seed: int, number: int) -> int:
    """The seed of drive `number` of a data set of `seed`."""
    return seed * 1000 + number


def _write_scene(tables: TableWriter, folder: Path, drive: RenderedDrive, quality: int) -> NDArray[np.int64]:
    """One drive; returns counts of key frames, images, boxes and visible boxes."""
    scene = _Scene(tables, folder, drive, quality)
    with ThreadPoolExecutor(2) as pool:
        saving: list[Future[None]] = []
        for frame, truth in progress(_frames(drive), f"rendering {drive.scene}", len(drive)):
            saving += [pool.submit(scene.save, *job) for job in scene.add(frame, truth)]
            # No more than a few frames wait for the encoder; a full disk is noticed here.
            while len(saving) > 24:
                saving.pop(0).result()
        for job in saving:
            job.result()
    return scene.finish()


def _frames(drive: RenderedDrive) -> Iterator[tuple[Frame, Truth]]:
    """The drive's frames in order; on a CPU as many at a time as there are cores.

    One thread a frame beats all threads on one frame: the operations are short, and threads that wait for each
    other at the end of every one burn what a busy machine has not got.
    """
    if drive.device.type != "cpu":
        yield from (drive.frame_with_truth(index) for index in range(len(drive)))
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        waiting = [pool.submit(drive.frame_with_truth, index) for index in range(min(threads, len(drive)))]
        for index in range(len(drive)):
            result = waiting.pop(0).result()
            if index + threads < len(drive):
                waiting.append(pool.submit(drive.frame_with_truth, index + threads))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)


class _Scene:
    """One drive on its way into the tables."""

    def __init__(self, tables: TableWriter, folder: Path, drive: RenderedDrive, quality: int) -> None:
        self.tables, self.folder, self.drive, self.quality = tables, folder, drive, quality
        self.token = make_token("scene", drive.scene)
        begun = datetime.fromtimestamp(drive.start_ns * 1e-9, tz=timezone.utc)
        self.log = f"r000-{begun:%Y-%m-%d-%H-%M-%S}+0000"
        self.samples: list[Row] = []
        self.data: dict[str, list[Row]] = defaultdict(list)
        self.instances: dict[int, list[Row]] = defaultdict(list)
        self.images = 0
        log = {"logfile": self.log, "vehicle": "r000", "date_captured": f"{begun:%Y-%m-%d}"}
        location = "boston-seaport" if drive.seed % 2 == 0 else "singapore-onenorth"
        tables.put("log", make_token("log", drive.scene), **log, location=location)

    def add(self, frame: Frame, truth: Truth) -> list[tuple[NDArray[np.uint8], Path]]:
        """File a frame; returns the images to be saved, and where."""
        if frame.is_key_frame:
            self._add_sample(frame, truth)
        kind = "samples" if frame.is_key_frame else "sweeps"
        jobs = []
        for i, camera in enumerate(frame.rig.cameras):
            image, stamp = frame.images[i], int(frame.image_stamps_ns[i])
            assert image is not None
            filename = Path(kind) / camera.name / f"{self.log}__{camera.name}__{stamp // 1000}.jpg"
            sensor = self._sensor(camera.name, camera.ego_from_camera, camera.intrinsics)
            size = {"width": camera.width, "height": camera.height, "fileformat": "jpg"}
            pose = frame.map_from_ego_at_camera[i]
            self._add_data(camera.name, stamp, pose, sensor, frame.is_key_frame, str(filename), size)
            jobs.append((image, self.folder / filename))
            self.images += 1
        return jobs

    def save(self, image: NDArray[np.uint8], path: Path) -> None:
        """Write one JPEG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        options = [cv2.IMWRITE_JPEG_QUALITY, self.quality]
        path.write_bytes(cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes())

    def finish(self) -> NDArray[np.int64]:
        """Chain what follows one another, and write the scene's own row."""
        chain(self.samples)
        for rows in self.data.values():
            chain(sorted(rows, key=lambda row: row["timestamp"]))
            for row in rows:  # sweeps belong to the key frame that follows; the last ones to the last
                row["sample_token"] = self.samples[min(row["sample_token"], len(self.samples) - 1)]["token"]
        boxes = visible = 0
        for number, rows in self.instances.items():
            chain(rows)
            category = CATEGORY_OF[self.drive.actors[number].name]
            self.tables.put(
                "instance",
                make_token("instance", self.token, number),
                category_token=make_token("category", category),
                nbr_annotations=len(rows),
                first_annotation_token=rows[0]["token"],
                last_annotation_token=rows[-1]["token"],
            )
            boxes += len(rows)
            visible += sum(row["num_lidar_pts"] > 0 for row in rows)
        self.tables.put(
            "scene",
            self.token,
            log_token=make_token("log", self.drive.scene),
            nbr_samples=len(self.samples),
            first_sample_token=self.samples[0]["token"],
            last_sample_token=self.samples[-1]["token"],
            name=self.drive.scene,
            description=f"rendered world, seed {self.drive.seed}",
        )
        return np.array([len(self.samples), self.images, boxes, visible])

    def _add_sample(self, frame: Frame, truth: Truth) -> None:
        stamp = frame.stamp_ns
        row = {"timestamp": stamp // 1000, "scene_token": self.token}
        self.tables.put("sample", frame.sample_token, **row)
        self.samples.append(self.tables.rows["sample"][frame.sample_token])
        lidar = self._sensor(LIDAR, frame.rig.ego_from_model, None)
        name = f"samples/{LIDAR}/{self.log}__{LIDAR}__{stamp // 1000}.pcd.bin"
        size = {"width": 0, "height": 0, "fileformat": "pcd"}
        # Filed under the sample that was just added, not the one that follows.
        self._add_data(LIDAR, stamp, frame.map_from_ego, lidar, True, name, size)
        self._add_annotations(frame, truth)

    def _add_data(
        self,
        channel: str,
        stamp: int,
        map_from_ego: NDArray[np.float64],
        sensor: str,
        is_key: bool,
        filename: str,
        size: dict[str, int | str],
    ) -> None:
        token = make_token("data", self.token, channel, stamp)
        pose = self.tables.put_pose("ego_pose", make_token("pose", token), map_from_ego, timestamp=stamp // 1000)
        self.tables.put(
            "sample_data",
            token,
            sample_token=len(self.samples) - is_key,  # becomes a token when the scene is finished
            ego_pose_token=pose,
            calibrated_sensor_token=sensor,
            timestamp=stamp // 1000,
            is_key_frame=is_key,
            filename=filename,
            **size,
        )
        self.data[channel].append(self.tables.rows["sample_data"][token])

    def _sensor(
        self, channel: str, ego_from_sensor: NDArray[np.float64], intrinsics: NDArray[np.float64] | None
    ) -> str:
        modality = "lidar" if intrinsics is None else "camera"
        sensor = self.tables.put("sensor", make_token("sensor", channel), channel=channel, modality=modality)
        matrix = [] if intrinsics is None else intrinsics.tolist()
        token = make_token("calibration", self.token, channel)
        return self.tables.put_pose(
            "calibrated_sensor", token, ego_from_sensor, sensor_token=sensor, camera_intrinsic=matrix
        )

    def _add_annotations(self, frame: Frame, truth: Truth) -> None:
        boxes = truth.boxes
        centers = apply(frame.map_from_ego, boxes.center)
        yaw = boxes.yaw + yaw_from_quaternion(quaternion(frame.map_from_ego))
        rotations = quaternion_from_yaw(yaw)
        levels = 1 + np.searchsorted([0.4, 0.6, 0.8], truth.visibility, side="right")
        for row in range(len(boxes)):
            number = int(boxes.track_id[row])
            token = make_token("annotation", frame.sample_token, number)
            attribute = str(boxes.attribute[row])
            length, width, height = boxes.size[row].tolist()
            self.tables.put(
                "sample_annotation",
                token,
                sample_token=frame.sample_token,
                instance_token=make_token("instance", self.token, number),
                visibility_token=str(levels[row]),
                attribute_tokens=[make_token("attribute", attribute)] if attribute else [],
                translation=centers[row].tolist(),
                size=[width, length, height],
                rotation=rotations[row].tolist(),
                num_lidar_pts=int(truth.points[row]),
                num_radar_pts=0,
            )
            self.instances[number].append(self.tables.rows["sample_annotation"][token])
