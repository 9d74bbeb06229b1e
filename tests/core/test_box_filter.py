"""The filter of the queries' boxes: what it associates, what it learns from many frames, what it tells."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from streampetr_core.boxes import NUSCENES_CLASSES
from streampetr_core.model.box_filter import BoxFilter, Followed
from streampetr_core.model.box_state import BoxState, facing_way, turned

CAR, PEDESTRIAN = NUSCENES_CLASSES.index("car"), NUSCENES_CLASSES.index("pedestrian")


@pytest.fixture(scope="module")
def box_filter() -> BoxFilter:
    torch.manual_seed(0)
    return BoxFilter(16, NUSCENES_CLASSES).eval()


def later(box_filter: BoxFilter, state: BoxState, scores: Tensor, seconds: float = 0.5) -> BoxState:
    """Carried into a frame of the same axes."""
    turn = torch.eye(2).expand(*state.place.shape[:2], 2, 2)
    return box_filter.carry(state, turn, torch.full_like(state.frames, seconds), scores)


def meet(
    box_filter: BoxFilter,
    fresh: BoxState,
    scores: Tensor,
    past: BoxState,
    old_scores: Tensor,
    seconds: float = 0.5,
) -> Followed:
    return box_filter(fresh, scores, past, old_scores, torch.full_like(past.frames, seconds))


def seen(
    box_filter: BoxFilter,
    places: Tensor,
    labels: list[int],
    yaw: float = 0.0,
    speed: float = 0.0,
    certain: float = 0.9,
    axis: float = 1.0,
) -> tuple[BoxState, Tensor]:
    """Objects at places (F, 2) that all face `yaw`, and their scores."""
    count = len(places)
    scores = torch.zeros(1, count, len(NUSCENES_CLASSES))
    scores[0, range(count), labels] = 0.8
    way = torch.tensor([math.sin(yaw), math.cos(yaw)]).expand(1, count, 2)
    place = torch.cat((places, torch.zeros(count, 1)), dim=-1)[None]
    size = torch.tensor([4.5, 1.9, 1.6]).log().expand(1, count, 3)
    looks = torch.full((1, count, 1), speed)
    return box_filter.begin(place, size, axis * turned(way, way), certain * way, looks, scores), scores


def follow(
    box_filter: BoxFilter,
    tracks: Tensor,
    labels: list[int],
    yaws: list[float] | None = None,
    seconds: float = 0.5,
    **looks: float,
) -> tuple[BoxState, Tensor]:
    """The memory's state after tracks (T, F, 2), one place a frame, and what is told of it."""
    shown = [looks] * len(tracks) if yaws is None else [{**looks, "yaw": yaw} for yaw in yaws]
    state, scores = seen(box_filter, tracks[0], labels, **shown[0])
    box = torch.zeros(1)
    for places, look in zip(tracks[1:], shown[1:], strict=True):
        fresh, _ = seen(box_filter, places, labels, **look)
        found = meet(box_filter, fresh, scores, later(box_filter, state, scores, seconds), scores, seconds)
        state = found.state.map(lambda x: x[:, -tracks.shape[1] :])
        box = found.box[:, -tracks.shape[1] :]
    return state, box[0].detach()


def errors_after(box_filter: BoxFilter, frames: int, seconds: float = 0.5) -> tuple[float, float, float]:
    """Of pedestrians that walk through depths which are off by a metre, 20 m away, and whose looks say nothing of
    their motion: mean errors of place and velocity, and mean square of both by the filter's own covariance."""
    velocity = torch.tensor([1.0, 0.5])
    generator = torch.Generator().manual_seed(1)
    steps = torch.arange(frames)[:, None, None] * seconds * velocity
    off = torch.randn(frames, 60, 2, generator=generator) * torch.tensor([1.0, 0.1])
    tracks = torch.tensor([20.0, 0.0]) + steps + off
    states = [
        follow(box_filter, track[:, None], [PEDESTRIAN], seconds=seconds, speed=1.0, certain=0.0, axis=0.1)[0]
        for track in tracks.unbind(dim=1)
    ]
    place = torch.stack([s.place[0, 0, :2] for s in states]) - torch.tensor([20.0, 0.0]) - steps[-1]
    speed = torch.stack([s.velocity[0, 0] for s in states]) - velocity
    off = torch.cat((place, speed), dim=-1)
    spread = torch.stack([s.spread[0, 0] for s in states])
    squares = (off[:, None] @ torch.linalg.inv(spread) @ off[..., None]).mean()
    return float(place.norm(dim=-1).mean()), float(speed.norm(dim=-1).mean()), float(squares)


def test_many_frames_tell_place_and_velocity_where_one_does_not(box_filter: BoxFilter) -> None:
    place, velocity, _ = errors_after(box_filter, 1)
    places, velocities, squares = zip(*(errors_after(box_filter, frames) for frames in (4, 10)), strict=True)
    assert velocity == pytest.approx(5**0.5 / 2)  # nothing is known
    assert places[0] < 0.8 * place
    assert places[1] < 0.65 * place
    assert velocities[1] < velocities[0] < 0.6 * velocity
    assert velocities[1] < 0.4 * velocity
    # 4 where a filter knows itself; this one counts deviations half as much again, for errors that stay
    assert all(0.5 < square < 4.0 for square in squares)


def test_faster_frames_do_not_make_it_surer_than_it_may_be(box_filter: BoxFilter) -> None:
    """Depths that are wrong in one frame are wrong in the next, so five times the frames tell little more."""
    label, track = [CAR], torch.tensor([20.0, 0.0]).expand(26, 1, 2)
    slow, _ = follow(box_filter, track[:6], label, seconds=0.5)
    fast, _ = follow(box_filter, track, label, seconds=0.1)
    ratio = fast.spread[0, 0].diagonal() / slow.spread[0, 0].diagonal()
    assert float(ratio.min()) > 0.7
    assert float(ratio.max()) < 1.6


def test_a_car_that_turns_is_followed(box_filter: BoxFilter) -> None:
    """8 m/s straight on, then through a quarter circle within four seconds: seen well, told without much delay."""
    yaws = [0.0] * 6 + [0.2 * step for step in range(1, 9)]
    steps = torch.tensor([[math.cos(yaw), math.sin(yaw)] for yaw in yaws]) * 4.0
    track = torch.tensor([-30.0, -12.0]) + steps.cumsum(0)[:, None]
    state, box = follow(box_filter, track, [CAR], yaws=yaws, speed=8.0)
    assert abs(float(torch.atan2(box[0, 3], box[0, 4])) - yaws[-1]) < 0.35
    assert float((state.place[0, 0, :2] - track[-1, 0]).norm()) < 1.5
    assert float((box[0, 5:] - steps[-1] / 0.5).norm()) < 4.0


def test_motion_across_the_ray_is_told_after_two_frames(box_filter: BoxFilter) -> None:
    track = torch.tensor([[[20.0, 0.0]], [[20.0, 4.0]]])
    state, box = follow(box_filter, track, [CAR], yaw=math.pi / 2, speed=8.0)
    assert abs(float(state.velocity[0, 0, 1]) - 8.0) < 0.5
    assert abs(float(box[0, 6]) - 8.0) < 0.8
    assert float(box[0, 5].abs()) < 0.5


def test_motion_tells_front_from_back(box_filter: BoxFilter) -> None:
    """It looks a little as if it faced the camera, but drives away."""
    track = torch.tensor([10.0, 0.0]) + torch.arange(5.0)[:, None, None] * torch.tensor([4.0, 0.0])
    _, box = follow(box_filter, track, [CAR], yaw=math.pi, speed=8.0, certain=0.2)
    assert abs(float(torch.atan2(box[0, 3], box[0, 4]))) < 0.1
    assert abs(float(box[0, 5]) - 8.0) < 1.0


def test_motion_turns_what_has_no_axis_to_be_seen(box_filter: BoxFilter) -> None:
    track = torch.tensor([8.0, -2.0]) + torch.arange(6.0)[:, None, None] * torch.tensor([0.0, 0.7])
    _, box = follow(box_filter, track, [PEDESTRIAN], yaw=0.0, speed=1.4, certain=0.05, axis=0.2)
    assert abs(float(torch.atan2(box[0, 3], box[0, 4])) - math.pi / 2) < 0.2


def test_what_is_seen_belongs_to_the_nearest_of_its_class(box_filter: BoxFilter) -> None:
    """Two cars side by side and a pedestrian between them, seen again, and something new."""
    places, labels = torch.tensor([[12.0, 3.0], [12.0, -3.0], [12.0, 0.0]]), [CAR, CAR, PEDESTRIAN]
    state, scores = seen(box_filter, places, labels)
    past = later(box_filter, state, scores)
    again = torch.cat((places.flip(0) + 0.1, torch.tensor([[-20.0, 5.0]])))
    fresh, fresh_scores = seen(box_filter, again, [*labels[::-1], CAR])
    of_fresh, of_past = box_filter.associate(fresh, fresh_scores, past, scores)
    assert of_fresh[0].argmax(dim=1)[:3].tolist() == [2, 1, 0]
    assert of_past[0].argmax(dim=0).tolist() == [2, 1, 0]
    assert meet(box_filter, fresh, fresh_scores, past, scores).partner.tolist() == [[2, 1, 0, -1]]
    assert float(of_fresh[0, 3].sum()) < 0.05
    assert float(of_fresh[0].amax(dim=1)[:3].min()) > 0.5
    other = box_filter.associate(fresh, fresh_scores, past, scores.flip(1))[0]
    assert float(other[0, 0, 2]) < 0.05


def test_a_track_without_a_cell_of_its_own_does_not_take_its_neighbours(box_filter: BoxFilter) -> None:
    places = torch.tensor([[12.0, 1.5], [12.0, -1.5]])
    state, scores = seen(box_filter, places, [PEDESTRIAN, PEDESTRIAN])
    past = later(box_filter, state, scores)
    fresh, fresh_scores = seen(box_filter, places[:1], [PEDESTRIAN])
    found = meet(box_filter, fresh, fresh_scores, past, scores).state
    torch.testing.assert_close(found.place[0, 2], past.place[0, 1], atol=0.1, rtol=0)
    assert float(found.frames[0, 2, 0]) < 1.2
    assert float(found.frames[0, 1, 0]) > 1.8


def test_cell_and_memory_are_told_the_same_box_and_of_each_other(box_filter: BoxFilter) -> None:
    """A car of the memory, a cell that shows it 0.6 m further, and a query of the memory that is empty."""
    state, scores = seen(box_filter, torch.tensor([[15.0, 2.0], [0.0, 0.0]]), [CAR, CAR])
    state = replace(state, frames=torch.tensor([[[1.0], [0.0]]]))
    past = later(box_filter, state, scores)
    fresh, fresh_scores = seen(box_filter, torch.tensor([[15.6, 2.0]]), [CAR])
    found = meet(box_filter, fresh, fresh_scores, past, scores)
    assert 15.0 < float(found.state.place[0, 0, 0]) < 15.6
    torch.testing.assert_close(found.box[0, 0], found.box[0, 1], atol=0.05, rtol=0)
    torch.testing.assert_close(found.state.place[0, 0], found.state.place[0, 1], atol=0.05, rtol=0)
    assert not found.box[0, 2].any()
    assert not found.content[0, 2].any()
    assert found.content[0, :2].any(dim=1).all()


def test_states_turn_with_the_axes_and_grow_less_sure(box_filter: BoxFilter) -> None:
    state, scores = seen(box_filter, torch.tensor([[10.0, 0.0]]), [CAR], yaw=0.3, speed=4.0)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])[None, None]
    carried = box_filter.carry(state, quarter, torch.full((1, 1, 1), 0.5), scores)
    yaw, certain = facing_way(carried.axis, carried.heading)
    assert abs(float(yaw) - 0.3 - math.pi / 2) < 1e-5
    assert abs(float(certain) - 0.9) < 1e-5
    expected = torch.stack((-state.velocity[..., 1], state.velocity[..., 0]), dim=-1)
    torch.testing.assert_close(carried.velocity, expected)
    torch.testing.assert_close(carried.place[..., :2] - state.place[..., :2], 0.5 * expected)
    # half a second later, a quarter turn: x' = -(y + vy / 2), y' = x + vx / 2, and the velocities likewise
    change = torch.tensor([[0.0, -1, 0, -0.5], [1, 0, 0.5, 0], [0, 0, 0, -1], [0, 0, 1, 0]])
    grown = carried.spread[0, 0] - change @ state.spread[0, 0] @ change.T
    eye = torch.eye(2)
    push = grown[2, 2] / 0.5  # a density: what a second adds to the velocity's variance
    assert float(push) > 0.1
    exact = push * torch.cat(
        (torch.cat((0.5**3 / 3 * eye, 0.5**2 / 2 * eye)), torch.cat((0.5**2 / 2 * eye, 0.5 * eye))), 1
    )
    torch.testing.assert_close(grown, exact, atol=1e-4, rtol=0)


def test_anything_keeps_covariances_positive(box_filter: BoxFilter) -> None:
    """Random places, classes and axes of any length, over many frames."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def glimpse() -> tuple[BoxState, Tensor]:
        scores = draw(2, 30, 10).sigmoid()
        place, size = 20.0 * draw(2, 30, 3), draw(2, 30, 3)
        looks = (2.0 * draw(2, 30, 2), 2.0 * draw(2, 30, 2), 5.0 * draw(2, 30, 1))
        return box_filter.begin(place, size, *looks, scores), scores

    state, scores = glimpse()
    for _ in range(40):
        past = later(box_filter, state, scores)
        fresh, now = glimpse()
        found = meet(box_filter, fresh, now, past, scores)
        state = found.state.map(lambda x: x[:, 15:45])
        scores = torch.cat((now, scores), dim=1)[:, 15:45]
        assert all(bool(x.isfinite().all()) for x in (found.box, found.content, *vars(state).values()))
        least = torch.linalg.eigvalsh(state.spread.double()).amin(dim=-1) / state.spread.diagonal(
            dim1=-2, dim2=-1
        ).sum(-1)
        assert float(least.min()) > -1e-5
