"""Outlines that nearer ones cover."""

from __future__ import annotations

import numpy as np

from training.boxes_2d import View
from training.occlusion import drop_hidden


def view(*boxes: tuple[float, float, float, float, float]) -> View:
    values = np.array(boxes, dtype=np.float32).reshape(-1, 5)
    rows = np.arange(len(values))
    return View(rows, values[:, :4], values[:, :2], values[:, 4])


def test_the_covered_goes_and_the_rest_comes_far_to_near() -> None:
    near, far, covered = (10, 10, 60, 60, 5.0), (0, 0, 90, 90, 40.0), (20, 20, 50, 50, 20.0)
    kept = drop_hidden(view(near, far, covered), (100, 100))
    assert kept.rows.tolist() == [1, 0]
    assert kept.depths.tolist() == [40.0, 5.0]


def test_the_farthest_stays_while_there_is_background() -> None:
    """As published: the map begins with the number of the farthest."""
    hidden, near = (20, 20, 50, 50, 30.0), (10, 10, 60, 60, 5.0)
    assert drop_hidden(view(hidden, near), (100, 100)).rows.tolist() == [0, 1]
    everything = (0, 0, 100, 100, 5.0)
    assert drop_hidden(view(hidden, everything), (100, 100)).rows.tolist() == [1]


def test_equal_depths_keep_their_order_and_slivers_paint_nothing() -> None:
    a, b, sliver = (0, 0, 50, 50, 9.0), (50, 50, 100, 100, 9.0), (60.2, 10, 60.8, 40, 3.0)
    assert drop_hidden(view(a, b, sliver), (100, 100)).rows.tolist() == [0, 1]
    assert len(drop_hidden(view(), (100, 100))) == 0
