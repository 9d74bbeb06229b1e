"""People, two-wheelers, street furniture and scenery as composed solids."""

from __future__ import annotations

import numpy as np

from bag_tools.rendered.models import RUBBER, STEEL, TAIL_LAMP, drawn, paint
from bag_tools.rendered.solids import (
    Array,
    Material,
    Solid,
    block,
    cone,
    cylinder,
    ellipsoid,
    join,
    rotation_about,
)

_SKIN = np.array([(0.80, 0.58, 0.46), (0.60, 0.40, 0.28), (0.36, 0.22, 0.14), (0.72, 0.52, 0.40)])
_CLOTH = np.array(
    [
        (0.08, 0.09, 0.12),
        (0.10, 0.14, 0.30),
        (0.60, 0.60, 0.58),
        (0.45, 0.06, 0.06),
        (0.25, 0.27, 0.28),
        (0.15, 0.30, 0.18),
        (0.72, 0.55, 0.15),
        (0.30, 0.20, 0.14),
        (0.75, 0.75, 0.72),
        (0.45, 0.25, 0.45),
    ]
)


def _cloth(rng: np.random.Generator) -> Array:
    return np.clip(_CLOTH[rng.integers(len(_CLOTH))] * rng.uniform(0.8, 1.2), 0.02, 0.9)


def pedestrian(rng: np.random.Generator, moving: bool = True) -> tuple[Solid, Array]:
    """A person with swinging legs and arms, head and face; bounds are those of the standing figure."""
    height = drawn(rng, 1.73, 0.10, 1.45, 1.95)
    k = height / 1.73
    length, width = 0.62 * k if moving else 0.42 * k, drawn(rng, 0.66, 0.04, 0.56, 0.76)
    skin = _SKIN[rng.integers(len(_SKIN))]
    top, trousers, hair = _cloth(rng), _cloth(rng) * 0.7, np.array([0.07, 0.05, 0.04]) * rng.uniform(0.7, 4.0)
    leg, stride = 0.86 * k, 0.34 if moving else 0.0
    parts = []
    for side in (-1, 1):
        phase = 0.0 if side > 0 else np.pi
        parts += [
            cylinder(
                (0, side * 0.10, 0.06 + leg / 2),
                (0.17, 0.16, leg),
                trousers,
                Material.CLOTH,
                swing=(stride, phase),
            ),
            cylinder(
                (0, side * (width / 2 - 0.06), 1.12 * k),
                (0.12, 0.12, 0.62 * k),
                top,
                Material.CLOTH,
                swing=(-stride, phase),
            ),
            block((0.02, side * 0.10, 0.04), (0.27, 0.11, 0.08), (0.05, 0.04, 0.04), Material.CLOTH, front=0.8),
        ]
    parts += [
        block((0, 0, 1.14 * k), (0.24 * k, width - 0.20, 0.60 * k), top, Material.CLOTH, sides=0.92),
        ellipsoid((0, 0, 1.42 * k), (0.25 * k, width - 0.14, 0.22 * k), top, Material.CLOTH),
        cylinder((0, 0, 1.50 * k), (0.12, 0.12, 0.14), skin, Material.CLOTH),
        ellipsoid((0.015, 0, height - 0.135), (0.20, 0.17, 0.25), skin, Material.CLOTH),
        ellipsoid((-0.02, 0, height - 0.105), (0.21, 0.185, 0.21), hair, Material.CLOTH),
        # Unlit slivers make the box as long as a stride and keep bounds exact while limbs swing.
        block((0, 0, 0.90 * k), (0.22, width - 0.24, 0.16), trousers, Material.CLOTH),
    ]
    if rng.random() < 0.35:
        parts.append(
            block((-0.19 * k, 0, 1.20 * k), (0.18, 0.30, 0.42), _cloth(rng), Material.CLOTH, front=0.9, back=0.9)
        )
    solid = join(parts)
    corners = solid.corners().reshape(-1, 3)
    size = np.array([length, width, float(corners[:, 2].max())])
    return solid.moved((0, 0, -corners[:, 2].min())), size


def _rider(rng: np.random.Generator, x: float, seat: float, lean: float) -> list[Solid]:
    """A seated figure with helmet; hands forward."""
    top, trousers, skin = _cloth(rng), _cloth(rng) * 0.7, _SKIN[rng.integers(len(_SKIN))]
    tilt = rotation_about("y", lean)
    back = tilt @ np.array([0, 0, 0.29])
    parts = [
        block(
            (x + back[0], 0, seat + 0.05 + back[2]),
            (0.24, 0.40, 0.58),
            top,
            Material.CLOTH,
            rotation=tilt,
            sides=1.0,
        ),
        ellipsoid((x + 2.35 * back[0] + 0.05, 0, seat + 0.05 + 2.0 * back[2] + 0.16), (0.25, 0.20, 0.28), skin),
        ellipsoid(
            (x + 2.35 * back[0] + 0.03, 0, seat + 0.05 + 2.0 * back[2] + 0.20),
            (0.29, 0.23, 0.25),
            paint(rng),
            Material.PAINT,
        ),
    ]
    for side in (-1, 1):
        arm = rotation_about("y", 0.9)
        parts += [
            cylinder(
                (x + 1.5 * back[0] + 0.24, side * 0.21, seat + 0.43),
                (0.11, 0.11, 0.56),
                top,
                Material.CLOTH,
                rotation=arm.T,
            ),
            cylinder(
                (x + 0.18, side * 0.13, seat - 0.02),
                (0.16, 0.15, 0.48),
                trousers,
                Material.CLOTH,
                rotation=rotation_about("y", 1.25),
            ),
            cylinder((x + 0.33, side * 0.14, seat - 0.34), (0.13, 0.13, 0.55), trousers, Material.CLOTH),
        ]
    return parts


def bicycle(rng: np.random.Generator, rider: bool = True) -> tuple[Solid, Array]:
    """A bicycle with two thin wheels and a frame, with or without its rider."""
    color = paint(rng)
    length, diameter = drawn(rng, 1.75, 0.05, 1.6, 1.9), 0.68
    reach = length / 2 - diameter / 2
    parts = []
    for x in (reach, -reach):
        parts += [
            cylinder((x, 0, diameter / 2), (diameter, 0.05, diameter), RUBBER, axis="y"),
            cylinder(
                (x, 0, diameter / 2),
                (diameter * 0.86, 0.054, diameter * 0.86),
                (0.5, 0.5, 0.5),
                Material.METAL,
                axis="y",
            ),
        ]
    for start, end in (
        ((reach, 0.34), (reach - 0.12, 1.0)),
        ((reach - 0.1, 0.88), (-0.2, 0.80)),
        ((reach - 0.1, 0.78), (-0.05, 0.30)),
        ((-0.05, 0.30), (-0.22, 0.92)),
        ((-0.05, 0.32), (-reach, 0.34)),
        ((-0.2, 0.78), (-reach, 0.34)),
    ):
        a, b = np.array(start), np.array(end)
        delta, middle = b - a, (a + b) / 2
        pitch = -float(np.arctan2(delta[1], delta[0]))
        parts.append(
            block(
                (middle[0], 0, middle[1]),
                (float(np.linalg.norm(delta)), 0.05, 0.06),
                color,
                rotation=rotation_about("y", pitch),
            )
        )
    parts += [
        block((reach - 0.12, 0, 1.02), (0.06, 0.60, 0.05), RUBBER, Material.RUBBER),
        block((-0.24, 0, 0.95), (0.26, 0.14, 0.06), RUBBER, Material.RUBBER),
        block((-reach - 0.05, 0, 0.66), (0.05, 0.06, 0.08), TAIL_LAMP, Material.LAMP),
    ]
    if rider:
        parts += _rider(rng, -0.24, 0.97, 0.42)
    return _measured(parts)


def motorcycle(rng: np.random.Generator, rider: bool = True) -> tuple[Solid, Array]:
    """A motorcycle or scooter with tank, engine, lamps, with or without its rider."""
    color = paint(rng)
    length, diameter = drawn(rng, 2.1, 0.08, 1.9, 2.35), 0.62
    reach = length / 2 - diameter / 2
    parts = []
    for x in (reach, -reach):
        parts += [
            cylinder((x, 0, diameter / 2), (diameter, 0.14, diameter), RUBBER, axis="y"),
            cylinder((x, 0, diameter / 2), (0.36, 0.15, 0.36), STEEL, Material.METAL, axis="y"),
        ]
    parts += [
        block((0.02, 0, 0.45), (0.62, 0.34, 0.42), (0.12, 0.12, 0.13), Material.METAL, front=0.8, back=0.8),
        block((0.18, 0, 0.82), (0.60, 0.32, 0.26), color, front=0.8, back=0.8, sides=0.7),
        block((-0.38, 0, 0.80), (0.70, 0.28, 0.12), RUBBER, Material.RUBBER, back=0.9),
        block((-reach - 0.02, 0, 0.72), (0.50, 0.22, 0.14), color, back=0.8),
        block(
            (reach - 0.12, 0, 0.60), (0.12, 0.16, 0.75), STEEL, Material.METAL, rotation=rotation_about("y", -0.35)
        ),
        block((reach - 0.02, 0, 0.92), (0.22, 0.30, 0.26), color, front=0.7, sides=0.8),
        ellipsoid((reach + 0.08, 0, 0.90), (0.10, 0.20, 0.18), (1.0, 0.98, 0.88), Material.LAMP),
        block((-length / 2 + 0.06, 0, 0.76), (0.08, 0.20, 0.09), TAIL_LAMP, Material.LAMP),
        block((reach - 0.26, 0, 1.05), (0.07, 0.78, 0.06), RUBBER, Material.RUBBER),
        cylinder((-0.45, -0.20, 0.36), (0.75, 0.11, 0.11), STEEL, Material.METAL, axis="x"),
    ]
    if rider:
        parts += _rider(rng, -0.30, 0.88, 0.22)
    return _measured(parts)


def _measured(parts: list[Solid]) -> tuple[Solid, Array]:
    solid = join(parts)
    corners = solid.corners().reshape(-1, 3)
    size = corners.max(0) - corners.min(0)
    return solid.fitted(size), size


def barrier(rng: np.random.Generator) -> tuple[Solid, Array]:
    """A road-work barrier: the box is short along its heading and wide across, as annotated in nuScenes."""
    if rng.random() < 0.5:
        size = np.array([0.55, 2.0, 1.0])
        gray = np.array([0.62, 0.60, 0.57]) * rng.uniform(0.85, 1.1)
        parts = [
            block((0, 0, 0.15), (0.55, 2.0, 0.30), gray, Material.CONCRETE),
            block((0, 0, 0.65), (0.46, 1.98, 0.70), gray, Material.CONCRETE, front=0.42, back=0.42),
        ]
    else:
        size = np.array([0.50, 1.9, 1.05])
        tint = (0.85, 0.25, 0.03)
        parts = [block((0, 0, z), (0.07, 1.9, 0.24), tint, Material.STRIPES) for z in (0.93, 0.55)]
        for y in (-0.75, 0.75):
            parts.append(block((0, y, 0.50), (0.08, 0.08, 1.0), (0.75, 0.75, 0.72), Material.METAL))
            parts.append(block((0, y, 0.04), (0.50, 0.10, 0.08), (0.2, 0.2, 0.2), Material.RUBBER))
            parts.append(block((0.06, y, 0.97), (0.08, 0.16, 0.16), (1.0, 0.65, 0.1), Material.LAMP))
    return join(parts).fitted(size), size


def traffic_cone(rng: np.random.Generator) -> tuple[Solid, Array]:
    """An orange cone with a white band, or a tall delineator."""
    orange = np.array([0.90, 0.24, 0.02]) * rng.uniform(0.9, 1.05)
    if rng.random() < 0.75:
        height, base = float(rng.uniform(0.68, 0.95)), float(rng.uniform(0.36, 0.46))
        parts = [
            block((0, 0, 0.025), (base, base, 0.05), (0.1, 0.1, 0.1), Material.RUBBER),
            cone(
                (0, 0, 0.05 + (height - 0.05) / 2),
                (base * 0.78, base * 0.78, height - 0.05),
                orange,
                Material.STRIPES,
                top=0.16,
            ),
        ]
    else:
        height, base = float(rng.uniform(1.0, 1.15)), 0.44
        parts = [
            cylinder((0, 0, 0.05), (base, base, 0.10), (0.1, 0.1, 0.1)),
            cylinder((0, 0, height / 2), (0.20, 0.20, height), orange, Material.STRIPES),
        ]
    size = np.array([base, base, height])
    return join(parts).fitted(size), size


def tree(rng: np.random.Generator) -> Solid:
    """A trunk and a crown of a few ellipsoids; origin at the foot."""
    height = float(rng.uniform(5.0, 9.0))
    spread = height * float(rng.uniform(0.40, 0.62))
    green = np.array([0.13, 0.24, 0.06]) * rng.uniform(0.7, 1.2) + np.array([rng.uniform(0, 0.09), 0, 0])
    bark = np.array([0.16, 0.11, 0.08]) * rng.uniform(0.8, 1.3)
    parts = [cone((0, 0, height * 0.3), (0.34, 0.34, height * 0.6), bark, Material.CONCRETE, top=0.5)]
    for _ in range(int(rng.integers(8, 13))):
        offset = rng.uniform(-1, 1, 3) * np.array([0.36, 0.36, 0.45]) * spread
        size = spread * rng.uniform(0.38, 0.70) * np.array([1, 1, 0.85])
        parts.append(
            ellipsoid(
                offset + np.array([0, 0, height * 0.70]), size, green * rng.uniform(0.8, 1.2), Material.LEAVES
            )
        )
    return join(parts)


def bush(rng: np.random.Generator) -> Solid:
    """A low clump of leaves; origin on the ground."""
    green = np.array([0.12, 0.22, 0.06]) * rng.uniform(0.7, 1.3)
    return join(
        [
            ellipsoid(
                (rng.normal(0, 0.5), rng.normal(0, 0.3), 0.35),
                rng.uniform(0.8, 1.3, 3) * np.array([1.3, 1, 0.9]),
                green,
                Material.LEAVES,
            )
            for _ in range(2)
        ]
    )


def lamp_post(rng: np.random.Generator) -> Solid:
    """A street lamp whose arm reaches towards +x."""
    height, gray = float(rng.uniform(6.5, 8.0)), (0.28, 0.29, 0.30)
    return join(
        [
            cone((0, 0, height / 2), (0.22, 0.22, height), gray, Material.METAL, top=0.5),
            block((0.9, 0, height - 0.05), (1.9, 0.09, 0.10), gray, Material.METAL),
            block(
                (1.7, 0, height - 0.12), (0.6, 0.24, 0.12), (0.75, 0.75, 0.72), Material.METAL, front=0.8, back=0.8
            ),
        ]
    )


def traffic_light(rng: np.random.Generator) -> Solid:
    """A signal mast; the lamps look towards -x, to whom drives along +x."""
    lit = int(rng.integers(0, 3))
    parts = [
        cylinder((0, 0, 1.9), (0.16, 0.16, 3.8), (0.25, 0.26, 0.24), Material.METAL),
        block((0, 0, 3.4), (0.30, 0.36, 1.05), (0.08, 0.09, 0.06), Material.METAL),
    ]
    for i, color in enumerate([(1.0, 0.08, 0.04), (1.0, 0.6, 0.05), (0.1, 0.95, 0.45)]):
        shade = np.array(color) * (1.0 if i == lit else 0.15)
        parts.append(ellipsoid((-0.15, 0, 3.74 - 0.33 * i), (0.10, 0.24, 0.24), shade, Material.LAMP))
    return join(parts)


def sign(rng: np.random.Generator) -> Solid:
    """A traffic sign on a pole, its face towards -x."""
    color = np.array([(0.75, 0.05, 0.05), (0.05, 0.18, 0.6), (0.85, 0.65, 0.05), (0.05, 0.4, 0.2)])[
        rng.integers(4)
    ]
    return join(
        [
            cylinder((0, 0, 1.3), (0.07, 0.07, 2.6), (0.5, 0.5, 0.5), Material.METAL),
            cylinder((-0.05, 0, 2.4), (0.03, 0.7, 0.7), color, Material.PAINT, axis="x"),
            cylinder((-0.06, 0, 2.4), (0.03, 0.5, 0.5), (0.85, 0.85, 0.85), Material.PAINT, axis="x"),
        ]
    )


_FACADES = np.array(
    [
        (0.40, 0.16, 0.11),
        (0.62, 0.50, 0.36),
        (0.46, 0.44, 0.42),
        (0.34, 0.24, 0.18),
        (0.68, 0.63, 0.54),
        (0.24, 0.30, 0.38),
        (0.58, 0.36, 0.20),
        (0.50, 0.25, 0.17),
        (0.42, 0.46, 0.38),
    ]
)


def building(rng: np.random.Generator, width: float, depth: float) -> Solid:
    """A house `width` along x and `depth` along y with a plinth, cornice, roof boxes; its street face is -y."""
    height = float(
        rng.choice([7, 10, 13, 16, 20, 28], p=[0.15, 0.25, 0.25, 0.17, 0.12, 0.06]) + rng.uniform(0, 1.5)
    )
    color = np.clip(_FACADES[rng.integers(len(_FACADES))] * rng.uniform(0.8, 1.2), 0.05, 0.85)
    trim = np.clip(color * 1.25 + 0.05, 0, 0.9)
    parts = [
        block((0, 0, height / 2), (width, depth, height), color, Material.FACADE),
        block((0, 0, height), (width + 0.5, depth + 0.5, 0.5), trim, Material.CONCRETE),
        block((0, 0, 3.55), (width + 0.24, depth + 0.24, 0.28), trim, Material.CONCRETE),
        block((0, 0, 0.2), (width + 0.12, depth + 0.12, 0.4), color * 0.6, Material.CONCRETE),
        block(
            (rng.uniform(-0.2, 0.2) * width, 0, height + 1.0),
            (width * 0.3, depth * 0.3, 2.0),
            trim * 0.7,
            Material.CONCRETE,
        ),
    ]
    if rng.random() < 0.5:
        x = rng.uniform(-0.25, 0.25) * width
        tint = np.array([(0.5, 0.06, 0.05), (0.05, 0.2, 0.35), (0.06, 0.3, 0.15), (0.6, 0.45, 0.1)])[
            rng.integers(4)
        ]
        parts.append(block((x, -depth / 2 - 0.6, 2.9), (width * 0.35, 1.2, 0.35), tint, Material.CLOTH, sides=0.4))
    parts.append(
        block(
            (0.1 * width, -depth / 2 - 0.03, 1.25), (1.3, 0.1, 2.5), np.array([0.12, 0.07, 0.04]), Material.GLASS
        )
    )
    return join(parts)
