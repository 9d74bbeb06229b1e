"""Losses of the cells that queries begin at: perfect maps, wrong ones, centres on the border, empty images."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from streampetr_core.model import ProposalMaps
from training.losses_proposals import deviation_loss, proposal_losses
from training.targets import Targets2D, Targets3D, encode_boxes

SIZE = (4, 8)
CELLS = SIZE[0] * SIZE[1]
FOCAL = torch.tensor([100.0, 50.0])
AZIMUTHS = torch.linspace(-3.0, 3.0, 2 * CELLS)[None]
CAR, PEDESTRIAN = 1 * 8 + 2, 3 * 8 + 7
"""The cells of the centres."""


def targets() -> Targets2D:
    """Two images of 32 x 64 pixels: a car of 8 m depth round (20, 10), a pedestrian of 4 m cut off by the right
    border, a truck cut off by the left one so that its centre lies outside; and nothing."""
    boxes = [[18.0, 8.0, 22.0, 12.0], [56.0, 20.0, 64.0, 32.0], [0.0, 8.0, 20.0, 32.0]]
    centers = [[20.0, 10.0], [63.5, 26.0], [0.0, 20.0]]
    depths = torch.tensor([[8.0, 4.0, 6.0], [0.0] * 3])
    valid = torch.tensor([[True] * 3, [False] * 3])
    shapes = [[4.0, 2.0, 1.5, 0.5, 3.0, 4.0], [0.7, 0.7, 1.8, -3.0, 0.0, 0.0], [6.0, 2.5, 3.0, 0.0, 1.0, 1.0]]
    return Targets2D(
        torch.tensor([boxes, [[0.0] * 4] * 3]),
        torch.tensor([[0, 8, 1], [0] * 3]),
        torch.tensor([centers, [[0.0] * 2] * 3]),
        depths,
        torch.tensor([shapes, [[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]] * 3]),
        valid,
        (3, 0),
    )


def maps_of(hot: float = 20.0) -> ProposalMaps:
    """What a perfect network says of these: one frame of two cameras."""
    heat = torch.full((1, 2 * CELLS, 10), -20.0)
    heat[0, CAR, 0] = heat[0, PEDESTRIAN, 8] = hot
    column, row = torch.arange(2 * CELLS) % 8, torch.arange(2 * CELLS) % CELLS // 8
    middle = torch.stack((column, row), dim=-1) + 0.5
    right = (column > 4)[:, None]  # whose cells belong to the pedestrian
    shift = torch.where(right, torch.tensor([63.5, 26.0]) / 8, torch.tensor([20.0, 10.0]) / 8) - middle
    log_depth = torch.where(right[:, 0], math.log(0.04), math.log(0.08))
    log_size = torch.where(right, torch.tensor([0.7, 0.7, 1.8]), torch.tensor([4.0, 2.0, 1.5])).log()
    seen = torch.where(right[:, 0], -3.0, 0.5) - AZIMUTHS[0]
    heading = torch.stack((seen.sin(), seen.cos()), dim=-1)
    axis = torch.stack(((2 * seen).sin(), (2 * seen).cos()), dim=-1)
    log_half = log_size[:, 2] - math.log(2.0) - log_depth - FOCAL.repeat_interleave(CELLS).log()
    speed = torch.where(right[:, 0], 0.0, 5.0)
    place = (shift[None], log_half[None], log_depth[None])
    return ProposalMaps(heat, *place, log_size[None], axis[None], heading[None], speed[None], SIZE)


def losses(maps: ProposalMaps) -> dict[str, float]:
    found = proposal_losses(maps, targets(), FOCAL, AZIMUTHS, torch.tensor(2.0))
    return {name.rpartition("_")[2]: float(loss) for name, loss in found.items()}


def test_perfect_maps_lose_nothing() -> None:
    """But for the heat of a centre's neighbours, which is wanted to be a Gaussian and counts little."""
    assert losses(maps_of()) == pytest.approx(
        dict.fromkeys(("heat", "shift", "half", "depth", "size", "axis", "heading", "speed"), 0.0), abs=1e-5
    )


def test_each_error_is_counted_where_it_is_made() -> None:
    maps = maps_of(hot=-20.0)
    missed = -math.log(1e-4) * (1 - 1e-4) ** 2
    assert losses(maps)["heat"] == pytest.approx(missed, rel=1e-3)  # two of two
    maps = maps_of()
    maps.heat[0, 0, 5] = 20.0
    assert losses(maps)["heat"] == pytest.approx(-math.log(1e-4) / 2, rel=1e-3)
    # nine cells round the car, four in the pedestrian's corner have a part in place and depth
    side, corner = math.exp(-1 / 0.5), math.exp(-2 / 0.5)
    car, pedestrian = 1 + 4 * side + 4 * corner, 1 + 2 * side + corner
    maps.shift[0, CAR, 0] += 1.0
    maps.log_depth[0, PEDESTRIAN] += math.log(1.5)
    maps.log_depth[0, PEDESTRIAN - 8] += 1.0
    maps.log_size[0, CAR, 1] -= 0.2
    maps.log_half[0, CAR] += 0.3
    maps.axis[0, CAR] *= -1.0
    maps.speed[0, CAR] -= 2.0
    maps.heading[0, CAR] *= -1.0
    found = losses(maps)
    assert found["shift"] == pytest.approx(0.75 / car / 2, rel=1e-4)  # smooth L1: 1 - 0.5 / 2
    assert found["size"] == pytest.approx(0.2 / car / 2, rel=1e-4)
    assert found["half"] == pytest.approx(0.3 / car / 2, rel=1e-4)
    assert found["speed"] == pytest.approx(2.0 / car / 2, rel=1e-4)
    twice = 2.0 * (0.5 - float(AZIMUTHS[0, CAR]))
    assert found["axis"] == pytest.approx(2 * (abs(math.sin(twice)) + abs(math.cos(twice))) / car / 2, rel=1e-4)
    assert found["heading"] == pytest.approx(2**2 / car / 2, rel=1e-4)
    assert found["depth"] == pytest.approx((math.log(1.5) + side) / pedestrian / 2, rel=1e-4)


def test_cells_without_a_centre_nearby_have_no_place_to_learn() -> None:
    maps = maps_of()
    maps.shift.requires_grad_()
    maps.log_depth.requires_grad_()
    wrong = replace(maps, shift=maps.shift + 0.1, log_depth=maps.log_depth + 0.1)
    found = proposal_losses(wrong, targets(), FOCAL, AZIMUTHS, torch.tensor(2.0))
    (found["proposal_loss_shift"] + found["proposal_loss_depth"]).backward()
    assert maps.shift.grad is not None
    assert maps.log_depth.grad is not None
    learns = torch.nonzero(maps.log_depth.grad[0]).flatten().tolist()
    assert learns == [1, 2, 3, 9, 10, 11, 17, 18, 19, 22, 23, 30, 31]
    assert torch.nonzero(maps.shift.grad[0].any(-1)).flatten().tolist() == learns


def cells_and_objects(count: int = 4000) -> tuple[torch.Tensor, torch.Tensor, Targets3D]:
    """Places, scores and targets: one object a frame, of which a cell is off by 2 m along and 0.3 m across."""
    generator = torch.Generator().manual_seed(2)
    azimuth = 6.28 * torch.rand(count, 1, generator=generator)
    ray = torch.cat((azimuth.cos(), azimuth.sin()), dim=-1)
    off = torch.tensor([2.0, 0.3]) * torch.randn(count, 2, generator=generator)
    center = (30.0 + off[:, :1]) * ray + off[:, 1:] * torch.stack((-ray[:, 1], ray[:, 0]), dim=-1)
    boxes = torch.zeros(count, 1, 9)
    boxes[:, 0, :2], boxes[..., 3:6] = center, 1.0
    labels = torch.ones(count, 1, dtype=torch.long)
    targets = Targets3D(boxes, encode_boxes(boxes), labels, labels > 0, (1,) * count)
    places = torch.cat((30.0 * ray, torch.zeros(count, 1)), dim=-1)[:, None]
    scores = torch.tensor([0.1, 0.8, 0.05]).expand(count, 1, 3)
    return places, scores, targets


def test_deviations_fit_best_where_they_are_true() -> None:
    places, scores, targets = cells_and_objects()
    said = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([said], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        total, cells = deviation_loss(places, scores, said.expand(len(places), 1, 2), targets)
        (total / cells).backward()
        optimizer.step()
    along, across = said.detach().exp().tolist()
    # Student's tails take a part of a Gaussian's width
    assert 1.5 < along < 2.2
    assert 0.22 < across < 0.33


def test_deviations_learn_only_from_cells_that_show_something() -> None:
    places, scores, targets = cells_and_objects(50)
    said = torch.zeros(50, 1, 2, requires_grad=True)
    nothing = (
        deviation_loss(places, 0.1 * scores, said, targets),  # too faint
        deviation_loss(places, scores.flip(-1).roll(1, -1), said, targets),  # of another class
        deviation_loss(0.3 * places, scores, said, targets),  # too near
        deviation_loss(places, scores, said, replace(targets, valid=~targets.valid)),
    )
    assert [float(cells) for _, cells in nothing] == [0.0] * 4
    sum((total for total, _ in nothing), torch.zeros(())).backward()
    assert said.grad is not None
    assert float(said.grad.abs().max()) == 0.0


def test_targets_without_a_finite_place_teach_no_deviation() -> None:
    places, scores, targets = cells_and_objects(50)
    codes = targets.codes.clone()
    codes[0, 0, 0] = math.nan
    said = torch.zeros(50, 1, 2, requires_grad=True)
    deviation_loss(places, scores, said, replace(targets, codes=codes))[0].backward()
    assert said.grad is not None
    assert said.grad.isfinite().all()
    assert float(said.grad[0].abs().max()) == 0.0
    assert float(said.grad[1].abs().max()) > 0.0
