"""The shipped network says how far off its boxes may be, and is right about it, on a drive it has never seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bag_tools.rendered.drive import RenderedDrive
from streampetr_core.boxes import Boxes3D
from streampetr_core.detector import Detector


def matched(found: Boxes3D, truth: Boxes3D) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of boxes and of the nearest objects of their classes within 2.5 m."""
    off = np.linalg.norm(found.center[:, None, :2] - truth.center[None, :, :2], axis=-1)
    off[found.label[:, None] != truth.label[None]] = np.inf
    nearest = off.argmin(axis=1)
    rows = np.flatnonzero((off.min(axis=1) < 2.5) & (found.score > 0.2))
    return rows, nearest[rows]


@pytest.fixture(scope="module")
def errors() -> dict[str, NDArray[np.float64]]:
    """Of boxes after a few frames: errors of place and velocity, and what the network says of them."""
    drive = RenderedDrive(903, 5.0, (416, 234), device="cpu")
    detector = Detector.from_checkpoint("shipped", device="cpu")
    parts: dict[str, list[NDArray[np.float64]]] = {"place": [], "velocity": [], "places": [], "velocities": []}
    for index in range(len(drive)):
        frame = drive.frame(index)
        found, exact = detector.step(frame), frame.ground_truth
        assert exact is not None
        assert found.position_covariance is not None
        assert found.velocity_covariance is not None
        assert (np.linalg.eigvalsh(found.position_covariance) > 0).all()
        assert (np.linalg.eigvalsh(found.velocity_covariance) > 0).all()
        if index < 3:
            continue
        rows, objects = matched(found, exact)
        parts["place"].append(found.center[rows, :2] - exact.center[objects, :2])
        parts["velocity"].append(found.velocity[rows] - exact.velocity[objects])
        parts["places"].append(found.position_covariance[rows, :2, :2])
        parts["velocities"].append(found.velocity_covariance[rows])
    return {name: np.concatenate(rows) for name, rows in parts.items()}


@pytest.mark.parametrize(("error", "covariance"), [("place", "places"), ("velocity", "velocities")])
def test_errors_are_as_large_as_told(errors: dict[str, NDArray[np.float64]], error: str, covariance: str) -> None:
    off, told = errors[error], errors[covariance]
    assert len(off) > 60
    squares = np.einsum("ni,nij,nj->n", off, np.linalg.inv(told), off)
    assert (squares < 9.2).mean() > 0.93  # 0.99 of a Gaussian
    moved = np.linalg.norm(off, axis=1) > 0.05  # what stands is often told exactly
    assert squares[moved].mean() > 0.5  # 2 of a Gaussian: no surer than that it need be, but not without a limit
    size = np.linalg.norm(off, axis=1)
    order = np.trace(told, axis1=1, axis2=2).argsort()
    sure, unsure = size[order[: len(order) // 3]], size[order[-len(order) // 3 :]]
    assert unsure.mean() > 2 * sure.mean()


def test_depth_is_what_it_is_least_sure_of(errors: dict[str, NDArray[np.float64]]) -> None:
    small, large = np.linalg.eigvalsh(errors["places"]).T
    assert np.median(np.sqrt(large / small)) > 2


def test_networks_without_a_filter_tell_nothing() -> None:
    drive = RenderedDrive(903, 0.5, (416, 234), device="cpu")
    detector = Detector.from_checkpoint("random", device="cpu")
    boxes = detector.step(drive[0])
    assert boxes.position_covariance is None
    assert boxes.velocity_covariance is None
