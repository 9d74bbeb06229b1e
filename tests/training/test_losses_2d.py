"""Losses of the 2D head: numbers by hand, plain loops, images without boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from streampetr_core.boxes import NUSCENES_CLASSES
from streampetr_core.model import VARIANTS, AuxiliaryOutputs
from streampetr_core.model.auxiliary_head import AUXILIARY_CLASSES
from training.losses_2d import gaussian_focal, heat_map, losses_2d, one_hot, quality_focal
from training.matching import MatchWeights, assign, cost_2d
from training.targets import Targets2D, auxiliary_channels

SIZE, STRIDE = (64, 128), 16
CELLS = (4, 8)


def make_targets(boxes: Tensor, labels: Tensor, centers: Tensor, counts: tuple[int, ...]) -> Targets2D:
    valid = torch.arange(boxes.shape[1]) < torch.tensor(counts)[:, None]
    return Targets2D(
        boxes, labels, centers, torch.ones_like(labels).float(), torch.ones(*labels.shape, 4), valid, counts
    )


def one_object(box: list[float], center: list[float]) -> Targets2D:
    return make_targets(torch.tensor([[box]]), torch.tensor([[0]]), torch.tensor([[center]]), (1,))


def test_heat_of_one_object() -> None:
    """48 pixels to the nearest side are a radius of 3 cells: sigma is 7/6; cells further away stay cold."""
    heat = heat_map(one_object([0.0, 0.0, 128.0, 96.0], [72.0, 48.0]), *CELLS, STRIDE)[0].reshape(CELLS)
    assert float(heat[3, 4]) == 1.0
    assert float(heat[3, 5]) == pytest.approx(math.exp(-1 / (2 * (7 / 6) ** 2)), rel=1e-6)
    assert float(heat[0, 7]) == pytest.approx(math.exp(-18 / (2 * (7 / 6) ** 2)), rel=1e-6)
    assert (heat[:, 0] == 0.0).all()


def test_heat_round_a_small_object_and_at_the_border() -> None:
    """The radius is at least one cell; a centre on the right border lies in no cell but warms its neighbour."""
    small = heat_map(one_object([30.0, 30.0, 34.0, 34.0], [32.0, 32.0]), *CELLS, STRIDE)[0].reshape(CELLS)
    assert torch.nonzero(small).tolist() == [[y, x] for y in (1, 2, 3) for x in (1, 2, 3)]
    assert float(small[1, 1]) == pytest.approx(math.exp(-2 / (2 * 0.25)), rel=1e-6)
    border = heat_map(one_object([120.0, 20.0, 128.0, 28.0], [128.0, 24.0]), *CELLS, STRIDE)[0].reshape(CELLS)
    assert torch.nonzero(border).tolist() == [[0, 7], [1, 7], [2, 7]]
    assert float(border.max()) < 1.0


def paint(targets: Targets2D, image: int) -> Tensor:
    """The heat map as one paints it: object by object, the kernel cut at the border."""
    heat = torch.zeros(CELLS)
    for i in range(targets.counts[image]):
        (x1, y1, x2, y2), (cx, cy) = targets.boxes[image, i].tolist(), targets.centers[image, i].tolist()
        radius = max(1, math.ceil(min(cx - x1, cy - y1, x2 - cx, y2 - cy) / STRIDE))
        column, row = int(cx / STRIDE), int(cy / STRIDE)
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                y, x = row + dy, column + dx
                if 0 <= y < CELLS[0] and 0 <= x < CELLS[1]:
                    value = math.exp(-(dx * dx + dy * dy) / (2 * ((2 * radius + 1) / 6) ** 2))
                    heat[y, x] = max(float(heat[y, x]), value)
    return heat.flatten()


def random_case(counts: tuple[int, ...], seed: int) -> tuple[AuxiliaryOutputs, Targets2D]:
    generator = torch.Generator().manual_seed(seed)
    images, size, cells = len(counts), max(1, *counts), CELLS[0] * CELLS[1]
    corner = torch.rand(images, size, 2, generator=generator) * torch.tensor([90.0, 40.0])
    extent = torch.rand(images, size, 2, generator=generator) * torch.tensor([38.0, 24.0]) + 2.0
    boxes = torch.cat((corner, corner + extent), -1)
    centers = corner + extent * torch.rand(images, size, 2, generator=generator)
    labels = torch.randint(10, (images, size), generator=generator)
    raw = [torch.randn(images, cells, n, generator=generator) for n in (10, 4, 2, 1)]
    outputs = AuxiliaryOutputs(raw[0], raw[1].sigmoid() * 0.4 + 0.3, raw[2].sigmoid(), raw[3])
    return outputs, make_targets(boxes, labels, centers, counts)


@pytest.mark.parametrize("counts", [(3, 1, 6), (0, 2), (0, 0)])
def test_equal_to_plain_loops(counts: tuple[int, ...]) -> None:
    """Image by image, cell by cell; all images share the number of objects that the sums are divided by."""
    outputs, targets = random_case(counts, seed=21)
    (rows,) = assign((cost_2d(outputs, targets, SIZE, MatchWeights()), counts))
    total = max(sum(counts), 1)
    divisor = torch.tensor(float(total))
    losses = losses_2d(outputs, targets, rows, SIZE, STRIDE, divisor, divisor)
    expected = dict.fromkeys(losses, 0.0)
    for image, count in enumerate(counts):
        quality: dict[int, tuple[int, float]] = {}
        for i in range(count):
            cell = int(rows[image, i])
            x, y, w, h = outputs.boxes[image, cell].tolist()
            mine = [(x - w / 2) * 128, (y - h / 2) * 64, (x + w / 2) * 128, (y + h / 2) * 64]
            theirs = targets.boxes[image, i].tolist()
            inner = max(0.0, min(mine[2], theirs[2]) - max(mine[0], theirs[0]))
            inner *= max(0.0, min(mine[3], theirs[3]) - max(mine[1], theirs[1]))
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (mine, theirs)]
            union = sum(areas) - inner
            hull = max(mine[2], theirs[2]) - min(mine[0], theirs[0])
            hull *= max(mine[3], theirs[3]) - min(mine[1], theirs[1])
            quality[cell] = (int(targets.labels[image, i]), inner / union)
            expected["enc_loss_iou"] += 1 - (inner / union - (hull - union) / hull)
            wanted = (
                (theirs[0] + theirs[2]) / 256,
                (theirs[1] + theirs[3]) / 128,
                (theirs[2] - theirs[0]) / 128,
                (theirs[3] - theirs[1]) / 64,
            )
            expected["enc_loss_bbox"] += sum(abs(a - b) for a, b in zip((x, y, w, h), wanted, strict=True))
            cx, cy = targets.centers[image, i].tolist()
            px, py = outputs.centers[image, cell].tolist()
            expected["centers2d_losses"] += abs(px - cx / 128) + abs(py - cy / 64)
        heat = paint(targets, image)
        for cell in range(CELLS[0] * CELLS[1]):
            label, target = quality.get(cell, (-1, 0.0))
            for c, logit in enumerate(outputs.logits[image, cell].tolist()):
                p, q = 1 / (1 + math.exp(-logit)), target if c == label else 0.0
                entropy = -q * math.log(p) - (1 - q) * math.log(1 - p)
                expected["enc_loss_cls"] += (q - p) ** 2 * entropy
            p = min(max(1 / (1 + math.exp(-float(outputs.centerness[image, cell]))), 1e-4), 1 - 1e-4)
            if heat[cell] == 1:
                expected["centerness_losses"] += -((1 - p) ** 2) * math.log(p)
            else:
                expected["centerness_losses"] += -(p**2) * math.log(1 - p) * (1 - float(heat[cell])) ** 4
    for name, loss in losses.items():
        assert float(loss) == pytest.approx(expected[name] / total, rel=1e-4, abs=1e-7), name


def test_each_divisor_has_its_losses() -> None:
    """The two L1 losses are divided by the mean over the processes, the others by this process's own number."""
    outputs, targets = random_case((2, 3), seed=22)
    (rows,) = assign((cost_2d(outputs, targets, SIZE, MatchWeights()), targets.counts))
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    plain = losses_2d(outputs, targets, rows, SIZE, STRIDE, one, one)
    mean = losses_2d(outputs, targets, rows, SIZE, STRIDE, one, two)
    halved = {name for name in plain if float(mean[name]) == pytest.approx(float(plain[name]) / 2)}
    assert halved == {"enc_loss_bbox", "centers2d_losses"}


def test_quality_focal_by_hand() -> None:
    """Even odds against a quality of 1, 0.5 and 0: squared distance times ln 2."""
    loss = quality_focal(torch.zeros(3), torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.25, 0.0, 0.25]) * math.log(2.0))


def test_gaussian_focal_by_hand() -> None:
    loss = gaussian_focal(torch.zeros(3), torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.25, 0.25 / 16, 0.25]) * math.log(2.0))
    assert float(gaussian_focal(torch.tensor([-40.0]), torch.ones(1))) == pytest.approx(-math.log(1e-4), rel=1e-3)


def test_one_hot_leaves_unmatched_targets_out() -> None:
    hot = one_hot(torch.tensor([[2, -1]]), torch.tensor([[1, 0]]), (3, 2), torch.tensor([[0.5, 0.9]]))
    assert hot.tolist() == [[[0.0, 0.0], [0.0, 0.0], [0.0, 0.5]]]


def test_the_quality_is_a_target_not_a_way_for_gradients() -> None:
    outputs, targets = random_case((2,), seed=23)
    boxes = outputs.boxes.clone().requires_grad_()
    outputs = AuxiliaryOutputs(outputs.logits.requires_grad_(), boxes, outputs.centers, outputs.centerness)
    (rows,) = assign((cost_2d(outputs, targets, SIZE, MatchWeights()), (2,)))
    one = torch.tensor(1.0)
    losses_2d(outputs, targets, rows, SIZE, STRIDE, one, one)["enc_loss_cls"].backward()
    assert boxes.grad is None or not boxes.grad.any()
    assert outputs.logits.grad is not None


def test_channels_of_the_2d_head_go_by_name() -> None:
    variant = VARIANTS["r50_704_428q"]
    channels = auxiliary_channels(variant)
    assert [AUXILIARY_CLASSES[channel] for channel in channels] == list(NUSCENES_CLASSES)
    assert channels != tuple(range(10))
