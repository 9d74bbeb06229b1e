"""What stands along the streets and is not annotated: houses, trees, lamps, signals, signs; and their shadows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bag_tools.rendered import street
from bag_tools.rendered.roads import Layout
from bag_tools.rendered.solids import Solid, join
from bag_tools.rendered.traffic import overlaps

Array = NDArray[np.float64]


def make_scenery(rng: np.random.Generator, layout: Layout, route: Array, reach: float = 95.0) -> Solid:
    """All fixed scenery within `reach` metres of `route` (n, 2), in the world frame."""
    return join([*_houses(rng, layout, route, reach), *_along_curbs(rng, layout, route, reach)])


def _near(xy: Array, route: Array, reach: float) -> bool:
    return bool(np.linalg.norm(route[::10] - xy, axis=1).min() < reach)


def _houses(rng: np.random.Generator, layout: Layout, route: Array, reach: float) -> list[Solid]:
    solids: list[Solid] = []
    boxes, halves = np.zeros((0, 3)), np.zeros((0, 2))
    for own in layout.streets:
        for side in (1, -1):
            s = float(rng.uniform(0, 6))
            while s < own.center.length:
                width, depth = float(rng.uniform(9, 22)), float(rng.uniform(9, 14))
                setback = float(rng.choice([0.0, 0.0, 1.5, 5.0])) + 0.4
                xy, heading = own.center.at(s + width / 2)
                out = side * np.array([-np.sin(heading), np.cos(heading)])
                middle = xy + (own.half_total + setback + depth / 2) * out
                s += width + float(rng.choice([0.15, 0.15, 4.0, 12.0]))
                if not _near(middle, route, reach):
                    continue
                # The front (-y of the model) looks at the street.
                yaw = float(heading) + (0.0 if side > 0 else np.pi)
                box, half = np.array([[*middle, yaw]]), np.array([[width / 2 + 0.05, depth / 2 + 0.05]])
                if not _clear_of_streets(layout, middle, yaw, width, depth):
                    continue
                if (
                    len(boxes)
                    and overlaps(
                        boxes, halves, np.repeat(box, len(boxes), 0), np.repeat(half, len(boxes), 0)
                    ).any()
                ):
                    continue
                boxes, halves = np.concatenate([boxes, box]), np.concatenate([halves, half])
                solids.append(street.building(rng, width, depth).moved((*middle, 0.0), yaw))
    return solids


def _clear_of_streets(layout: Layout, middle: Array, yaw: float, width: float, depth: float) -> bool:
    u, v = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    grid = [middle + a * width * u + b * depth * v for a in (-0.5, -0.25, 0, 0.25, 0.5) for b in (-0.5, 0, 0.5)]
    return all(layout.street_distance(point) > 0 for point in grid)


def _along_curbs(rng: np.random.Generator, layout: Layout, route: Array, reach: float) -> list[Solid]:
    solids: list[Solid] = []
    for own in layout.streets:
        for side in (1, -1):
            for k, s in enumerate(np.arange(0.7, own.center.length, 12.0)):
                xy, heading = own.center.at(s)
                out = side * np.array([-np.sin(heading), np.cos(heading)])
                place = xy + (own.half_road + 0.95) * out
                if not _near(place, route, reach * 0.8) or layout.in_junction(place, 4.5):
                    continue
                if layout.road_distance(place) < 0.5:
                    continue
                inward = float(heading) - side * np.pi / 2
                if k % 3 == 0:
                    solids.append(street.lamp_post(rng).moved((*place, 0.0), inward))
                elif rng.random() < 0.75:
                    solids.append(street.tree(rng).moved((*place, 0.0), float(rng.uniform(0, 6))))
                elif rng.random() < 0.4:
                    solids.append(
                        street.sign(rng).moved((*place, 0.0), float(heading) + (np.pi if side > 0 else 0))
                    )
                back = xy + (own.half_total - 0.2) * out
                if rng.random() < 0.25 and layout.road_distance(back) > 2:
                    solids.append(street.bush(rng).moved((*back, 0.0), float(heading)))
    for junction in layout.junctions:
        if not _near(np.array(junction.center), route, reach):
            continue
        a, b = layout.streets[junction.first], layout.streets[junction.second]
        center, heading = a.center.at(junction.first_s)
        u, v = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
        for x, y, turned in ((1, -1, 0.0), (-1, 1, np.pi), (1, 1, np.pi / 2), (-1, -1, -np.pi / 2)):
            place = center + x * (b.half_road + 1.0) * u + y * (a.half_road + 1.0) * v
            solids.append(street.traffic_light(rng).moved((*place, 0.0), float(heading) + turned))
    return solids


def shadow_outlines(scenery: Solid, sun: Array) -> list[Array]:
    """Outlines (8, 2) on the plane of the shadows that the parts' boxes throw; longer than 60 m are cut."""
    corners = scenery.corners()
    length = np.minimum(corners[..., 2:], 60.0 * sun[2])
    return list(corners[..., :2] - length * sun[:2] / sun[2])
