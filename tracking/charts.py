"""Line charts and bird's-eye maps as inline SVG; colours come from the page's style sheet.

A series or path bears the class `s0` to `s7`, whose `color` the page sets; lines are drawn in `currentColor`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 38


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: shown where the pointer rests on the line.
        x, y: same length; points with NaN are left out.
        colour: number of the page's colour.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    colour: int


def line_chart(
    series: Sequence[Series], x_title: str, y_title: str, x_limit: float = 1.0, y_limit: float | None = None
) -> str:
    """An SVG with both axes from zero; `y_limit` None takes what the data need."""
    points = [_finite(item) for item in series]
    if y_limit is None:
        highest = max((float(y.max()) for _, y in points if len(y)), default=1.0)
        y_limit = _nice(highest)
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = []
    ticks = 5 if x_limit % 5 == 0 else 4
    for step in range(ticks + 1):
        x = _LEFT + step / ticks * (right - _LEFT)
        label = f"{step / ticks * x_limit:.3g}"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    for step in range(5):
        share = step / 4
        y = bottom - share * (bottom - _TOP)
        parts.append(f'<path class="grid" d="M{_LEFT},{y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * y_limit:.4g}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>')
    parts.append(
        f'<text transform="translate(11,{middle}) rotate(-90)" text-anchor="middle">{escape(y_title)}</text>'
    )
    for item, (xs, ys) in zip(series, points, strict=True):
        if len(xs):
            px = _LEFT + np.clip(xs / x_limit, 0, 1) * (right - _LEFT)
            py = bottom - np.clip(ys / y_limit, 0, 1) * (bottom - _TOP)
            title = f"<title>{escape(item.name)}</title>"
            parts.append(
                f'<g class="s{item.colour}">{title}<path class="line" d="{path(px, py)}"/>{_dots(px, py)}</g>'
            )
    label = escape(f"{y_title} over {x_title}")
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    )


def path(x: NDArray[np.float64], y: NDArray[np.float64], moves: NDArray[np.bool_] | None = None) -> str:
    """Path data through the points; the pen is lifted before those with `moves`."""
    lifted = np.zeros(len(x), dtype=np.bool_) if moves is None else moves.copy()
    lifted[:1] = True
    return "".join(f"{'M' if up else 'L'}{a:.1f},{b:.1f}" for a, b, up in zip(x, y, lifted, strict=True))


def birds_eye(
    tracks: Sequence[tuple[str, NDArray[np.float64], NDArray[np.bool_]]],
    ego: NDArray[np.float64],
    marks: Sequence[tuple[str, str, float, float]],
    size: int = 560,
) -> str:
    """A map from above, east to the right, north up.

    Args:
        tracks: title, centres (n, 2) in time order, (n,) where the object was matched; drawn in two strokes.
        ego: (F, 2) path of the robot.
        marks: kind ("switch" or "fragmentation"), title and place of the events.
    """
    everything = np.concatenate([ego, *(xy for _, xy, _ in tracks)])
    low, high = everything.min(axis=0) - 5, everything.max(axis=0) + 5
    scale = size / float((high - low).max())
    width, height = ((high - low) * scale).tolist()

    def place(xy: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (xy[:, 0] - low[0]) * scale, (high[1] - xy[:, 1]) * scale

    parts = [f'<path class="ego" d="{path(*place(ego))}"><title>the robot</title></path>']
    for title, xy, hit in tracks:
        x, y = place(xy)
        both = np.append(hit[:-1] & hit[1:], False)  # the piece that begins here was followed
        parts.append(
            f"<g><title>{escape(title)}</title>{_pieces('missed', x, y, ~both)}{_pieces('held', x, y, both)}</g>"
        )
    for kind, title, east, north in marks:
        x, y = place(np.array([[east, north]]))
        inner = f"<title>{escape(title)}</title>"
        parts.append(f'<circle class="mark {kind}" cx="{x[0]:.1f}" cy="{y[0]:.1f}" r="5">{inner}</circle>')
    parts.append(_scale_bar(scale, height))
    return f'<svg class="map" viewBox="0 0 {width:.0f} {height:.0f}" role="img">{"".join(parts)}</svg>'


def _pieces(kind: str, x: NDArray[np.float64], y: NDArray[np.float64], drawn: NDArray[np.bool_]) -> str:
    start = np.flatnonzero(drawn[:-1])
    if len(x) == 1 and drawn[0]:
        return f'<circle class="{kind}" cx="{x[0]:.1f}" cy="{y[0]:.1f}" r="1.5"/>'
    data = "".join(f"M{x[i]:.1f},{y[i]:.1f}L{x[i + 1]:.1f},{y[i + 1]:.1f}" for i in start.tolist())
    return f'<path class="{kind}" d="{data}"/>' if data else ""


def _scale_bar(scale: float, height: float, metres: int = 20) -> str:
    y = height - 10
    line = f'<path class="bar" d="M10,{y:.0f}h{metres * scale:.1f}"/>'
    return f'{line}<text x="10" y="{y - 6:.0f}">{metres} m</text>'


def _dots(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2"/>' for a, b in zip(x, y, strict=True))


def _finite(item: Series) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(item.x, dtype=np.float64), np.asarray(item.y, dtype=np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    return x[good], y[good]


def _nice(value: float) -> float:
    """The round number at or above a value."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value * 0.999)
