"""Lock-step replay: the next camera set goes out only after the result of the last, so that nothing is skipped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bag_tools.bag_file import RawMessage
from bag_tools.replay_sets import EGO_MOTION_TYPES, ReplaySet
from streampetr.graph import LATCHED_TOPICS
from streampetr.publishing import BagPublishers
from streampetr.ros_tools import Session, message_class, qos
from streampetr_core.errors import StreamPETRError

REPEAT_AFTER = 2.0
"""Seconds without a result after which a set is published again, or three times the slowest result if longer."""
GIVE_UP_AFTER = 3
"""So many sets without a result, one after the other, end the replay."""
SETTLE_SECONDS = 0.3
"""Between a subscriber's appearance and the repetition for it: all of its subscriptions are matched by then."""


class LockstepError(StreamPETRError):
    """Nothing comes back."""


@dataclass
class LockstepReport:
    """What became of the sets.

    Attributes:
        results: sets whose result came.
        without_images: sets passed over because no camera has an image in them.
        without_result: reference stamps of the sets whose result did not come in time.
        incomplete: results that say that cameras were missing which the bag has.
        repeated: how often a set was published again.
        seconds: from publishing a set to its result, one a result.
    """

    results: int = 0
    without_images: int = 0
    without_result: list[int] = field(default_factory=list)
    incomplete: int = 0
    repeated: int = 0
    seconds: list[float] = field(default_factory=list)

    def summary(self) -> str:
        """One line for the screen."""
        parts = [f"{self.results} sets with result"]
        if self.seconds:
            parts.append(f"{1e3 * sorted(self.seconds)[len(self.seconds) // 2]:.0f} ms each (median)")
        if self.without_images:
            parts.append(f"{self.without_images} without images passed over")
        if self.repeated:
            parts.append(f"{self.repeated} published again")
        if self.incomplete:
            parts.append(f"{self.incomplete} results lack cameras that the bag has")
        if self.without_result:
            parts.append(f"{len(self.without_result)} WITHOUT RESULT, the first at {self.without_result[0]} ns")
        return ", ".join(parts)


class ResultListener:
    """Remembers the stamps of the Box3DArrays that come on a topic and the cameras that each lacked."""

    def __init__(self, session: Session, topic: str) -> None:
        self.topic = topic
        self.missing_cameras: dict[int, frozenset[str]] = {}
        self._session = session
        kind = message_class("streampetr_msgs/msg/Box3DArray")
        profile = qos(reliable=True, latched=topic in LATCHED_TOPICS, depth=100)
        session.node.create_subscription(kind, topic, self._take, profile)

    def has_publisher(self) -> bool:
        """Whether somebody announces results."""
        return self._session.node.count_publishers(self.topic) > 0

    def _take(self, message: Any) -> None:
        stamp = message.header.stamp
        self.missing_cameras[stamp.sec * 1_000_000_000 + stamp.nanosec] = frozenset(message.missing_cameras)


class Lockstep:
    """Plays sets one by one and waits for each result."""

    def __init__(
        self,
        session: Session,
        publishers: BagPublishers,
        listener: ResultListener,
        timeout: float,
        stop: threading.Event,
    ) -> None:
        """Wait up to `timeout` seconds for a result, no longer than until `stop` is set."""
        self.report = LockstepReport()
        self._session, self._publishers, self._listener = session, publishers, listener
        self._timeout, self._stop = timeout, stop
        self._last_motion: tuple[RawMessage, ...] = ()

    def play(self, sets: Iterable[ReplaySet]) -> LockstepReport:
        """Publish set after set.

        A set is published again when nothing came for a while (a best-effort subscriber may have lost an image)
        and when a subscriber of the images comes back (a node that was started again).

        Raises:
            LockstepError: when three sets in a row had no result.
        """
        report, in_a_row = self.report, 0
        for item in sets:
            if self._stop.is_set():
                break
            began = time.monotonic()
            for message in item.leading:
                self._publishers.publish(message)
            self._publishers.clock(item.description.horizon_ns, force=True)
            if not item.cameras:
                report.without_images += 1
            elif self._until_result(item):
                report.results += 1
                report.seconds.append(time.monotonic() - began)
                missing = self._listener.missing_cameras[item.reference_ns]
                report.incomplete += bool(missing & item.description.image_stamps_ns.keys())
                in_a_row = 0
            elif not self._stop.is_set():
                report.without_result.append(item.reference_ns)
                in_a_row += 1
                if in_a_row == GIVE_UP_AFTER:
                    raise LockstepError(
                        f"{in_a_row} sets in a row without a result on {self._listener.topic} within "
                        f"{self._timeout:g} s each; {self._reason()} ({report.summary()})"
                    )
            self._remember_motion(item)
        return report

    def _until_result(self, item: ReplaySet) -> bool:
        """Publish the images of a set, as often as necessary; whether its result came."""
        patience = max(REPEAT_AFTER, 3 * max(self.report.seconds, default=0.0))
        deadline = time.monotonic() + self._timeout
        for message in item.images:
            self._publishers.publish(message)
        repeat_at = time.monotonic() + patience
        listened = self._publishers.is_heard()
        while not self._stop.is_set():
            self._session.spin(0.02)
            if item.reference_ns in self._listener.missing_cameras:
                return True
            now = time.monotonic()
            if now >= deadline:
                return False
            listens = self._publishers.is_heard()
            if listens and not listened:
                repeat_at = now + SETTLE_SECONDS
            listened = listens
            if now >= repeat_at:
                self._repeat(item)
                repeat_at = now + patience
        return False

    def _repeat(self, item: ReplaySet) -> None:
        """Publish a set again with the calibration and motion that a node which has just started needs for it."""
        self.report.repeated += 1
        self._publishers.clock(item.description.horizon_ns, force=True)
        for message in (*self._last_motion, *_around_images(item), *item.images):
            self._publishers.publish(message)

    def _remember_motion(self, item: ReplaySet) -> None:
        """Keep the last message of each topic with ego motion, in case the next set's begins between two poses."""
        newest = {m.topic: m for m in (*self._last_motion, *item.leading) if m.type_name in EGO_MOTION_TYPES}
        self._last_motion = tuple(newest.values())

    def _reason(self) -> str:
        if not self._listener.has_publisher():
            return "nobody publishes on that topic: is the node running (and in the same ROS_DOMAIN_ID)?"
        if not self._publishers.is_heard():
            return "nobody subscribes to the images: see which topics the node was told to use"
        unheard = self._publishers.unheard()
        if unheard:
            return f"nobody subscribes to {', '.join(unheard)}"
        return "the node's log and /diagnostics say what it is waiting for"


def _around_images(item: ReplaySet) -> list[RawMessage]:
    """What a set alone needs of its leading messages: not the motion of a long way before it, which would look as
    if time had gone back."""
    stamps = item.description.image_stamps_ns.values()
    begin = min((item.reference_ns, *stamps))
    return [m for m in item.leading if m.log_ns >= begin or m.type_name not in EGO_MOTION_TYPES]
