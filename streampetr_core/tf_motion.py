"""tf without tf2: fixed transforms for the sensors, and the robot's motion composed along moving frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streampetr_core.ego_motion import EgoMotionBuffer
from streampetr_core.errors import StreamPETRError
from streampetr_core.transform_tree import TransformError, TransformTree

MAX_LINKS = 32


class TfMotion:
    """`map_from_base` at any instant from /tf and /tf_static, frames in between too (map -> odom -> base_link).

    Frames that do not lie between map and robot are kept at their latest transform, as sensors' mountings.
    Use: `add` for every transform, then `at`. Not thread safe.

    Args:
        map_frame, base_frame: ends of the chain.
    """

    def __init__(self, map_frame: str = "map", base_frame: str = "base_link") -> None:
        self.map_frame, self.base_frame = map_frame.lstrip("/"), base_frame.lstrip("/")
        self.mountings = TransformTree()
        self._moving: dict[str, tuple[str, EgoMotionBuffer]] = {}  # child -> parent, poses
        self._fixed: dict[str, str] = {}  # child -> parent

    def add(self, parent: str, child: str, stamp_ns: int, parent_from_child: NDArray[np.float64]) -> bool:
        """Take a transform of /tf; True where it belongs to a mounting, which may change a camera's place."""
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if not self._carries_robot(child):
            self.mountings.set(parent, child, parent_from_child)
            return True
        known = self._moving.get(child)
        if known is None or known[0] != parent:
            known = self._moving[child] = (parent, EgoMotionBuffer(f"{parent} -> {child}"))
        known[1].add(stamp_ns, parent_from_child)
        return False

    def add_fixed(self, parent: str, child: str, parent_from_child: NDArray[np.float64]) -> None:
        """Take a transform of /tf_static."""
        self.mountings.set(parent, child, parent_from_child)
        self._fixed[child.lstrip("/")] = parent.lstrip("/")

    def forget_after(self, stamp_ns: int) -> None:
        """Forget later poses: time went back, as the cameras say."""
        for _, buffer in self._moving.values():
            buffer.forget_after(stamp_ns)

    def covers(self, stamp_ns: int) -> bool:
        """Whether nothing that comes later can change `at`."""
        try:
            return all(buffer is None or buffer.covers(stamp_ns) for _, buffer in self._links())
        except TransformError:
            return False

    def at(self, stamp_ns: int) -> NDArray[np.float64]:
        """`map_from_base` (4, 4).

        Raises:
            TransformError: when no chain joins the frames; EgoMotionError: when one of its links has no pose.
        """
        pose = np.eye(4)
        for fixed, buffer in self._links():
            pose = (fixed if buffer is None else buffer.at(stamp_ns)) @ pose
        return pose

    def _carries_robot(self, frame: str) -> bool:
        """Whether `frame` is the robot or one that it moves with the robot in it."""
        current = self.base_frame
        for _ in range(MAX_LINKS):
            if current == frame:
                return True
            if current in self._moving:
                current = self._moving[current][0]
            elif current in self._fixed:
                current = self._fixed[current]
            else:
                return False
        return False

    def _links(self) -> list[tuple[NDArray[np.float64], EgoMotionBuffer | None]]:
        """From robot up to map: a fixed transform, or the poses of a moving one."""
        links: list[tuple[NDArray[np.float64], EgoMotionBuffer | None]] = []
        current = self.base_frame
        while current != self.map_frame and len(links) < MAX_LINKS:
            if current in self._moving:
                parent, buffer = self._moving[current]
                links.append((np.eye(4), buffer))
            elif current in self._fixed:
                parent = self._fixed[current]
                links.append((self.mountings.lookup(parent, current), None))
            else:
                raise TransformError(
                    f"no transform from '{self.base_frame}' to '{self.map_frame}': '{current}' has no parent; "
                    "start the localisation, or name the frames by map_frame and base_frame"
                )
            current = parent
        if current != self.map_frame:
            raise TransformError(f"the parents of '{self.base_frame}' on /tf form a circle")
        return links


class FixedPoses:
    """The poses of the instants that one set needs, taken while they were known.

    Attributes:
        poses: stamp -> map_from_base.
    """

    def __init__(self, motion: TfMotion | EgoMotionBuffer, stamps_ns: list[int]) -> None:
        """Ask `motion` for each stamp; raises what it raises."""
        self.poses = {stamp: motion.at(stamp) for stamp in stamps_ns}

    def at(self, stamp_ns: int) -> NDArray[np.float64]:
        """The pose (4, 4) at one of the stamps."""
        if stamp_ns not in self.poses:
            raise StreamPETRError(f"ego motion at {stamp_ns} ns was not asked for")
        return self.poses[stamp_ns]
