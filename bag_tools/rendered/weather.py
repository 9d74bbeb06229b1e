"""Sun, sky and air of a drive, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Weather:
    """Light and air of a drive.

    Attributes:
        sun: unit vector (3,) towards the sun, world frame.
        sun_color, sky_color, horizon_color: linear RGB radiance of the sun's light, the zenith and the horizon.
        fog: extinction per metre; 0 = clear.
        clouds: cover in [0, 1].
        exposure: factor before the film curve.
    """

    sun: tuple[float, float, float]
    sun_color: tuple[float, float, float]
    sky_color: tuple[float, float, float]
    horizon_color: tuple[float, float, float]
    fog: float
    clouds: float
    exposure: float


def make_weather(rng: np.random.Generator, fog: float | None) -> Weather:
    """Sun and air of a day; `fog` None draws it."""
    elevation, azimuth = float(rng.uniform(0.45, 1.1)), float(rng.uniform(-np.pi, np.pi))
    clouds = float(rng.uniform(0.0, 0.9))
    drawn = float(rng.choice([0.0006, 0.0015, 0.003, 0.010], p=[0.35, 0.3, 0.25, 0.10]))
    warm = max(0.0, 0.8 - elevation)
    strength = 2.7 * (1 - 0.65 * clouds**2)
    weather = Weather(
        sun=(
            float(np.cos(elevation) * np.cos(azimuth)),
            float(np.cos(elevation) * np.sin(azimuth)),
            float(np.sin(elevation)),
        ),
        sun_color=(strength, strength * (0.95 - 0.15 * warm), strength * (0.86 - 0.4 * warm)),
        sky_color=(0.13 + 0.36 * clouds**2, 0.30 + 0.24 * clouds**2, 0.72 - 0.05 * clouds**2),
        horizon_color=(0.62 + 0.20 * warm, 0.74, 0.88 - 0.1 * warm),
        fog=drawn if fog is None else fog,
        clouds=clouds,
        exposure=0.62 + 0.22 * clouds**2,
    )
    if weather.fog > 0.006:
        gray = (0.72, 0.75, 0.78)
        weather = replace(weather, sky_color=gray, horizon_color=gray, sun_color=(0.9, 0.9, 0.9), clouds=0.0)
    return weather
