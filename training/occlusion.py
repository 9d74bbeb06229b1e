"""Which outlines in an image are wholly covered by nearer ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.boxes_2d import View


def drop_hidden(view: View, size: tuple[int, int]) -> View:
    """The boxes of which some pixel is left when all are painted far to near, in that order.

    As published, pixels that no box covers count for the farthest one: it stays while there are any.
    `size` is height, width of the image.
    """
    if len(view) == 0:
        return view
    view = view[np.argsort(-view.depths, kind="stable")]
    canvas = np.zeros(size, dtype=np.int64)
    edges = np.concatenate([np.ceil(view.boxes[:, :2]), np.floor(view.boxes[:, 2:])], axis=1).astype(np.int64)
    for number, (left, top, right, bottom) in enumerate(edges.tolist()):
        canvas[top:bottom, left:right] = number
    left_over: NDArray[np.int64] = np.bincount(canvas.ravel(), minlength=len(view))
    return view[left_over > 0]
