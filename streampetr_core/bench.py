"""Where a frame's time goes, against plain eager float32 PyTorch in the same run."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from streampetr_core.cameras import NUSCENES_CAMERAS, NUSCENES_EGO_FROM_LIDAR, CameraModel, CameraRig
from streampetr_core.detector import Detector
from streampetr_core.errors import StreamPETRError
from streampetr_core.frame import Frame
from streampetr_core.frame_geometry import frame_matrices
from streampetr_core.geometry import inverse, quaternion_from_yaw, transform
from streampetr_core.model import FrameGeometry, Memory, StreamPETR, decode
from streampetr_core.preprocessing import decode_jpeg, prepare

_YAWS = (0.0, -55.0, 55.0, 180.0, 110.0, -110.0)
_OPTICAL_FROM_BODY = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]], dtype=np.float64)


class BenchError(StreamPETRError):
    """A benchmark that cannot be run as asked."""


@dataclass
class BenchResult:
    """Milliseconds of every measured frame by stage, in order; `plain`: of whole frames in plain eager float32."""

    stages: dict[str, list[float]] = field(default_factory=dict)
    plain: list[float] = field(default_factory=list)

    def add(self, stage: str, milliseconds: float) -> None:
        """Append a measurement."""
        self.stages.setdefault(stage, []).append(milliseconds)

    @property
    def total(self) -> NDArray[np.float64]:
        """Milliseconds of each whole frame."""
        return np.sum([np.asarray(values) for values in self.stages.values()], axis=0)


def ring_rig(width: int = 1600, height: int = 900) -> CameraRig:
    """Six cameras that look around like those of nuScenes; model frame x right, y forward."""
    cameras = []
    for name, degrees in zip(NUSCENES_CAMERAS, _YAWS, strict=True):
        focal = (0.505 if name == "CAM_BACK" else 0.79) * width
        matrix = np.array([[focal, 0, width / 2], [0, focal, height * 0.55], [0, 0, 1]])
        yaw = np.radians(degrees)
        ego_from_camera = transform([np.cos(yaw) + 0.8, np.sin(yaw), 1.5], quaternion_from_yaw(yaw))
        ego_from_camera[:3, :3] = ego_from_camera[:3, :3] @ _OPTICAL_FROM_BODY.T
        cameras.append(CameraModel(name, width, height, matrix, ego_from_camera))
    return CameraRig(tuple(cameras), NUSCENES_EGO_FROM_LIDAR)


def camera_jpegs(folder: Path | None, width: int, height: int, count: int) -> list[bytes]:
    """`count` JPEGs: the first of a folder, or noise with the spectrum and size of street scenes (seeded).

    Raises:
        BenchError: when the folder has too few.
    """
    if folder is not None:
        files = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if len(files) < count:
            raise BenchError(f"{folder} has {len(files)} JPEGs; {count} are needed")
        return [path.read_bytes() for path in files[:count]]
    rng = np.random.default_rng(7)
    jpegs = []
    for _ in range(count):
        image = np.full((height, width, 3), 110.0, np.float32)
        for cells in (4, 16, 64, 256):
            coarse = rng.normal(0, 30, (max(2, cells * height // width), cells, 3)).astype(np.float32)
            image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
        jpegs.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    return jpegs


def drive_frame(index: int, rig: CameraRig, images: Sequence[NDArray[np.uint8]]) -> Frame:
    """Frame `index` of a drive at 8 m/s and 2 Hz along a bend; the cameras fire 7 ms apart."""

    def pose(seconds: float) -> NDArray[np.float64]:
        yaw = 0.08 * seconds
        return transform([100 * np.sin(yaw), 100 * (1 - np.cos(yaw)), 0], quaternion_from_yaw(yaw))

    start = 1_500_000_000_000_000_000 + index * 500_000_000
    offsets = np.arange(len(rig)) * 7_000_000
    at_camera = np.stack([pose(index * 0.5 + offset * 1e-9) for offset in offsets])
    return Frame(start, tuple(images), start + offsets, rig, pose(index * 0.5), at_camera, scene="bench")


def run_bench(
    detector: Detector,
    plain: StreamPETR | None,
    jpegs: list[bytes],
    rig: CameraRig,
    frames: int,
    warm_up: int,
    progress: Callable[[range], object] = lambda rounds: rounds,
) -> BenchResult:
    """Time `frames` frames after `warm_up` others; the plain network, where given, runs after every fourth one.

    Decoding and preprocessing run the cameras side by side in threads, as the node does.
    """
    result = BenchResult()
    memory: Memory | None = None
    with ThreadPoolExecutor(max_workers=min(len(jpegs), os.cpu_count() or 1)) as pool:
        for index in progress(range(warm_up + frames)):  # type: ignore[attr-defined]
            measured = index >= warm_up
            marks: list[tuple[str, float]] = []

            def mark(stage: str, marks: list[tuple[str, float]] = marks) -> None:
                _wait(detector.device)
                marks.append((stage, time.perf_counter()))

            began = time.perf_counter()
            images = list(pool.map(decode_jpeg, jpegs))
            mark("decode")
            frame = drive_frame(index, rig, images)
            prepared = list(pool.map(detector.prepare, images, rig.cameras))
            detector.step(frame, prepared, mark=mark)
            if measured:
                for stage, now in marks:
                    result.add(stage, (now - began) * 1e3)
                    began = now
            if plain is not None and (index == warm_up - 1 or (measured and (index - warm_up) % 4 == 0)):
                began = time.perf_counter()
                memory = plain_frame(plain, jpegs, frame, memory, detector.device)
                _wait(detector.device)
                if measured:
                    result.plain.append((time.perf_counter() - began) * 1e3)
    return result


def plain_frame(
    model: StreamPETR, jpegs: list[bytes], frame: Frame, memory: Memory | None, device: torch.device
) -> Memory | None:
    """One frame as it is written down: one camera after the other, eager, float32, everything computed anew."""
    cameras = frame.rig.cameras
    size, order = model.variant.input_size, model.variant.channel_order
    images = [prepare(decode_jpeg(data), camera, size, order) for data, camera in zip(jpegs, cameras, strict=True)]
    stacked = torch.stack([image.contiguous() for image in images]).to(device)[None]
    matrices = frame_matrices(frame, size, np.ones(len(images), bool))
    world_from_model = frame.map_from_ego @ frame.rig.ego_from_model
    with torch.inference_mode():
        geometry = FrameGeometry(
            torch.from_numpy(matrices.image_from_model)[None].to(device),
            torch.from_numpy(matrices.intrinsics)[None].to(device),
            torch.from_numpy(inverse(world_from_model)).float()[None].to(device),
            torch.from_numpy(world_from_model).float()[None].to(device),
            torch.tensor([frame.stamp_ns * 1e-9], dtype=torch.float64, device=device),
        )
        outputs = model.forward_frame(stacked, geometry, memory)
        kept_range = model.pts_bbox_head.position_range
        decode(outputs.logits[-1], outputs.boxes[-1], kept_range, model.variant.max_boxes).boxes.cpu()
    return outputs.memory


def device_name(device: torch.device) -> str:
    """What the detector runs on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
