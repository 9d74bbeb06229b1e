"""What is known of the boxes of queries, and the angles and small matrices that it is made of.

Legend: `B` batch, `Q` queries. The model frame throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class BoxState:
    """What is known of the boxes of Q queries.

    Attributes:
        place: (B, Q, 3) metres.
        velocity: (B, Q, 2) metres per second.
        spread: (B, Q, 4, 4).
        log_size: (B, Q, 3) of length, width, height.
        axis: (B, Q, 2) sine and cosine of twice the yaw, short where it is not known.
        heading: (B, Q, 2) likewise of the yaw.
        speed: (B, Q, 1) metres per second, as it looks: what an image tells of it.
        frames: (B, Q, 1) how many frames it rests on; 0 = there is no box.
    """

    place: Tensor
    velocity: Tensor
    spread: Tensor
    log_size: Tensor
    axis: Tensor
    heading: Tensor
    speed: Tensor
    frames: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> BoxState:
        """The state with `function` applied to every tensor."""
        return BoxState(*(function(getattr(self, f.name)) for f in fields(self)))

    def join(self, other: BoxState, how: Callable[[Tensor, Tensor], Tensor]) -> BoxState:
        """`how` applied to every pair of tensors."""
        return BoxState(*(how(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))

    def and_then(self, other: BoxState) -> BoxState:
        """The other's queries behind these."""
        return self.join(other, lambda a, b: torch.cat((a, b), dim=1))


def rows(x: Tensor, index: Tensor) -> Tensor:
    """(B, F, ...) at (B, M) -> (B, M, ...)."""
    return x[torch.arange(len(x), device=x.device)[:, None], index]


def oriented(double: Tensor, along: Tensor, across: Tensor) -> Tensor:
    """(..., 2, 2) covariance with variances (...) along and across a direction in x and y; `double` (..., 2) is
    the sine and cosine of twice its angle."""
    sine, cosine = double.unbind(-1)
    mean, half = 0.5 * (along + across), 0.5 * (along - across)
    rows = (mean + half * cosine, half * sine, half * sine, mean - half * cosine)
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 2))


def turned(way: Tensor, by: Tensor) -> Tensor:
    """Sines and cosines (..., 2) of the sum of two angles."""
    sine = way[..., 0] * by[..., 1] + way[..., 1] * by[..., 0]
    cosine = way[..., 1] * by[..., 1] - way[..., 0] * by[..., 0]
    return torch.stack((sine, cosine), dim=-1)


def facing_way(axis: Tensor, heading: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 2) and (..., 2) -> (...) radians: the one of the axis's ways that `heading` prefers; and how much it
    does, 0 to 1: its chances less those of the other way, since `heading` is the mean of both."""
    angle = torch.atan2(axis[..., 0], axis[..., 1]) / 2.0
    forward = heading[..., 0] * angle.sin() + heading[..., 1] * angle.cos()
    return torch.where(forward >= 0, angle, angle + math.pi), forward.abs().clamp(max=1.0)


def invert_symmetric(matrix: Tensor) -> Tensor:
    """Inverses of symmetric positive matrices (..., 2, 2)."""
    a, b, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    found = torch.stack((d, -b, -b, a), dim=-1) / (a * d - b * b).clamp(min=1e-9)[..., None]
    return found.unflatten(-1, (2, 2))


def distance(offset: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Squares of offsets (..., 2) in deviations of their covariances (..., 2, 2), Mahalanobis' distance, and
    these covariances' determinants, (...) each."""
    a, b, d = spread[..., 0, 0], spread[..., 0, 1], spread[..., 1, 1]
    x, y = offset[..., 0], offset[..., 1]
    determinant = (a * d - b * b).clamp(min=1e-9)
    return ((d * x * x - 2.0 * b * x * y + a * y * y) / determinant).clamp(min=0.0), determinant
