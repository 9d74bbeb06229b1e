"""What the tracker remembers: tracks, boxes with what is known of each, and the settings by class, as arrays.

Legend: `T` tracks, `N` boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from streampetr_core.boxes import Boxes3D
from tracking.config import TrackerConfig

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass
class Tracks:
    """The living tracks, one row each.

    Attributes:
        state: (T, 6) place, velocity and slow error in the map, as in `motion`.
        covariance: (T, 6, 6).
        height: (T,) z of the centre.
        size: (T, 3).
        heading: (T, 2) weighted sum of the headings seen, so that a flipped box is outvoted.
        evidence: (T,) sum of the standings (see `ScoreCalibration`) of the boxes taken, weighted by `weight`.
        weight: (T,) independent looks that took part, those in quick succession counting less than one each.
        votes: (T, classes) the same evidence by class.
        label: (T,).
        track_id: (T,).
        seen_ns: (T,) stamp of the last box.
        lineage: (T,) of the last box, 0 = unknown.
        missed: (T,) seconds since the last box during which a camera looked at its place.
    """

    state: Array
    covariance: Array
    height: Array
    size: Array
    heading: Array
    evidence: Array
    weight: Array
    votes: Array
    label: Indices
    track_id: Indices
    seen_ns: Indices
    missed: Array
    lineage: Indices

    def __len__(self) -> int:
        return len(self.track_id)

    def __getitem__(self, rows: NDArray) -> Tracks:
        return Tracks(*(getattr(self, item.name)[rows] for item in fields(self)))

    def __add__(self, other: Tracks) -> Tracks:
        names = [item.name for item in fields(self)]
        return Tracks(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    @classmethod
    def none(cls, classes: int) -> Tracks:
        """No tracks, of as many classes."""

        def reals(*shape: int) -> Array:
            return np.zeros((0, *shape))

        whole = np.zeros(0, dtype=np.int64)
        kinematic = (reals(6), reals(6, 6), reals(), reals(3), reals(2))
        return cls(*kinematic, reals(), reals(), reals(classes), whole, whole, whole, reals(), whole)

    def places(self) -> Array:
        """(T, 2) where the objects are."""
        return self.state[:, :2] - self.state[:, 4:]

    def place_covariance(self) -> Array:
        """(T, 3, 3) of the centres; the height, which is not filtered, as unsure as the place across the ray."""
        place = self.covariance[:, :2, :2] + self.covariance[:, 4:, 4:]
        place = place - self.covariance[:, :2, 4:] - self.covariance[:, 4:, :2]
        whole = np.zeros((len(self), 3, 3))
        whole[:, :2, :2] = place
        mean, half = np.trace(place, axis1=1, axis2=2) / 2, (place[:, 0, 0] - place[:, 1, 1]) / 2
        whole[:, 2, 2] = mean - np.hypot(half, place[:, 0, 1])
        return whole

    def axis(self) -> Array:
        """(T, 2) unit vectors along the headings."""
        return self.heading / np.maximum(np.hypot(self.heading[:, 0], self.heading[:, 1]), 1e-9)[:, None]


@dataclass(frozen=True)
class Seen:
    """The boxes of one frame and what the tracker knows of each.

    Attributes:
        boxes: (N) in the map.
        noise: (N, 2, 2) of the position, m^2.
        fresh: (N,) part of it that is new in every frame; the rest changes slowly.
        speed_noise: (N, 2, 2) of the velocity, (m/s)^2; where there is none, of the guess that it stands still.
        moving: (N,) True where a velocity was measured.
        standing: (N,) what the score is worth, 0 to 1.
    """

    boxes: Boxes3D
    noise: Array
    fresh: Array
    speed_noise: Array
    moving: NDArray[np.bool_]
    standing: Array

    def __len__(self) -> int:
        return len(self.boxes)

    def lineage(self) -> Indices:
        """(N,) of the boxes, 0 = unknown."""
        known = self.boxes.lineage
        return np.zeros(len(self), dtype=np.int64) if known is None else known

    def fresh_noise(self) -> Array:
        """(N, 2, 2) of the position without its slow part."""
        return self.fresh[:, None, None] * self.noise

    def __getitem__(self, rows: NDArray) -> Seen:
        return Seen(*(getattr(self, item.name)[rows] for item in fields(self)))


@dataclass(frozen=True)
class Tables:
    """The settings of the classes as arrays over the class list: (classes,) or (classes, 2).

    `group` numbers the sets of classes that a detector takes for one another.
    """

    acceleration: Array
    speed: Array
    sideways: Array
    lateral: Array
    radial: Array
    velocity_noise: Array
    merge: Array
    gate: Array
    velocity_gate: Array
    max_range: Array
    group: Indices

    @classmethod
    def of(cls, config: TrackerConfig, class_names: tuple[str, ...]) -> Tables:
        """The settings of these classes."""
        rows = [config.of(name) for name in class_names]
        names = [item.name for item in fields(cls) if item.name != "group"]
        columns = {name: np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in names}
        found = {name: number for number, group in enumerate(config.groups) for name in group}
        own = len(config.groups)
        group = [found.get(name, own + number) for number, name in enumerate(class_names)]
        return cls(**columns, group=np.array(group, dtype=np.int64))


def heading_of(boxes: Boxes3D) -> Array:
    """(N, 2) unit vectors along the headings of boxes."""
    return np.stack([np.cos(boxes.yaw), np.sin(boxes.yaw)], axis=1)
