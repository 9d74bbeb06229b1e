"""Trucks, buses, trailers and construction vehicles as composed solids; a model's bounds are its annotated box."""

from __future__ import annotations

import numpy as np

from bag_tools.rendered.models import (
    GLASS,
    INDICATOR,
    RUBBER,
    STEEL,
    TAIL_LAMP,
    drawn,
    lamps,
    paint,
    pickup,
    wheels,
)
from bag_tools.rendered.solids import Array, Material, Solid, block, cylinder, ellipsoid, join, rotation_about


def truck(rng: np.random.Generator) -> tuple[Solid, Array]:
    """A box truck, a pickup or a tractor unit with a flat bed. Returns the solid and its size."""
    style = str(rng.choice(["box", "pickup", "flat"], p=[0.5, 0.3, 0.2]))
    if style == "pickup":
        return pickup(rng)
    length = drawn(rng, 7.4, 0.9, 5.8, 9.8)
    width = drawn(rng, 2.5, 0.08, 2.3, 2.7)
    height = drawn(rng, 3.2, 0.2, 2.7, 3.7) if style == "box" else float(rng.uniform(2.6, 2.9))
    color, cargo = paint(rng), np.array([0.80, 0.80, 0.78]) if rng.random() < 0.6 else paint(rng)
    cab_length, cab_height = 1.9, min(2.5, height - 0.05)
    body_width = width - 0.2
    cab_x = length / 2 - cab_length / 2
    parts = _cab(cab_x, cab_length, body_width, cab_height, color)
    bed_length = length - cab_length - 0.15
    bed_x = -length / 2 + bed_length / 2
    parts.append(block((bed_x + 0.3, 0, 0.72), (bed_length + 0.4, 0.9, 0.25), (0.07, 0.07, 0.07), Material.METAL))
    if style == "box":
        parts.append(block((bed_x, 0, (0.86 + height) / 2), (bed_length, width - 0.06, height - 0.86), cargo))
        parts.append(
            block((-length / 2 + 0.02, 0, (0.86 + height) / 2), (0.04, 0.05, height - 1.1), (0.15, 0.15, 0.15))
        )
        parts.append(
            block((-length / 2 + 0.05, 0, 0.55), (0.10, width * 0.8, 0.14), (0.7, 0.1, 0.05), Material.STRIPES)
        )
    else:
        parts.append(
            block((bed_x, 0, 0.98), (bed_length, width - 0.06, 0.30), (0.30, 0.22, 0.14), Material.CONCRETE)
        )
        load = rng.uniform(0.5, 0.85) * bed_length
        parts.append(
            block(
                (bed_x - 0.2, 0, 1.13 + 0.4),
                (load, width * 0.75, 0.8),
                rng.uniform(0.2, 0.6, 3),
                Material.CONCRETE,
                sides=0.8,
                front=0.9,
                back=0.9,
            )
        )
        parts.append(block((cab_x, 0, height - 0.1), (0.6, width * 0.5, 0.2), INDICATOR, Material.LAMP))
    parts += wheels(
        [cab_x + 0.2, -length / 2 + 1.5, -length / 2 + 2.5][: 3 if length > 7.5 else 2],
        body_width + 0.1,
        0.92,
        0.3,
    )
    parts += lamps(length, body_width, 0.75, (0.3, 0.18), 0.05)
    for side in (-1, 1):
        parts.append(
            block(
                (length / 2 - 0.25, side * (width / 2 - 0.08), 1.75), (0.12, 0.16, 0.45), RUBBER, Material.RUBBER
            )
        )
    size = np.array([length, width, height])
    return join(parts).fitted(size), size


def _cab(x: float, length: float, width: float, height: float, color: Array) -> list[Solid]:
    """A lorry's cab with windscreen and side windows; its nose looks to +x."""
    low, middle = 0.42, 0.42 + (height - 0.42) * 0.52
    return [
        block((x, 0, (low + middle) / 2), (length, width, middle - low), color),
        block(
            (x, 0, (middle + height) / 2), (length, width * 0.98, height - middle), color, front=0.82, sides=0.94
        ),
        block(
            (x + 0.03, 0, (middle + height) / 2 + 0.02),
            (length - 0.04, width * 0.86, (height - middle) * 0.72),
            GLASS,
            Material.GLASS,
            front=0.865,
            sides=0.96,
        ),
        block(
            (x + length * 0.08, 0, (middle + height) / 2),
            (length * 0.5, width * 0.985, (height - middle) * 0.62),
            GLASS,
            Material.GLASS,
            sides=0.96,
        ),
        block(
            (x + length / 2 - 0.035, 0, low + 0.35),
            (0.076, width * 0.62, 0.35),
            (0.06, 0.06, 0.06),
            Material.METAL,
        ),
        block(
            (x + length / 2 - 0.1, 0, low + 0.04), (0.2, width * 0.99, 0.25), (0.12, 0.12, 0.12), Material.METAL
        ),
    ]


def bus(rng: np.random.Generator) -> tuple[Solid, Array]:
    """A city bus with a large windscreen, window band, doors on the right and a destination sign."""
    length = drawn(rng, 11.4, 0.7, 9.5, 13.0)
    width, height = drawn(rng, 2.9, 0.06, 2.75, 3.05), drawn(rng, 3.4, 0.12, 3.1, 3.7)
    livery = np.array([(0.80, 0.80, 0.78), (0.65, 0.08, 0.06), (0.08, 0.25, 0.50), (0.85, 0.60, 0.05)])[
        rng.integers(4)
    ]
    skirt = livery * 0.6 + 0.05 if rng.random() < 0.5 else np.array([0.15, 0.30, 0.45])
    body_width, low, band = width - 0.3, 0.35, 1.25
    parts = [
        block((0, 0, (low + band) / 2), (length, body_width, band - low), skirt),
        block((0, 0, (band + height - 0.2) / 2), (length, body_width, height - 0.2 - band), livery, front=0.995),
        block(
            (-0.3, 0, height - 0.1),
            (length * 0.8, body_width * 0.8, 0.2),
            livery * 0.8,
            sides=0.9,
            front=0.97,
            back=0.97,
        ),
        block((length / 2 - 0.04, 0, 1.85), (0.09, body_width * 0.92, 1.5), GLASS, Material.GLASS),
        block((length / 2 - 0.035, 0, 2.82), (0.08, body_width * 0.6, 0.28), (1.0, 0.62, 0.1), Material.LAMP),
        block((-length / 2 + 0.035, 0, 2.3), (0.08, body_width * 0.7, 0.8), GLASS, Material.GLASS),
        block((-length / 2 + 0.03, 0, 0.95), (0.07, body_width * 0.7, 0.6), (0.1, 0.1, 0.1), Material.METAL),
    ]
    panes = 6
    for i in range(panes):
        x = -length * 0.44 + (i + 0.5) * length * 0.88 / panes
        parts.append(
            block((x, 0, 1.95), (length * 0.88 / panes - 0.14, body_width + 0.015, 1.1), GLASS, Material.GLASS)
        )
    for x in (length / 2 - 0.95, -0.3):
        parts.append(block((x, -body_width / 2, 1.45), (1.1, 0.05, 2.1), GLASS, Material.GLASS))
    parts += wheels([length / 2 - 2.6, -length / 2 + 2.8], body_width + 0.04, 0.98, 0.3)
    parts += lamps(length, body_width, 0.75, (0.4, 0.2), 0.08)
    for side in (-1, 1):
        parts.append(
            block((length / 2 - 0.12, side * (width / 2 - 0.09), 2.4), (0.12, 0.18, 0.45), RUBBER, Material.RUBBER)
        )
    size = np.array([length, width, height])
    return join(parts).fitted(size), size


def tractor(rng: np.random.Generator) -> tuple[Solid, Array]:
    """The tractor unit that draws a trailer: a tall cab over a short bare chassis (annotated as a truck)."""
    length, width, height = 5.9, float(rng.normal(2.75, 0.05)), drawn(rng, 3.5, 0.12, 3.2, 3.8)
    color = paint(rng)
    body_width = width - 0.24
    parts = _cab(length / 2 - 1.1, 2.2, body_width, height, color)
    parts.append(block((-0.9, 0, 0.85), (length - 1.8, 1.0, 0.28), (0.06, 0.06, 0.06), Material.METAL))
    parts.append(cylinder((-0.2, body_width / 2 - 0.3, 0.7), (1.1, 0.55, 0.55), STEEL, Material.METAL, axis="x"))
    parts += wheels([length / 2 - 1.3, -length / 2 + 0.7, -length / 2 + 1.8], body_width + 0.1, 1.0, 0.32)
    parts += lamps(length, body_width, 0.75, (0.34, 0.2), 0.05)
    for side in (-1, 1):
        parts.append(
            block((length / 2 - 0.3, side * (width / 2 - 0.09), 2.1), (0.14, 0.18, 0.6), RUBBER, Material.RUBBER)
        )
    size = np.array([length, width, height])
    return join(parts).fitted(size), size


def trailer(rng: np.random.Generator) -> tuple[Solid, Array]:
    """A semi-trailer with its axles at the back and props at the front."""
    length = drawn(rng, 11.2, 1.0, 8.5, 13.5)
    width, height = drawn(rng, 2.6, 0.06, 2.4, 2.8), drawn(rng, 3.8, 0.15, 3.4, 4.1)
    color = np.array([0.78, 0.78, 0.77]) if rng.random() < 0.55 else paint(rng)
    parts = [
        block((0, 0, (1.15 + height) / 2), (length, width, height - 1.15), color),
        block((0, 0, 1.22), (length * 0.995, width + 0.01 - 0.02, 0.16), (0.1, 0.1, 0.1), Material.METAL),
        block(
            (-length / 2 + 0.02, 0, (1.2 + height) / 2),
            (0.05, 0.06, height - 1.4),
            (0.15, 0.15, 0.15),
            Material.METAL,
        ),
        block((-length / 2 + 0.06, 0, 0.6), (0.12, width * 0.85, 0.16), (0.7, 0.1, 0.05), Material.STRIPES),
        block((-length * 0.02, 0, 0.75), (length * 0.35, width * 0.9, 0.6), (0.35, 0.35, 0.36), Material.METAL),
    ]
    for side in (-1, 1):
        parts.append(block((length * 0.28, side * 0.8, 0.6), (0.15, 0.15, 1.2), (0.2, 0.2, 0.2), Material.METAL))
        y = side * (width / 2 - 0.3)
        parts.append(block((-length / 2 + 0.04, y, 1.22), (0.09, 0.4, 0.14), TAIL_LAMP, Material.LAMP))
        for x in np.linspace(-0.4, 0.4, 5) * length:
            parts.append(
                block(
                    (float(x), side * width / 2 - side * 0.02, 1.22), (0.14, 0.05, 0.09), INDICATOR, Material.LAMP
                )
            )
    parts += wheels(
        [-length / 2 + 1.0, -length / 2 + 2.2, -length / 2 + 3.4][: int(rng.integers(2, 4))],
        width - 0.1,
        1.0,
        0.34,
    )
    size = np.array([length, width, height])
    return join(parts).fitted(size), size


def construction_vehicle(rng: np.random.Generator) -> tuple[Solid, Array]:
    """An excavator on tracks or a wheel loader, with arm and bucket ahead."""
    yellow = (
        np.array([0.85, 0.55, 0.03]) * rng.uniform(0.85, 1.1)
        if rng.random() < 0.8
        else np.array([0.75, 0.25, 0.03])
    )
    dark = (0.06, 0.06, 0.06)
    length = drawn(rng, 6.6, 0.6, 5.4, 8.2)
    width, height = drawn(rng, 2.75, 0.12, 2.4, 3.1), drawn(rng, 3.1, 0.15, 2.8, 3.5)
    base = length * 0.58
    x0 = -length / 2 + base / 2
    if rng.random() < 0.6:
        parts = [
            block(
                (x0, side * (width / 2 - 0.28), 0.42),
                (base, 0.56, 0.84),
                dark,
                Material.RUBBER,
                front=0.86,
                back=0.86,
            )
            for side in (-1, 1)
        ]
        body_z = 0.95
    else:
        parts = wheels([x0 + base * 0.30, x0 - base * 0.30], width, 1.35, 0.55)
        body_z = 1.0
    body = (base * 0.96, width * 0.86, 0.75)
    parts += [
        block((x0, 0, body_z - 0.1), (base * 0.6, width * 0.5, 0.4), dark, Material.METAL),
        block((x0 - base * 0.01, 0, body_z + 0.42), body, yellow, front=0.95),
        block(
            (x0 - base * 0.36, 0, body_z + 0.8), (base * 0.24, width * 0.8, 0.5), dark, Material.METAL, sides=0.9
        ),
        block(
            (x0 + base * 0.14, width * 0.2, (body_z + 0.7 + height) / 2),
            (base * 0.42, width * 0.42, height - body_z - 0.7),
            GLASS,
            Material.GLASS,
            front=0.85,
            sides=0.94,
        ),
        block((x0 + base * 0.13, width * 0.2, height - 0.05), (base * 0.40, width * 0.42, 0.1), yellow),
        block(
            (x0 - base * 0.08, width * 0.2, (body_z + height) / 2),
            (0.12, width * 0.425, height - body_z - 0.1),
            yellow,
        ),
    ]
    # Boom up, stick down, bucket: pitched blocks. Ends are placed so that the bucket makes the box's front face.
    boom_start, elbow = np.array([x0 + base * 0.35, 1.45]), np.array([length / 2 - 1.15, height - 0.32])
    tip = np.array([length / 2 - 0.55, 0.75])
    for start, end, thick in ((boom_start, elbow, 0.42), (elbow, tip, 0.32)):
        delta = end - start
        pitch = -np.arctan2(delta[1], delta[0])
        middle = (start + end) / 2
        parts.append(
            block(
                (middle[0], -width * 0.12, middle[1]),
                (float(np.linalg.norm(delta)), 0.34, thick),
                yellow,
                rotation=rotation_about("y", float(pitch)),
            )
        )
    parts.append(block((length / 2 - 0.5, -width * 0.12, 0.45), (1.0, 1.1, 0.8), dark, Material.METAL, back=0.5))
    parts.append(
        ellipsoid((x0 - base * 0.1, -width * 0.2, body_z + 0.9), (0.25, 0.25, 0.25), INDICATOR, Material.LAMP)
    )
    size = np.array([length, width, height])
    return _squeezed(join(parts), size), size


def _squeezed(solid: Solid, size: Array) -> Solid:
    """Fit a solid whose pitched parts make its exact bounds awkward: the caller's `size` is updated in place."""
    corners = solid.corners().reshape(-1, 3)
    size[:] = corners.max(0) - corners.min(0)
    return solid.fitted(size)
