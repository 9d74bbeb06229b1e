"""A constant-velocity Kalman filter over many tracks at once.

Legend: `T` tracks, `N` boxes. The state is (x, y, vx, vy) in the map frame, metres and metres per second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def predict(state: Array, covariance: Array, dt: float, acceleration: Array) -> tuple[Array, Array]:
    """State (T, 4) and covariance (T, 4, 4) after `dt` seconds.

    `acceleration` (T,) is the spectral density of white acceleration noise, m^2/s^3 (Bar-Shalom, Estimation with
    Applications to Tracking and Navigation, 6.2.2).
    """
    motion = np.eye(4)
    motion[0, 2] = motion[1, 3] = dt
    noise = np.zeros((4, 4))
    noise[[0, 1], [0, 1]] = dt**3 / 3
    noise[[2, 3], [2, 3]] = dt
    noise[[0, 1, 2, 3], [2, 3, 0, 1]] = dt**2 / 2
    return state @ motion.T, motion @ covariance @ motion.T + acceleration[:, None, None] * noise


def update(state: Array, covariance: Array, measured: Array, noise: Array, first: int) -> tuple[Array, Array]:
    """The state after measuring two of its components, `first` and the next (0: position, 2: velocity).

    Args:
        state: (T, 4).
        covariance: (T, 4, 4).
        measured: (T, 2).
        noise: (T, 2, 2) covariance of the measurement.
    """
    part = slice(first, first + 2)
    gain = covariance[:, :, part] @ np.linalg.inv(covariance[:, part, part] + noise)
    innovation = measured - state[:, part]
    new_state = state + (gain @ innovation[..., None])[..., 0]
    new_covariance = covariance - gain @ covariance[:, part, :]
    return new_state, (new_covariance + np.swapaxes(new_covariance, 1, 2)) / 2


def hold_heading(
    state: Array, covariance: Array, heading: Array, sideways: Array, turn: float
) -> tuple[Array, Array]:
    """The state once it is known that objects move along their heading, forwards or backwards.

    The speed across the heading is taken as measured to be zero. Without a measured velocity this is what tells
    the errors of successive boxes from motion. What evidently moves across its heading has a wrong heading: the
    larger that speed, the less the heading is believed.

    Args:
        state: (T, 4).
        covariance: (T, 4, 4).
        heading: (T, 2) unit vectors.
        sideways: (T,) standard deviation of the speed across the heading, m/s.
        turn: standard deviation of the heading, radians; so fast objects may move across it a little faster.
    """
    normal = np.stack([-heading[:, 1], heading[:, 0]], axis=1)
    part = (covariance[:, :, 2:] @ normal[:, :, None])[..., 0]
    across = (state[:, 2:] * normal).sum(1)
    speed = (state[:, 2:] ** 2).sum(1)
    doubt = sideways**2 + turn**2 * speed + across**2 / 4
    variance = (part[:, 2:] * normal).sum(1) + doubt
    gain = part / variance[:, None]
    return state - gain * across[:, None], covariance - gain[:, :, None] * part[:, None, :]


def position_noise(center: Array, ego: Array | None, lateral: Array, radial: Array) -> Array:
    """(N, 2, 2) covariance of measured positions: long along the viewing ray, short across it.

    Args:
        center: (N, 2) in the map.
        ego: (2,) in the map; None = unknown, which makes the noise round, as at 25 m.
        lateral, radial: (N, 2) standard deviation: a constant in metres and a part per metre of range.
    """
    if ego is None:
        across, along = lateral @ (1.0, 25.0), radial @ (1.0, 25.0)
        return (across * along)[:, None, None] * np.eye(2)
    unit, distance = _rays(center, ego)
    across = (lateral[:, 0] + lateral[:, 1] * distance) ** 2
    along = (radial[:, 0] + radial[:, 1] * distance) ** 2
    outer = unit[:, :, None] * unit[:, None, :]
    return across[:, None, None] * np.eye(2) + (along - across)[:, None, None] * outer


def depth_drift(center: Array, ego: Array | None, drift: Array, dt: float) -> Array:
    """(T, 2, 2) covariance by which a track's apparent place wanders in `dt` seconds along its viewing ray.

    The depth error of a camera detector is not fresh in each frame: it changes slowly as the view changes. The
    part of it that changes is a random walk of the position, so that it moves the track without giving it a
    velocity.

    Args:
        center: (T, 2) in the map.
        ego: (2,) in the map; None = unknown, taken as 25 m away in every direction.
        drift: (T,) standard deviation per metre of range and square root of a second.
    """
    if ego is None:
        return ((25.0 * drift) ** 2 * dt / 2)[:, None, None] * np.eye(2)
    unit, distance = _rays(center, ego)
    return ((distance * drift) ** 2 * dt)[:, None, None] * (unit[:, :, None] * unit[:, None, :])


def _rays(center: Array, ego: Array) -> tuple[Array, Array]:
    """Unit vectors (N, 2) from the ego, and distances (N,)."""
    ray = center - ego
    distance = np.hypot(ray[:, 0], ray[:, 1])
    return np.where(distance[:, None] > 1e-6, ray / np.maximum(distance, 1e-6)[:, None], (1.0, 0.0)), distance
