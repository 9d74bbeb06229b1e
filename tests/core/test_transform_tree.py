"""Transforms between any two frames of a tree are products along it; what is not joined is said."""

from __future__ import annotations

import numpy as np
import pytest

from streampetr_core.geometry import inverse, transform
from streampetr_core.transform_tree import TransformError, TransformTree

BASE_FROM_MAST = transform([1.0, 0.2, 1.5], [0.9, 0.1, 0.0, 0.4])
MAST_FROM_CAMERA = transform([0.0, -0.3, 0.1], [0.5, -0.5, 0.5, -0.5])
BASE_FROM_LIDAR = transform([0.0, 0.0, 2.0], [0.7, 0.0, 0.0, -0.7])


@pytest.fixture
def tree() -> TransformTree:
    tree = TransformTree()
    tree.set("/base_link", "mast", BASE_FROM_MAST)
    tree.set("mast", "camera", MAST_FROM_CAMERA)
    tree.set("base_link", "lidar", BASE_FROM_LIDAR)
    return tree


def test_chains_up_down_and_across(tree: TransformTree) -> None:
    base_from_camera = BASE_FROM_MAST @ MAST_FROM_CAMERA
    np.testing.assert_allclose(tree.lookup("base_link", "camera"), base_from_camera, atol=1e-12)
    np.testing.assert_allclose(tree.lookup("camera", "/base_link"), inverse(base_from_camera), atol=1e-12)
    across = inverse(BASE_FROM_LIDAR) @ base_from_camera
    np.testing.assert_allclose(tree.lookup("lidar", "camera"), across, atol=1e-12)
    np.testing.assert_array_equal(tree.lookup("camera", "camera"), np.eye(4))


def test_a_later_transform_replaces_the_earlier(tree: TransformTree) -> None:
    tree.set("base_link", "mast", np.eye(4))
    np.testing.assert_allclose(tree.lookup("base_link", "camera"), MAST_FROM_CAMERA, atol=1e-12)


def test_unknown_frames_are_named(tree: TransformTree) -> None:
    with pytest.raises(TransformError, match=r"'cam_front'.*'base_link'.*base_link, camera, lidar, mast"):
        tree.lookup("base_link", "cam_front")


def test_a_loop_does_not_hang(tree: TransformTree) -> None:
    tree.set("camera", "base_link", np.eye(4))
    with pytest.raises(TransformError):
        tree.lookup("nowhere", "camera")
