"""The robot of the rendered world: six cameras and a lidar frame placed as on the nuScenes cars."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streampetr_core.cameras import NUSCENES_CAMERAS, CameraModel, CameraRig
from streampetr_core.geometry import transform

FULL_WIDTH, FULL_HEIGHT = 1600, 900

# channel: (x, y, z in metres, yaw in degrees, focal length in pixels of the full image), rounded from the cars'
# published calibrations: side cameras look 55 and 110 degrees off the nose, the rear camera is a wide angle.
_MOUNTS: dict[str, tuple[float, float, float, float, float]] = {
    "CAM_FRONT": (1.70, 0.00, 1.51, 0.0, 1266.0),
    "CAM_FRONT_RIGHT": (1.58, -0.50, 1.52, -55.0, 1260.0),
    "CAM_FRONT_LEFT": (1.58, 0.50, 1.51, 55.0, 1260.0),
    "CAM_BACK": (0.03, 0.00, 1.57, 180.0, 809.0),
    "CAM_BACK_LEFT": (1.05, 0.48, 1.56, 110.0, 1257.0),
    "CAM_BACK_RIGHT": (1.05, -0.48, 1.56, -110.0, 1257.0),
}

STAGGER_NS: dict[str, int] = {
    "CAM_FRONT": -35_200_000,
    "CAM_FRONT_RIGHT": -27_100_000,
    "CAM_FRONT_LEFT": -42_800_000,
    "CAM_BACK": -10_000_000,
    "CAM_BACK_LEFT": -200_000,
    "CAM_BACK_RIGHT": -19_500_000,
}
"""When each camera fires, relative to the end of the lidar sweep (the reference instant)."""

EGO_FROM_LIDAR = transform((0.986, 0.0, 1.840), (np.sqrt(0.5), 0.0, 0.0, -np.sqrt(0.5)))
"""nuScenes LIDAR_TOP: x right, y forward, z up."""

EGO_SIZE = (4.08, 1.73, 1.56)
"""Length, width, height of the ego car (metres)."""

EGO_CENTER_X = 1.36
"""The ego car's centre ahead of base_link, which lies below the rear axle (metres)."""


def stagger_ns(rig: CameraRig) -> NDArray[np.int64]:
    """(N,) nanoseconds from the reference instant to each camera's exposure."""
    return np.array([STAGGER_NS[name] for name in rig.names], dtype=np.int64)


def make_rig(width: int = FULL_WIDTH, height: int = FULL_HEIGHT) -> CameraRig:
    """The six cameras with images of `width` x `height` pixels; the field of view across stays that of 1600 px."""
    scale = width / FULL_WIDTH
    cameras = []
    for name in NUSCENES_CAMERAS:
        x, y, z, yaw_degrees, focal = _MOUNTS[name]
        yaw = np.radians(yaw_degrees)
        forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        ego_from_camera = np.eye(4)
        ego_from_camera[:3, :3] = np.stack([right, [0.0, 0.0, -1.0], forward], axis=1)
        ego_from_camera[:3, 3] = (x, y, z)
        f = focal * scale
        # As on the cars, the principal point and with it the horizon lies a little below the middle.
        intrinsics = np.array(
            [[f, 0.0, (width - 1) / 2], [0.0, f, 0.5 * (height - 1) + 0.02 * width], [0.0, 0.0, 1.0]]
        )
        cameras.append(CameraModel(name, width, height, intrinsics, ego_from_camera))
    return CameraRig(tuple(cameras), EGO_FROM_LIDAR)
