"""Fixed transforms between named frames, found along the tree that tf describes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import inverse


class TransformError(StreamPETRError):
    """Two frames that no chain of transforms joins."""


class TransformTree:
    """Frames, each with one parent, as /tf_static gives them; a later transform replaces an earlier."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, NDArray[np.float64]]] = {}

    def set(self, parent: str, child: str, parent_from_child: ArrayLike) -> None:
        """Say where `child` is in `parent`: a rigid (4, 4) transform."""
        self._parents[_plain(child)] = (_plain(parent), np.asarray(parent_from_child, dtype=np.float64))

    def lookup(self, target: str, source: str) -> NDArray[np.float64]:
        """`target_from_source` (4, 4).

        Raises:
            TransformError: when the frames are not joined; the message lists what is known.
        """
        upward = self._chain(_plain(source))
        downward = self._chain(_plain(target))
        common = next((frame for frame in upward if frame in downward), None)
        if common is None:
            known = ", ".join(sorted(self._parents.keys() | {parent for parent, _ in self._parents.values()}))
            raise TransformError(f"no transform from '{source}' to '{target}'; known frames: {known or 'none'}")
        return inverse(downward[common]) @ upward[common]

    def _chain(self, frame: str) -> dict[str, NDArray[np.float64]]:
        """ancestor -> ancestor_from_frame, from the frame itself upward."""
        chain = {frame: np.eye(4)}
        current = frame
        while current in self._parents:
            parent, parent_from_current = self._parents[current]
            if parent in chain:  # a loop: broken tf must not hang us
                break
            chain[parent] = parent_from_current @ chain[current]
            current = parent
        return chain


def _plain(frame: str) -> str:
    """ROS 1 wrote frames with a leading slash."""
    return frame.lstrip("/")
