"""A solid is a bundle of convex parts: hexahedra, elliptic cylinders, cones and ellipsoids in an object's frame.

Every part is the set of points that satisfy at most six half-space inequalities `n . p <= d` and, where it is
round, one quadric inequality `[p 1] Q [p 1]^T <= 0`, both in the part's own frame. Object frames are those of
the annotated boxes seen from the ground: x forward, y left, z up, origin on the ground below the box centre.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

FAR_PLANE = np.array([0.0, 0.0, 0.0, 1.0])
"""The half space 0 <= 1: always satisfied; fills a part's six planes."""


class Material(enum.IntEnum):
    """How a surface takes the light; the shading has one row of constants for each."""

    PAINT = 0
    GLASS = 1
    RUBBER = 2
    METAL = 3
    LAMP = 4
    CLOTH = 5
    LEAVES = 6
    FACADE = 7
    CONCRETE = 8
    STRIPES = 9


@dataclass
class Solid:
    """P convex parts.

    Attributes:
        rotation: (P, 3, 3) object_from_part.
        center: (P, 3) of the parts in the object frame, metres.
        half: (P, 3) half extents of each part's bounding box in its own frame.
        planes: (P, 6, 4) rows nx, ny, nz, d in the part frame; unit normals.
        quadric: (P, 4, 4) in the part frame; zeros where the part is flat-sided.
        color: (P, 3) linear reflectance in [0, 1].
        material: (P,) of `Material`.
        swing: (P, 2) radians of pitch amplitude and phase: limbs that swing with the distance walked about the
            part's upper end; zeros elsewhere.
    """

    rotation: Array = field(default_factory=lambda: np.zeros((0, 3, 3)))
    center: Array = field(default_factory=lambda: np.zeros((0, 3)))
    half: Array = field(default_factory=lambda: np.zeros((0, 3)))
    planes: Array = field(default_factory=lambda: np.zeros((0, 6, 4)))
    quadric: Array = field(default_factory=lambda: np.zeros((0, 4, 4)))
    color: Array = field(default_factory=lambda: np.zeros((0, 3)))
    material: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    swing: Array = field(default_factory=lambda: np.zeros((0, 2)))

    def __len__(self) -> int:
        return len(self.center)

    def moved(self, offset: ArrayLike, yaw: float = 0.0) -> Solid:
        """The solid turned by `yaw` about the object's z and then shifted by `offset` (3,)."""
        turn = rotation_about("z", yaw)
        return Solid(
            turn @ self.rotation,
            self.center @ turn.T + np.asarray(offset, dtype=np.float64),
            self.half,
            self.planes,
            self.quadric,
            self.color,
            self.material,
            self.swing,
        )

    def corners(self) -> Array:
        """(P, 8, 3) corners of the parts' bounding boxes in the object frame."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
        local = signs[None] * self.half[:, None]
        return np.einsum("pij,pkj->pki", self.rotation, local) + self.center[:, None]

    def fitted(self, size: ArrayLike) -> Solid:
        """The solid shifted so that its parts' bounds are centred on the origin and stand on the ground.

        The bounds are those of the resting solid; `size` is what the caller asked for and only checks that the
        model keeps its promise to within 3 cm (a box that does not fit its pixels would teach a network wrongly).
        """
        corners = self.corners().reshape(-1, 3)
        low, high = corners.min(0), corners.max(0)
        if np.abs((high - low) - np.asarray(size)).max() > 0.03:
            raise AssertionError(f"solid measures {np.round(high - low, 3)}, its model promised {size}")
        shift = -(low + high) / 2
        shift[2] = -low[2]
        return self.moved(shift)


def join(solids: list[Solid]) -> Solid:
    """All parts of several solids that share one frame."""
    if not solids:
        return Solid()
    return Solid(*[np.concatenate([getattr(solid, f.name) for solid in solids]) for f in fields(Solid)])


def rotation_about(axis: str, angle: float) -> Array:
    """(3, 3) rotation by `angle` radians about "x", "y" or "z"."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[j, j], matrix[i, j], matrix[j, i] = c, c, -s, s
    return matrix


def _part(
    center: ArrayLike,
    half: ArrayLike,
    planes: list[Array],
    quadric: Array,
    color: ArrayLike,
    material: Material,
    rotation: Array | None,
    swing: tuple[float, float] = (0.0, 0.0),
) -> Solid:
    rows = [plane / max(float(np.linalg.norm(plane[:3])), 1e-9) for plane in planes]
    rows += [FAR_PLANE] * (6 - len(rows))
    return Solid(
        (np.eye(3) if rotation is None else rotation)[None],
        np.asarray(center, dtype=np.float64)[None],
        np.asarray(half, dtype=np.float64)[None],
        np.array(rows)[None],
        quadric[None],
        np.asarray(color, dtype=np.float64)[None],
        np.array([int(material)]),
        np.array([swing], dtype=np.float64),
    )


def block(
    center: ArrayLike,
    size: ArrayLike,
    color: ArrayLike,
    material: Material = Material.PAINT,
    *,
    front: float = 1.0,
    back: float = 1.0,
    sides: float = 1.0,
    rotation: Array | None = None,
    swing: tuple[float, float] = (0.0, 0.0),
) -> Solid:
    """A box of `size` (3,) whose top may be narrower than its bottom.

    `front` and `back` scale the half length of the top towards +x and -x, `sides` its half width: front=0.4
    makes a windscreen. Values above 1 would leave the bounding box and are not allowed.
    """
    hx, hy, hz = (np.asarray(size, dtype=np.float64) / 2).tolist()

    def sloped(axis: int, sign: float, reach: float, scale: float) -> Array:
        # The plane through (sign*reach, z=-hz) and (sign*reach*scale, z=+hz): x*sign + k*z <= reach*(1+scale)/2.
        k = reach * (1 - scale) / (2 * hz)
        plane = np.zeros(4)
        plane[axis], plane[2], plane[3] = sign, k, reach * (1 + scale) / 2
        return plane

    planes = [
        sloped(0, 1, hx, front),
        sloped(0, -1, hx, back),
        sloped(1, 1, hy, sides),
        sloped(1, -1, hy, sides),
        np.array([0, 0, 1, hz]),
        np.array([0, 0, -1, hz]),
    ]
    return _part(center, (hx, hy, hz), planes, np.zeros((4, 4)), color, material, rotation, swing)


def cylinder(
    center: ArrayLike,
    size: ArrayLike,
    color: ArrayLike,
    material: Material = Material.RUBBER,
    *,
    axis: str = "z",
    rotation: Array | None = None,
    swing: tuple[float, float] = (0.0, 0.0),
) -> Solid:
    """An elliptic cylinder that fills the box of `size` (3,) with its axis along "x", "y" or "z"."""
    half = np.asarray(size, dtype=np.float64) / 2
    along = "xyz".index(axis)
    quadric = np.diag([*(1 / half**2), -1.0])
    quadric[along, along] = 0.0
    planes = []
    for sign in (1.0, -1.0):
        plane = np.zeros(4)
        plane[along], plane[3] = sign, half[along]
        planes.append(plane)
    return _part(center, half, planes, quadric, color, material, rotation, swing)


def cone(
    center: ArrayLike, size: ArrayLike, color: ArrayLike, material: Material = Material.PAINT, *, top: float = 0.1
) -> Solid:
    """An upright elliptic cone with a base of `size` (3,), cut where it is `top` times as wide."""
    half = np.asarray(size, dtype=np.float64) / 2
    # Radius factor r(z) = m - k z, 1 at the bottom, `top` at the top: x^2/hx^2 + y^2/hy^2 - r(z)^2 <= 0.
    m, k = (1 + top) / 2, (1 - top) / (2 * half[2])
    quadric = np.diag([1 / half[0] ** 2, 1 / half[1] ** 2, -(k**2), -(m**2)])
    quadric[2, 3] = quadric[3, 2] = m * k
    planes = [np.array([0, 0, 1, half[2]]), np.array([0, 0, -1, half[2]])]
    return _part(center, half, planes, quadric, color, material, None)


def ellipsoid(center: ArrayLike, size: ArrayLike, color: ArrayLike, material: Material = Material.CLOTH) -> Solid:
    """An axis-parallel ellipsoid that fills the box of `size` (3,)."""
    half = np.asarray(size, dtype=np.float64) / 2
    return _part(center, half, [], np.diag([*(1 / half**2), -1.0]), color, material, None)


def swung(solid: Solid, gone: Array) -> tuple[Array, Array]:
    """object_from_part rotations (S, P, 3, 3) and centres (S, P, 3), limbs swung by the metres gone (S, P)."""
    views, parts = gone.shape
    rotation = np.broadcast_to(solid.rotation, (views, parts, 3, 3)).copy()
    center = np.broadcast_to(solid.center, (views, parts, 3)).copy()
    limbs = np.nonzero(solid.swing[:, 0])[0]
    if len(limbs):
        amplitude, phase = solid.swing[limbs].T
        angle = amplitude * np.sin(gone[:, limbs] * (2 * np.pi / 1.45) + phase)
        swing = _about_y(angle)
        hip = np.zeros((len(limbs), 3))
        hip[:, 2] = solid.half[limbs, 2]
        rotation[:, limbs] = swing @ solid.rotation[limbs]
        center[:, limbs] = solid.center[limbs] + hip - (swing @ hip[..., None])[..., 0]
    return rotation, center


def _about_y(angle: Array) -> Array:
    """(..., 3, 3) rotations by `angle` (...,) about y."""
    c, s = np.cos(angle), np.sin(angle)
    result = np.broadcast_to(np.eye(3), (*angle.shape, 3, 3)).copy()
    result[..., 0, 0], result[..., 2, 2], result[..., 0, 2], result[..., 2, 0] = c, c, s, -s
    return result
