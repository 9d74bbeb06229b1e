"""Where the robot was at any instant of the recent past, between the poses that localisation gave."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import interpolate, inverse
from streampetr_core.stream_clock import MILLISECOND, REWIND_NS

TOLERANCE_NS = 100 * MILLISECOND
"""How far beyond the first and the last pose the motion is trusted to go on as it was."""
MAX_GAP_NS = 3000 * MILLISECOND
"""Poses further apart than this say nothing of what lies between them."""


class EgoMotionError(StreamPETRError):
    """No pose is known for an instant, or a pose is none."""


class EgoMotionBuffer:
    """Poses of the robot in the map by time, interpolated: linear in place, slerp in rotation.

    Poses may come somewhat out of order; one at a stamp that is there already replaces it. One that is far behind
    the newest says that time was turned back: all others are forgotten. At most `size` are kept, the
    oldest going first. Between poses more than `MAX_GAP_NS` apart, and further than `tolerance_ns` outside, `at`
    refuses.

    Not thread safe.

    Args:
        name: what the poses are called in errors ("map -> base_link").
        size: poses kept.
        tolerance_ns: how far `at` goes on beyond the ends, with the velocity found there.
    """

    def __init__(
        self, name: str = "map -> base_link", *, size: int = 4096, tolerance_ns: int = TOLERANCE_NS
    ) -> None:
        self.name, self.size, self.tolerance_ns = name, size, tolerance_ns
        self._stamps: list[int] = []
        self._poses: list[NDArray[np.float64]] = []

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp_ns: int, map_from_ego: ArrayLike) -> None:
        """Keep one pose (4, 4); forget all others where its stamp is more than `REWIND_NS` behind the newest.

        Raises:
            EgoMotionError: when it is not a finite 4x4 transform.
        """
        pose = np.asarray(map_from_ego, dtype=np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise EgoMotionError(f"ego motion {self.name} at {_seconds(stamp_ns)}: not a finite 4x4 transform")
        if self._stamps and stamp_ns < self._stamps[-1] - REWIND_NS:
            self.clear()
        index = bisect_left(self._stamps, stamp_ns)
        if index < len(self._stamps) and self._stamps[index] == stamp_ns:
            self._poses[index] = pose
            return
        self._stamps.insert(index, stamp_ns)
        self._poses.insert(index, pose)
        if len(self._stamps) > self.size:
            del self._stamps[0], self._poses[0]

    def clear(self) -> None:
        """Forget every pose."""
        self._stamps.clear()
        self._poses.clear()

    @property
    def range_ns(self) -> tuple[int, int] | None:
        """First and last stamp; None without poses."""
        return (self._stamps[0], self._stamps[-1]) if self._stamps else None

    def forget_after(self, stamp_ns: int) -> None:
        """Forget the poses later than an instant: time went back, as somebody else noticed first."""
        index = bisect_right(self._stamps, stamp_ns)
        del self._stamps[index:], self._poses[index:]

    def covers(self, stamp_ns: int) -> bool:
        """Whether poses on both sides, or right at the instant, are there: nothing later can change `at`."""
        return bool(self._stamps) and self._stamps[0] <= stamp_ns <= self._stamps[-1]

    def at(self, stamp_ns: int) -> NDArray[np.float64]:
        """`map_from_ego` (4, 4) at an instant; exactly the pose given, where there is one of that stamp.

        Raises:
            EgoMotionError: where no pose is near enough; the message says what is known.
        """
        if not self._stamps:
            raise EgoMotionError(f"ego motion {self.name}: no pose has come yet; wanted {_seconds(stamp_ns)}")
        index = bisect_right(self._stamps, stamp_ns)
        if index and self._stamps[index - 1] == stamp_ns:
            return self._poses[index - 1].copy()
        if index in (0, len(self._stamps)):
            return self._beyond(stamp_ns, index)
        before, after = self._stamps[index - 1], self._stamps[index]
        if after - before > MAX_GAP_NS:
            raise EgoMotionError(
                f"ego motion {self.name}: {_seconds(stamp_ns)} lies in a gap "
                f"from {_seconds(before)} to {_seconds(after)}"
            )
        return interpolate(self._poses[index - 1], self._poses[index], (stamp_ns - before) / (after - before))

    def _beyond(self, stamp_ns: int, index: int) -> NDArray[np.float64]:
        """The pose shortly before the first or after the last, moving on at the speed of the nearest interval."""
        first, last = self._stamps[0], self._stamps[-1]
        distance = first - stamp_ns if index == 0 else stamp_ns - last
        if distance > self.tolerance_ns:
            side = "before the first" if index == 0 else "after the last"
            raise EgoMotionError(
                f"ego motion {self.name}: {_seconds(stamp_ns)} is {distance / 1e9:.3f} s {side} pose; "
                f"known from {_seconds(first)} to {_seconds(last)}"
            )
        if len(self._stamps) == 1:
            return self._poses[0].copy()
        # The neighbour at least as far away as the step to be made, so that noise is not enlarged.
        if index == 0:
            near = 0
            far = min(bisect_left(self._stamps, first + distance), len(self._stamps) - 1)
        else:
            near = len(self._stamps) - 1
            far = max(bisect_right(self._stamps, last - distance) - 1, 0)
        span = abs(self._stamps[far] - self._stamps[near])
        if span > MAX_GAP_NS:
            return self._poses[near].copy()
        step = interpolate(np.eye(4), inverse(self._poses[far]) @ self._poses[near], min(distance / span, 1.0))
        return self._poses[near] @ step


def _seconds(stamp_ns: int) -> str:
    return f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d} s"
