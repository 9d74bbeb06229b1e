"""Who is on the street and where at every instant: nobody overlaps anybody, at any time of the drive.

Candidates are drawn at random on lanes, curbs, sidewalks and crossings and kept only where their footprint stays
clear of all those kept before, the ego car included, over the whole drive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bag_tools.rendered import heavy, models, street
from bag_tools.rendered.rig import EGO_CENTER_X, EGO_SIZE
from bag_tools.rendered.roads import Layout, Path, line, turn
from bag_tools.rendered.solids import Solid

Array = NDArray[np.float64]

GRID = 0.05
"""Seconds between the tabulated poses; linear in between."""
MARGIN_SECONDS = 1.0
"""The table reaches this far beyond both ends of the drive."""


@dataclass(frozen=True)
class Actor:
    """One annotated object.

    Attributes:
        name: nuScenes detection class.
        solid: its parts, origin on the ground below the box centre.
        size: (3,) length, width, height of the annotated box.
        kind: "vehicle", "cycle", "rider", "pedestrian" or "" (no attribute).
        parked: whether it never moves.
        track: (T, 4) x, y, yaw (unwrapped) of the box centre and metres gone, on the drive's time grid.
    """

    name: str
    solid: Solid
    size: Array
    kind: str
    parked: bool
    track: Array


def time_grid(seconds: float) -> Array:
    """(T,) instants of the tabulated poses."""
    return np.arange(-MARGIN_SECONDS, seconds + MARGIN_SECONDS + GRID, GRID)


def ego_track(layout: Layout, seconds: float, speed: float) -> Array:
    """(T, 4) of base_link: it slows for the turn and picks up speed again."""
    grid = time_grid(seconds)
    start, end = layout.ego_turn
    s = layout.ego.nearest((0.0, 0.0))[0] - speed * MARGIN_SECONDS
    gone = []
    slow = min(speed, 5.0)
    for _ in grid:
        gone.append(s)
        distance = max(start - s, s - end, 0.0) if end > 0 else 1e9
        # v^2 = v_turn^2 + 2 a d: 1.5 m/s^2 of braking and accelerating.
        s += GRID * min(speed, float(np.sqrt(slow**2 + 2 * 1.5 * distance)))
    return _along(layout.ego, np.array(gone))


def _along(path: Path, s: Array) -> Array:
    xy, heading = path.at(s)
    return np.column_stack([xy, heading, s])


class _Footprints:
    """The footprints kept so far, tested against a candidate's at every second instant of the grid."""

    def __init__(self, instants: int) -> None:
        self._every = slice(None, None, max(1, round(0.15 / GRID)))
        count = len(range(instants)[self._every])
        self._track = np.zeros((0, count, 3))
        self._half = np.zeros((0, 2))

    def clear(self, track: Array, size: Array, margin: float) -> bool:
        """Whether a box of `size` on `track` (T, 4), widened by `margin` metres, touches nobody."""
        mine = track[self._every, :3]
        half = np.asarray(size[:2]) / 2 + margin
        reach = np.linalg.norm(self._half, axis=1) + np.linalg.norm(half)
        gap = np.linalg.norm(self._track[:, :, :2] - mine[None, :, :2], axis=2)
        rows, instants = np.nonzero(gap < reach[:, None])
        if not len(rows):
            return True
        return not overlaps(
            self._track[rows, instants], self._half[rows], mine[instants], np.broadcast_to(half, (len(rows), 2))
        ).any()

    def add(self, track: Array, size: Array) -> None:
        self._track = np.concatenate([self._track, track[None, self._every, :3]])
        self._half = np.concatenate([self._half, np.asarray(size)[None, :2] / 2])


def overlaps(a: Array, a_half: Array, b: Array, b_half: Array) -> NDArray[np.bool_]:
    """Whether rectangles (n, 3: x, y, yaw) with half sizes (n, 2) intersect, by the separating axis theorem."""
    apart = np.zeros(len(a), dtype=bool)
    delta = b[:, :2] - a[:, :2]
    axes = [
        np.stack([np.cos(r[:, 2] + turn_by), np.sin(r[:, 2] + turn_by)], axis=1)
        for r in (a, b)
        for turn_by in (0.0, np.pi / 2)
    ]
    for axis in axes:
        reach = sum(
            half[:, k] * np.abs((axes[2 * i + k] * axis).sum(1))
            for i, half in enumerate((a_half, b_half))
            for k in (0, 1)
        )
        apart |= np.abs((delta * axis).sum(1)) > reach
    return ~apart


class Population:
    """Draws the actors of one drive."""

    def __init__(self, rng: np.random.Generator, layout: Layout, ego: Array, seconds: float) -> None:
        self.rng, self.layout, self.seconds = rng, layout, seconds
        self.grid = time_grid(seconds)
        self.actors: list[Actor] = []
        self._taken = _Footprints(len(self.grid))
        self._ego_xy = ego[:, :2]
        center = ego.copy()
        center[:, :2] += EGO_CENTER_X * np.stack([np.cos(ego[:, 2]), np.sin(ego[:, 2])], axis=1)
        self._taken.add(center, np.array(EGO_SIZE) + 0.4)

    def near_ego(self, track: Array, reach: float = 75.0) -> bool:
        """Whether a track comes within `reach` metres of the ego at some time."""
        return bool((np.linalg.norm(track[:, :2] - self._ego_xy, axis=1) < reach).any())

    def add(
        self, name: str, made: tuple[Solid, Array], track: Array, kind: str, parked: bool, margin: float
    ) -> bool:
        """Keep the candidate where it is clear of all others and near enough to be seen."""
        solid, size = made
        if not self.near_ego(track) or not self._taken.clear(track, size, margin):
            return False
        self._taken.add(track, size)
        self.actors.append(Actor(name, solid, size, kind, parked, track))
        return True

    def still(self, xy: Array, yaw: float) -> Array:
        """The track of something that stands."""
        return np.tile([xy[0], xy[1], yaw, 0.0], (len(self.grid), 1))

    def populate(self) -> list[Actor]:
        """All actors, the big and rare ones first."""
        self._road_works()
        self._moving_traffic()
        self._parked()
        self._pedestrians()
        return self.actors

    def _path_choices(self) -> list[tuple[Path, float]]:
        """Lanes and turns with a typical speed."""
        choices: list[tuple[Path, float]] = []
        for s in self.layout.streets:
            choices += [(s.lane(d, k), 8.5) for d in (1, -1) for k in range(s.lanes)]
        for j in self.layout.junctions:
            a, b = self.layout.streets[j.first], self.layout.streets[j.second]
            for da in (1, -1):
                for db in (1, -1):
                    near = np.array(j.center)
                    choices.append((turn(a.lane(da, a.lanes - 1), b.lane(db, b.lanes - 1), near, 8.0), 4.5))
                    choices.append((turn(b.lane(da, b.lanes - 1), a.lane(db, a.lanes - 1), near, 8.0), 4.5))
        return choices

    def _near_start(self, path: Path, reach: float) -> float:
        """A random arc length of `path` near some point of the ego's way."""
        anchor = self._ego_xy[self.rng.integers(len(self._ego_xy))]
        return path.nearest(anchor)[0] + float(self.rng.uniform(-reach, reach))

    def _moving_traffic(self) -> None:
        rng = self.rng
        choices = self._path_choices()
        names = ["car", "truck", "bus", "trailer", "motorcycle", "bicycle"]
        target = int(rng.integers(20, 32))
        kept = 0
        for attempt in range(260):
            if kept >= target:
                break
            # The long and the rare ones first: later the lanes are too full for them.
            early = kept < 9
            shares = [0.0, 0.25, 0.2, 0.2, 0.2, 0.15] if early else [0.72, 0.07, 0.03, 0.02, 0.08, 0.08]
            name = str(rng.choice(names, p=shares))
            path, typical = choices[rng.integers(len(choices))]
            if name in ("trailer", "bus") and typical < 6:
                continue
            if name == "bicycle":
                path = path.offset(-0.9)
                typical = min(typical, 4.5)
            moment = rng.random()
            speed = typical * float(rng.uniform(0.75, 1.15))
            start = self._near_start(path, 70.0)
            t = self.grid - self.grid[0]
            if rng.random() < 0.2:
                # Braking to a stop, or starting from one, at 2 m/s^2.
                change = moment * self.seconds
                velocity = np.clip(speed - 2.0 * (t - change), 0, speed)
                if rng.random() < 0.5:
                    velocity = np.clip(2.0 * (t - change), 0, speed)
                s = start + np.concatenate([[0.0], velocity[:-1].cumsum() * GRID])
            else:
                s = start + speed * (t - moment * self.seconds)
            track = _along(path, s)
            kept += self._add_moving(name, path, s, track, attempt)

    def _add_moving(self, name: str, path: Path, s: Array, track: Array, attempt: int) -> bool:
        rng = self.rng
        if name == "trailer":
            unit, load = heavy.tractor(rng), heavy.trailer(rng)
            behind = (unit[1][0] + load[1][0]) / 2 - 2.2 + 2.3
            trailing = _along(path, s - behind)
            if not self._taken.clear(trailing, load[1], 1.2) or not self._taken.clear(track, unit[1], 1.2):
                return False
            # Both or none; they may stand closer to each other than to the rest.
            if not self.add("truck", unit, track, "vehicle", False, 1.2):
                return False
            return self.add("trailer", load, trailing, "vehicle", False, 0.0)
        if name == "bicycle":
            return self.add(name, street.bicycle(rng, True), track, "rider", False, 0.5)
        if name == "motorcycle":
            return self.add(name, street.motorcycle(rng, True), track, "rider", False, 0.7)
        make = {"car": models.car, "truck": heavy.truck, "bus": heavy.bus}[name]
        return self.add(name, make(rng), track, "vehicle", False, 1.2 if name == "car" else 1.0)

    def _curb(self, inset: float) -> tuple[Array, float, int] | None:
        """A random place `inset` metres from a curb (positive: on the sidewalk), clear of junctions."""
        rng = self.rng
        streets = self.layout.streets
        s = streets[0] if rng.random() < 0.6 else streets[rng.integers(len(streets))]
        direction = 1 if rng.random() < 0.5 else -1
        path = s.center.offset(-direction * (s.half_road + inset))
        if direction < 0:
            path = path.reversed()
        xy, heading = path.at(self._near_start(path, 60.0))
        if self.layout.in_junction(xy, 7.0):
            return None
        return xy, float(heading), direction

    def _parked(self) -> None:
        rng = self.rng
        target, kept = int(rng.integers(14, 26)), 0
        for _ in range(170):
            if kept >= target:
                break
            name = str(
                rng.choice(
                    ["car", "truck", "trailer", "bus", "motorcycle", "bicycle"],
                    p=[0.72, 0.08, 0.04, 0.03, 0.05, 0.08],
                )
            )
            on_sidewalk = name == "bicycle" or (name == "motorcycle" and rng.random() < 0.5)
            spot = self._curb(0.8 if on_sidewalk else -1.25)
            if spot is None:
                continue
            xy, yaw, _ = spot
            yaw += float(rng.normal(0, 0.02)) + (np.pi if rng.random() < 0.06 else 0.0)
            if on_sidewalk:
                yaw += float(rng.choice([0.0, np.pi / 2, np.pi]))
            makers = {
                "car": models.car,
                "truck": heavy.truck,
                "trailer": heavy.trailer,
                "bus": heavy.bus,
                "motorcycle": lambda r: street.motorcycle(r, False),
                "bicycle": lambda r: street.bicycle(r, False),
            }
            kind = "cycle" if name in ("motorcycle", "bicycle") else "vehicle"
            kept += self.add(name, makers[name](rng), self.still(xy, yaw), kind, True, 0.35)

    def _road_works(self) -> None:
        """A closed-off stretch of the parking lane: excavator or loader inside, cones and barriers around."""
        rng = self.rng
        for _ in range(8):
            spot = self._curb(-1.3)
            if spot is None:
                continue
            xy, yaw, _ = spot
            along, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
            machine = self.still(xy, yaw + float(rng.choice([0.0, np.pi])) + float(rng.normal(0, 0.05)))
            if not self.add(
                "construction_vehicle", heavy.construction_vehicle(rng), machine, "vehicle", True, 0.2
            ):
                continue
            half = 8.0 + float(rng.uniform(0, 3))
            for k in np.arange(-half + 1.0, half, 2.5):
                made = street.barrier(rng) if rng.random() < 0.5 else street.traffic_cone(rng)
                name = "barrier" if made[1][1] > 1 else "traffic_cone"
                # A barrier's heading is across its long side.
                side = self.still(xy + k * along + 1.85 * across, yaw + np.pi / 2)
                self.add(name, made, side, "", True, 0.05)
            for end in (-half, half):
                for k in (-0.9, 1.1):
                    self.add(
                        "barrier",
                        street.barrier(rng),
                        self.still(xy + end * along + k * across, yaw),
                        "",
                        True,
                        0.02,
                    )
            for k in range(4):
                place = xy - (half + 2.2 * (k + 1)) * along + (1.6 - 0.75 * k) * across
                self.add("traffic_cone", street.traffic_cone(rng), self.still(place, yaw), "", True, 0.1)
            if sum(actor.name == "construction_vehicle" for actor in self.actors) >= 2:
                break
        for _ in range(6):
            spot = self._curb(float(rng.uniform(0.4, 0.9)))
            if spot is None:
                continue
            xy, yaw, _ = spot
            along = np.array([np.cos(yaw), np.sin(yaw)])
            if rng.random() < 0.5:
                for k in range(int(rng.integers(2, 5))):
                    self.add(
                        "traffic_cone",
                        street.traffic_cone(rng),
                        self.still(xy + 2.0 * k * along, yaw),
                        "",
                        True,
                        0.1,
                    )
            else:
                for k in range(int(rng.integers(2, 5))):
                    place = self.still(xy + 2.1 * k * along, yaw + np.pi / 2)
                    self.add("barrier", street.barrier(rng), place, "", True, 0.02)

    def _pedestrians(self) -> None:
        rng = self.rng
        t = self.grid - self.grid[0]
        for _ in range(int(rng.integers(22, 36))):
            spot = self._curb(float(rng.uniform(1.3, 3.4)))
            if spot is None:
                continue
            xy, yaw, _ = spot
            if rng.random() < 0.22:
                for _ in range(int(rng.integers(1, 4))):
                    place = xy + rng.normal(0, 0.9, 2)
                    made = street.pedestrian(rng, moving=False)
                    self.add(
                        "pedestrian",
                        made,
                        self.still(place, float(rng.uniform(-np.pi, np.pi))),
                        "pedestrian",
                        True,
                        0.15,
                    )
                continue
            heading = yaw + (np.pi if rng.random() < 0.5 else 0.0)
            speed = float(np.clip(rng.normal(1.35, 0.2), 0.8, 1.9))
            gone = speed * (t - float(rng.random()) * self.seconds)
            route = Path(line(xy - 40 * _unit(heading), xy + 40 * _unit(heading)))
            if len(self.layout.streets[0].center.points) and self._bends(xy):
                route = self._sidewalk_route(xy, heading)
            track = _along(route, route.nearest(xy)[0] + gone)
            self.add("pedestrian", street.pedestrian(rng), track, "pedestrian", False, 0.15)
        for junction in self.layout.junctions:
            for _ in range(int(rng.integers(2, 6))):
                self._crossing_pedestrian(junction.center, t)

    def _bends(self, xy: Array) -> bool:
        center = self.layout.streets[0].center
        s = center.nearest(xy)[0]
        return bool(np.ptp(center.at(np.array([s - 25, s, s + 25]))[1]) > 0.02)

    def _sidewalk_route(self, xy: Array, heading: float) -> Path:
        """The parallel of the main street through `xy`, in the direction closer to `heading`."""
        center = self.layout.streets[0].center
        s, _ = center.nearest(xy)
        foot, along = center.at(s)
        left = float((xy - foot) @ np.array([-np.sin(along), np.cos(along)]))
        route = center.offset(left)
        return route if np.cos(heading - along) > 0 else route.reversed()

    def _crossing_pedestrian(self, center: tuple[float, float], t: Array) -> None:
        rng = self.rng
        index = int(rng.integers(2))
        junction = next(j for j in self.layout.junctions if j.center == center)
        crossed = self.layout.streets[(junction.first, junction.second)[index]]
        other = self.layout.streets[(junction.second, junction.first)[index]]
        s0 = (junction.first_s, junction.second_s)[index]
        s = s0 + (1 if rng.random() < 0.5 else -1) * (other.half_road + 2.2) + float(rng.normal(0, 0.5))
        foot, along = crossed.center.at(s)
        side = np.array([-np.sin(along), np.cos(along)]) * (1 if rng.random() < 0.5 else -1)
        reach = crossed.half_total + 20
        route = Path(line(foot - reach * side, foot + reach * side))
        speed = float(np.clip(rng.normal(1.4, 0.2), 0.9, 2.0))
        gone = reach + speed * (t - float(rng.random()) * self.seconds) + float(rng.uniform(-4, 4))
        self.add("pedestrian", street.pedestrian(rng), _along(route, gone), "pedestrian", False, 0.3)


def _unit(angle: float) -> Array:
    return np.array([np.cos(angle), np.sin(angle)])
