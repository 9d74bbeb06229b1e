"""Boxes as a camera detector would give them of rendered drives, made from the ground truth without any network.

The errors are those of camera detectors: depth is off in proportion to the range, half of it for seconds on end;
objects are missed, seen twice, imagined. Boxes have lineage as a network with propagated queries would give it:
most go on with the number of their object's last box, some with a new one, some with a neighbour's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bag_tools.pipeline import Detected
from bag_tools.rendered.drive import RenderedDrive, Truth
from streampetr_core.boxes import Boxes3D, concatenate

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

_SIZE = (264, 148)
"""Pixels of the images that tell who is visible; they are never shaded."""


@dataclass(frozen=True)
class CameraErrors:
    """How far the boxes are from the objects. Distances in metres, angles in radians.

    Attributes:
        lateral, radial: (constant, per metre of range) standard deviation across and along the viewing ray.
        slow_share, slow_time: part of the variance of the place that changes slowly, and in how many seconds.
        heading: standard deviation; flipped: probability that a box looks backwards.
        size: standard deviation of the logarithm of each side.
        velocity: (constant, per m/s of speed) standard deviation of each component.
        missed: probability to miss an object in full view close by; range and what hides it add to that.
        doubled: probability of a second box along the viewing ray.
        ghosts: false objects that appear a frame; ghost_life: probability that one is still there in the next.
    """

    lateral: tuple[float, float] = (0.12, 0.008)
    radial: tuple[float, float] = (0.2, 0.045)
    slow_share: float = 0.5
    slow_time: float = 2.2
    heading: float = 0.25
    flipped: float = 0.05
    size: float = 0.12
    velocity: tuple[float, float] = (0.15, 0.1)
    missed: float = 0.06
    doubled: float = 0.1
    ghosts: float = 5.0
    ghost_life: float = 0.5


@dataclass(frozen=True)
class Lineage:
    """How well the numbers of the boxes follow the objects.

    Attributes:
        kept: probability that a box goes on with the number of its object's box before; to the power of the frames
            between them.
        swapped: probability that it exchanges its number with the nearest box within 5 m.
        shuffled: all numbers of a frame are dealt anew, so they mean nothing.
    """

    kept: float
    swapped: float = 0.03
    shuffled: bool = False


@dataclass(frozen=True)
class Moment:
    """A key frame of a drive: where the ego is and what there is (`truth.boxes` in base_link)."""

    stamp_ns: int
    map_from_ego: Array
    scene: str
    truth: Truth


def moments(seed: int, seconds: float) -> tuple[Moment, ...]:
    """The key frames of a rendered drive, without images."""
    drive = RenderedDrive(seed, seconds, _SIZE, device="cpu")
    stamps = [drive.stamp_ns(index) for index in range(len(drive))]
    poses = drive.map_from_ego(np.array(stamps))
    return tuple(
        Moment(stamp, pose, drive.scene, drive.truth_at(index))
        for index, (stamp, pose) in enumerate(zip(stamps, poses, strict=True))
    )


def detect(drive: Sequence[Moment], seed: int, errors: CameraErrors | None = None) -> Iterator[Detected]:
    """A detector's boxes (base_link) of a drive; `Boxes3D.track_id` says whose box it is, of ghosts -2 and below.

    The same drive and seed give the same boxes.
    """
    errors = errors or CameraErrors()
    rng = np.random.default_rng([seed, drive[0].stamp_ns // 1_000_000_000])
    actors = 1 + max((int(moment.truth.boxes.track_id.max(initial=0)) for moment in drive), default=0)
    slow, before = rng.normal(size=(actors, 2)), drive[0].stamp_ns
    mood = rng.normal(size=actors)  # some objects are harder than others, all along
    ghosts, number = Boxes3D.empty("map"), -2
    for moment in drive:
        keep = np.exp(-(moment.stamp_ns - before) * 1e-9 / errors.slow_time)
        slow = keep * slow + np.sqrt(1 - keep**2) * rng.normal(size=slow.shape)
        before = moment.stamp_ns
        true = _seen(moment.truth, slow, mood, errors, rng)
        ghosts = ghosts[rng.random(len(ghosts)) < errors.ghost_life]
        fresh = _ghosts(moment, number, errors, rng)
        number -= len(fresh)
        fresh = fresh.transformed(moment.map_from_ego, "map")
        ghosts = replace(concatenate([fresh, ghosts]), stamp_ns=moment.stamp_ns)
        false = _jittered(ghosts.transformed(np.linalg.inv(moment.map_from_ego), "base_link"), rng)
        boxes = replace(concatenate([true, false]), frame_from_upright=None)
        yield Detected(moment.stamp_ns, boxes, moment.map_from_ego, moment.scene)


def with_lineage(items: Sequence[Detected], lineage: Lineage, seed: int = 0) -> list[Detected]:
    """The boxes of a drive with the numbers that a network would give; whose box it is is forgotten."""
    rng = np.random.default_rng([seed, 77])
    held: dict[int, tuple[int, int]] = {}  # whose -> number, frame
    number, told = 1, []
    for frame, item in enumerate(items):
        assert item.boxes is not None
        found = number + np.arange(len(item.boxes))
        number += len(found)
        for row, whose in enumerate(item.boxes.track_id.tolist()):
            last, when = held.get(whose, (0, frame))
            if when < frame and rng.random() < lineage.kept ** (frame - when):
                found[row] = last
        _swap(item.boxes, found, lineage.swapped, rng)
        if lineage.shuffled:
            rng.shuffle(found)
        for row in range(len(found))[::-1]:  # of two boxes of an object the first, its better one, is carried on
            held[int(item.boxes.track_id[row])] = int(found[row]), frame
        nobody = np.full(len(found), -1, dtype=np.int64)
        told.append(replace(item, boxes=replace(item.boxes, lineage=found, track_id=nobody)))
    return told


def _swap(boxes: Boxes3D, numbers: Numbers, probability: float, rng: np.random.Generator) -> None:
    distance = np.hypot(*(boxes.center[:, None, :2] - boxes.center[None, :, :2]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    for row in np.flatnonzero(rng.random(len(boxes)) < probability):
        other = int(distance[row].argmin())
        if distance[row, other] < 5.0:
            numbers[[row, other]] = numbers[[other, row]]


def _seen(truth: Truth, slow: Array, mood: Array, errors: CameraErrors, rng: np.random.Generator) -> Boxes3D:
    """The objects that are found, once or twice."""
    boxes, visible = truth.boxes, np.clip(truth.visibility, 0.05, 1.0)
    who = boxes.track_id
    distance = np.hypot(*boxes.center[:, :2].T)
    # a score is what evidence there is: what is near and in full view; it decides on a miss too
    clear = 1.6 - 0.03 * distance + 1.2 * np.log(visible) + 0.5 * mood[who] + rng.normal(size=len(boxes))
    missed = errors.missed + 0.006 * distance + 0.5 * (1 - visible) * (clear < 0)
    found = np.flatnonzero((truth.points > 0) & (rng.random(len(boxes)) >= missed))
    found = np.concatenate([found, found[rng.random(len(found)) < errors.doubled]])
    second = np.arange(len(found)) >= len(np.unique(found))
    boxes, who, distance = boxes[found], who[found], distance[found]
    share = np.where(second, 0.0, errors.slow_share)[:, None]
    off = np.sqrt(share) * slow[who] + np.sqrt(1 - share) * rng.normal(size=(len(found), 2))
    deviation = np.stack([a + b * distance for a, b in (errors.radial, errors.lateral)], axis=1)
    unit = boxes.center[:, :2] / np.maximum(distance, 1e-6)[:, None]
    off *= deviation
    moved = off[:, :1] * unit + off[:, 1:] * np.stack([-unit[:, 1], unit[:, 0]], axis=1)
    center = boxes.center + np.column_stack([moved, 0.1 * rng.normal(size=len(found))])
    flip = np.pi * (rng.random(len(found)) < errors.flipped)
    speed = np.hypot(*boxes.velocity.T)
    noise = (errors.velocity[0] + errors.velocity[1] * speed)[:, None] * rng.normal(size=(len(found), 2))
    return replace(
        boxes,
        center=center,
        size=boxes.size * np.exp(errors.size * rng.normal(size=boxes.size.shape)),
        yaw=boxes.yaw + errors.heading * rng.normal(size=len(found)) + flip,
        velocity=boxes.velocity + noise,
        score=_share(clear[found] - 0.8 * second),
        attribute=np.full(len(found), ""),
    )


def _ghosts(moment: Moment, number: int, errors: CameraErrors, rng: np.random.Generator) -> Boxes3D:
    """New false objects (base_link): they look like what is around, and are mostly far off and at rest."""
    around = moment.truth.boxes
    if not len(around):
        return Boxes3D.empty("base_link", moment.stamp_ns)
    like = around[rng.integers(len(around), size=rng.poisson(errors.ghosts))]
    angle, distance = rng.uniform(-np.pi, np.pi, len(like)), 55 * np.sqrt(rng.random(len(like)))
    place = np.stack([distance * np.cos(angle), distance * np.sin(angle), like.center[:, 2]], axis=1)
    return replace(
        like,
        center=place,
        velocity=0.2 * rng.normal(size=(len(like), 2)),
        yaw=rng.uniform(-np.pi, np.pi, len(like)),
        score=_share(-1.0 + 0.9 * rng.normal(size=len(like))),
        track_id=number - np.arange(len(like)),
        attribute=np.full(len(like), ""),
    )


def _jittered(ghosts: Boxes3D, rng: np.random.Generator) -> Boxes3D:
    """False objects are in another place in every frame."""
    noise = 0.8 * rng.normal(size=(len(ghosts), 2))
    return replace(ghosts, center=ghosts.center + np.column_stack([noise, np.zeros(len(ghosts))]))


def _share(odds: Array) -> Array:
    return 1 / (1 + np.exp(-odds))
