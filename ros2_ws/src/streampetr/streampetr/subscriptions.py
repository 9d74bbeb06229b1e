"""Subscriptions that say when nothing comes and why: no publisher, one with another QoS, or silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from message_filters import Subscriber
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks  # pyright: ignore[reportMissingImports]

SILENT_SECONDS = 3.0
LATCHED = ("/tf_static",)
"""Topics that are silent once they have spoken."""


class Subscriptions:
    """Makes a node's subscriptions, QoS overridable by parameters, and watches over them.

    Attributes:
        mismatched: topic -> sentence, of publishers whose QoS does not satisfy ours.
    """

    def __init__(self, node: Node) -> None:
        self.mismatched: dict[str, str] = {}
        self._node = node
        self._began = time.monotonic_ns()
        self._latest: dict[str, int | None] = {}

    def add(
        self, kind: type, topic: str, profile: QoSProfile, callback: Callable[[Any], None] | None = None
    ) -> Subscriber:
        """Subscribe to `topic`; sentences call it by its resolved name. Filters may be fed by what is returned."""
        topic = self._node.resolve_topic_name(topic)

        def note(message: Any) -> None:
            self._latest[topic] = time.monotonic_ns()

        def incompatible(event: Any) -> None:
            policy = QoSPolicyKind(event.last_policy_kind).name.lower()
            self.mismatched[topic] = (
                f"{topic}: a publisher offers another {policy} than asked for, so nothing comes from it; "
                f"change it there, or here by the parameter qos_overrides.{topic}.subscription.{policy}"
            )
            self._node.get_logger().warning(self.mismatched[topic])

        self._latest[topic] = None
        subscriber = Subscriber(
            self._node,
            kind,
            topic,
            qos_profile=profile,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        subscriber.registerCallback(note)
        if callback is not None:
            subscriber.registerCallback(callback)
        return subscriber

    def silent(self, now_ns: int) -> dict[str, str]:
        """topic -> sentence, of those on which nothing has come for a while."""
        found = {}
        for topic, latest in self._latest.items():
            seconds = (now_ns - (self._began if latest is None else latest)) / 1e9
            if seconds < SILENT_SECONDS or (topic in LATCHED and latest is not None):
                continue
            publishers = self._node.count_publishers(topic)
            reason = f"publishers: {publishers}" if publishers else "nobody publishes it"
            ever = "has come yet" if latest is None else f"for {seconds:.0f} s"
            found[topic] = f"nothing {ever} on {topic} ({reason})"
        return found
