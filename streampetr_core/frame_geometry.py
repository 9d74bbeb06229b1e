"""From a frame's poses and calibrations to the tensors of the network, composed in float64.

Cameras fire tens of milliseconds apart; their extrinsics are carried through the ego motion to the reference
instant, as the training data do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streampetr_core.cameras import CameraRig
from streampetr_core.frame import Frame, FrameError
from streampetr_core.geometry import inverse
from streampetr_core.preprocessing import network_intrinsics


@dataclass(frozen=True)
class CameraMatrices:
    """What the network needs to know of N cameras at one instant.

    Attributes:
        image_from_model: (N, 4, 4) float32, model frame to the network's pixels (u d, v d, d, 1).
        intrinsics: (N, 3, 3) float32 of the network's images.
    """

    image_from_model: NDArray[np.float32]
    intrinsics: NDArray[np.float32]

    def same_as(self, other: CameraMatrices | None) -> bool:
        """True where every number is equal."""
        return (
            other is not None
            and np.array_equal(self.image_from_model, other.image_from_model)
            and np.array_equal(self.intrinsics, other.intrinsics)
        )


def rig_matrices(
    rig: CameraRig, size: tuple[int, int], ego_at_camera_from_ego: NDArray[np.float64] | None = None
) -> CameraMatrices:
    """Matrices of a rig for network images of height, width `size`.

    `ego_at_camera_from_ego` (N, 4, 4) is the ego motion from the reference instant to each image; None = standing.
    """
    intrinsics = np.stack([network_intrinsics(camera, size) for camera in rig.cameras])
    image_from_model = project(intrinsics, camera_from_model(rig, ego_at_camera_from_ego))
    return CameraMatrices(image_from_model.astype(np.float32), intrinsics.astype(np.float32))


def camera_from_model(
    rig: CameraRig, ego_at_camera_from_ego: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """(N, 4, 4) from the model frame to each optical frame; `ego_at_camera_from_ego` as in `rig_matrices`."""
    camera_from_ego = inverse(np.stack([camera.ego_from_camera for camera in rig.cameras]))
    if ego_at_camera_from_ego is not None:
        camera_from_ego = camera_from_ego @ ego_at_camera_from_ego
    return camera_from_ego @ rig.ego_from_model


def project(intrinsics: NDArray[np.float64], camera_from_model: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 4, 4) pixels (u d, v d, d, 1) of model-frame points, from intrinsics (N, 3, 3)."""
    projection = np.tile(np.eye(4), (len(intrinsics), 1, 1))
    projection[:, :3, :3] = intrinsics
    return projection @ camera_from_model


def frame_matrices(frame: Frame, size: tuple[int, int], present: NDArray[np.bool_]) -> CameraMatrices:
    """Matrices of a frame's cameras; an absent camera (`present` (N,) False) is placed as on a standing robot.

    Raises:
        FrameError: on a pose that is not finite.
    """
    return rig_matrices(frame.rig, size, ego_motion(frame, present))


def ego_motion(frame: Frame, present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, 4, 4) ego_at_camera_from_ego of a frame, the identity for absent cameras; FrameError as in
    `frame_matrices`."""
    if not np.isfinite(frame.map_from_ego).all():
        raise FrameError(f"frame {frame.stamp_ns}: map_from_ego contains NaN or infinity; check the ego motion")
    motion = np.tile(np.eye(4), (len(frame.rig), 1, 1))
    poses = frame.map_from_ego_at_camera[present]
    if not np.isfinite(poses).all():
        named = zip(frame.rig.names, present, frame.map_from_ego_at_camera, strict=True)
        bad = ", ".join(name for name, used, pose in named if used and not np.isfinite(pose).all())
        raise FrameError(f"frame {frame.stamp_ns}: the ego pose at {bad} contains NaN or infinity")
    motion[present] = inverse(poses) @ frame.map_from_ego
    return motion
