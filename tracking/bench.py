"""How long the tracker takes for a frame, and how that grows with the number of boxes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
from tracking.config import TrackerConfig
from tracking.tracker import Tracker

_SHARE = {"car": 0.5, "pedestrian": 0.25, "truck": 0.06, "bicycle": 0.04, "motorcycle": 0.03, "bus": 0.02}
_SHARE |= {"trailer": 0.02, "traffic_cone": 0.04, "barrier": 0.04}
_SPEED = {"car": 5.0, "truck": 4.0, "bus": 4.0, "motorcycle": 5.0, "bicycle": 3.0, "pedestrian": 1.2}
STEP_S = 0.5


@dataclass(frozen=True)
class Load:
    """What one number of boxes a frame costs.

    Attributes:
        boxes: a frame.
        tracks: alive after the last frame.
        p50, p90: milliseconds of one core a frame, the first frames left aside.
    """

    boxes: int
    tracks: int
    p50: float
    p90: float


def crowd(boxes: int, frames: int, seed: int = 0) -> Iterator[Boxes3D]:
    """Frames of as many boxes within the class ranges around a robot at rest: four fifths are objects that move
    straight on and are measured with noise, the others are false and new in every frame."""
    rng = np.random.default_rng(seed)
    names = list(_SHARE)
    share = np.array([_SHARE[name] for name in names])
    kind = rng.choice(len(names), boxes, p=share / share.sum())
    config = TrackerConfig()
    reach = np.array([config.of(name).max_range or 50.0 for name in names])[kind]
    label = np.array([NUSCENES_CLASSES.index(name) for name in names])[kind]

    def places(count: int, limit: np.ndarray) -> np.ndarray:
        distance, angle = limit * np.sqrt(rng.random(count)), rng.uniform(-np.pi, np.pi, count)
        return np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)

    yaw = rng.uniform(-np.pi, np.pi, boxes)
    speed = np.array([_SPEED.get(name, 0.0) for name in names])[kind] * rng.random(boxes)
    velocity = speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    place, true = places(boxes, reach), rng.random(boxes) < 0.8
    for index in range(frames):
        place = place + velocity * STEP_S
        left = np.hypot(*place.T) > reach
        place[left] = places(int(left.sum()), reach[left])
        shown = np.where(true[:, None], place + rng.normal(0, 0.4, place.shape), places(boxes, reach))
        yield Boxes3D(
            center=np.column_stack([shown, np.full(boxes, 0.8)]),
            size=np.tile([4.0, 1.8, 1.6], (boxes, 1)),
            yaw=yaw,
            velocity=velocity + rng.normal(0, 0.3, velocity.shape),
            score=np.where(true, 0.3 + 0.6 * rng.random(boxes), 0.4 * rng.random(boxes)),
            label=label,
            frame_id="map",
            stamp_ns=round((index + 1) * STEP_S * 1e9),
        )


def measure(frames: Iterable[Boxes3D], config: TrackerConfig | None = None, warm_up: int = 5) -> Load:
    """Run the tracker over frames around a robot at rest in the map's origin, and time every step."""
    tracker, pose = Tracker(config), np.eye(4)
    took, boxes, tracks = [], [], 0
    for frame in frames:
        begun = time.thread_time_ns()
        tracks = len(tracker.step(frame, pose))
        took.append((time.thread_time_ns() - begun) * 1e-6)
        boxes.append(len(frame))
    kept = took[warm_up:] or took
    return Load(round(float(np.mean(boxes))), tracks, *(float(np.percentile(kept, share)) for share in (50, 90)))
