"""A bag's messages on the wire as they are: raw bytes, the right types, QoS and clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from rclpy.duration import Duration
from rclpy.publisher import Publisher

from bag_tools import layout
from bag_tools.bag_file import RawMessage, Topic
from bag_tools.messages import CAMERA_INFO, TF_MESSAGE
from bag_tools.replay_sets import IMAGE_TYPES
from streampetr.graph import LATCHED_TOPICS
from streampetr.ros_tools import RosToolError, Session, message_class, qos

CLOCK_TOPIC = "/clock"
CLOCK_PERIOD = 0.02
"""Seconds of real time between two /clock messages at least."""
_NEEDED_TYPES = IMAGE_TYPES | {CAMERA_INFO, TF_MESSAGE}
"""What a perception node cannot do without."""


class BagPublishers:
    """One publisher a topic of a bag, and /clock.

    Attributes:
        skipped: topics whose message type is not installed -> why.
        published: how many messages went out.
    """

    def __init__(self, session: Session, topics: Mapping[str, Topic], reliable_images: bool) -> None:
        """Announce all topics; images go out reliably or, as from a camera, best effort."""
        self._session = session
        self._publishers: dict[str, Publisher] = {}
        images: list[str] = []
        needed: list[str] = []
        self.skipped: dict[str, str] = {}
        self.published = 0
        for topic in topics.values():
            if topic.name == CLOCK_TOPIC:
                continue
            is_image = topic.type_name in IMAGE_TYPES
            reliable, depth = reliable_images or not is_image, 10 if is_image else 100
            latched = is_static(topic.name) or topic.name in LATCHED_TOPICS
            profile = qos(reliable=reliable, latched=latched, depth=depth)
            try:
                kind = message_class(topic.type_name)
            except RosToolError as error:
                self.skipped[topic.name] = str(error)
                continue
            self._publishers[topic.name] = session.node.create_publisher(kind, topic.name, profile)
            if is_image:
                images.append(topic.name)
            if topic.type_name in _NEEDED_TYPES and not is_static(topic.name):
                needed.append(topic.name)
        others = [name for name in self._publishers if not is_static(name)]
        self._images, self._needed = images or others, needed or others
        clock_type = message_class("rosgraph_msgs/msg/Clock")
        self._clock_message = clock_type()
        self._clock = session.node.create_publisher(clock_type, CLOCK_TOPIC, qos(reliable=True, depth=10))
        self._clock_at = -1.0

    def publish(self, message: RawMessage) -> None:
        """Send one message; those of skipped topics are passed over."""
        publisher = self._publishers.get(message.topic)
        if publisher is not None:
            publisher.publish(message.data)
            self.published += 1

    def clock(self, stamp_ns: int, force: bool = False) -> None:
        """Say what time it is in the bag; no more often than every 20 ms unless `force`."""
        now = time.monotonic()
        if force or now - self._clock_at >= CLOCK_PERIOD:
            self._clock_message.clock.sec, self._clock_message.clock.nanosec = divmod(stamp_ns, 1_000_000_000)
            self._clock.publish(self._clock_message)
            self._clock_at = now

    def has_listener(self, topic: str) -> bool:
        """Whether somebody listens to a topic of the bag with a QoS that fits."""
        publisher = self._publishers.get(topic)
        return publisher is not None and publisher.get_subscription_count() > 0

    def unheard(self) -> list[str]:
        """Images, calibrations and transforms (or, where none is played, all topics) that nobody listens to."""
        return [name for name in self._needed if not self.has_listener(name)]

    def is_heard(self) -> bool:
        """Whether somebody listens to any of the images (or, where none is played, to anything)."""
        return any(self.has_listener(name) for name in self._images)

    def listeners(self) -> tuple[int, ...]:
        """How many subscriptions each topic has found."""
        return tuple(publisher.get_subscription_count() for publisher in self._publishers.values())

    def undelivered(self, seconds: float, stop: threading.Event) -> list[str]:
        """Wait until reliable subscribers have all that was published; topics that some lack after `seconds`, or
        when `stop` is set. A message that is on its way when its publisher leaves is lost."""
        deadline, missing = time.monotonic() + seconds, list(self._publishers)
        while True:
            missing = [name for name in missing if not self._publishers[name].wait_for_all_acked(Duration())]
            if not missing or stop.is_set() or time.monotonic() > deadline:
                return missing
            stop.wait(0.05)

    def incompatible(self) -> list[str]:
        """Topics that somebody wants with a QoS that ours does not satisfy."""
        return [
            name
            for name, publisher in self._publishers.items()
            if self._session.node.count_subscribers(name) > publisher.get_subscription_count()
        ]


def is_static(topic: str) -> bool:
    """Whether a topic's one message holds for the whole bag (/tf_static), so that it goes out first."""
    return topic == layout.TF_STATIC_TOPIC
