"""EgoMotionBuffer: exact at given poses, right between them, honest beyond them."""

from __future__ import annotations

import numpy as np
import pytest

from streampetr_core.ego_motion import EgoMotionBuffer, EgoMotionError
from streampetr_core.geometry import quaternion_from_yaw, transform

S = 1_000_000_000
T0 = 1_532_402_927 * S


def pose(seconds: float, speed: float = 10.0, yaw_rate: float = 0.3) -> np.ndarray:
    return transform([speed * seconds, 5.0, 0.1], quaternion_from_yaw(yaw_rate * seconds))


def filled(seconds: np.ndarray, size: int = 4096) -> EgoMotionBuffer:
    buffer = EgoMotionBuffer(size=size)
    for value in seconds:
        buffer.add(T0 + round(value * S), pose(value))
    return buffer


def test_given_poses_come_back_bit_for_bit():
    seconds = np.linspace(0, 2, 21)
    buffer = filled(seconds)
    for value in seconds:
        np.testing.assert_array_equal(buffer.at(T0 + round(value * S)), pose(value))


def test_interpolation_in_any_order_of_arrival():
    rng = np.random.default_rng(5)
    buffer = filled(rng.permutation(np.linspace(0, 0.5, 21)))
    for value in rng.uniform(0, 0.5, 50):
        np.testing.assert_allclose(buffer.at(T0 + round(value * S)), pose(value), atol=1e-6)


def test_a_short_way_beyond_the_ends_the_motion_goes_on():
    buffer = filled(np.linspace(0, 2, 101))
    for value in (-0.05, 2.05):
        np.testing.assert_allclose(buffer.at(T0 + round(value * S))[:2, 3], pose(value)[:2, 3], atol=0.02)
    assert buffer.covers(T0 + 2 * S)
    assert not buffer.covers(T0 + 2 * S + 1)


@pytest.mark.parametrize(("seconds", "says"), [(2.2, "after the last"), (-0.2, "before the first")])
def test_further_out_it_refuses_and_says_what_is_known(seconds: float, says: str):
    buffer = filled(np.linspace(0, 2, 21))
    with pytest.raises(EgoMotionError, match=says) as caught:
        buffer.at(T0 + round(seconds * S))
    assert "1532402927.000000000 s to 1532402929.000000000 s" in str(caught.value)


def test_a_gap_is_not_bridged():
    buffer = filled(np.array([0.0, 10.0]))
    with pytest.raises(EgoMotionError, match="gap"):
        buffer.at(T0 + 5 * S)


def test_empty_and_cleared_buffers_say_so():
    buffer = filled(np.linspace(0, 1, 5))
    buffer.clear()
    assert buffer.range_ns is None
    with pytest.raises(EgoMotionError, match="no pose has come"):
        buffer.at(T0)


def test_bounded_and_replaced():
    buffer = filled(np.arange(100) * 0.1, size=10)
    assert len(buffer) == 10
    assert buffer.range_ns == (T0 + 9 * S, T0 + round(9.9 * S))
    buffer.add(T0 + round(9.5 * S), pose(50.0))
    assert len(buffer) == 10
    np.testing.assert_array_equal(buffer.at(T0 + round(9.5 * S)), pose(50.0))


def test_time_that_goes_back_begins_anew():
    buffer = filled(np.append(np.linspace(0, 10, 101), 3.0))
    assert buffer.range_ns == (T0 + 3 * S, T0 + 3 * S)
    buffer = filled(np.linspace(0, 10, 101))
    buffer.forget_after(T0 + 4 * S)
    assert buffer.range_ns == (T0, T0 + 4 * S)


def test_a_single_pose_stands_still_and_nan_is_refused():
    buffer = filled(np.array([1.0]))
    np.testing.assert_array_equal(buffer.at(T0 + S + S // 20), pose(1.0))
    with pytest.raises(EgoMotionError, match="finite"):
        buffer.add(T0, np.full((4, 4), np.nan))
