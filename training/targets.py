"""Ground truth as padded tensors, so that every sample and every image is computed at once.

Legend: `B` samples, `S` targets of the fullest sample (at least one), `I` images, `n` 2D targets of the fullest
image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from streampetr_core.model import Variant
from streampetr_core.model.auxiliary_head import AUXILIARY_CLASSES
from training.batch import Targets


@dataclass(frozen=True)
class Targets3D:
    """3D boxes of a batch.

    Attributes:
        boxes: (B, S, 9) as in `Targets`; zeros where padded.
        codes: (B, S, 10) what the network should give: see `encode_boxes`.
        labels: (B, S) class.
        valid: (B, S) bool, False where padded.
        counts: of each sample, known without asking the device.
    """

    boxes: Tensor
    codes: Tensor
    labels: Tensor
    valid: Tensor
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Targets2D:
    """2D boxes of a batch, image by image (samples first, then cameras).

    Attributes:
        boxes: (I, n, 4) x1, y1, x2, y2 pixels.
        labels: (I, n) channel of the 2D head.
        centers: (I, n, 2) pixels.
        depths: (I, n) metres.
        shapes: (I, n, 6) length, width, height, yaw, vx and vy of the 3D boxes, model frame; ones where unknown.
        valid: (I, n) bool, False where padded.
        counts: of each image.
    """

    boxes: Tensor
    labels: Tensor
    centers: Tensor
    depths: Tensor
    shapes: Tensor
    valid: Tensor
    counts: tuple[int, ...]


def pack_3d(targets: Sequence[Targets], device: torch.device) -> Targets3D:
    """The 3D boxes of B frames, padded, on `device`."""
    counts = tuple(len(t.labels) for t in targets)
    boxes = _pad([t.boxes.float() for t in targets], (9,)).to(device, non_blocking=True)
    labels = _pad([t.labels for t in targets], ()).to(device, non_blocking=True)
    valid = _valid(counts, boxes.shape[1]).to(device, non_blocking=True)
    return Targets3D(boxes, encode_boxes(boxes), labels, valid, counts)


def pack_2d(targets: Sequence[Targets], device: torch.device, channel_of_label: Sequence[int]) -> Targets2D:
    """The 2D boxes of all cameras of B frames, padded, on `device`.

    `channel_of_label` says which channel of the 2D head a class of the 3D head has, see `auxiliary_channels`.
    """
    counts = tuple(len(labels) for t in targets for labels in t.labels_2d)
    channels = torch.tensor(tuple(channel_of_label), device=targets[0].labels.device)
    boxes = _pad([x.float() for t in targets for x in t.boxes_2d], (4,)).to(device, non_blocking=True)
    labels = channels[_pad([x for t in targets for x in t.labels_2d], ())].to(device, non_blocking=True)
    centers = _pad([x.float() for t in targets for x in t.centers_2d], (2,)).to(device, non_blocking=True)
    depths = _pad([x.float() for t in targets for x in t.depths_2d], ()).to(device, non_blocking=True)
    shapes = [x for t in targets for x in t.shapes_2d or [x.new_ones(len(x), 6) for x in t.boxes_2d]]
    shapes = _pad([x.float() for x in shapes], (6,)).to(device, non_blocking=True)
    valid = _valid(counts, boxes.shape[1]).to(device, non_blocking=True)
    return Targets2D(boxes, labels, centers, depths, shapes, valid, counts)


def auxiliary_channels(variant: Variant) -> tuple[int, ...]:
    """Channel of the 2D head for each class of the 3D head: by name where the published order has all the names.

    Published 2D heads list the same ten classes in another order (`AUXILIARY_CLASSES`); with other classes both
    heads have the same order.
    """
    names = variant.class_names
    if set(names) != set(AUXILIARY_CLASSES):
        return tuple(range(len(names)))
    return tuple(AUXILIARY_CLASSES.index(name) for name in names)


def encode_boxes(boxes: Tensor) -> Tensor:
    """Boxes (..., 9) -> box code (..., 10), what `streampetr_core.model.coder.decode_code` undoes.

    x, y, z, log length, log width, log height, sin yaw, cos yaw, vx, vy; log of 0 is -inf.
    """
    yaw = boxes[..., 6:7]
    return torch.cat((boxes[..., :3], boxes[..., 3:6].log(), yaw.sin(), yaw.cos(), boxes[..., 7:9]), dim=-1)


def _pad(rows: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """(len(rows), longest but at least 1, *shape), zeros behind."""
    one = rows[0].new_zeros(1, *shape)
    return pad_sequence([*rows, one], batch_first=True)[:-1]


def _valid(counts: tuple[int, ...], size: int) -> Tensor:
    return torch.arange(size) < torch.tensor(counts)[:, None]
