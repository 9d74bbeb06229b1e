"""Losses of the cells that queries begin at: a heat map for every class, and place and depth of the centres.

Legend: `I` images, `T` = h w image cells, `n` targets of the fullest image.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from streampetr_core.model import ProposalMaps
from training.losses_2d import gaussian_focal, heat_maps
from training.targets import Targets2D


def proposal_losses(
    maps: ProposalMaps, targets: Targets2D, focal: Tensor, size: tuple[int, int], stride: int, positives: Tensor
) -> dict[str, Tensor]:
    """The unweighted losses by name.

    Args:
        maps: of the B frames that the I images belong to.
        targets: labels in the order of the network's classes.
        focal: (I,) focal lengths of the network's images, pixels.
        size: height and width of the maps, cells.
        stride: pixels a cell.
        positives: divisor; at least 1.
    """
    height, width = size
    heat, shift, log_depth = (x.float().reshape(len(focal), height * width, -1) for x in vars(maps).values())
    # a centre on the right or lower border belongs to the last cell
    border = heat.new_tensor((width, height)) * stride - 0.5
    targets = replace(targets, centers=torch.minimum(targets.centers, border))
    wanted = heat_maps(targets, height, width, stride, heat.shape[-1])
    column_row = (targets.centers / stride).floor()
    cell = (column_row[..., 1] * width + column_row[..., 0]).long()
    found_shift = shift.gather(1, cell[..., None].expand(-1, -1, 2))
    shift_error = (found_shift - (targets.centers / stride - column_row - 0.5)).abs().sum(-1)
    wanted_depth = (targets.depths.clamp(min=0.1) / focal[:, None]).log()
    depth_error = (log_depth[..., 0].gather(1, cell) - wanted_depth).abs()
    return {
        "proposal_loss_heat": gaussian_focal(heat, wanted).sum() / positives,
        "proposal_loss_shift": (shift_error * targets.valid).sum() / positives,
        "proposal_loss_depth": (depth_error * targets.valid).sum() / positives,
    }
