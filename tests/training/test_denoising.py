"""Denoising queries: where they stand, what they become and who sees whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streampetr_core.model import VARIANTS, FrameGeometry, ImageFeatures, StreamPETR
from training.batch import Targets
from training.denoising import DenoisingSettings, denoising_queries, visibility
from training.targets import Targets3D, pack_3d

TINY = replace(
    VARIANTS["tiny"], num_queries=8, num_proposals=4, num_propagated=4, memory_length=10, num_layers=2, dropout=0.0
)


def packed(*counts: int, seed: int = 1) -> Targets3D:
    """Random boxes, as many as said for each sample."""
    generator = torch.Generator().manual_seed(seed)
    frames = []
    for count in counts:
        boxes = torch.rand(count, 9, generator=generator) + 1.0
        boxes[:, :3] = torch.rand(count, 3, generator=generator) * 60.0 - 30.0
        frames.append(Targets(boxes, torch.randint(10, (count,), generator=generator), (), (), (), ()))
    return pack_3d(frames, torch.device("cpu"))


def test_places_by_hand() -> None:
    """Noise 0.5 leaves a box where it is; 1 and 0 move it by half its size along the axes of the frame."""
    box = torch.tensor([[10.0, -20.0, 1.0, 4.0, 2.0, 1.0, 0.7, 3.0, 4.0]])
    targets = pack_3d([Targets(box, torch.tensor([3]), (), (), (), ())], torch.device("cpu"))
    noise = torch.tensor([[[0.5, 0.5, 0.5], [1.0, 0.5, 0.5], [0.5, 0.0, 1.0]]])
    found = denoising_queries(targets, TINY, DenoisingSettings(groups=3), noise)
    assert found is not None
    metres = found.queries.reference * torch.tensor([102.4, 102.4, 8.0]) + torch.tensor([-51.2, -51.2, -5.0])
    expected = torch.tensor([[[10.0, -20.0, 1.0], [12.0, -20.0, 1.0], [10.0, -21.0, 1.5]]])
    torch.testing.assert_close(metres, expected)
    assert found.labels.tolist() == [[3, 10, 10]]  # the lengths of the noise are 0, 1 and 1.4
    assert found.count == 3
    torch.testing.assert_close(found.codes, targets.codes.expand(-1, 3, -1))  # without noise, also for background


def test_places_outside_the_range_are_held_at_its_border() -> None:
    box = torch.tensor([[51.0, 0.0, 0.0, 8.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    targets = pack_3d([Targets(box, torch.tensor([0]), (), (), (), ())], torch.device("cpu"))
    found = denoising_queries(targets, TINY, DenoisingSettings(groups=1), torch.ones(1, 1, 3))
    assert found is not None
    assert float(found.queries.reference[0, 0, 0]) == 1.0


def test_slots_of_uneven_samples() -> None:
    targets = packed(3, 0, 1)
    found = denoising_queries(targets, TINY, generator=torch.Generator().manual_seed(2))
    assert found is not None
    assert found.known.shape == (3, 30)
    assert found.known[0].all()
    assert not found.known[1].any()
    assert torch.nonzero(found.known[2]).flatten().tolist() == list(range(0, 30, 3))
    assert found.count == 10 * 4
    assert (found.queries.reference[~found.known] == 0).all()
    background = found.labels[found.known] == 10
    assert 0.5 < float(background.float().mean()) < 0.97  # a ball of radius 0.75 fills 22 % of the cube


def test_no_boxes_no_queries() -> None:
    assert denoising_queries(packed(0, 0), TINY) is None
    assert denoising_queries(packed(2), TINY, DenoisingSettings(groups=0)) is None


def test_who_sees_whom() -> None:
    groups, size = 3, 2
    allowed = visibility(groups, size, TINY, torch.device("cpu"))
    count, others = 6, 16
    assert allowed.shape == (count + others, count + others + 6)
    for row in range(count + others):
        for column in range(allowed.shape[1]):
            expected = column >= count or (row < count and row // size == column // size)
            assert bool(allowed[row, column]) == expected, (row, column)


@pytest.fixture(scope="module")
def network() -> StreamPETR:
    torch.manual_seed(0)
    return StreamPETR(TINY).eval()


def test_learned_queries_and_other_groups_feel_nothing_of_a_group(network: StreamPETR) -> None:
    """Through the real decoder: moving the boxes of group 1 changes group 1 only."""
    generator = torch.Generator().manual_seed(6)
    targets = packed(2)
    noise = torch.rand(1, 6, 3, generator=generator)
    moved = noise.clone()
    moved[:, 2:4] = 1.0 - moved[:, 2:4]
    fine = torch.randn(1, 2, 2 * TINY.backbone_width, 8, 12, generator=generator)
    features = ImageFeatures(torch.randn(1, 2, TINY.embed_dims, 4, 6, generator=generator), fine)
    projection = torch.eye(4).expand(1, 2, 4, 4)
    geometry = FrameGeometry(projection, projection, projection[:, 0], projection[:, 0], torch.zeros(1).double())
    results = []
    for values in (noise, moved):
        found = denoising_queries(targets, TINY, DenoisingSettings(groups=3), values)
        assert found is not None
        with torch.inference_mode():
            results.append(network.pts_bbox_head(features, geometry, None, prepended=found.queries))
    first, second = results
    torch.testing.assert_close(first.boxes, second.boxes)
    torch.testing.assert_close(first.prepended_boxes[:, :, :2], second.prepended_boxes[:, :, :2])
    torch.testing.assert_close(first.prepended_boxes[:, :, 4:], second.prepended_boxes[:, :, 4:])
    assert not torch.allclose(first.prepended_boxes[:, :, 2:4], second.prepended_boxes[:, :, 2:4], atol=1e-3)
