"""Assignments and their costs, against brute force and plain loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from streampetr_core.model import AuxiliaryOutputs
from training.matching import (
    MatchWeights,
    assign,
    centre_form,
    corner_form,
    cost_2d,
    cost_3d,
    focal_cost,
    overlap,
)
from training.targets import Targets2D, Targets3D, encode_boxes


def targets_3d(boxes: torch.Tensor, labels: torch.Tensor, counts: tuple[int, ...]) -> Targets3D:
    valid = torch.arange(boxes.shape[1]) < torch.tensor(counts)[:, None]
    return Targets3D(boxes, encode_boxes(boxes), labels, valid, counts)


def test_assignment_is_the_cheapest_of_all() -> None:
    """Two layers, three samples with 3, 0 and 2 real targets, 5 predictions."""
    generator = torch.Generator().manual_seed(3)
    cost = torch.rand(2, 3, 5, 3, generator=generator)
    counts = (3, 0, 2)
    (rows,) = assign((cost, counts))
    assert rows.shape == (2, 3, 3)
    for layer, sample in itertools.product(range(2), range(3)):
        count = counts[sample]
        found = rows[layer, sample]
        assert (found[count:] == -1).all()
        chosen = found[:count].tolist()
        assert len(set(chosen)) == count
        ours = sum(float(cost[layer, sample, p, t]) for t, p in enumerate(chosen))
        best = min(
            sum(float(cost[layer, sample, p, t]) for t, p in enumerate(choice))
            for choice in itertools.permutations(range(5), count)
        )
        assert ours == pytest.approx(best, abs=1e-6)


def test_several_problems_of_different_shape_at_once() -> None:
    generator = torch.Generator().manual_seed(4)
    first, second = torch.rand(2, 1, 4, 2, generator=generator), torch.rand(3, 6, 1, generator=generator)
    together = assign((first, (2,)), (second, (1, 0, 1)))
    assert torch.equal(together[0], assign((first, (2,)))[0])
    assert torch.equal(together[1], assign((second, (1, 0, 1)))[0])
    assert together[1][:, 0].tolist() == [int(second[0].argmin()), -1, int(second[2].argmin())]


def test_more_targets_than_predictions_leaves_the_dearest_out() -> None:
    cost = torch.tensor([[[5.0, 1.0, 9.0], [2.0, 6.0, 9.0]]])
    assert assign((cost, (3,)))[0].tolist() == [[1, 0, -1]]


def test_focal_cost_of_one_number() -> None:
    """p = 0.5: positive 0.25 * 0.25 ln 2, negative 0.75 * 0.25 ln 2."""
    cost = focal_cost(torch.zeros(1, 1, 2), torch.tensor([[1]]))
    assert float(cost) == pytest.approx((0.25 - 0.75) * 0.25 * math.log(2.0), rel=1e-5)


def test_cost_3d_equals_a_loop_and_velocity_takes_no_part() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 2, 4, 10, generator=generator)
    boxes = torch.randn(2, 2, 4, 10, generator=generator)
    truth = torch.rand(2, 3, 9, generator=generator) + 0.5
    labels = torch.randint(10, (2, 3), generator=generator)
    weights = torch.tensor([2.0, 2.0] + [1.0] * 8)
    cost = cost_3d(logits, boxes, targets_3d(truth, labels, (3, 3)), weights, MatchWeights())
    for layer, sample, query, target in itertools.product(range(2), range(2), range(4), range(3)):
        x, y, z, length, width, height, yaw = truth[sample, target, :7].tolist()
        code = [x, y, z, math.log(length), math.log(width), math.log(height), math.sin(yaw), math.cos(yaw)]
        p = 1 / (1 + math.exp(-float(logits[layer, sample, query, labels[sample, target]])))
        focal = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
        distance = sum(
            abs(float(boxes[layer, sample, query, i]) - value) * float(weights[i]) for i, value in enumerate(code)
        )
        expected = 2.0 * focal + 0.25 * distance
        assert float(cost[layer, sample, query, target]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    faster = boxes.clone()
    faster[..., 8:] += 100.0
    assert torch.equal(cost, cost_3d(logits, faster, targets_3d(truth, labels, (3, 3)), weights, MatchWeights()))


def test_costs_that_are_no_numbers_become_100() -> None:
    logits, boxes = torch.zeros(1, 1, 2, 10), torch.zeros(1, 1, 2, 10)
    boxes[0, 0, 0, 0] = float("nan")
    truth = torch.ones(1, 1, 9)
    truth[0, 0, 3] = 0.0  # its logarithm is minus infinity
    labels = torch.zeros(1, 1, dtype=torch.int64)
    cost = cost_3d(logits, boxes, targets_3d(truth, labels, (1,)), torch.ones(10), MatchWeights())
    assert cost.flatten().tolist() == [100.0, 100.0]


def test_overlap_of_known_boxes() -> None:
    """Two 2x2 boxes that share a 1x1 corner; two that are apart; one with itself."""
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [3.0, 1.0, 5.0, 9.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [3.0, 0.0, 4.0, 1.0], [3.0, 1.0, 5.0, 9.0]])
    iou, giou = overlap(a, b)
    torch.testing.assert_close(iou, torch.tensor([1 / 7, 0.0, 1.0]))
    torch.testing.assert_close(giou, torch.tensor([1 / 7 - 2 / 9, -2 / 4, 1.0]))
    torch.testing.assert_close(corner_form(centre_form(a)), a)


def test_cost_2d_of_one_cell() -> None:
    """A prediction that is the target: only the class costs, less the GIoU of 1."""
    truth = torch.tensor([[[16.0, 8.0, 48.0, 24.0]]])
    exact = AuxiliaryOutputs(
        torch.zeros(1, 2, 10),
        torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.25, 0.5]]]),
        torch.tensor([[[0.5, 0.25], [0.75, 0.25]]]),
        torch.zeros(1, 2, 1),
    )
    centers = torch.tensor([[[32.0, 8.0]]])
    one = torch.ones(1, 1)
    targets = Targets2D(truth, torch.tensor([[4]]), centers, one, torch.ones(1, 1, 4), one.bool(), (1,))
    cost = cost_2d(exact, targets, (32, 64), MatchWeights())
    focal = 2.0 * (0.25 - 0.75) * 0.25 * math.log(2.0)
    assert cost.shape == (1, 2, 1)
    assert float(cost[0, 0, 0]) == pytest.approx(focal - 2.0, abs=1e-5)
    # half as wide: IoU = GIoU = 1/2; L1 of the box 0.25; centre a quarter of the image away
    assert float(cost[0, 1, 0]) == pytest.approx(focal - 2.0 * 0.5 + 5.0 * 0.25 + 10.0 * 0.25, abs=1e-5)
