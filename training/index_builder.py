"""From the tables of a nuScenes-format root to the index of its key frames; no info files, no devkit.

What is computed follows the published converter: boxes in the LIDAR_TOP frame with their full rotations,
velocities rotated with them (unknown ones 0), validity by lidar and radar points, outlines of every box in every
image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bag_tools.nuscenes_source import LIDAR, NuScenesSource, Sample
from bag_tools.nuscenes_tables import TABLES, NuScenesTables, Row, nanoseconds
from streampetr_core.boxes import NUSCENES_CLASSES
from streampetr_core.cameras import CameraModel
from streampetr_core.console import OutputError, progress
from streampetr_core.geometry import apply, inverse, matrix_from_quaternion
from training.boxes_2d import View, project_boxes
from training.index import INDEX_VERSION, FrameIndex, FrameIndexError, StaleIndexError

_SIGNS = np.array([[x, y, z] for x in (1, -1) for y in (1, -1) for z in (1, -1)]) / 2


def open_index(
    root: Path | str,
    version: str = "v1.0-trainval",
    split: str | None = "train",
    scenes: Sequence[str] | None = None,
    cache: Path | str | None = None,
) -> FrameIndex:
    """The index of a split or of some scenes, from its file where one is there, else built and stored.

    Args:
        root, version, split, scenes: see `NuScenesTables`.
        cache: folder for index files; None = beside the tables, or the user's cache where those are read-only.

    Raises:
        NuScenesError: naming missing tables or scenes; FrameIndexError where there is no frame.
    """
    root = Path(root)
    # names every missing table at once; reads none but the small ones of the scenes
    NuScenesTables(root, version, split if scenes is None else None, None if scenes is None else list(scenes))
    wanted = f"split {split}" if scenes is None else "scenes " + " ".join(scenes)
    fingerprint = tables_fingerprint(root / version)
    for folder in _folders(root / version, cache):
        try:
            return FrameIndex.load(_file(folder, root, version, wanted), root, fingerprint)
        except StaleIndexError:
            continue
    index = build_index(root, version, split if scenes is None else None, scenes)
    for folder in _folders(root / version, cache):
        try:
            index.save(_file(folder, root, version, wanted), fingerprint)
            break
        except (OutputError, OSError):
            continue
    return index


def tables_fingerprint(folder: Path) -> str:
    """Changes when a table does: names, sizes, times of writing, and both ends of every table's file."""
    digest = hashlib.blake2b(digest_size=16)
    for name in (*TABLES, "splits"):
        path = folder / f"{name}.json"
        if not path.is_file():
            continue
        state = path.stat()
        digest.update(f"{name} {state.st_size} {state.st_mtime_ns} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 16))
            file.seek(max(0, state.st_size - (1 << 16)))
            digest.update(file.read())
    return digest.hexdigest()


def _folders(tables: Path, cache: Path | str | None) -> list[Path]:
    if cache is not None:
        return [Path(cache)]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return [tables, Path(base) / "streampetr"]


def _file(folder: Path, root: Path, version: str, wanted: str) -> Path:
    key = hashlib.blake2b(f"{root.resolve()} {version} {wanted}".encode(), digest_size=6).hexdigest()
    return folder / f"training_index_{key}.npz"


def build_index(
    root: Path, version: str, split: str | None = None, scenes: Sequence[str] | None = None
) -> FrameIndex:
    """The index of a split or of some scenes (all with neither), straight from the tables.

    Raises:
        NuScenesError: on tables that are missing or contradict each other; FrameIndexError without frames.
    """
    source = NuScenesSource(root, version, split, None if scenes is None else tuple(scenes))
    builder = _Builder(source)
    by_scene: dict[str, list[Sample]] = {}
    for sample in source.samples:
        by_scene.setdefault(sample.scene, []).append(sample)
    if not by_scene:
        raise FrameIndexError(f"{root}: no key frame in {split or scenes or version}; check the tables")
    ordered = sorted(by_scene.values(), key=lambda samples: samples[0].stamp_ns)
    with_progress = progress((sample for samples in ordered for sample in samples), "index", len(source))
    for sample in with_progress:
        builder.add(sample)
    return builder.finish(ordered)


@dataclass
class _Builder:
    """Frames on their way into arrays."""

    source: NuScenesSource
    columns: dict[str, list] = field(default_factory=dict)
    known: dict[tuple, int] = field(default_factory=dict)
    cameras: list[CameraModel] = field(default_factory=list)
    scene: str = ""
    scene_number: int = -1

    def put(self, **values: object) -> None:
        for name, value in values.items():
            self.columns.setdefault(name, []).append(value)

    def add(self, sample: Sample) -> None:
        tables = self.source.tables
        row = tables.get("sample", sample.token)
        data = tables.sample_data(row)
        rig, map_from_ego = self.source.rig(sample), self.source.map_from_ego(sample)
        new_scene = sample.scene != self.scene
        self.scene, self.scene_number = sample.scene, self.scene_number + new_scene
        poses, stamps, paths = np.tile(map_from_ego, (len(rig), 1, 1)), [sample.stamp_ns] * len(rig), []
        for i, name in enumerate(rig.names):
            paths.append(data[name]["filename"] if name in data else "")
            if name in data:  # the file may be absent now; where it was taken is known
                poses[i], stamps[i] = tables.ego_pose(data[name]), nanoseconds(data[name]["timestamp"])
        self.put(
            tokens=sample.token,
            paths=paths,
            scene=self.scene_number,
            starts=new_scene or not data[LIDAR]["prev"],
            stamps_ns=sample.stamp_ns,
            image_stamps_ns=stamps,
            map_from_ego=map_from_ego,
            map_from_ego_at_camera=poses,
            ego_from_model=rig.ego_from_model,
            cameras=[self.camera(camera) for camera in rig.cameras],
        )
        rows = [row for row in tables.annotations(row) if tables.detection_name(row) is not None]
        self.add_boxes(rows, inverse(map_from_ego @ rig.ego_from_model))
        centers = np.array([row["translation"] for row in rows]).reshape(-1, 3)
        corners = _corners(rows)
        for camera, pose in zip(rig.cameras, poses, strict=True):
            view = project_boxes(corners, centers, inverse(pose @ camera.ego_from_camera), camera)
            self.put(views=view)

    def add_boxes(self, rows: list[Row], model_from_map: NDArray[np.float64]) -> None:
        tables = self.source.tables
        boxes = np.zeros((len(rows), 9))
        if rows:
            rotation = model_from_map[:3, :3]
            heading = rotation @ matrix_from_quaternion([row["rotation"] for row in rows])
            velocity = np.array([tables.velocity(row) for row in rows])
            velocity[:, 2] = 0.0  # of a velocity in the map only the plane is used
            boxes[:, :3] = apply(model_from_map, [row["translation"] for row in rows])
            boxes[:, 3:6] = np.array([row["size"] for row in rows])[:, [1, 0, 2]]  # tables: width, length, height
            # the angle that pyquaternion calls yaw; of a frame tilted by 1 degree it is off by 0.0002 rad at most
            boxes[:, 6] = np.arctan2(-heading[:, 0, 1], heading[:, 0, 0])
            boxes[:, 7:] = np.nan_to_num((velocity @ rotation.T)[:, :2])
        labels = [NUSCENES_CLASSES.index(tables.detection_name(row) or "") for row in rows]
        valid = [row["num_lidar_pts"] + row["num_radar_pts"] > 0 for row in rows]
        self.put(boxes=boxes, labels=np.array(labels, dtype=np.int64), valid=np.array(valid, dtype=bool))

    def camera(self, camera: CameraModel) -> int:
        numbers = (camera.intrinsics.tobytes(), camera.ego_from_camera.tobytes())
        key = (camera.name, camera.width, camera.height, *numbers)
        if key not in self.known:
            self.known[key] = len(self.cameras)
            self.cameras.append(camera)
        return self.known[key]

    def finish(self, ordered: list[list[Sample]]) -> FrameIndex:
        columns = self.columns
        counts = {len(paths) for paths in columns["paths"]}
        if len(counts) > 1:
            raise FrameIndexError(
                f"{self.source.root}: scenes with {' and '.join(map(str, sorted(counts)))} cameras; train on "
                "scenes of one rig at a time"
            )
        views: list[View] = columns["views"]
        return FrameIndex(
            root=self.source.root,
            tokens=columns["tokens"],
            paths=columns["paths"],
            scene_names=[samples[0].scene_name for samples in ordered],
            scene_tokens=[samples[0].scene for samples in ordered],
            camera_names=[camera.name for camera in self.cameras],
            scene=np.array(columns["scene"], dtype=np.int64),
            starts=np.array(columns["starts"], dtype=bool),
            stamps_ns=np.array(columns["stamps_ns"], dtype=np.int64),
            image_stamps_ns=np.array(columns["image_stamps_ns"], dtype=np.int64),
            map_from_ego=np.stack(columns["map_from_ego"]),
            map_from_ego_at_camera=np.stack(columns["map_from_ego_at_camera"]),
            ego_from_model=np.stack(columns["ego_from_model"]),
            cameras=np.array(columns["cameras"], dtype=np.int64),
            camera_sizes=np.array([(c.width, c.height) for c in self.cameras], dtype=np.int64),
            camera_intrinsics=np.stack([c.intrinsics for c in self.cameras]),
            ego_from_camera=np.stack([c.ego_from_camera for c in self.cameras]),
            box_ends=np.cumsum([len(labels) for labels in columns["labels"]]),
            boxes=np.concatenate(columns["boxes"]).astype(np.float32),
            labels=np.concatenate(columns["labels"]),
            valid=np.concatenate(columns["valid"]),
            view_ends=np.cumsum([len(view) for view in views]),
            view_rows=np.concatenate([view.rows for view in views]),
            view_boxes=np.concatenate([view.boxes for view in views]),
            view_centers=np.concatenate([view.centers for view in views]),
            view_depths=np.concatenate([view.depths for view in views]),
        )


def _corners(rows: list[Row]) -> NDArray[np.float64]:
    """(M, 8, 3) in the map."""
    if not rows:
        return np.zeros((0, 8, 3))
    sizes = np.array([row["size"] for row in rows])[:, [1, 0, 2]]
    rotations = matrix_from_quaternion([row["rotation"] for row in rows])
    centers = np.array([row["translation"] for row in rows])
    return (_SIGNS * sizes[:, None]) @ np.swapaxes(rotations, 1, 2) + centers[:, None]


__all__ = ["INDEX_VERSION", "build_index", "open_index", "tables_fingerprint"]
