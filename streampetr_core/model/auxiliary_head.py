"""The 2D head that helps training and is never run for 3D detection.

Its class order differs from the 3D head's: see `AUXILIARY_CLASSES`. Legend: `B` images, `H W` feature height and
width, `T` = H W cells, row-major.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from streampetr_core.model.layers import inverse_sigmoid

AUXILIARY_CLASSES: tuple[str, ...] = (
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
)
"""What channel k of the published 2D heads means: the order of the annotation converter, never remapped."""


@dataclass(frozen=True)
class AuxiliaryOutputs:
    """What the 2D head says of every cell.

    Attributes:
        logits: (B, T, 10) classes.
        boxes: (B, T, 4) centre x, y, width, height as fractions of the image.
        centers: (B, T, 2) projected 3D centre as fractions of the image.
        centerness: (B, T, 1) logit.
    """

    logits: Tensor
    boxes: Tensor
    centers: Tensor
    centerness: Tensor


def cell_centers(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(H W, 2) x, y of the cells' centres as fractions of the image, row-major."""
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


class AuxiliaryHead(nn.Module):
    """Two small towers over the feature map."""

    def __init__(self, in_dims: int, dims: int, num_classes: int) -> None:
        super().__init__()
        self.cls = nn.Conv2d(dims, num_classes, 1)
        self.shared_reg = _tower(in_dims, dims)
        self.shared_cls = _tower(in_dims, dims)
        self.centerness = nn.Conv2d(dims, 1, 1)
        self.ltrb = nn.Conv2d(dims, 4, 1)
        self.center2d = nn.Conv2d(dims, 2, 1)
        for conv in (self.cls, self.centerness):
            nn.init.constant_(conv.bias, -math.log(99.0))  # type: ignore[arg-type]
        for conv in (self.ltrb, self.center2d):
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> AuxiliaryOutputs:
        """(B, C, H, W) -> predictions of the H W cells."""
        height, width = features.shape[-2:]
        of_class, of_box = self.shared_cls(features), self.shared_reg(features)
        location = cell_centers(height, width, features.device)
        left, top, right, bottom = _rows(self.ltrb(of_box)).sigmoid().unbind(-1)
        x, y = location.unbind(-1)
        corners = torch.stack((x - left, y - top, x + right, y + bottom), dim=-1).clamp(0.0, 1.0)
        low, high = corners[..., :2], corners[..., 2:]
        return AuxiliaryOutputs(
            logits=_rows(self.cls(of_class)),
            boxes=torch.cat(((low + high) / 2, high - low), dim=-1),
            centers=(inverse_sigmoid(location) + _rows(self.center2d(of_box))).sigmoid(),
            centerness=_rows(self.centerness(of_class)),
        )


def _tower(in_dims: int, dims: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_dims, dims, 3, padding=1), nn.GroupNorm(32, dims), nn.ReLU())


def _rows(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)
