"""TfMotion: the pose through intermediate frames, mountings beside it, and clear words when a link lacks."""

from __future__ import annotations

import numpy as np
import pytest

from streampetr_core.ego_motion import EgoMotionError
from streampetr_core.geometry import quaternion_from_yaw, transform
from streampetr_core.tf_motion import TfMotion
from streampetr_core.transform_tree import TransformError

MS = 1_000_000


def at(x: float, yaw: float = 0.0) -> np.ndarray:
    return transform([x, 0, 0], quaternion_from_yaw(yaw))


def test_moving_and_fixed_links_are_composed() -> None:
    motion = TfMotion("map", "base_link")
    motion.add_fixed("map", "earth_map", at(1.0, 0.5))
    for i in range(11):
        motion.add("odom", "base_link", i * 100 * MS, at(i, 0.1 * i))
        motion.add("/earth_map", "odom", i * 100 * MS, at(10.0))
    expected = at(1.0, 0.5) @ at(10.0) @ at(2.5, 0.25)
    np.testing.assert_allclose(motion.at(250 * MS), expected, atol=1e-6)
    assert motion.covers(1000 * MS)
    assert not motion.covers(1001 * MS)


def test_frames_beside_the_chain_are_mountings() -> None:
    motion = TfMotion()
    assert not motion.add("map", "base_link", 0, at(0.0))
    assert motion.add("base_link", "turret", 0, at(2.0))
    motion.add_fixed("turret", "camera", at(1.0))
    np.testing.assert_allclose(motion.mountings.lookup("base_link", "camera"), at(3.0))


def test_a_missing_link_is_named() -> None:
    motion = TfMotion()
    motion.add("odom", "base_link", 0, at(0.0))
    with pytest.raises(TransformError, match="'odom' has no parent"):
        motion.at(0)
    assert not motion.covers(0)


def test_a_link_without_pose_at_the_instant_is_named() -> None:
    motion = TfMotion()
    motion.add("map", "odom", 0, at(0.0))
    motion.add("odom", "base_link", 0, at(0.0))
    motion.add("map", "odom", 0, at(0.0))
    with pytest.raises(EgoMotionError, match="odom -> base_link"):
        motion.at(2000 * MS)


def test_later_poses_are_forgotten_on_request() -> None:
    motion = TfMotion()
    for i in range(11):
        motion.add("map", "base_link", i * 100 * MS, at(i))
    motion.forget_after(500 * MS)
    assert motion.covers(500 * MS)
    assert not motion.covers(600 * MS)


def test_parents_in_a_circle_end() -> None:
    motion = TfMotion()
    motion.add("a", "base_link", 0, at(0.0))
    motion.add("base_link", "a", 0, at(0.0))
    with pytest.raises(TransformError, match="circle"):
        motion.at(0)
