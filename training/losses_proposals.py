"""Losses of the cells that queries begin at: a heat map for every class; place, depth, size, yaw and speed.

Legend: `I` images, `T` = h w image cells, `n` targets of the fullest image.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from streampetr_core.model import ProposalMaps
from streampetr_core.model.auxiliary_head import cell_centers
from streampetr_core.model.box_filter import TAILS
from streampetr_core.model.proposals import STRIDE
from training.losses_2d import gaussian_focal, gaussians, heat_maps
from training.targets import Targets2D, Targets3D

_ACROSS, _ALONG, _SEEN = 1.5, 0.3, 0.1
"""How far a cell's target may be: metres across its ray, and a share of the range along it; and the score from
which cells have one."""


def proposal_losses(
    maps: ProposalMaps, targets: Targets2D, focal: Tensor, azimuths: Tensor, positives: Tensor
) -> dict[str, Tensor]:
    """The unweighted losses by name.

    Every cell learns what there is to say of the object whose Gaussian is highest there, weighted by that height
    as a share of the whole Gaussian: more cells than the centre's have something to learn, and large objects
    weigh no more than small ones.

    Args:
        maps: of the B frames that the I images belong to.
        targets: labels in the order of the network's classes.
        focal: (I,) focal lengths of the network's images, pixels.
        azimuths: (B, T) of the cells' rays, see `ray_azimuths`.
        positives: divisor; at least 1.
    """
    height, width = maps.size
    heat, shift, log_half, log_depth, log_size, axis, heading, speed, azimuth = (
        x.float().reshape(len(focal), height * width, -1)
        for x in (
            maps.heat,
            maps.shift,
            maps.log_half,
            maps.log_depth,
            maps.log_size,
            maps.axis,
            maps.heading,
            maps.speed,
            azimuths,
        )
    )
    # outlines end at the border and so do their centres; there the centre lies in another camera's image
    across = targets.centers[..., 0]
    targets = replace(targets, valid=targets.valid & (across > 0.0) & (across < width * STRIDE))
    # a centre on the right or lower border belongs to the last cell
    border = heat.new_tensor((width, height)) * STRIDE - 0.5
    targets = replace(targets, centers=torch.minimum(targets.centers, border))
    bells = gaussians(targets, height, width, STRIDE)
    weight, nearest = bells.max(dim=1)
    weight = weight / bells.sum(-1).gather(1, nearest).clamp(min=1.0)
    cells = cell_centers(height, width, heat.device) * heat.new_tensor((width, height))
    wanted_shift = targets.centers.gather(1, nearest[..., None].expand(-1, -1, 2)) / STRIDE - cells
    wanted_depth = (targets.depths.gather(1, nearest).clamp(min=0.1) / focal[:, None]).log()
    # far from the centre the shift may be many cells: no outlier shall rule
    shift_error = functional.smooth_l1_loss(shift, wanted_shift, reduction="none", beta=0.5).sum(-1)
    depth_error = (log_depth[..., 0] - wanted_depth).abs()
    shapes = targets.shapes.gather(1, nearest[..., None].expand(-1, -1, 6))
    wanted_size = shapes[..., :3].clamp(min=0.01).log()
    size_error = (log_size - wanted_size).abs().sum(-1)
    wanted_half = wanted_size[..., 2] - math.log(2.0) - wanted_depth - focal.log()[:, None]
    half_error = (log_half[..., 0] - wanted_half).abs()
    seen = shapes[..., 3:4] - azimuth
    axis_error = (axis - torch.cat(((2.0 * seen).sin(), (2.0 * seen).cos()), dim=-1)).abs().sum(-1)
    # squares: where front and back look alike the mean of both is wanted, not one of them
    heading_error = (heading - torch.cat((seen.sin(), seen.cos()), dim=-1)).square().sum(-1)
    speed_error = (speed[..., 0] - shapes[..., 4:].norm(dim=-1)).abs()
    wanted_heat = heat_maps(bells, targets.labels, heat.shape[-1])
    return {
        "proposal_loss_heat": gaussian_focal(heat, wanted_heat).sum() / positives,
        "proposal_loss_shift": (shift_error * weight).sum() / positives,
        "proposal_loss_half": (half_error * weight).sum() / positives,
        "proposal_loss_depth": (depth_error * weight).sum() / positives,
        "proposal_loss_size": (size_error * weight).sum() / positives,
        "proposal_loss_axis": (axis_error * weight).sum() / positives,
        "proposal_loss_heading": (heading_error * weight).sum() / positives,
        "proposal_loss_speed": (speed_error * weight).sum() / positives,
    }


def deviation_loss(
    places: Tensor, scores: Tensor, deviations: Tensor, targets: Targets3D
) -> tuple[Tensor, Tensor]:
    """How well the cells' deviations along and across their rays fit: the sum of their negative log likelihoods,
    and of how many cells.

    A cell's target is the one of its class nearest to its ray; distances are Student's, as in the filter.

    Args:
        places: (B, K, 3) metres, model frame, without gradient.
        scores: (B, K, classes) likewise.
        deviations: (B, K, 2) logarithms of metres.
        targets: of the frames.
    """
    strength, label = scores.max(dim=-1)
    reach = places[..., :2].norm(dim=-1, keepdim=True)
    ray = (places[..., :2] / reach.clamp(min=1e-4))[:, :, None]
    reach = reach.clamp(min=1.0)
    offset = targets.codes[:, None, :, :2] - places[:, :, None, :2]
    along = (offset * ray).sum(dim=-1)
    across = ray[..., 0] * offset[..., 1] - ray[..., 1] * offset[..., 0]
    fits = targets.valid[:, None] & (targets.labels[:, None] == label[..., None])
    fits &= (across.abs() < _ACROSS) & (along.abs() < _ALONG * reach + 1.0)
    cost = (across.abs() / _ACROSS + along.abs() / (_ALONG * reach)).masked_fill(~fits, math.inf)
    least, nearest = cost.min(dim=-1, keepdim=True)
    there = (least[..., 0].isfinite() & (strength > _SEEN)).to(deviations)
    # cleaned before the product: a NaN that is masked only afterwards still has a NaN gradient
    off = torch.cat((along.gather(2, nearest), across.gather(2, nearest)), dim=-1).nan_to_num(0.0, 0.0, 0.0)
    far = (off * (-deviations).exp()).square().sum(dim=-1)
    likelihood = 0.5 * (TAILS + 2.0) * torch.log1p(far / TAILS) + deviations.sum(dim=-1)
    return (likelihood * there).sum(), there.sum()
