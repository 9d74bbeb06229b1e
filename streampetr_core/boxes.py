"""3D boxes as one frozen bundle of numpy arrays, one row a box."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import apply, quaternion_from_matrix, quaternion_from_yaw, wrap_angle

NUSCENES_CLASSES: tuple[str, ...] = (
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
)
"""The ten nuScenes detection classes in the order of the published 3D heads."""


class BoxError(StreamPETRError):
    """Arrays of a Boxes3D that do not fit together."""


_COLUMNS: dict[str, tuple[tuple[int, ...], type]] = {
    "center": ((3,), np.float64),
    "size": ((3,), np.float64),
    "yaw": ((), np.float64),
    "velocity": ((2,), np.float64),
    "score": ((), np.float64),
    "label": ((), np.int64),
    "track_id": ((), np.int64),
    "attribute": ((), np.str_),
}
_OPTIONAL: dict[str, tuple[tuple[int, ...], type]] = {
    "position_covariance": ((3, 3), np.float64),
    "velocity_covariance": ((2, 2), np.float64),
    "lineage": ((), np.int64),
}


@dataclass(frozen=True)
class Boxes3D:
    """N boxes in one frame at one instant.

    Attributes:
        center: (N, 3) geometric centre in metres.
        size: (N, 3) length, width, height in metres along the box's own x, y, z.
        yaw: (N,) heading in radians about +z, counter-clockwise from the frame's x axis.
        velocity: (N, 2) metres per second along the frame's x and y; NaN where unknown.
        score: (N,) confidence in [0, 1].
        label: (N,) index into `class_names`.
        track_id: (N,) identity, -1 = none.
        attribute: (N,) nuScenes attribute name, "" = none.
        position_covariance: (N, 3, 3) of the centre, m^2, along the frame's axes; None = unknown for all.
        velocity_covariance: (N, 2, 2) of the velocity, (m/s)^2; None = unknown for all.
        lineage: (N,) number that a box has in common with the earlier boxes of the same query, which the network
            carried on from frame to frame or found to show the same object; 0 = unknown, None = unknown for all.
        frame_id: the frame of all of the above: "base_link", "map", ...
        frame_from_upright: (3, 3) rotation to this frame's axes from those in which all boxes stand upright, which
            are those they were predicted in; None = they stand upright in this frame.
        stamp_ns: the instant, integer nanoseconds.

    Raises:
        BoxError: when an array has the wrong shape; the message names it.
    """

    center: NDArray[np.float64]
    size: NDArray[np.float64]
    yaw: NDArray[np.float64]
    velocity: NDArray[np.float64] = field(default=None)  # type: ignore[assignment]
    score: NDArray[np.float64] = field(default=None)  # type: ignore[assignment]
    label: NDArray[np.int64] = field(default=None)  # type: ignore[assignment]
    track_id: NDArray[np.int64] = field(default=None)  # type: ignore[assignment]
    attribute: NDArray[np.str_] = field(default=None)  # type: ignore[assignment]
    position_covariance: NDArray[np.float64] | None = None
    velocity_covariance: NDArray[np.float64] | None = None
    lineage: NDArray[np.int64] | None = None
    frame_id: str = "base_link"
    frame_from_upright: NDArray[np.float64] | None = None
    stamp_ns: int = 0
    class_names: tuple[str, ...] = NUSCENES_CLASSES

    def __post_init__(self) -> None:
        n = len(np.atleast_2d(self.center)) if np.size(self.center) else 0
        defaults = {"velocity": np.nan, "score": 1.0, "label": 0, "track_id": -1, "attribute": ""}
        for name, (row_shape, dtype) in _COLUMNS.items():
            value = getattr(self, name)
            if value is None:
                value = np.full((n, *row_shape), defaults[name], dtype=None if dtype is np.str_ else dtype)
            array = np.asarray(value, dtype=dtype)
            if array.size == 0 and n == 0:
                array = array.reshape((0, *row_shape))
            if array.shape != (n, *row_shape):
                raise BoxError(f"boxes: {name} has shape {array.shape}; {n} boxes need {(n, *row_shape)}")
            object.__setattr__(self, name, array)
        for name, (row_shape, dtype) in _OPTIONAL.items():
            value = getattr(self, name)
            if value is None:
                continue
            array = np.asarray(value, dtype=dtype)
            if array.shape != (n, *row_shape):
                raise BoxError(f"boxes: {name} has shape {array.shape}; {n} boxes need {(n, *row_shape)}")
            object.__setattr__(self, name, array)

    @classmethod
    def empty(
        cls, frame_id: str = "base_link", stamp_ns: int = 0, class_names: tuple[str, ...] = NUSCENES_CLASSES
    ) -> Boxes3D:
        """No boxes."""
        none = np.zeros((0, 3))
        return cls(none, none, np.zeros(0), frame_id=frame_id, stamp_ns=stamp_ns, class_names=class_names)

    def __len__(self) -> int:
        return len(self.yaw)

    def __getitem__(self, rows: ArrayLike | slice) -> Boxes3D:
        """The boxes that a boolean mask, index array or slice picks, in its order."""
        index = rows if isinstance(rows, slice) else np.atleast_1d(np.asarray(rows))
        names = [*_COLUMNS, *(name for name in _OPTIONAL if getattr(self, name) is not None)]
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def names(self) -> NDArray[np.str_]:
        """(N,) class name of every box."""
        return np.asarray(self.class_names)[self.label]

    def quaternions(self) -> NDArray[np.float64]:
        """(N, 4) full orientation w, x, y, z: `yaw` alone where `frame_from_upright` is None."""
        tilt = self.frame_from_upright
        if tilt is None:
            return quaternion_from_yaw(self.yaw)
        x, y = self._upright_from_planar() @ np.stack([np.cos(self.yaw), np.sin(self.yaw)])
        half = np.arctan2(y, x) / 2
        c, s = np.cos(half), np.sin(half)
        w, i, j, k = quaternion_from_matrix(tilt)
        return np.stack([w * c - k * s, i * c + j * s, j * c - i * s, k * c + w * s], axis=-1)

    def transformed(self, a_from_b: ArrayLike, frame_id: str) -> Boxes3D:
        """The same boxes in frame a (`frame_id`), `self` being in frame b.

        `a_from_b` is a rigid (4, 4) transform. Heading and velocity lie in the plane on which the boxes stand;
        they are turned in space and projected onto a's x-y plane. `frame_from_upright` keeps the tilt.
        """
        m = np.asarray(a_from_b, dtype=np.float64)
        tilt = m[:3, :3] if self.frame_from_upright is None else m[:3, :3] @ self.frame_from_upright
        planar = tilt[:2, :2] @ self._upright_from_planar()
        heading = planar @ np.stack([np.cos(self.yaw), np.sin(self.yaw)])
        upright_still = self.frame_from_upright is None and m[2, 2] == 1.0
        return replace(
            self,
            center=apply(m, self.center),
            yaw=wrap_angle(np.arctan2(heading[1], heading[0])),
            velocity=self.velocity @ planar.T,
            position_covariance=_turned(self.position_covariance, m[:3, :3]),
            velocity_covariance=_turned(self.velocity_covariance, planar),
            frame_id=frame_id,
            frame_from_upright=None if upright_still else tilt,
        )

    def _upright_from_planar(self) -> NDArray[np.float64]:
        """(2, 2) from directions seen from above in this frame to those in the axes in which the boxes stand."""
        return np.eye(2) if self.frame_from_upright is None else np.linalg.inv(self.frame_from_upright[:2, :2])

    def corners(self) -> NDArray[np.float64]:
        """(N, 8, 3) corners in the boxes' frame.

        Corners 0 to 3 are the front face (local +x), 4 to 7 the back face; each face runs left-top, left-bottom,
        right-bottom, right-top seen along the heading (left = local +y).
        """
        signs = np.array(
            [
                [1, 1, 1],
                [1, 1, -1],
                [1, -1, -1],
                [1, -1, 1],
                [-1, 1, 1],
                [-1, 1, -1],
                [-1, -1, -1],
                [-1, -1, 1],
            ]
        )
        local = signs[None] * (self.size[:, None] / 2)
        cosine, sine = np.cos(self.yaw)[:, None], np.sin(self.yaw)[:, None]
        x = cosine * local[..., 0] - sine * local[..., 1]
        y = sine * local[..., 0] + cosine * local[..., 1]
        return np.stack([x, y, local[..., 2]], axis=-1) + self.center[:, None]


def concatenate(parts: list[Boxes3D]) -> Boxes3D:
    """The rows of all parts, which share frame, stamp and class list with the first."""
    if not parts:
        return Boxes3D.empty()
    columns: dict[str, NDArray | None] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS
    }
    for name in _OPTIONAL:
        known = [getattr(part, name) for part in parts]
        columns[name] = None if any(value is None for value in known) else np.concatenate(known)
    return replace(parts[0], **columns)  # type: ignore[arg-type]


def _turned(covariance: NDArray[np.float64] | None, rotation: NDArray[np.float64]) -> NDArray[np.float64] | None:
    return None if covariance is None else rotation @ covariance @ rotation.T
