"""The street painted flat: asphalt, lane markings, crossings, sidewalks, grass and the fixed scenery's shadows."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bag_tools.rendered.roads import Junction, Layout, Path, Street
from bag_tools.rendered.shading import Ground

Array = NDArray[np.float64]

RESOLUTION = 0.08
MARGIN = 85.0
_SHIFT = 4  # sub-pixel bits of OpenCV's drawing

# sRGB bytes.
_GRASS, _PAVED, _SIDEWALK, _CURB = (98, 112, 62), (140, 134, 124), (168, 162, 152), (186, 182, 174)
_ASPHALT, _PARKING, _WHITE, _YELLOW = (99, 99, 101), (106, 105, 103), (226, 226, 222), (214, 168, 52)


class _Canvas:
    """An RGB picture of the plane that is drawn on in metres."""

    def __init__(self, low: Array, high: Array) -> None:
        self.low = low
        columns, rows = (np.ceil((high - low) / RESOLUTION)).astype(int)
        self.image = np.empty((rows, columns, 3), np.uint8)
        self.image[:] = _PAVED
        self.shadow: NDArray[Any] = np.zeros((rows, columns), np.uint8)

    def pixels(self, points: Array) -> NDArray[np.int32]:
        """Fixed-point texels of world points (..., 2)."""
        texel = (points - self.low) / RESOLUTION - 0.5
        return np.round(texel * (1 << _SHIFT)).clip(-(2**28), 2**28).astype(np.int32)

    def polygon(self, points: Array, color: tuple[int, int, int]) -> None:
        cv2.fillPoly(self.image, [self.pixels(points)], color, cv2.LINE_AA, _SHIFT)

    def band(self, path: Path, left: float, right: float, color: tuple[int, int, int]) -> None:
        """The strip between two parallels of `path`, `left` > `right` metres to its left."""
        a, b = path.offset(left).points, path.offset(right).points
        for k in range(0, len(a) - 1, 40):
            piece = slice(k, k + 42)
            self.polygon(np.concatenate([a[piece], b[piece][::-1]]), color)

    def stripe(
        self,
        path: Path,
        offset: float,
        width: float,
        spans: list[tuple[float, float]],
        color: tuple[int, int, int],
    ) -> None:
        """A line `width` wide, `offset` to the left of `path`, over arc lengths `spans`."""
        for start, end in spans:
            s = np.linspace(start, end, max(2, int((end - start) / 2) + 1))
            xy, heading = path.at(s)
            normal = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
            a, b = xy + (offset + width / 2) * normal, xy + (offset - width / 2) * normal
            self.polygon(np.concatenate([a, b[::-1]]), color)


def paint_ground(
    rng: np.random.Generator, layout: Layout, route: Array, shadows: list[Array], device: torch.device
) -> Ground:
    """The ground within MARGIN metres of `route` (n, 2); `shadows` are convex outlines (k, 2) on the plane."""
    canvas = _Canvas(route.min(0) - MARGIN, route.max(0) + MARGIN)
    span = canvas.image.shape[1] * RESOLUTION, canvas.image.shape[0] * RESOLUTION
    for _ in range(40):
        middle = canvas.low + rng.uniform(0, 1, 2) * span
        size = rng.uniform(8, 30, 2)
        corners = middle + size * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
        canvas.polygon(corners, _GRASS if rng.random() < 0.75 else _SIDEWALK)
    for street in layout.streets:
        canvas.band(street.center, street.half_total, -street.half_total, _SIDEWALK)
        joints = [(float(s), float(s) + 0.05) for s in np.arange(0, street.center.length, 1.8)]
        for side in (1, -1):
            offset = side * (street.half_road + street.sidewalk / 2)
            canvas.stripe(street.center, offset, street.sidewalk, joints, (146, 140, 131))
            green = [(float(s), float(s) + 1.4) for s in np.arange(0, street.center.length, 12.0)]
            canvas.stripe(street.center, side * (street.half_road + 0.95), 1.3, green, _GRASS)
    for street in layout.streets:
        canvas.band(street.center, street.half_road + 0.18, -street.half_road - 0.18, _CURB)
    for street in layout.streets:
        canvas.band(street.center, street.half_road, -street.half_road, _PARKING)
        road = street.lanes * street.lane_width
        canvas.band(street.center, road, -road, _ASPHALT)
    for junction in layout.junctions:
        _clear_junction(canvas, layout, junction)
    _wear(rng, canvas, layout)
    for index, street in enumerate(layout.streets):
        _markings(canvas, layout, index, street)
    for outline in shadows:
        hull = np.asarray(cv2.convexHull(outline.astype(np.float32)), dtype=np.float64)[:, 0]
        cv2.fillConvexPoly(canvas.shadow, canvas.pixels(hull), (235,), cv2.LINE_8, _SHIFT)
    canvas.shadow = cv2.GaussianBlur(canvas.shadow, (0, 0), 2.5)
    return _mipmapped(canvas, device)


def _clear_junction(canvas: _Canvas, layout: Layout, junction: Junction) -> None:
    a, b = layout.streets[junction.first], layout.streets[junction.second]
    center, heading = a.center.at(junction.first_s)
    u = np.array([np.cos(heading), np.sin(heading)])
    v = np.array([-u[1], u[0]])
    # A rounded square: the corners are cut so that turning cars stay on asphalt.
    p, q, r = b.half_road, a.half_road, 2.5
    corners = [
        (p + r, q),
        (p, q + r),
        (-p, q + r),
        (-p - r, q),
        (-p - r, -q),
        (-p, -q - r),
        (p, -q - r),
        (p + r, -q),
    ]
    canvas.polygon(np.array([center + x * u + y * v for x, y in corners]), _ASPHALT)


def _wear(rng: np.random.Generator, canvas: _Canvas, layout: Layout) -> None:
    """Patches, sealed cracks and manhole covers on the asphalt."""
    for street in layout.streets:
        for s in rng.uniform(0, street.center.length, int(street.center.length / 9)):
            offset = float(rng.uniform(-0.9, 0.9) * street.half_road)
            gray = int(rng.integers(72, 104))
            kind = rng.random()
            if kind < 0.45:
                length, width = rng.uniform(1.0, 7.0), rng.uniform(0.6, 2.2)
                canvas.stripe(
                    street.center, offset, float(width), [(s, s + float(length))], (gray, gray, gray + 2)
                )
            elif kind < 0.8:
                points = street.center.offset(offset).at(s + np.arange(0, 8, 0.7))[0] + rng.normal(
                    0, 0.12, (12, 2)
                )
                cv2.polylines(canvas.image, [canvas.pixels(points)], False, (62, 62, 64), 1, cv2.LINE_AA, _SHIFT)
            else:
                xy = street.center.offset(offset).at(s)[0]
                cv2.circle(
                    canvas.image,
                    tuple(int(c) for c in canvas.pixels(xy)),
                    int(0.36 / RESOLUTION * (1 << _SHIFT)),
                    (66, 64, 62),
                    -1,
                    cv2.LINE_AA,
                    _SHIFT,
                )


def _gaps(layout: Layout, index: int) -> list[tuple[float, float]]:
    """Arc lengths of street `index` that lie within junctions, crossings included."""
    gaps = []
    for junction in layout.junctions:
        for own, s, other in (
            (junction.first, junction.first_s, junction.second),
            (junction.second, junction.second_s, junction.first),
        ):
            if own == index:
                half = layout.streets[other].half_road
                gaps.append((s - half - 0.4, s + half + 0.4))
    return sorted(gaps)


def _without(length: float, gaps: list[tuple[float, float]], margin: float) -> list[tuple[float, float]]:
    """[0, length] without the gaps widened by `margin`."""
    spans, start = [], 0.0
    for low, high in gaps:
        if low - margin > start:
            spans.append((start, low - margin))
        start = high + margin
    return [*spans, (start, length)]


def _dashes(spans: list[tuple[float, float]], dash: float, period: float) -> list[tuple[float, float]]:
    return [
        (float(s), min(float(s) + dash, end))
        for start, end in spans
        for s in np.arange(start, end - dash / 2, period)
    ]


def _markings(canvas: _Canvas, layout: Layout, index: int, street: Street) -> None:
    gaps = _gaps(layout, index)
    open_spans = _without(street.center.length, gaps, 5.6)
    for offset in (0.16, -0.16):
        canvas.stripe(street.center, offset, 0.12, open_spans, _YELLOW)
    for lane in range(1, street.lanes):
        for side in (1, -1):
            canvas.stripe(
                street.center, side * lane * street.lane_width, 0.14, _dashes(open_spans, 3.0, 7.5), _WHITE
            )
    for side in (1, -1):
        edge = street.lanes * street.lane_width
        canvas.stripe(street.center, side * edge, 0.12, open_spans, _WHITE)
        bays = [(float(s), float(s) + 0.12) for start, end in open_spans for s in np.arange(start + 1, end, 6.2)]
        canvas.stripe(street.center, side * (edge + street.parking / 2), street.parking - 0.3, bays, _WHITE)
    for low, high in gaps:
        for near, away in ((low, -1.0), (high, 1.0)):
            start, end = sorted((near + away * 0.6, near + away * 3.6))
            for offset in np.arange(-street.half_road + 0.5, street.half_road - 0.2, 1.05):
                canvas.stripe(street.center, float(offset), 0.52, [(start, end)], _WHITE)
            # Traffic that comes towards the crossing stops on its right-hand side.
            stop = near + away * 4.8
            width = street.lanes * street.lane_width
            canvas.stripe(street.center, away * width / 2, width, [(stop - 0.2, stop + 0.2)], _WHITE)


def _mipmapped(canvas: _Canvas, device: torch.device) -> Ground:
    layers = np.dstack([canvas.image, canvas.shadow])
    texels, levels, offset = [], [], 0
    for _ in range(8):
        rows, columns = layers.shape[:2]
        texels.append(np.ascontiguousarray(layers).view(np.int32).reshape(-1))
        levels.append((offset, columns, rows))
        offset += rows * columns
        layers = cv2.resize(layers, (max(1, columns // 2), max(1, rows // 2)), interpolation=cv2.INTER_AREA)
    return Ground(
        torch.from_numpy(np.concatenate(texels)).to(device),
        torch.tensor(levels, device=device),
        (float(canvas.low[0]), float(canvas.low[1])),
        RESOLUTION,
    )
