"""A Kalman filter over many tracks at once: constant velocity, and a position error that changes slowly.

The boxes of a camera detector are off by a part that is new in every frame and by a part that changes slowly,
mostly along the viewing ray. The filter keeps the slow part apart, so that it neither passes for motion nor makes
a track surer of its place than it can be.

Legend: `T` tracks, `N` boxes. The state is (ax, ay, vx, vy, bx, by) in the map frame, metres and metres per
second: the place a where boxes appear, the velocity, and the slow error b. The object itself is at a - b.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def predict(
    state: Array, covariance: Array, dt: float, acceleration: Array, slow: Array, slow_time: float
) -> tuple[Array, Array]:
    """State (T, 6) and covariance (T, 6, 6) after `dt` seconds.

    The slow error is a Gauss-Markov process (Bar-Shalom, Estimation with Applications to Tracking and Navigation,
    8.2): it fades with `slow_time` seconds and is renewed to keep its variance.

    Args:
        acceleration: (T,) spectral density of white acceleration noise, m^2/s^3 (the same book, 6.2.2).
        slow: (T, 2, 2) covariance that the slow error has in the long run, m^2; zero for tracks without one.
    """
    kept = np.exp(-dt / slow_time)
    motion = np.eye(6)
    motion[0, 2] = motion[1, 3] = dt
    motion[[0, 1], [4, 5]] = kept - 1
    motion[[4, 5], [4, 5]] = kept
    # F P F' of many P at once is one product with the Kronecker product of F with itself
    new = (covariance.reshape(-1, 36) @ np.kron(motion, motion).T).reshape(-1, 6, 6)
    noise = np.zeros((6, 6))
    noise[[0, 1], [0, 1]] = dt**3 / 3
    noise[[2, 3], [2, 3]] = dt
    noise[[0, 1, 2, 3], [2, 3, 0, 1]] = dt**2 / 2
    new += acceleration[:, None, None] * noise
    renewed = (1 - kept**2) * slow
    for rows in (slice(0, 2), slice(4, 6)):
        for columns in (slice(0, 2), slice(4, 6)):
            new[:, rows, columns] += renewed
    return state @ motion.T, new


def update(state: Array, covariance: Array, measured: Array, noise: Array, first: int) -> tuple[Array, Array]:
    """The state after measuring two of its components, `first` and the next (0: place, 2: velocity).

    Args:
        state: (T, 6).
        covariance: (T, 6, 6).
        measured: (T, 2).
        noise: (T, 2, 2) covariance of the measurement.
    """
    part = slice(first, first + 2)
    spread = covariance[:, part, part] + noise
    a, b, d = spread[:, 0, 0], spread[:, 0, 1], spread[:, 1, 1]
    inverted = np.stack([d, -b, -b, a], axis=1).reshape(-1, 2, 2) / (a * d - b * b)[:, None, None]
    gain = covariance[:, :, part] @ inverted
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
        state: (T, 6).
        covariance: (T, 6, 6).
        heading: (T, 2) unit vectors.
        sideways: (T,) standard deviation of the speed across the heading, m/s.
        turn: standard deviation of the heading, radians; so fast objects may move across it a little faster.
    """
    normal = np.stack([-heading[:, 1], heading[:, 0]], axis=1)
    part = (covariance[:, :, 2:4] @ normal[:, :, None])[..., 0]
    across = (state[:, 2:4] * normal).sum(1)
    speed = (state[:, 2:4] ** 2).sum(1)
    doubt = sideways**2 + turn**2 * speed + across**2 / 4
    variance = (part[:, 2:4] * normal).sum(1) + doubt
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


def _rays(center: Array, ego: Array) -> tuple[Array, Array]:
    """Unit vectors (N, 2) from the ego, and distances (N,)."""
    ray = center - ego
    distance = np.hypot(ray[:, 0], ray[:, 1])
    return np.where(distance[:, None] > 1e-6, ray / np.maximum(distance, 1e-6)[:, None], (1.0, 0.0)), distance
