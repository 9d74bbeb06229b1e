"""One instant of a drive: a set of synchronised images with everything the detector needs to use them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streampetr_core.boxes import Boxes3D
from streampetr_core.cameras import CameraRig
from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import inverse


class FrameError(StreamPETRError):
    """A frame whose parts do not fit together."""


@dataclass(frozen=True)
class Frame:
    """Images of N cameras and the motion of the robot around them.

    Attributes:
        stamp_ns: the reference instant: the lidar stamp in nuScenes, the anchor camera's otherwise.
        images: N full images, uint8 (H, W, 3) RGB, or None where the camera dropped out.
        image_stamps_ns: (N,) int64; the reference instant where the image is absent.
        rig: the cameras, in the order of `images`.
        map_from_ego: (4, 4) at the reference instant.
        map_from_ego_at_camera: (N, 4, 4) at each image's own stamp.
        scene: changes when a new drive begins (a token, a bag's name); the memory does not cross it.
        sample_token: the nuScenes sample this frame stands for, "" where there is none.
        is_key_frame: True where results are scored.
        ground_truth: annotated boxes in base_link at the reference instant; None where there are none to know.
            `track_id` numbers the instances within the scene.
        warnings: what is wrong with this frame and was survived ("CAM_BACK: corrupt JPEG"), for the counters.
    """

    stamp_ns: int
    images: tuple[NDArray[np.uint8] | None, ...]
    image_stamps_ns: NDArray[np.int64]
    rig: CameraRig
    map_from_ego: NDArray[np.float64]
    map_from_ego_at_camera: NDArray[np.float64]
    scene: str = ""
    sample_token: str = ""
    is_key_frame: bool = True
    ground_truth: Boxes3D | None = None
    warnings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        n = len(self.rig)
        object.__setattr__(self, "images", tuple(self.images))
        for name, dtype in (
            ("image_stamps_ns", np.int64),
            ("map_from_ego", np.float64),
            ("map_from_ego_at_camera", np.float64),
        ):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        if len(self.images) != n:
            raise FrameError(f"frame: {len(self.images)} images for {n} cameras")
        if self.image_stamps_ns.shape != (n,):
            raise FrameError(f"frame: image_stamps_ns has shape {self.image_stamps_ns.shape}, not {(n,)}")
        if self.map_from_ego.shape != (4, 4) or self.map_from_ego_at_camera.shape != (n, 4, 4):
            raise FrameError("frame: map_from_ego must be (4, 4) and map_from_ego_at_camera (N, 4, 4)")

    @property
    def present(self) -> NDArray[np.bool_]:
        """(N,) True where the camera gave an image."""
        return np.array([image is not None for image in self.images], dtype=bool)

    def camera_from_ego(self) -> NDArray[np.float64]:
        """(N, 4, 4) from base_link at the reference instant to each optical frame at its image's own instant.

        The robot moves between the two: camera <- ego at the image <- map <- ego at the reference.
        """
        ego_from_camera = np.stack([camera.ego_from_camera for camera in self.rig.cameras])
        return inverse(ego_from_camera) @ inverse(self.map_from_ego_at_camera) @ self.map_from_ego
