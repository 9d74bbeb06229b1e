"""Losses of the cells that queries begin at: perfect maps, wrong ones, centres on the border, empty images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from streampetr_core.model import ProposalMaps
from training.losses_proposals import proposal_losses
from training.targets import Targets2D

SIZE, STRIDE = (4, 8), 16
CELLS = SIZE[0] * SIZE[1]
FOCAL = torch.tensor([100.0, 50.0])
ONE = torch.tensor(1.0)


def targets() -> Targets2D:
    """Two images: a car of 8 m depth whose centre is (40, 20), a pedestrian of 4 m on the border; and nothing."""
    boxes = torch.tensor([[[36.0, 16.0, 44.0, 24.0], [100.0, 30.0, 128.0, 64.0]], [[0.0] * 4, [0.0] * 4]])
    centers = torch.tensor([[[40.0, 20.0], [128.0, 50.0]], [[0.0, 0.0], [0.0, 0.0]]])
    depths = torch.tensor([[8.0, 4.0], [0.0, 0.0]])
    valid = torch.tensor([[True, True], [False, False]])
    return Targets2D(boxes, torch.tensor([[0, 8], [0, 0]]), centers, depths, valid, (2, 0))


def maps_of(hot: float = 20.0) -> ProposalMaps:
    """What a perfect network says of these: one frame of two cameras."""
    heat, shift = torch.full((1, 2 * CELLS, 10), -20.0), torch.zeros(1, 2 * CELLS, 2)
    log_depth = torch.zeros(1, 2 * CELLS)
    car, pedestrian = 1 * 8 + 2, 3 * 8 + 7
    heat[0, car, 0] = heat[0, pedestrian, 8] = hot
    shift[0, car], shift[0, pedestrian] = torch.tensor([0.0, -0.25]), torch.tensor([15.5 / 16 - 0.5, 2 / 16 - 0.5])
    log_depth[0, car], log_depth[0, pedestrian] = math.log(0.08), math.log(0.04)
    return ProposalMaps(heat, shift, log_depth)


def losses(maps: ProposalMaps, positives: Tensor = ONE) -> dict[str, float]:
    found = proposal_losses(maps, targets(), FOCAL, SIZE, STRIDE, positives)
    return {name.rpartition("_")[2]: float(loss) for name, loss in found.items()}


def test_perfect_maps_lose_nothing() -> None:
    assert losses(maps_of()) == pytest.approx({"heat": 0.0, "shift": 0.0, "depth": 0.0}, abs=1e-5)


def test_each_error_is_counted_where_it_is_made() -> None:
    maps = maps_of(hot=-20.0)
    missed = -math.log(1e-4) * (1 - 1e-4) ** 2
    assert losses(maps)["heat"] == pytest.approx(2 * missed, rel=1e-3)
    maps = maps_of()
    maps.heat[0, 0, 5] = 20.0
    assert losses(maps)["heat"] == pytest.approx(-math.log(1e-4), rel=1e-3)
    maps.shift[0, 10, 0] += 0.3
    maps.log_depth[0, 31] += math.log(1.5)
    assert losses(maps)["shift"] == pytest.approx(0.3, rel=1e-5)
    assert losses(maps)["depth"] == pytest.approx(math.log(1.5), rel=1e-5)
    assert losses(maps, torch.tensor(2.0))["depth"] == pytest.approx(math.log(1.5) / 2, rel=1e-5)


def test_cells_without_a_centre_have_no_place_to_learn() -> None:
    maps = maps_of()
    maps.shift.requires_grad_()
    maps.log_depth.requires_grad_()
    found = proposal_losses(maps, targets(), FOCAL, SIZE, STRIDE, ONE)
    (found["proposal_loss_shift"] + found["proposal_loss_depth"]).backward()
    assert maps.shift.grad is not None
    others = torch.ones(2 * CELLS, dtype=torch.bool)
    others[[10, 31]] = False
    assert not maps.shift.grad[0, others].any()
    assert maps.log_depth.grad is not None
    assert not maps.log_depth.grad[0, others].any()
