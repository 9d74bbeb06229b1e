"""Denoising queries: noisy copies of the true boxes, put in front of the learned queries, that learn to go back.

Legend: `B` samples, `S` targets of the fullest sample, `P` = groups x S denoising queries, `Q` fresh and
propagated queries, `M` memory entries of which `K` become propagated queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streampetr_core.model import PrependedQueries, Variant
from training.targets import Targets3D


@dataclass(frozen=True)
class DenoisingSettings:
    """How the copies are made.

    Attributes:
        groups: copies of every box; groups do not see each other.
        noise: of the centre, in parts of half the box's length, width and height.
        split: copies whose noise (each axis in -1..1) is longer than this shall become background.
    """

    groups: int = 10
    noise: float = 1.0
    split: float = 0.75


@dataclass(frozen=True)
class Denoising:
    """The queries and what they should become.

    Attributes:
        queries: to prepend; slot = group x S + index of the box in its sample.
        labels: (B, P) class, the number of classes = background.
        codes: (B, P, 10) code of the box without noise, also for background.
        known: (B, P) bool, False where padded; `count` of them are True.
        split: of the settings, for the losses.
    """

    queries: PrependedQueries
    labels: Tensor
    codes: Tensor
    known: Tensor
    count: int
    split: float


def denoising_queries(
    targets: Targets3D,
    variant: Variant,
    settings: DenoisingSettings | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Denoising | None:
    """Denoising queries of a batch; None where no sample has a box.

    The centre moves along the axes of the model frame, not along the box's, as published. Padded slots have the
    reference point 0 and take part in their group.

    Args:
        targets: boxes of the batch.
        variant: of the network.
        settings: the published ones where None.
        noise: (B, P, 3) uniform in [0, 1); drawn where None, by `generator` (on the targets' device).
    """
    settings = settings or DenoisingSettings()
    if not any(targets.counts) or settings.groups == 0:
        return None
    batch, size = targets.labels.shape
    count = settings.groups * size
    boxes = targets.boxes.repeat(1, settings.groups, 1)
    known = targets.valid.repeat(1, settings.groups)
    if noise is None:
        noise = torch.rand(batch, count, 3, device=boxes.device, generator=generator)
    shift = noise * 2.0 - 1.0
    low, high = boxes.new_tensor(variant.pc_range).split(3)
    center = boxes[..., :3] + shift * (boxes[..., 3:6] / 2.0) * settings.noise
    reference = ((center - low) / (high - low)).clamp(0.0, 1.0)
    background = len(variant.class_names)
    labels = targets.labels.repeat(1, settings.groups)
    labels = torch.where(shift.norm(dim=-1) > settings.split, background, labels)
    return Denoising(
        PrependedQueries(reference * known[..., None], visibility(settings.groups, size, variant, boxes.device)),
        labels,
        targets.codes.repeat(1, settings.groups, 1),
        known,
        settings.groups * sum(targets.counts),
        settings.split,
    )


def visibility(groups: int, size: int, variant: Variant, device: torch.device) -> Tensor:
    """(P + Q, P + Q + M - K) bool, True = the row may see the column in self-attention.

    Nobody outside a group sees into it; a group sees itself, all other queries and the memory.
    """
    count = groups * size
    queries = count + variant.num_fresh + variant.num_propagated
    columns = queries + variant.memory_length - variant.num_propagated
    index = torch.arange(columns, device=device)
    group = torch.where(index < count, torch.div(index, size, rounding_mode="floor"), groups)
    return (group[None] == groups) | (group[:queries, None] == group[None])
