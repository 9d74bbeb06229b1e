"""Rigid transforms as 4x4 float64 matrices, unit quaternions (w, x, y, z) and yaw angles.

`a_from_b` maps points of frame b to frame a: `p_a = a_from_b @ p_b`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def matrix_from_quaternion(quaternion: ArrayLike) -> Array:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) given as w, x, y, z of any non-zero length."""
    q = np.asarray(quaternion, dtype=np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def quaternion_from_matrix(rotation: ArrayLike) -> Array:
    """Unit quaternion (w, x, y, z), w >= 0, of one rotation matrix (3, 3) (Shepperd's method)."""
    r = np.asarray(rotation, dtype=np.float64)[:3, :3]
    trace = np.trace(r)
    candidates = np.array([trace, r[0, 0], r[1, 1], r[2, 2]])
    k = int(candidates.argmax())
    q = np.empty(4)
    if k == 0:
        q[:] = [1 + trace, r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]
    else:
        i, j, m = [(0, 1, 2), (1, 2, 0), (2, 0, 1)][k - 1]
        q[0] = r[m, j] - r[j, m]
        q[1 + i] = 1 + r[i, i] - r[j, j] - r[m, m]
        q[1 + j] = r[j, i] + r[i, j]
        q[1 + m] = r[m, i] + r[i, m]
    q /= np.linalg.norm(q)
    return -q if q[0] < 0 else q


def quaternion_from_yaw(yaw: ArrayLike) -> Array:
    """Quaternions (..., 4) as w, x, y, z of rotations by `yaw` radians about +z."""
    half = np.asarray(yaw, dtype=np.float64) / 2
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], axis=-1)


def yaw_from_quaternion(quaternion: ArrayLike) -> Array:
    """Heading (...,) in radians of quaternions (..., 4): the direction of the rotated x axis seen from above."""
    rotation = matrix_from_quaternion(quaternion)
    return np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])


def transform(translation: ArrayLike, quaternion: ArrayLike) -> Array:
    """4x4 transform of a translation (3,) in metres and a quaternion (4,) as w, x, y, z."""
    matrix = np.eye(4)
    matrix[:3, :3] = matrix_from_quaternion(quaternion)
    matrix[:3, 3] = np.asarray(translation, dtype=np.float64)
    return matrix


def inverse(a_from_b: ArrayLike) -> Array:
    """`b_from_a` of rigid transforms (..., 4, 4), by transposing the rotation."""
    m = np.asarray(a_from_b, dtype=np.float64)
    result = np.zeros_like(m)
    rotation = np.swapaxes(m[..., :3, :3], -1, -2)
    result[..., :3, :3] = rotation
    result[..., :3, 3] = -(rotation @ m[..., :3, 3:])[..., 0]
    result[..., 3, 3] = 1.0
    return result


def apply(a_from_b: ArrayLike, points: ArrayLike) -> Array:
    """Points (..., 3) of frame b, in frame a."""
    m = np.asarray(a_from_b, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ m[:3, :3].T + m[:3, 3]


def wrap_angle(angle: ArrayLike) -> Array:
    """Angles in radians brought into [-pi, pi)."""
    return (np.asarray(angle, dtype=np.float64) + np.pi) % (2 * np.pi) - np.pi


def interpolate(a_from_b0: Array, a_from_b1: Array, fraction: float) -> Array:
    """The pose at `fraction` (0 to 1) between two 4x4 poses: linear translation, slerp of the rotation."""
    if fraction <= 0.0:
        return a_from_b0.copy()
    if fraction >= 1.0:
        return a_from_b1.copy()
    q0, q1 = quaternion_from_matrix(a_from_b0), quaternion_from_matrix(a_from_b1)
    cosine = float(q0 @ q1)
    if cosine < 0:
        q1, cosine = -q1, -cosine
    if cosine > 0.9999995:
        q = q0 + fraction * (q1 - q0)
    else:
        angle = np.arccos(min(cosine, 1.0))
        q = (np.sin((1 - fraction) * angle) * q0 + np.sin(fraction * angle) * q1) / np.sin(angle)
    translation = (1 - fraction) * a_from_b0[:3, 3] + fraction * a_from_b1[:3, 3]
    return transform(translation, q)
