"""Streets as centre lines with lanes, the junctions between them, and the paths that traffic follows.

Coordinates are the drive's world frame: x, y in metres on the plane z = 0, yaw counter-clockwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

STEP = 0.5
"""Metres between the points of a path."""


class Path:
    """A curve in the plane by arc length; it goes on straight beyond both ends."""

    def __init__(self, points: ArrayLike) -> None:
        """`points` (n, 2), n >= 2, no two equal in a row."""
        self.points: Array = np.asarray(points, dtype=np.float64)
        delta = np.diff(self.points, axis=0)
        self._length_at = np.concatenate([[0.0], np.linalg.norm(delta, axis=1).cumsum()])
        heading = np.unwrap(np.arctan2(delta[:, 1], delta[:, 0]))
        # At a point the heading is the mean of its two segments', so that it turns without steps.
        inner = (heading[1:] + heading[:-1]) / 2
        self._heading: Array = np.concatenate([heading[:1], inner, heading[-1:]])

    @property
    def length(self) -> float:
        """Metres from end to end."""
        return float(self._length_at[-1])

    def at(self, s: ArrayLike) -> tuple[Array, Array]:
        """Positions (..., 2) and headings (...,) at arc lengths `s` (...,)."""
        s = np.asarray(s, dtype=np.float64)
        inside = np.clip(s, 0.0, self.length)
        xy = np.stack([np.interp(inside, self._length_at, self.points[:, k]) for k in (0, 1)], axis=-1)
        heading = np.interp(inside, self._length_at, self._heading)
        beyond = (s - inside)[..., None]
        return xy + beyond * np.stack([np.cos(heading), np.sin(heading)], axis=-1), heading

    def offset(self, left: float) -> Path:
        """The parallel curve `left` metres to the left (negative: right)."""
        normal = np.stack([-np.sin(self._heading), np.cos(self._heading)], axis=-1)
        return Path(self.points + left * normal)

    def reversed(self) -> Path:
        """The same curve driven the other way."""
        return Path(self.points[::-1])

    def nearest(self, xy: ArrayLike) -> tuple[float, float]:
        """Arc length of the point nearest to `xy` (2,), and the distance to it."""
        distance = np.linalg.norm(self.points - np.asarray(xy), axis=1)
        k = int(distance.argmin())
        return float(self._length_at[k]), float(distance[k])


@dataclass(frozen=True)
class Street:
    """A street: centre line and what lies across it, the same on both sides.

    Attributes:
        center: the line between the two directions.
        lanes: lanes a direction.
        lane_width, parking, sidewalk: metres.
    """

    center: Path
    lanes: int
    lane_width: float = 3.5
    parking: float = 2.5
    sidewalk: float = 4.0

    @property
    def half_road(self) -> float:
        """Metres from the centre line to the curb."""
        return self.lanes * self.lane_width + self.parking

    @property
    def half_total(self) -> float:
        """Metres from the centre line to the houses."""
        return self.half_road + self.sidewalk

    def lane(self, direction: int, index: int) -> Path:
        """The lane `index` (0 = at the centre line) in `direction` (+1 along the centre line, -1 against it)."""
        offset = (index + 0.5) * self.lane_width
        path = self.center.offset(-direction * offset)
        return path if direction > 0 else path.reversed()


@dataclass(frozen=True)
class Junction:
    """Two streets that cross: indices and arc lengths of their centre lines at the crossing point."""

    first: int
    second: int
    first_s: float
    second_s: float
    center: tuple[float, float]


@dataclass(frozen=True)
class Layout:
    """Streets, junctions and the path of the ego car with where it slows down."""

    streets: tuple[Street, ...]
    junctions: tuple[Junction, ...]
    ego: Path
    ego_turn: tuple[float, float]

    def street_distance(self, xy: ArrayLike) -> float:
        """Metres from a point to the nearest house line; negative on a street or sidewalk."""
        return min(street.center.nearest(xy)[1] - street.half_total for street in self.streets)

    def road_distance(self, xy: ArrayLike) -> float:
        """Metres from a point to the nearest curb; negative on a road."""
        return min(street.center.nearest(xy)[1] - street.half_road for street in self.streets)

    def in_junction(self, xy: ArrayLike, margin: float = 0.0) -> bool:
        """Whether a point lies within a junction's square, widened by `margin` metres."""
        for junction in self.junctions:
            reach = max(self.streets[junction.first].half_road, self.streets[junction.second].half_road)
            if np.abs(np.asarray(xy) - junction.center).max() < reach * 1.2 + margin:
                return True
        return False


def line(start: ArrayLike, end: ArrayLike) -> Array:
    """Points (n, 2) about STEP apart from `start` to `end`, both included."""
    start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    count = max(2, round(float(np.linalg.norm(end - start)) / STEP) + 1)
    return start + np.linspace(0, 1, count)[:, None] * (end - start)


def arc(start: ArrayLike, heading: float, radius: float, angle: float) -> Array:
    """Points (n, 2) of an arc that leaves `start` along `heading` and turns by `angle` (positive: left)."""
    start = np.asarray(start, dtype=np.float64)
    side = np.sign(angle)
    center = start + side * radius * np.array([-np.sin(heading), np.cos(heading)])
    count = max(4, round(abs(angle) * radius / STEP) + 1)
    phi = heading - side * np.pi / 2 + np.linspace(0, angle, count)
    return center + radius * np.stack([np.cos(phi), np.sin(phi)], axis=-1)


def turn(first: Path, second: Path, near: ArrayLike, radius: float) -> Path:
    """A path along `first` that turns into `second` by an arc of `radius` where they cross close to `near`."""
    (p, a), (q, b) = first.at(first.nearest(near)[0]), second.at(second.nearest(near)[0])
    u, v = np.array([np.cos(a), np.sin(a)]), np.array([np.cos(b), np.sin(b)])
    along = np.linalg.solve(np.stack([u, -v], axis=1), q - p)
    crossing = p + along[0] * u
    angle = float((b - a + np.pi) % (2 * np.pi) - np.pi)
    back = radius * np.tan(abs(angle) / 2)
    before = first.points[(first.points - crossing) @ u < -back]
    after = second.points[(second.points - crossing) @ v > back]
    return Path(np.concatenate([before, arc(crossing - back * u, float(a), radius, angle), after]))


def make_layout(rng: np.random.Generator, travel: float) -> Layout:
    """Streets around a drive of `travel` metres: either a turn at a crossing or a winding street.

    The ego starts near the world's origin.
    """
    reach = travel + 130.0
    lanes = int(rng.integers(1, 3))
    if rng.random() < 0.55:
        return _crossing_layout(rng, travel, reach, lanes)
    return _winding_layout(rng, travel, reach, lanes)


def _crossing_layout(rng: np.random.Generator, travel: float, reach: float, lanes: int) -> Layout:
    corner = travel * float(rng.uniform(0.35, 0.55)) + 8
    streets = [
        Street(Path(line((-130, 0), (corner + reach, 0))), lanes),
        Street(Path(line((corner, -reach), (corner, reach))), int(rng.integers(1, 3))),
    ]
    junctions = [Junction(0, 1, corner + 130, reach, (corner, 0.0))]
    side = 1 if rng.random() < 0.5 else -1
    into = streets[1].lane(side, streets[1].lanes - 1 if side < 0 else 0)
    radius = 7.5 if side < 0 else 11.0
    ego = turn(streets[0].lane(1, lanes - 1 if side < 0 else 0), into, (corner, 0), radius)
    for x in (corner - float(rng.uniform(75, 95)), corner + float(rng.uniform(75, 95))):
        streets.append(Street(Path(line((x, -reach), (x, reach))), 1))
        junctions.append(Junction(0, len(streets) - 1, x + 130, reach, (x, 0.0)))
    middle = ego.nearest((corner, 0))[0]
    return Layout(tuple(streets), tuple(junctions), ego, (middle - 14, middle + 12))


def _winding_layout(rng: np.random.Generator, travel: float, reach: float, lanes: int) -> Layout:
    side = 1 if rng.random() < 0.5 else -1
    points, heading = [line((-130, 0), (25, 0))], 0.0
    for share in (0.5, 0.8):
        radius, angle = float(rng.uniform(35, 70)), side * float(rng.uniform(0.5, 1.0))
        points.append(arc(points[-1][-1], heading, radius, angle)[1:])
        heading += angle
        straight = max(20.0, share * travel * 0.4)
        direction = np.array([np.cos(heading), np.sin(heading)])
        points.append(line(points[-1][-1], points[-1][-1] + straight * direction)[1:])
        side = -side
    direction = np.array([np.cos(heading), np.sin(heading)])
    points.append(line(points[-1][-1], points[-1][-1] + reach * direction)[1:])
    main = Street(Path(np.concatenate(points)), lanes)
    streets, junctions = [main], []
    x = float(rng.uniform(-2, 4))
    streets.append(Street(Path(line((x, -reach), (x, reach))), 1))
    junctions.append(Junction(0, 1, x + 130, reach, (x, 0.0)))
    ego = main.lane(1, int(rng.integers(0, lanes)))
    return Layout(tuple(streets), tuple(junctions), ego, (-1.0, -1.0))
