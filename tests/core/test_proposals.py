"""Queries that begin at image cells: where they are put, which cells are chosen, what absent cameras do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from streampetr_core.model import VARIANTS, FrameGeometry, StreamPETR
from streampetr_core.model.box_state import facing_way
from streampetr_core.model.proposals import (
    STRIDE,
    ProposalMaps,
    best_cells,
    invert,
    place_cells,
    ray_azimuths,
    ray_features,
    read_maps,
    shape_cells,
)

SIZE = (8, 16)
CELLS = SIZE[0] * SIZE[1]
SMALL = replace(
    VARIANTS["tiny"], input_size=(64, 128), backbone_width=8, embed_dims=64, num_layers=1, num_queries=10,
    num_proposals=12, num_propagated=8, memory_length=16,
)  # fmt: skip


def cameras(mirrored: bool = False) -> FrameGeometry:
    """Two cameras that look forward (x) and back, of different focal lengths, 128 x 64 pixels."""
    image_from_model, intrinsics = [], []
    for focal, forward in ((90.0, 1.0), (70.0, -1.0)):
        matrix = torch.tensor([[focal, 0.0, 64.0], [0.0, focal, 32.0], [0.0, 0.0, 1.0]])
        if mirrored:
            matrix = torch.tensor([[-1.0, 0.0, 128.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ matrix
        camera_from_model = torch.tensor(
            [[0.0, -forward, 0.0, 0.2], [0.0, 0.0, -1.0, 0.1], [forward, 0.0, 0.0, -0.5], [0.0, 0.0, 0.0, 1.0]]
        )
        pixels = torch.eye(4)
        pixels[:3, :3] = matrix
        image_from_model.append(pixels @ camera_from_model)
        intrinsics.append(matrix)
    identity = torch.eye(4)[None]
    return FrameGeometry(
        torch.stack(image_from_model)[None],
        torch.stack(intrinsics)[None],
        identity,
        identity,
        torch.zeros(1).double(),
    )


def empty_maps() -> ProposalMaps:
    """Maps of two cameras that say 0 everywhere."""
    heat, shift, log_half, log_depth, log_size, axis, heading, speed = (
        torch.zeros(1, 2 * CELLS, *more) for more in ((10,), (2,), (), (), (3,), (2,), (2,), ())
    )
    return ProposalMaps(heat, shift, log_half, log_depth, log_size, axis, heading, speed, SIZE)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_cell_with_shift_and_depth_is_a_point_in_space(mirrored: bool) -> None:
    geometry = cameras(mirrored)
    points = torch.tensor([[12.0, 3.0, 0.7], [25.0, -8.0, -1.0], [-9.0, 4.0, 0.2]])
    index, shift, log_depth = [], torch.zeros(1, 2 * CELLS, 2), torch.zeros(1, 2 * CELLS)
    for point, camera in zip(points, (0, 0, 1), strict=True):
        u, v, depth, _ = geometry.image_from_model[0, camera] @ torch.cat((point, torch.ones(1)))
        cell = torch.stack((u, v)) / depth / STRIDE
        token = camera * CELLS + int(cell[1]) * SIZE[1] + int(cell[0])
        index.append(token)
        shift[0, token] = cell - cell.floor() - 0.5
        log_depth[0, token] = (depth / geometry.intrinsics[0, camera, 1, 1]).log()
    maps = replace(empty_maps(), shift=shift, log_depth=log_depth)
    found = place_cells(maps, torch.tensor([index]), invert(geometry.image_from_model), geometry.intrinsics)
    torch.testing.assert_close(found[0], points, atol=1e-4, rtol=0)


def test_a_ray_knows_where_it_comes_down_to_the_height_of_objects() -> None:
    """A point at that height, 12 m ahead: its cell's ray has the point's depth as first guess, mirrored or not."""
    for mirrored in (False, True):
        geometry = cameras(mirrored)
        u, v, depth, _ = geometry.image_from_model[0, 0] @ torch.tensor([12.0, 0.3, -1.0, 1.0])
        features = ray_features(invert(geometry.image_from_model), geometry.intrinsics, SIZE)[0, 0]
        column, row = float(u / depth) / STRIDE - 0.5, float(v / depth) / STRIDE - 0.5
        guesses = (features[3].exp() * 90.0 * 20.0 / 330.0)[:, round(column)]
        assert guesses[int(row) + 1] <= depth <= guesses[int(row)]
        assert guesses[0] == pytest.approx(80.0)  # above the horizon: as far as can be


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_heading_along_the_ray_is_a_yaw_in_the_model_frame(mirrored: bool) -> None:
    """Cars that drive away along the rays of two cells, and one that crosses the second from right to left."""
    model_from_image = invert(cameras(mirrored).image_from_model)
    azimuths = ray_azimuths(model_from_image, SIZE)
    front, back = 4 * SIZE[1] + 7, CELLS + 4 * SIZE[1] + 3
    ways = [along(model_from_image, cell, 10.0) - along(model_from_image, cell, 5.0) for cell in (front, back)]
    maps = empty_maps()
    maps.axis[..., 1] = maps.heading[..., 1] = 1.0
    found, *_ = shape_cells(maps, torch.tensor([[front, back]]), azimuths)
    for row, way in zip(found[0], ways, strict=True):
        torch.testing.assert_close(torch.atan2(row[3], row[4]), torch.atan2(way[1], way[0]), atol=1e-5, rtol=0)
    assert abs(float(azimuths[0, front])) < 0.3
    assert abs(float(azimuths[0, back])) > 2.5
    maps.axis[0, back] = torch.tensor([0.0, -1.0])
    maps.heading[0, back] = torch.tensor([0.2, 0.05])  # 60 : 40 for this way
    maps.log_size[0, back] = torch.tensor([1.5, 0.6, 0.4])
    maps.speed[0, back] = 3.0
    crossing, axis, heading, speed = (x[0, 0] for x in shape_cells(maps, torch.tensor([[back]]), azimuths))
    turned = azimuths[0, back] + torch.pi / 2
    sine, cosine = turned.sin(), turned.cos()
    expected = torch.tensor([1.5, 0.6, 0.4, sine, cosine, 0.6 * cosine, 0.6 * sine])
    torch.testing.assert_close(crossing, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(axis, torch.stack(((2.0 * turned).sin(), (2.0 * turned).cos())))
    yaw, certain = facing_way(axis, heading)
    torch.testing.assert_close(torch.stack((yaw.sin(), yaw.cos())), expected[3:5], atol=1e-5, rtol=0)
    assert float(certain) == pytest.approx(0.2)
    assert speed.tolist() == [3.0]


@pytest.mark.parametrize("yaw", [0.0, 0.4, 1.5, 1.6, 3.0, -0.4, -1.5, -1.6, -3.0])
def test_of_an_axis_two_ways_the_heading_chooses_one(yaw: float) -> None:
    angle = torch.tensor(yaw)
    axis = torch.stack(((2.0 * angle).sin(), (2.0 * angle).cos()))
    rough = angle + 0.9
    found, certainty = facing_way(axis, 0.1 * torch.stack((rough.sin(), rough.cos())))
    assert float(certainty) == pytest.approx(0.1 * math.cos(0.9))
    torch.testing.assert_close(torch.stack((found.sin(), found.cos())), torch.stack((angle.sin(), angle.cos())))


@pytest.mark.parametrize("mirrored", [False, True])
def test_depth_follows_from_the_ground_below_an_object_or_from_its_height(mirrored: bool) -> None:
    """A box 1.6 m high on flat ground, its centre off the cell's: both ways give its depth, with or without trust
    in the height; only the height does where the ground lies elsewhere."""
    geometry = cameras(mirrored)
    model_from_image = invert(geometry.image_from_model)
    for height_above_ground, trusts in ((0.8, (-6.0, 2.0, 10.0)), (0.3, (12.0,))):
        point = torch.tensor([14.0, -2.0, -1.84 + height_above_ground, 1.0])
        u, v, depth, _ = geometry.image_from_model[0, 0] @ point
        cell = torch.stack((u, v)) / depth / STRIDE
        token = int(cell[1]) * SIZE[1] + int(cell[0])
        place = torch.zeros(1, 2 * CELLS, 13)
        place[0, token, :2] = cell - cell.floor() - 0.5
        place[0, token, 2] = (90.0 * 0.8 / depth).log() - math.log(8.0)
        place[0, token, 5] = math.log(1.6)
        for trust in trusts:
            place[0, token, 10] = trust
            heat = torch.zeros(1, 2 * CELLS, 10)
            maps = read_maps(heat, place, model_from_image, geometry.intrinsics, SIZE)
            found = place_cells(maps, torch.tensor([[token]]), model_from_image, geometry.intrinsics)
            torch.testing.assert_close(found[0, 0], point[:3], atol=2e-3, rtol=0)
    assert maps.log_depth.isfinite().all()  # above the horizon, too


def along(model_from_image: torch.Tensor, token: int, depth: float) -> torch.Tensor:
    """(3,) the point of that depth on the ray of a cell's centre."""
    camera, cell = divmod(token, CELLS)
    u, v = (cell % SIZE[1] + 0.5) * STRIDE, (cell // SIZE[1] + 0.5) * STRIDE
    return (model_from_image[0, camera] @ torch.tensor([u * depth, v * depth, depth, 1.0]))[:3]


def heat_of(*values: tuple[int, int, float]) -> ProposalMaps:
    """Maps of two cameras whose logits are -8 but for (token, class, logit)."""
    heat = torch.full((1, 2 * CELLS, 10), -8.0)
    for token, label, logit in values:
        heat[0, token, label] = logit
    return replace(empty_maps(), heat=heat)


def test_cells_are_chosen_by_score_and_only_where_no_neighbour_is_warmer() -> None:
    maps = heat_of((19, 3, 2.0), (20, 3, 1.5), (19 + CELLS, 0, 3.0), (70, 7, 1.0))
    assert best_cells(maps, None, 3).tolist() == [[19 + CELLS, 19, 70]]


def test_absent_cameras_are_chosen_last() -> None:
    maps = heat_of((19, 3, 2.0), (19 + CELLS, 0, 3.0))
    present = torch.tensor([[True, False]])
    assert best_cells(maps, present, 1).tolist() == [[19]]
    assert (best_cells(maps, present, CELLS) < CELLS).all()


@pytest.fixture(scope="module")
def small() -> StreamPETR:
    torch.manual_seed(0)
    return StreamPETR(SMALL).eval()


def test_proposals_are_queries_between_the_learned_and_the_propagated(small: StreamPETR) -> None:
    geometry = cameras()
    images = torch.randn(1, 2, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs = small.forward_frame(images, geometry, None)
    assert outputs.proposals is not None
    assert outputs.logits.shape == (1, 1, 10 + 12 + 8, 10)
    assert outputs.proposals.reference.shape == (1, 12, 3)
    assert ((outputs.proposals.reference >= 0) & (outputs.proposals.reference <= 1)).all()
    assert outputs.memory_queries is not None
    assert int(outputs.memory_queries.max()) < 30


def test_an_absent_cameras_image_changes_nothing(small: StreamPETR) -> None:
    geometry = replace(cameras(), present=torch.tensor([[True, False]]))
    images = torch.randn(1, 2, 3, 64, 128, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        outputs = small.forward_frame(images, geometry, None)
        images[:, 1] = 5.0
        again = small.forward_frame(images, geometry, None)
    torch.testing.assert_close(again.logits, outputs.logits)


def test_the_image_learns_from_the_queries_content_but_not_from_their_place(small: StreamPETR) -> None:
    images = torch.randn(1, 2, 3, 64, 128, generator=torch.Generator().manual_seed(3))
    outputs = small.forward_frame(images, cameras(), None)
    assert outputs.proposals is not None
    assert not outputs.proposals.reference.requires_grad
    small.zero_grad()
    outputs.logits[:, :, 10:22].sum().backward()
    head = small.pts_bbox_head.proposals
    assert float(head.content.weight.grad.abs().max()) > 0.0  # type: ignore[union-attr]
    assert head.trunk.heat.weight.grad is None


def test_published_networks_have_no_proposals() -> None:
    with torch.device("meta"):
        network = StreamPETR(VARIANTS["r50_704_428q"])
    assert not any("proposals" in name for name in network.state_dict())
