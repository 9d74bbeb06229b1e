"""Which prediction answers for which true box: all costs at once, then the assignments.

Legend: `L` decoder layers, `B` samples, `Q` queries, `S` targets of the fullest sample, `I` images, `T` image
cells, `n` 2D targets of the fullest image, `C` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from streampetr_core.model import AuxiliaryOutputs
from training.targets import Targets2D, Targets3D


@dataclass(frozen=True)
class MatchWeights:
    """Weights of the costs.

    Attributes:
        cls, bbox: 3D, focal cost and L1 of the code without velocity.
        cls_2d, bbox_2d, iou_2d, center_2d: 2D, focal cost, L1 of the box, GIoU, L1 of the projected centre.
    """

    cls: float = 2.0
    bbox: float = 0.25
    cls_2d: float = 2.0
    bbox_2d: float = 5.0
    iou_2d: float = 2.0
    center_2d: float = 10.0


def cost_3d(
    logits: Tensor, boxes: Tensor, targets: Targets3D, code_weights: Tensor, weights: MatchWeights
) -> Tensor:
    """logits (L, B, Q, C) and boxes (L, B, Q, 10) -> cost (L, B, Q, S), NaN and infinity as 100."""
    layers = logits.shape[0]
    first = code_weights[:8]  # velocity takes no part
    theirs = (targets.codes[..., :8] * first).expand(layers, -1, -1, -1)
    distance = torch.cdist(boxes[..., :8] * first, theirs.contiguous(), p=1.0)
    labels = targets.labels.expand(layers, -1, -1)
    cost = weights.cls * focal_cost(logits, labels) + weights.bbox * distance
    return cost.nan_to_num(nan=100.0, posinf=100.0, neginf=-100.0)


def cost_2d(
    outputs: AuxiliaryOutputs, targets: Targets2D, image_size: tuple[int, int], weights: MatchWeights
) -> Tensor:
    """2D predictions of (I, T) cells -> cost (I, T, n), NaN and infinity as 100; `image_size` is height, width."""
    height, width = image_size
    scale = outputs.boxes.new_tensor((width, height, width, height))
    box = torch.cdist(outputs.boxes, centre_form(targets.boxes / scale), p=1.0)
    center = torch.cdist(outputs.centers, targets.centers / scale[:2], p=1.0)
    corners = corner_form(outputs.boxes) * scale
    _, giou = overlap(corners[:, :, None], targets.boxes[:, None])
    cost = (
        weights.cls_2d * focal_cost(outputs.logits, targets.labels)
        + weights.bbox_2d * box
        + weights.center_2d * center
        - weights.iou_2d * giou
    )
    return cost.nan_to_num(nan=100.0, posinf=100.0, neginf=-100.0)


def focal_cost(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """logits (..., P, C) and labels (..., S) -> (..., P, S): focal loss as positive less that as negative."""
    p = logits.sigmoid()
    positive = -(p + 1e-12).log() * alpha * (1.0 - p) ** gamma
    negative = -(1.0 - p + 1e-12).log() * (1.0 - alpha) * p**gamma
    index = labels[..., None, :].expand(*logits.shape[:-1], -1)
    return (positive - negative).gather(-1, index)


def assign(*problems: tuple[Tensor, Sequence[int]]) -> list[Tensor]:
    """Solve every assignment: least sum of costs, one prediction a target.

    Everything goes to the host in one copy and back in one.

    Args:
        problems: cost (..., P, S) without NaN, and how many of the S targets are real for each item of the axis
            before P; more axes in front repeat them.

    Returns:
        For each problem (..., S) index of the target's prediction; -1 for padding and for what is left over where
        targets outnumber predictions.
    """
    host = torch.cat([cost.detach().flatten() for cost, _ in problems]).cpu().numpy()
    found: list[np.ndarray] = []
    start = 0
    for cost, counts in problems:
        predictions, size = cost.shape[-2:]
        matrices = host[start : start + cost.numel()].reshape(-1, predictions, size)
        start += cost.numel()
        rows = np.full((len(matrices), size), -1, np.int64)
        for index, matrix in enumerate(matrices):
            # targets as rows: the solver would turn a tall matrix round itself
            target, prediction = linear_sum_assignment(matrix[:, : counts[index % len(counts)]].T)
            rows[index, target] = prediction
        found.append(rows.reshape(-1))
    device = problems[0][0].device
    flat = torch.from_numpy(np.concatenate(found)).to(device, non_blocking=True)
    parts = flat.split([len(rows) for rows in found])
    return [
        part.reshape(*cost.shape[:-2], cost.shape[-1]) for part, (cost, _) in zip(parts, problems, strict=True)
    ]


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of corner boxes (..., 4) that broadcast; pixels."""
    area_a, area_b = _area(a[..., :2], a[..., 2:]), _area(b[..., :2], b[..., 2:])
    inner = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    hull = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])).clamp(min=1e-6)
    union = (area_a + area_b - inner).clamp(min=1e-6)
    iou = inner / union
    return iou, iou - (hull - union) / hull


def corner_form(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, y, width, height -> x1, y1, x2, y2."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2.0
    return torch.cat((center - half, center + half), dim=-1)


def centre_form(boxes: Tensor) -> Tensor:
    """(..., 4) x1, y1, x2, y2 -> centre x, y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2.0, high - low), dim=-1)


def _area(low: Tensor, high: Tensor) -> Tensor:
    width, height = (high - low).clamp(min=0.0).unbind(-1)
    return width * height
