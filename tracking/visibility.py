"""Which places the cameras looked at: what nobody could see has not been missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streampetr_core.cameras import CameraModel
from streampetr_core.geometry import apply, inverse, wrap_angle

NEAREST = 0.5
"""Metres in front of a camera from which on it sees anything."""


@dataclass(frozen=True)
class View:
    """What a camera sees, told by its direction alone.

    Attributes:
        azimuth: of the optical axis, degrees from base_link's x axis, counter-clockwise.
        width: horizontal field of view, degrees.
    """

    azimuth: float
    width: float


def in_view(place: NDArray[np.float64], cameras: Sequence[CameraModel | View]) -> NDArray[np.bool_]:
    """(N,) True where the centre (N, 3), in base_link, lies in the image of at least one camera.

    Images are taken as the network sees them: undistorted, with the intrinsics of the calibration.
    """
    seen = np.zeros(len(place), dtype=bool)
    for camera in cameras:
        if isinstance(camera, View):
            off = np.arctan2(place[:, 1], place[:, 0]) - np.radians(camera.azimuth)
            seen |= np.abs(wrap_angle(off)) <= np.radians(camera.width) / 2
            continue
        x, y, z = apply(inverse(camera.ego_from_camera), place).T
        depth = np.maximum(z, NEAREST)
        u, v, _ = camera.intrinsics @ np.stack([x / depth, y / depth, np.ones_like(depth)])
        inside = (u > -0.5) & (u < camera.width - 0.5) & (v > -0.5) & (v < camera.height - 0.5)
        seen |= inside & (z > NEAREST)
    return seen
