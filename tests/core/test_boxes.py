"""Boxes3D: shapes are checked, rows are picked, transforms agree with rotating the corners."""

import numpy as np
import pytest

from streampetr_core.boxes import BoxError, Boxes3D
from streampetr_core.geometry import apply, inverse, transform


def some_boxes(n: int = 20, seed: int = 3) -> Boxes3D:
    rng = np.random.default_rng(seed)
    return Boxes3D(
        center=rng.normal(size=(n, 3)) * 20,
        size=rng.uniform(0.5, 5, (n, 3)),
        yaw=rng.uniform(-np.pi, np.pi, n),
        velocity=rng.normal(size=(n, 2)),
        label=rng.integers(0, 10, n),
    )


def test_transform_moves_corners_and_velocity_rigidly():
    boxes = some_boxes()
    map_from_ego = transform([100, -50, 2], [np.cos(0.4), 0, 0, np.sin(0.4)])
    moved = boxes.transformed(map_from_ego, "map")
    np.testing.assert_allclose(moved.corners(), apply(map_from_ego, boxes.corners()), atol=1e-9)
    back = moved.transformed(inverse(map_from_ego), "base_link")
    np.testing.assert_allclose(back.center, boxes.center, atol=1e-9)
    np.testing.assert_allclose(back.velocity, boxes.velocity, atol=1e-9)
    assert moved.frame_id == "map"


def test_picking_keeps_every_column_and_the_stamp():
    boxes = some_boxes()
    chosen = boxes[boxes.score > 2]
    assert len(chosen) == 0
    assert chosen.center.shape == (0, 3)
    one = boxes[4]
    assert len(one) == 1
    np.testing.assert_array_equal(one.center[0], boxes.center[4])


def test_first_corner_is_front_left_top():
    box = Boxes3D(np.array([[10.0, 0, 1]]), np.array([[4.0, 2, 1]]), np.array([np.pi / 2]))
    np.testing.assert_allclose(box.corners()[0, 0], [9, 2, 1.5], atol=1e-12)


def test_wrong_shape_names_the_column():
    with pytest.raises(BoxError, match="velocity"):
        Boxes3D(center=np.zeros((2, 3)), size=np.ones((2, 3)), yaw=np.zeros(2), velocity=np.zeros((3, 2)))
