"""From outputs and ground truth to named losses: all decoder layers, samples and images at once.

Names are the published ones: `loss_cls`, `loss_bbox` of the last decoder layer, `d0.` ... of the others, `dn_` of
the denoising queries, and the five of the 2D head. Legend: `L` decoder layers, `B` samples, `Q` queries, `P`
denoising queries, `S` targets of the fullest sample, `C` classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed
from torch.nn import functional

from streampetr_core.errors import StreamPETRError
from streampetr_core.model import AuxiliaryOutputs, FrameOutputs, ProposalMaps, Variant
from streampetr_core.model.proposals import focal_lengths, invert, ray_azimuths
from training.batch import Batch
from training.denoising import Denoising
from training.losses_2d import losses_2d, one_hot
from training.losses_proposals import deviation_loss, proposal_losses
from training.matching import MatchWeights, assign, cost_2d, cost_3d
from training.targets import Targets3D, auxiliary_channels, pack_2d, pack_3d

_LEAST_WORTH = 0.01
"""Of a class at a box far away: still more than background."""


class LossError(StreamPETRError):
    """Outputs and ground truth that do not fit together."""


@dataclass(frozen=True)
class LossSettings:
    """Weights of the losses; the values are the published ones where there are such.

    Attributes:
        half_quality: metres between a box and its target at which the class that it shall say is worth a half, at
            twice that a quarter: scores then tell how well boxes sit. 0 = a whole one wherever the box is, as
            published.
        reach: metres between a box and its target beyond which the box learns nothing: a target that no query is
            near would only push one about. 0 = no limit, as published.
        cls, bbox: 3D, of every decoder layer; also of the denoising queries, times `denoising`.
        cls_2d, bbox_2d, iou_2d, center_2d, centerness_2d: of the 2D head.
        heat, shift, half, depth, size, axis, heading, speed: of the cells that queries begin at, in networks with
            proposals.
        deviation: of how far these are off, in networks that correct boxes.
        matching: weights of the assignment.
        synchronize_all: divide every loss by counts averaged over the processes, so that N processes of B samples
            learn what one of N B samples learns. As published (False) only the L1 losses outside of denoising are.
    """

    half_quality: float = 0.0
    reach: float = 0.0
    cls: float = 2.0
    bbox: float = 0.25
    denoising: float = 1.0
    cls_2d: float = 2.0
    bbox_2d: float = 5.0
    iou_2d: float = 2.0
    center_2d: float = 10.0
    centerness_2d: float = 1.0
    heat: float = 1.0
    shift: float = 1.0
    half: float = 1.0
    depth: float = 2.0
    size: float = 0.5
    axis: float = 0.5
    heading: float = 0.5
    speed: float = 0.1
    deviation: float = 0.1
    matching: MatchWeights = field(default_factory=MatchWeights)
    synchronize_all: bool = False


def compute_losses(
    outputs: FrameOutputs,
    auxiliary: AuxiliaryOutputs | None,
    denoising: Denoising | None,
    batch: Batch,
    variant: Variant,
    settings: LossSettings | None = None,
    *,
    targets: Targets3D | None = None,
    channels: tuple[int, ...] | None = None,
    counts: Tensor | None = None,
) -> dict[str, Tensor]:
    """Every loss of a batch, weighted, as float32 scalars; their sum is what training minimises.

    Without any box in the batch there are no denoising queries; their losses are then copies of the others without
    gradient, as published. All other losses stay connected to every head, so that no process of a distributed
    training waits for a gradient.

    Args:
        outputs: of `StreamPETR.forward_frame`, with the denoising queries prepended where there are some.
        auxiliary: of the 2D head on all B N images; None = no 2D losses.
        denoising: what was prepended; None where nothing was.
        batch: the ground truth and the size of the images.
        variant: of the network.
        settings: the published ones where None.
        targets: the batch's 3D boxes, where they are packed already (for the denoising queries).
        channels: of the 2D head for each class; `auxiliary_channels` where None.
        counts: (3,) means over processes of 3D targets, denoising queries and 2D targets; by one all-reduce where
            None, and this process's own where there is only one.

    Raises:
        LossError: when denoising queries were prepended but not given, or the reverse.
    """
    if (denoising is None) != (outputs.prepended_logits is None):
        raise LossError("denoising queries must be given to the network and to the losses, or to neither")
    settings = settings or LossSettings()
    device, image_size = outputs.logits.device, (batch.images.shape[-2], batch.images.shape[-1])
    targets = targets or pack_3d(batch.targets, device)
    # half precision ends here: logarithms, sums over thousands of queries
    with torch.autocast(device.type, enabled=False):
        logits, boxes = outputs.logits.float(), outputs.boxes.float()
        weights = logits.new_tensor(variant.code_weights)
        with torch.no_grad():
            problems = [(cost_3d(logits, boxes, targets, weights, settings.matching), targets.counts)]
        targets_2d = None
        if auxiliary is not None:
            auxiliary = AuxiliaryOutputs(*(x.float() for x in vars(auxiliary).values()))
            targets_2d = pack_2d(batch.targets, device, channels or auxiliary_channels(variant))
            with torch.no_grad():
                cost = cost_2d(auxiliary, targets_2d, image_size, settings.matching)
            problems.append((cost, targets_2d.counts))

        own = logits.new_tensor(
            (
                sum(min(count, logits.shape[2]) for count in targets.counts),
                0 if denoising is None else denoising.count,
                sum(len(labels) for sample in batch.targets for labels in sample.labels_2d),
            )
        )
        mean = (
            mean_over_processes(own) if counts is None else counts
        )  # before the assignment, which takes the host
        rows = assign(*problems)
        local = (mean if settings.synchronize_all else own).clamp(min=1.0)
        mean = mean.clamp(min=1.0)

        of_class, of_box = layer_losses(
            logits, boxes, targets, rows[0], weights, settings.half_quality, settings.reach
        )
        of_class, of_box = settings.cls * of_class / local[0], settings.bbox * of_box / mean[0]
        losses = _named(of_class, of_box, "")
        if denoising is None or outputs.prepended_logits is None or outputs.prepended_boxes is None:
            losses |= _named(of_class.detach().clone(), of_box.detach().clone(), "dn_")
        else:
            of_class, of_box = denoising_losses(
                outputs.prepended_logits.float(), outputs.prepended_boxes.float(), denoising, weights
            )
            # copies within the split can become positive: a ball in the cube that the noise is drawn from
            likely = (local[1] * (math.pi / 6.0 * denoising.split**3)).clamp(min=1.0)
            of_class, of_box = settings.cls * of_class / likely, settings.bbox * of_box / local[1]
            losses |= _named(settings.denoising * of_class, settings.denoising * of_box, "dn_")
        if auxiliary is not None and targets_2d is not None:
            two_d = losses_2d(auxiliary, targets_2d, rows[1], image_size, variant.stride, local[2], mean[2])
            losses |= {name: _weights_2d(settings)[name] * loss for name, loss in two_d.items()}
        if outputs.proposals is not None:
            losses |= map_losses(outputs.proposals.maps, batch, settings, positives=local[2])
        if outputs.proposals is not None and outputs.followed is not None:
            low, high = logits.new_tensor(variant.pc_range).split(3)
            places = outputs.proposals.reference.float() * (high - low) + low
            scores = outputs.proposals.logits.detach().float().sigmoid()
            total, cells = deviation_loss(places, scores, outputs.followed.deviations.float(), targets)
            cells = mean_over_processes(cells) if settings.synchronize_all else cells
            losses["proposal_loss_deviation"] = settings.deviation * total / cells.clamp(min=1.0)
    return losses


def map_losses(
    maps: ProposalMaps, batch: Batch, settings: LossSettings, *, positives: Tensor | None = None
) -> dict[str, Tensor]:
    """The weighted losses of the cells that queries begin at; `positives` as in `compute_losses`."""
    device, geometry = maps.heat.device, batch.geometry
    with torch.autocast(device.type, enabled=False):
        # labels as the 3D head's, so not the 2D head's targets
        seen = pack_2d(batch.targets, device, tuple(range(maps.heat.shape[-1])))
        if positives is None:
            own = maps.log_depth.new_tensor(float(sum(seen.counts)))
            positives = (mean_over_processes(own) if settings.synchronize_all else own).clamp(min=1.0)
        azimuths = ray_azimuths(invert(geometry.image_from_model), maps.size)
        found = proposal_losses(maps, seen, focal_lengths(geometry.intrinsics).flatten(), azimuths, positives)
        return {name: getattr(settings, name.rpartition("_")[2]) * loss for name, loss in found.items()}


def layer_losses(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets3D,
    rows: Tensor,
    code_weights: Tensor,
    half_quality: float = 0.0,
    reach: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Sums of focal and weighted L1 loss for each decoder layer, (L,) and (L,).

    `rows` (L, B, S) is the query that answers for each target, -1 = none; targets with a number that is not finite
    count as class but not as box.
    """
    layers = logits.shape[0]
    chosen = boxes.gather(2, rows.clamp(min=0)[..., None].expand(-1, -1, -1, boxes.shape[-1]))
    distance = (chosen[..., :2] - targets.codes[..., :2]).detach().norm(dim=-1).nan_to_num(0.0, 0.0)
    worth = torch.exp2(-distance / half_quality).clamp(min=_LEAST_WORTH) if half_quality > 0 else None
    wanted = one_hot(rows, targets.labels.expand(layers, -1, -1), logits.shape[2:], worth)
    of_class = sigmoid_focal(logits, wanted).sum(dim=(1, 2, 3))
    learns = (rows >= 0) & ((distance < reach) if reach > 0 else True)
    of_box = (code_error(chosen, targets.codes, code_weights) * learns).sum(dim=(1, 2))
    return of_class, of_box


def denoising_losses(
    logits: Tensor, boxes: Tensor, denoising: Denoising, code_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """As `layer_losses` for the denoising queries; those labelled background learn their box too, as published."""
    classes = logits.shape[-1]
    positive = functional.one_hot(denoising.labels, classes + 1)[..., :classes].to(logits.dtype)
    focal = sigmoid_focal(logits, positive.expand_as(logits)) * denoising.known[..., None]
    error = code_error(boxes, denoising.codes, code_weights) * denoising.known
    return focal.sum(dim=(1, 2, 3)), error.sum(dim=(1, 2))


def code_error(boxes: Tensor, codes: Tensor, code_weights: Tensor) -> Tensor:
    """Weighted L1 distance (...) of box codes (..., 10); 0 where the target is not finite."""
    usable = codes.isfinite().all(-1)
    # cleaned before the difference: a NaN that is masked only afterwards still has a NaN gradient
    codes = codes.nan_to_num(0.0, 0.0, 0.0)
    return ((boxes - codes).abs() * code_weights).sum(-1) * usable


def sigmoid_focal(logits: Tensor, wanted: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al. 2017) element by element; `wanted` is 0, 1 or, as in the quality focal loss (Li et
    al. 2020, arXiv:2006.04388), between."""
    miss = (wanted - logits.sigmoid()).abs()
    balance = torch.where(wanted > 0, alpha, 1.0 - alpha)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return entropy * balance * miss**gamma


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of `values` over the processes of a distributed training; `values` itself where there is one."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def _named(of_class: Tensor, of_box: Tensor, prefix: str) -> dict[str, Tensor]:
    """(L,) and (L,) -> names; the last layer first."""
    last = len(of_class) - 1
    named = {}
    for layer, cls, box in sorted(zip(range(last + 1), of_class, of_box, strict=True), key=lambda x: x[0] != last):
        where = "" if layer == last else f"d{layer}."
        named |= {f"{where}{prefix}loss_cls": cls, f"{where}{prefix}loss_bbox": box}
    return named


def _weights_2d(settings: LossSettings) -> dict[str, float]:
    return {
        "enc_loss_cls": settings.cls_2d,
        "enc_loss_bbox": settings.bbox_2d,
        "enc_loss_iou": settings.iou_2d,
        "centers2d_losses": settings.center_2d,
        "centerness_losses": settings.centerness_2d,
    }
