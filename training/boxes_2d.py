"""Boxes in the images: outline, projected centre and depth of every 3D box a camera sees.

As the published converter of the data sets does it: the corners in front of the camera are projected, their convex
hull is cut with the image, and what is left is bounded; a box whose centre lies behind the camera is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streampetr_core.cameras import CameraModel
from streampetr_core.geometry import apply

Array = NDArray[np.float64]
Point = tuple[float, float]

SMALLEST_SIDE = 1.0
"""Pixels; the converter drops what is thinner."""


@dataclass(frozen=True)
class View:
    """The n boxes that one camera sees, in pixels of its full image, in the order of the 3D boxes.

    Attributes:
        rows: (n,) which 3D box each is.
        boxes: (n, 4) x1, y1, x2, y2 within the image.
        centers: (n, 2) projected 3D centre; it may lie outside the image.
        depths: (n,) metres of the centre along the optical axis.
    """

    rows: NDArray[np.int64]
    boxes: NDArray[np.float32]
    centers: NDArray[np.float32]
    depths: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keep: NDArray | slice) -> View:
        """The boxes that a mask, index array or slice picks, in its order."""
        return View(self.rows[keep], self.boxes[keep], self.centers[keep], self.depths[keep])


def project_boxes(corners: Array, centers: Array, camera_from_world: Array, camera: CameraModel) -> View:
    """What `camera` sees of M boxes.

    Args:
        corners: (M, 8, 3) metres in some world frame; any order of the corners.
        centers: (M, 3) likewise.
        camera_from_world: (4, 4) at the image's instant.
        camera: its intrinsics and image size.
    """
    size = (float(camera.width), float(camera.height))
    inside_3d = apply(camera_from_world, centers)
    points = apply(camera_from_world, corners)
    in_front = points[..., 2] > 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        pixels = _pixels(points, camera.intrinsics)
    rows: list[int] = []
    outlines: list[tuple[float, float, float, float]] = []
    for row in np.nonzero(inside_3d[:, 2] > 0)[0]:
        outline = clipped_bounds(pixels[row][in_front[row]], size)
        if outline is None:
            continue
        if outline[2] - outline[0] >= SMALLEST_SIDE and outline[3] - outline[1] >= SMALLEST_SIDE:
            rows.append(int(row))
            outlines.append(outline)
    chosen = inside_3d[rows]
    return View(
        np.array(rows, dtype=np.int64),
        np.array(outlines, dtype=np.float32).reshape(-1, 4),
        _pixels(chosen, camera.intrinsics).astype(np.float32).reshape(-1, 2),
        chosen[:, 2].astype(np.float32),
    )


def clipped_bounds(points: Array, size: Point) -> tuple[float, float, float, float] | None:
    """x1, y1, x2, y2 of the part of the convex hull of points (n, 2) that lies within an image of width, height.

    None where nothing of it does.
    """
    if len(points) == 0:
        return None
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    if left > size[0] or top > size[1] or right < 0 or bottom < 0:
        return None
    if left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1]:
        return left, top, right, bottom
    # the bounds of the cut hull are not the cut bounds: a corner of the bounds may be outside the hull
    polygon = _hull([(float(x), float(y)) for x, y in points])
    for axis, limit, keep_less in ((0, 0.0, False), (0, size[0], True), (1, 0.0, False), (1, size[1], True)):
        polygon = _cut(polygon, axis, limit, keep_less)
        if not polygon:
            return None
    xs, ys = [p[0] for p in polygon], [p[1] for p in polygon]
    return min(xs), min(ys), max(xs), max(ys)


def _pixels(points: Array, intrinsics: Array) -> Array:
    homogeneous = points @ intrinsics.T
    return homogeneous[..., :2] / homogeneous[..., 2:]


def _hull(points: list[Point]) -> list[Point]:
    """Convex hull, counter-clockwise (A. M. Andrew's monotone chain)."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered

    def half(sequence: list[Point]) -> list[Point]:
        chain: list[Point] = []
        for p in sequence:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(p)
        return chain[:-1]

    return half(ordered) + half(ordered[::-1])


def _cut(polygon: list[Point], axis: int, limit: float, keep_less: bool) -> list[Point]:
    """The part of a convex polygon on one side of an axis-parallel line (Sutherland and Hodgman)."""
    result: list[Point] = []
    for i, here in enumerate(polygon):
        before = polygon[i - 1]
        here_in = here[axis] <= limit if keep_less else here[axis] >= limit
        before_in = before[axis] <= limit if keep_less else before[axis] >= limit
        if here_in != before_in:
            share = (limit - before[axis]) / (here[axis] - before[axis])
            other = before[1 - axis] + share * (here[1 - axis] - before[1 - axis])
            result.append((limit, other) if axis == 0 else (other, limit))
        if here_in:
            result.append(here)
    return result
