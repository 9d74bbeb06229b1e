"""Cameras and rigs: what the geometry of the network needs to know of the robot."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streampetr_core.errors import StreamPETRError

NUSCENES_CAMERAS: tuple[str, ...] = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
"""The nuScenes cameras in the order of the published checkpoints."""

NUSCENES_EGO_FROM_LIDAR: NDArray[np.float64] = np.array(
    [[0.0, 1.0, 0.0, 0.986], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.840], [0.0, 0.0, 0.0, 1.0]]
)
"""The published checkpoints' model frame (LIDAR_TOP: x right, y forward) on the nuScenes cars, without its
small tilt: for robots that have no such sensor."""


class CalibrationError(StreamPETRError):
    """A calibration that cannot be used."""


@dataclass(frozen=True)
class CameraModel:
    """A pinhole camera on the robot.

    Attributes:
        name: unique in its rig.
        width, height: of the full image, pixels.
        intrinsics: (3, 3) of the full image; pixel centres at integers.
        ego_from_camera: (4, 4) rigid; optical axes x right, y down, z forward.
        distortion_model: "plumb_bob", "rational_polynomial" or "equidistant", as in sensor_msgs/CameraInfo.
        distortion: coefficients; empty or all zero = rectified image.

    Raises:
        CalibrationError: on NaN, a wrong shape, a non-positive focal length or image size, or a transform that
            is not rigid.
    """

    name: str
    width: int
    height: int
    intrinsics: NDArray[np.float64]
    ego_from_camera: NDArray[np.float64]
    distortion_model: str = "plumb_bob"
    distortion: NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))

    def __post_init__(self) -> None:
        for name, shape in (("intrinsics", (3, 3)), ("ego_from_camera", (4, 4)), ("distortion", None)):
            array = np.asarray(getattr(self, name), dtype=np.float64)
            object.__setattr__(self, name, array)
            if shape is not None and array.shape != shape:
                raise CalibrationError(f"camera '{self.name}': {name} has shape {array.shape}, not {shape}")
            if not np.isfinite(array).all():
                raise CalibrationError(
                    f"camera '{self.name}': {name} contains NaN or infinity; fix it or drop the camera"
                )
        if self.width <= 0 or self.height <= 0:
            raise CalibrationError(f"camera '{self.name}': image size {self.width}x{self.height} is not positive")
        if self.intrinsics[0, 0] <= 0 or self.intrinsics[1, 1] <= 0:
            focal = (float(self.intrinsics[0, 0]), float(self.intrinsics[1, 1]))
            raise CalibrationError(f"camera '{self.name}': focal lengths {focal} are not positive")
        rotation = self.ego_from_camera[:3, :3]
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4) or np.linalg.det(rotation) < 0:
            raise CalibrationError(f"camera '{self.name}': the rotation of ego_from_camera is not a rotation")

    @property
    def is_rectified(self) -> bool:
        """True where the image needs no undistortion."""
        return not np.any(self.distortion)


@dataclass(frozen=True)
class CameraRig:
    """Ordered cameras and the frame the network works in.

    Attributes:
        cameras: in the order in which the network sees them.
        ego_from_model: (4, 4) rigid transform from the checkpoint's model frame (nuScenes: LIDAR_TOP, x right,
            y forward) to base_link.
    """

    cameras: tuple[CameraModel, ...]
    ego_from_model: NDArray[np.float64]

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "ego_from_model", np.asarray(self.ego_from_model, dtype=np.float64))
        names = self.names
        if not names:
            raise CalibrationError("rig: no cameras")
        if len(set(names)) != len(names):
            raise CalibrationError(f"rig: camera names are not unique: {', '.join(names)}")
        if self.ego_from_model.shape != (4, 4) or not np.isfinite(self.ego_from_model).all():
            raise CalibrationError("rig: ego_from_model is not a finite 4x4 transform")

    @property
    def names(self) -> tuple[str, ...]:
        """Camera names in order."""
        return tuple(camera.name for camera in self.cameras)

    def __len__(self) -> int:
        return len(self.cameras)
