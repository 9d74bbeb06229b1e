"""Filters of message streams, with the names and the behaviour of the message_filters of the distributions.

Only what a Python node needs: Subscriber, Cache, and the two synchronisers. Times are rclpy.time.Time; inside,
stamps are integer nanoseconds.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.clock import ROSClock
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.time import Time

__all__ = ["ApproximateTimeSynchronizer", "Cache", "SimpleFilter", "Subscriber", "TimeSynchronizer"]


def _stamp(message: Any, allow_headerless: bool, logger: str) -> Time | None:
    """Stamp of the message's header; without a header the time of arrival, or None where that is not allowed."""
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    if stamp is not None:
        return stamp if isinstance(stamp, Time) else Time.from_msg(stamp)
    if allow_headerless:
        return ROSClock().now()
    get_logger(logger).warning(
        f"{type(message).__name__} has no header with a stamp and is ignored; "
        "allow_headerless=True takes its time of arrival instead"
    )
    return None


class SimpleFilter:
    """Callbacks, called in the order of their registration with what the filter puts out."""

    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

    def registerCallback(self, cb: Callable[..., Any], *args: Any) -> int:
        """Call `cb(*messages, *args)` on every output; returns the number of the connection."""
        connection = len(self.callbacks)
        self.callbacks[connection] = (cb, args)
        return connection

    def signalMessage(self, *msg: Any) -> None:
        """Put out one message, or one set of messages."""
        for callback, arguments in list(self.callbacks.values()):
            callback(*msg, *arguments)


class Subscriber(SimpleFilter):
    """A subscription as the source of filters. Takes what Node.create_subscription takes, but no callback."""

    def __init__(self, node: Any, msg_type: Any, topic: str, qos_profile: Any = 10, **kwargs: Any) -> None:
        super().__init__()
        self.node = node
        self.topic = topic
        self.sub = node.create_subscription(msg_type, topic, self.callback, qos_profile=qos_profile, **kwargs)

    def callback(self, msg: Any) -> None:
        """Pass a received message on."""
        self.signalMessage(msg)

    def getTopic(self) -> str:
        """The topic as it was asked for."""
        return self.topic

    def __getattr__(self, key: str) -> Any:
        """Everything else is the subscription's."""
        if key == "sub":  # not subscribed (yet): no endless search
            raise AttributeError(key)
        return getattr(self.sub, key)


class Cache(SimpleFilter):
    """The last `cache_size` messages of a filter in the order of arrival, passed on unchanged."""

    def __init__(self, f: SimpleFilter, cache_size: int = 1, allow_headerless: bool = False) -> None:
        super().__init__()
        self.cache_size = cache_size
        self.allow_headerless = allow_headerless
        self.cache_msgs: list[Any] = []
        self.cache_times: list[Time] = []
        self.connectInput(f)

    def connectInput(self, f: SimpleFilter) -> None:
        """Take messages from `f`."""
        self.incoming_connection = f.registerCallback(self.add)

    def add(self, msg: Any) -> None:
        """Keep a message, forget the oldest one when there are too many, and pass it on."""
        stamp = _stamp(msg, self.allow_headerless, "message_filters_cache")
        if stamp is None:
            return
        self.cache_msgs.append(msg)
        self.cache_times.append(stamp)
        del self.cache_msgs[: -self.cache_size], self.cache_times[: -self.cache_size]
        self.signalMessage(msg)

    def getInterval(self, from_stamp: Time, to_stamp: Time) -> list[Any]:
        """Messages from `from_stamp` to `to_stamp`, both included."""
        assert from_stamp <= to_stamp
        return [message for message, time in self._entries() if from_stamp <= time <= to_stamp]

    def getElemAfterTime(self, stamp: Time) -> Any:
        """First kept message at or after `stamp`; None when there is none."""
        return next((message for message, time in self._entries() if time >= stamp), None)

    def getElemBeforeTime(self, stamp: Time) -> Any:
        """Last kept message at or before `stamp`; None when there is none."""
        return next((message for message, time in reversed(self._entries()) if time <= stamp), None)

    def getLastestTime(self) -> Time | None:
        """Stamp of the message that came last (spelt as everywhere); None when empty."""
        return self.cache_times[-1] if self.cache_times else None

    def getOldestTime(self) -> Time | None:
        """Stamp of the message that came first of those kept; None when empty."""
        return self.cache_times[0] if self.cache_times else None

    def getLast(self) -> Any:
        """First kept message at or after the latest stamp; None when empty."""
        latest = self.getLastestTime()
        return None if latest is None else self.getElemAfterTime(latest)

    def _entries(self) -> list[tuple[Any, Time]]:
        return list(zip(self.cache_msgs, self.cache_times, strict=True))


class TimeSynchronizer(SimpleFilter):
    """Sets of messages, one of each filter, whose stamps are equal; each filter has a queue of `queue_size`."""

    def __init__(self, fs: Sequence[SimpleFilter], queue_size: int) -> None:
        super().__init__()
        self.queue_size = queue_size
        self.lock = threading.RLock()
        self.connectInput(fs)

    def connectInput(self, fs: Sequence[SimpleFilter]) -> None:
        """Take messages from every filter of `fs`; the queues begin empty."""
        self.queues: list[dict[int, Any]] = [{} for _ in fs]
        self.input_connections = [
            source.registerCallback(self.add, queue, index)
            for index, (source, queue) in enumerate(zip(fs, self.queues, strict=True))
        ]

    def add(self, msg: Any, my_queue: dict[int, Any], my_queue_index: int | None = None) -> None:
        """Take a message of one filter and put out every set that is complete now, oldest first."""
        with self.lock:
            self._enqueue(msg, Time.from_msg(msg.header.stamp).nanoseconds, my_queue)
            for stamp in sorted(set.intersection(*map(set, self.queues))):
                self._put_out([stamp] * len(self.queues))

    def _enqueue(self, message: Any, stamp: int, queue: dict[int, Any]) -> None:
        queue[stamp] = message
        while len(queue) > self.queue_size:
            del queue[min(queue)]

    def _put_out(self, stamps: Sequence[int]) -> None:
        """Signal the messages with these stamps, one of each queue, and take them out."""
        messages = [queue[stamp] for queue, stamp in zip(self.queues, stamps, strict=True)]
        try:
            self.signalMessage(*messages)
        finally:
            for queue, stamp in zip(self.queues, stamps, strict=True):
                queue.pop(stamp, None)


class ApproximateTimeSynchronizer(TimeSynchronizer):
    """Sets of messages, one of each filter, whose stamps span less than `slop` seconds.

    A set is looked for when a message arrives, around that message: the nearest message of every other queue
    first, the combinations after that in turn; the first one that spans less than `slop` is put out.
    """

    def __init__(
        self, fs: Sequence[SimpleFilter], queue_size: int, slop: float, allow_headerless: bool = False
    ) -> None:
        super().__init__(fs, queue_size)
        self.slop = Duration(seconds=slop)
        self.allow_headerless = allow_headerless

    def add(self, msg: Any, my_queue: dict[int, Any], my_queue_index: int | None = None) -> None:
        """Take a message of one filter and put out the set around it, if there is one."""
        time = _stamp(msg, self.allow_headerless, "message_filters_approx")
        if time is None:
            return
        stamp, slop = time.nanoseconds, self.slop.nanoseconds
        with self.lock:
            self._enqueue(msg, stamp, my_queue)
            if my_queue_index is not None and stamp not in my_queue:
                return  # older than a full queue: already dropped
            near = [
                [stamp]
                if index == my_queue_index
                else sorted((s for s in queue if abs(s - stamp) <= slop), key=lambda s: abs(s - stamp))
                for index, queue in enumerate(self.queues)
            ]
            for stamps in itertools.product(*near):
                if max(stamps) - min(stamps) < slop:
                    self._put_out(stamps)
                    return
