"""Losses of the 2D head: class with box quality, box, GIoU, projected centre, and a heat map of centres.

All images of the batch at once. Legend: `I` images, `T` = h w image cells, `n` targets of the fullest image, `C`
classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from streampetr_core.model import AuxiliaryOutputs
from training.matching import centre_form, corner_form, overlap
from training.targets import Targets2D


def losses_2d(
    outputs: AuxiliaryOutputs,
    targets: Targets2D,
    rows: Tensor,
    image_size: tuple[int, int],
    stride: int,
    positives: Tensor,
    mean_positives: Tensor,
) -> dict[str, Tensor]:
    """The five unweighted losses by their published names.

    Args:
        outputs: of I images.
        targets: of the same images.
        rows: (I, n) cell that answers for each target, -1 = none.
        image_size: height, width in pixels.
        stride: pixels a cell.
        positives: divisor of class, GIoU and centreness; at least 1.
        mean_positives: divisor of the two L1 losses; at least 1.
    """
    height, width = image_size
    scale = outputs.boxes.new_tensor((width, height, width, height))
    matched = (rows >= 0).to(outputs.boxes.dtype)
    index = rows.clamp(min=0)[..., None]
    boxes = outputs.boxes.gather(1, index.expand(-1, -1, 4))
    centers = outputs.centers.gather(1, index.expand(-1, -1, 2))
    iou, giou = overlap(corner_form(boxes) * scale, targets.boxes)

    quality = one_hot(rows, targets.labels, outputs.logits.shape[1:], iou.detach())
    of_class = quality_focal(outputs.logits, quality).sum()
    box_error = (boxes - centre_form(targets.boxes / scale)).abs().sum(-1)
    center_error = (centers - targets.centers / scale[:2]).abs().sum(-1)
    heat = heat_map(targets, height // stride, width // stride, stride)
    return {
        "enc_loss_cls": of_class / positives,
        "enc_loss_bbox": (box_error * matched).sum() / mean_positives,
        "enc_loss_iou": ((1.0 - giou) * matched).sum() / positives,
        "centers2d_losses": (center_error * matched).sum() / mean_positives,
        "centerness_losses": gaussian_focal(outputs.centerness[..., 0], heat).sum() / positives,
    }


def one_hot(rows: Tensor, labels: Tensor, shape: tuple[int, ...], values: Tensor | None = None) -> Tensor:
    """(..., P, C) zeros with 1 or `values` (..., S) where row `rows` (..., S) meets class `labels` (..., S).

    Rows of -1 are left out; `shape` is (P, C).
    """
    count, classes = shape
    flat = torch.where(rows < 0, count * classes, rows * classes + labels)
    ones = torch.ones_like(flat, dtype=torch.float32) if values is None else values
    target = ones.new_zeros(*rows.shape[:-1], count * classes + 1).scatter(-1, flat, ones)
    return target[..., :-1].unflatten(-1, (count, classes))


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Cross entropy against a soft target, weighted by the squared distance to it; same shape as `logits`."""
    entropy = functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return entropy * (quality - logits.sigmoid()).square()


def gaussian_focal(logits: Tensor, heat: Tensor) -> Tensor:
    """CornerNet's focal loss on a heat map whose peaks are exactly 1 (powers 2 and 4); same shape as `logits`."""
    p = logits.sigmoid().clamp(1e-4, 1.0 - 1e-4)
    positive = -p.log() * (1.0 - p).square()
    negative = -(1.0 - p).log() * p.square() * (1.0 - heat) ** 4
    return torch.where(heat == 1.0, positive, negative)


def heat_map(targets: Targets2D, height: int, width: int, stride: int) -> Tensor:
    """(I, T) a Gaussian round the cell of every projected centre, the largest where they overlap."""
    return gaussians(targets, height, width, stride).amax(1)


def heat_maps(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """`gaussians` (I, n, T) of targets with labels (I, n) -> (I, T, classes): the heat map of every class."""
    index = labels[..., None].expand_as(values)
    maps = values.new_zeros(len(values), classes, values.shape[-1])
    return maps.scatter_reduce(1, index, values, "amax").transpose(1, 2)


def gaussians(targets: Targets2D, height: int, width: int, stride: int) -> Tensor:
    """(I, n, T) for every target a Gaussian round the cell of its projected centre, 1 in that cell.

    The radius is the distance to the nearest side of the box, rounded up to cells and at least 1; sigma is
    (2 radius + 1) / 6.
    """
    centers, boxes = targets.centers, targets.boxes
    sides = torch.cat((centers - boxes[..., :2], boxes[..., 2:] - centers), dim=-1)
    radius = (sides.amin(-1) / stride).ceil().clamp(min=1.0)[..., None, None]
    cell = (centers / stride).trunc()
    device = centers.device
    dx = (torch.arange(width, device=device) - cell[..., :1])[..., None, :]
    dy = (torch.arange(height, device=device) - cell[..., 1:])[..., :, None]
    sigma = (2.0 * radius + 1.0) / 6.0
    value = torch.exp(-(dx.square() + dy.square()) / (2.0 * sigma.square()))
    inside = (dx.abs() <= radius) & (dy.abs() <= radius) & targets.valid[..., None, None]
    return torch.where(inside, value, 0.0).flatten(2)
