"""Cars and pickups as composed solids, and the pieces that all vehicles share; bounds are the annotated box."""

from __future__ import annotations

import numpy as np

from bag_tools.rendered.solids import Array, Material, Solid, block, cylinder, join

GLASS = (0.05, 0.06, 0.07)
RUBBER = (0.035, 0.035, 0.04)
STEEL = (0.45, 0.46, 0.48)
HEADLAMP = (1.0, 0.98, 0.88)
TAIL_LAMP = (0.75, 0.03, 0.02)
INDICATOR = (0.95, 0.45, 0.05)

# sRGB-like paints with how often they are seen on streets.
_PAINTS: tuple[tuple[tuple[float, float, float], float], ...] = (
    ((0.82, 0.82, 0.80), 0.24),
    ((0.04, 0.04, 0.05), 0.20),
    ((0.38, 0.39, 0.41), 0.20),
    ((0.60, 0.62, 0.63), 0.10),
    ((0.06, 0.13, 0.38), 0.09),
    ((0.50, 0.03, 0.04), 0.08),
    ((0.05, 0.22, 0.12), 0.03),
    ((0.62, 0.52, 0.30), 0.03),
    ((0.75, 0.35, 0.04), 0.02),
    ((0.85, 0.68, 0.05), 0.01),
)


def drawn(rng: np.random.Generator, mean: float, deviation: float, low: float, high: float) -> float:
    """A normal draw kept within [low, high]."""
    return float(np.clip(rng.normal(mean, deviation), low, high))


def paint(rng: np.random.Generator) -> Array:
    """A car colour, slightly varied."""
    weights = np.array([weight for _, weight in _PAINTS])
    color = np.array(_PAINTS[rng.choice(len(_PAINTS), p=weights / weights.sum())][0])
    return np.clip(color * rng.uniform(0.85, 1.15) + rng.normal(0, 0.01, 3), 0.02, 0.9)


def wheel(x: float, y: float, diameter: float, width: float) -> Solid:
    """A tyre with a hub cap on both faces, standing on the ground at (x, y)."""
    center = (x, y, diameter / 2)
    hub = 0.6 * diameter
    return join(
        [
            cylinder(center, (diameter, width, diameter), RUBBER, axis="y"),
            cylinder(center, (hub, width + 0.02, hub), STEEL, Material.METAL, axis="y"),
        ]
    )


def wheels(xs: list[float], track: float, diameter: float, width: float) -> list[Solid]:
    return [wheel(x, side * (track - width) / 2, diameter, width) for x in xs for side in (-1, 1)]


def lamps(length: float, width: float, z: float, size: tuple[float, float], inset: float = 0.12) -> list[Solid]:
    """White lamps on the nose, red ones on the tail; they stand out of the body by nothing but a millimetre."""
    lamp_width, lamp_height = size
    y = width / 2 - inset - lamp_width / 2
    parts = []
    for side in (-1, 1):
        parts.append(
            block((length / 2 - 0.04, side * y, z), (0.08, lamp_width, lamp_height), HEADLAMP, Material.LAMP)
        )
        parts.append(
            block(
                (-length / 2 + 0.04, side * y, z + 0.08), (0.08, lamp_width, lamp_height), TAIL_LAMP, Material.LAMP
            )
        )
    return parts


def car(rng: np.random.Generator) -> tuple[Solid, Array]:
    """Sedan, hatchback, estate or SUV. Returns the solid and its (3,) length, width, height."""
    style = str(rng.choice(["sedan", "hatch", "suv", "van"], p=[0.38, 0.22, 0.32, 0.08]))
    length, width, height = {
        "sedan": (4.75, 1.90, 1.48),
        "hatch": (4.20, 1.83, 1.52),
        "suv": (4.80, 2.00, 1.78),
        "van": (5.00, 2.02, 1.98),
    }[style] * rng.normal(1.0, 0.035, 3).clip(0.92, 1.08)
    color = paint(rng)
    clear = 0.20 if style != "suv" else 0.25
    belt = height * {"sedan": 0.62, "hatch": 0.60, "suv": 0.60, "van": 0.55}[style]
    dark = (0.05, 0.05, 0.055)
    # The mirrors make the box's width; the body is narrower, as on real cars.
    body_width = width - 0.16
    back_reach = {"sedan": -0.34, "hatch": -0.47, "suv": -0.475, "van": -0.485}[style] * length
    front_reach = {"sedan": 0.24, "hatch": 0.27, "suv": 0.25, "van": 0.36}[style] * length
    cabin_length, cabin_x = front_reach - back_reach, (front_reach + back_reach) / 2
    lean = {"sedan": (0.42, 0.62), "hatch": (0.40, 0.78), "suv": (0.50, 0.84), "van": (0.55, 0.94)}[style]
    glass_height = height - belt - 0.06
    roof_z = height - 0.03
    hood_drop = 0.10 * height
    parts = [
        block((0, 0, clear + 0.12), (length * 0.985, body_width * 0.97, 0.24), dark, Material.RUBBER),
        block(
            (0, 0, (clear + 0.18 + belt - hood_drop) / 2),
            (length, body_width, belt - hood_drop - clear - 0.18),
            color,
            front=0.985,
            back=0.99,
            sides=0.98,
        ),
        block(
            (back_reach * 0.5 + 0.36 * length * 0.5, 0, belt - hood_drop / 2),
            (0.36 * length - back_reach + 0.02 * length, body_width * 0.985, hood_drop + 0.002),
            color,
            front=0.90,
            back=0.98,
            sides=0.95,
        ),
        block(
            (cabin_x, 0, belt + glass_height / 2),
            (cabin_length, body_width * 0.93, glass_height),
            GLASS,
            Material.GLASS,
            front=lean[0],
            back=lean[1],
            sides=0.82,
        ),
    ]
    roof_front, roof_back = cabin_x + cabin_length / 2 * lean[0], cabin_x - cabin_length / 2 * lean[1]
    parts.append(
        block(
            ((roof_front + roof_back) / 2, 0, roof_z),
            (roof_front - roof_back + 0.06, body_width * 0.93 * 0.83, 0.06),
            color,
            front=0.94,
            back=0.94,
            sides=0.92,
        )
    )
    # Pillars between the windows.
    for x in np.linspace(roof_back, roof_front, 3)[:2] if style != "sedan" else [(roof_back + roof_front) / 2]:
        parts.append(
            block(
                (float(x) + 0.03, 0, belt + glass_height / 2),
                (0.10, body_width * 0.937, glass_height),
                color,
                sides=0.825,
            )
        )
    diameter = min(0.66 if style != "suv" else 0.74, height * 0.43)
    for x in (0.305 * length, -0.29 * length):
        arch = (diameter * 1.12, body_width * 1.004, diameter * 1.12)
        parts.append(cylinder((x, 0, diameter * 0.565), arch, dark, axis="y"))
    for x in (front_reach - 0.16 * cabin_length, cabin_x - 0.06 * cabin_length, back_reach * 0.72):
        seam = (0.025, body_width * 1.003, belt - hood_drop - clear - 0.26)
        parts.append(block((x, 0, (clear + 0.2 + belt - hood_drop) / 2 + 0.02), seam, color * 0.25, sides=0.981))
    parts += wheels([0.305 * length, -0.29 * length], body_width + 0.03, diameter, 0.22)
    parts += lamps(length, body_width, belt - hood_drop - 0.14, (0.36, 0.13), 0.06)
    grille_z = clear + 0.22
    parts.append(
        block((length / 2 - 0.03, 0, grille_z + 0.08), (0.06, body_width * 0.5, 0.18), dark, Material.RUBBER)
    )
    parts.append(
        block((length / 2 - 0.028, 0, grille_z - 0.06), (0.056, 0.5, 0.10), (0.8, 0.8, 0.78), Material.CONCRETE)
    )
    parts.append(
        block(
            (-length / 2 + 0.028, 0, belt - hood_drop - 0.22),
            (0.056, 0.5, 0.11),
            (0.8, 0.8, 0.78),
            Material.CONCRETE,
        )
    )
    mirror_x = front_reach - 0.12 * cabin_length
    for side in (-1, 1):
        parts.append(block((mirror_x, side * (width / 2 - 0.09), belt + 0.06), (0.10, 0.18, 0.13), color))
    size = np.array([length, width, height])
    return join(parts).fitted(size), size


def pickup(rng: np.random.Generator) -> tuple[Solid, Array]:
    """A pickup with an open bed (annotated as a truck). Returns the solid and its size."""
    length, width, height = (np.array([5.7, 2.08, 1.92]) * rng.normal(1, 0.03, 3).clip(0.93, 1.07)).tolist()
    color = paint(rng)
    body_width, belt = width - 0.16, 0.60 * height
    bed_end = -0.06 * length
    parts = [
        block((0, 0, 0.42), (length * 0.985, body_width * 0.95, 0.28), (0.05, 0.05, 0.05), Material.RUBBER),
        block((0, 0, (0.48 + belt) / 2), (length, body_width, belt - 0.48), color, front=0.985, sides=0.97),
        block(
            ((bed_end + 0.27 * length) / 2, 0, (belt + height - 0.07) / 2),
            (0.27 * length - bed_end, body_width * 0.92, height - 0.07 - belt),
            GLASS,
            Material.GLASS,
            front=0.40,
            back=0.90,
            sides=0.84,
        ),
        block(
            ((bed_end + 0.13 * length) / 2, 0, height - 0.04),
            (0.16 * length, body_width * 0.78, 0.08),
            color,
            front=0.92,
            back=0.95,
        ),
        block(
            ((-length / 2 + bed_end) / 2, 0, belt - 0.03),
            (length / 2 + bed_end - 0.25, body_width * 0.82, 0.07),
            (0.03, 0.03, 0.03),
            Material.RUBBER,
        ),
        block(
            (bed_end + 0.12, 0, (belt + height - 0.1) / 2),
            (0.16, body_width * 0.92, height - belt - 0.1),
            color,
            sides=0.84,
        ),
        block(
            (length / 2 - 0.03, 0, belt - 0.28),
            (0.066, body_width * 0.55, 0.3),
            (0.06, 0.06, 0.06),
            Material.METAL,
        ),
    ]
    parts += wheels([0.31 * length, -0.29 * length], body_width + 0.04, 0.80, 0.26)
    parts += lamps(length, body_width, belt - 0.2, (0.3, 0.2), 0.04)
    for side in (-1, 1):
        parts.append(block((0.18 * length, side * (width / 2 - 0.1), belt + 0.1), (0.12, 0.2, 0.18), color))
    size = np.array([length, width, height])
    return join(parts).fitted(size), size
