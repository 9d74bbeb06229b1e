"""`streampetr record`: what the nodes publish, as an MCAP bag that is whole or absent."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.subscription import Subscription
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter

from bag_tools import layout
from bag_tools.convert import BAG_VERSION
from bag_tools.messages import typestore
from streampetr.graph import LATCHED_TOPICS, OUTPUT_TOPICS, SAMPLE_TOPIC
from streampetr.processes import stop_on_signals
from streampetr.ros_tools import RosToolError, Session, message_class, qos, ros_session
from streampetr_core.console import atomic_output
from streampetr_core.errors import StreamPETRError

RECORDED_TOPICS: dict[str, str] = OUTPUT_TOPICS | {SAMPLE_TOPIC: "streampetr_msgs/msg/SampleInfo"}
"""What is recorded when nothing is asked for: the outputs, and of a replay which sample each result belongs to."""
FLUSH_SECONDS = 1.0
"""At most so much is lost when the recorder is killed: the rest can be read from the hidden folder."""
DISCOVERY_SECONDS = 0.5
_DRAIN_SECONDS = 1.0
READY_LINE = "recording"
"""Begins the line that is printed when the subscriptions are there."""


class RecordError(StreamPETRError):
    """A recording that cannot be made as asked."""


@dataclass(frozen=True)
class RecordArguments:
    """Write the outputs of the nodes (or any topics) to an MCAP bag, until Ctrl-C.

    The bag appears under its name at the end, whole; until then it grows in a hidden folder beside it.
    """

    out: tyro.conf.Positional[Path]
    """Bag folder to make; must not exist."""
    topics: tuple[str, ...] = ()
    """Topics to record; the outputs of both nodes and /streampetr/sample when empty."""
    duration: float = 0.0
    """Stop after so many seconds; 0 = on Ctrl-C."""
    until_idle: float = 0.0
    """Stop when nothing has come for so many seconds after the first message; 0 = never."""


def run(arguments: RecordArguments) -> int:
    """Record until told to stop; 0, or 1 where nothing came.

    Raises:
        OutputError: when the output exists or cannot be written.
        RecordError: when the disk is full or the recording fails otherwise; what came before is kept beside it.
    """
    with stop_on_signals() as stop, atomic_output(arguments.out) as folder:
        inner = folder / arguments.out.name  # the writer names the storage after its folder
        with ros_session("streampetr_record") as session:
            try:
                folder.mkdir()
                recorder = _Recorder(inner, arguments.topics or tuple(RECORDED_TOPICS), session)
            except OSError as error:
                raise RecordError(f"cannot write {arguments.out}: {error.strerror}") from error
            try:
                recorder.run(stop, arguments.duration, arguments.until_idle)
                recorder.drain()
                recorder.close()
            except OSError as error:
                rest = arguments.out.with_name(f"{arguments.out.name}.incomplete-{os.getpid()}")
                inner.rename(rest)
                raise RecordError(
                    f"cannot write the recording: {error.strerror}; what came before is in {rest}"
                ) from error
        for path in inner.iterdir():
            path.rename(folder / path.name)
        inner.rmdir()
    for topic in recorder.topics:
        print(f"{recorder.counts[topic]:8d}  {topic}")
    for topic, why in recorder.skipped.items():
        print(f"not recorded: {topic}: {why}", file=sys.stderr)
    print(f"record: {sum(recorder.counts.values())} messages in {arguments.out}", flush=True)
    return 0 if recorder.counts else 1


@dataclass(frozen=True)
class _Listening:
    """A subscription and where its messages go; `latched` = it asks for what was published before it."""

    kind: type
    connection: Connection
    subscription: Subscription
    latched: bool


class _Recorder:
    """Subscriptions that hand over serialised bytes, and the writer that takes them."""

    def __init__(self, path: Path, topics: tuple[str, ...], session: Session) -> None:
        self.topics = topics
        self.counts: Counter[str] = Counter()
        self.skipped: dict[str, str] = {}
        self._session = session
        self._writer = Writer(path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._waiting = dict.fromkeys(topics)
        self._listening: dict[str, _Listening] = {}
        self._unmatched: set[str] = set()
        self._latest = time.monotonic()
        self._failure: OSError | None = None
        for topic in topics:
            if topic in RECORDED_TOPICS:
                self._subscribe(topic, RECORDED_TOPICS[topic], reliable=True, latched=topic in LATCHED_TOPICS)

    def run(self, stop: threading.Event, duration: float, until_idle: float) -> None:
        """Take messages until `stop`, for `duration` seconds, or until none came for `until_idle` seconds.

        Raises:
            OSError: when a message cannot be written.
        """
        began = flushed = time.monotonic()
        discovered = 0.0
        print(f"{READY_LINE} {len(self.topics)} topics; Ctrl-C ends it", flush=True)
        while not stop.is_set():
            self._session.spin(0.05)
            now = time.monotonic()
            if self._failure is not None:
                raise self._failure
            if now - discovered > DISCOVERY_SECONDS:
                self._discover()
                discovered = now
            if now - flushed > FLUSH_SECONDS:
                self._flush()
                flushed = now
            if duration and now - began > duration:
                return
            if until_idle and self.counts and now - self._latest > until_idle:
                return

    def drain(self) -> None:
        """Take what has come already; no longer than a second, since more may keep coming.

        Raises:
            OSError: when a message cannot be written.
        """
        deadline = time.monotonic() + _DRAIN_SECONDS
        before = None
        while before != self.counts and time.monotonic() < deadline:
            before = self.counts.copy()
            for _ in self._listening:
                self._session.spin(0.0)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Finish the bag."""
        self._writer.close()

    def _discover(self) -> None:
        """Say which topics have found a publisher; subscribe to those whose type is known only now."""
        node = self._session.node
        for topic, one in list(self._listening.items()):
            if not one.latched and topic not in self._unmatched:
                continue
            offers = [offer.qos_profile.durability for offer in node.get_publishers_info_by_topic(topic)]
            if one.latched and any(durability != DurabilityPolicy.TRANSIENT_LOCAL for durability in offers):
                # a publisher that keeps nothing (another program that plays a bag) meets no subscription that asks
                # for what came before
                node.destroy_subscription(one.subscription)
                self._listen(one.kind, one.connection, reliable=True, latched=False)
                continue
            count = getattr(one.subscription, "get_publisher_count", None)  # Humble has only the graph's view
            if topic in self._unmatched and (count() if count else offers):
                print(f"found {topic}", flush=True)
                self._unmatched.remove(topic)
        if not self._waiting:
            return
        known = dict(self._session.node.get_topic_names_and_types())
        for topic in [topic for topic in self._waiting if topic in known]:
            offers = self._session.node.get_publishers_info_by_topic(topic)
            if not offers:
                continue
            profiles = [offer.qos_profile for offer in offers]
            self._subscribe(
                topic,
                known[topic][0],
                reliable=all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles),
                latched=all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles),
            )

    def _subscribe(self, topic: str, type_name: str, *, reliable: bool, latched: bool) -> None:
        self._waiting.pop(topic, None)
        try:
            kind = message_class(type_name)
        except RosToolError as error:
            self.skipped[topic] = str(error)
            return
        store = typestore()
        if type_name not in store.fielddefs:
            self.skipped[topic] = f"the definition of {type_name} is not known to the bag writer"
            return
        profile = layout.LATCHED_QOS if latched else layout.RELIABLE_QOS if reliable else layout.SENSOR_QOS
        connection = self._writer.add_connection(topic, type_name, typestore=store, offered_qos_profiles=profile)
        self._listen(kind, connection, reliable=reliable, latched=latched)

    def _listen(self, kind: type, connection: Connection, *, reliable: bool, latched: bool) -> None:
        take: Callable[[bytes], None] = partial(self._take, connection.topic, connection)
        subscription = self._session.node.create_subscription(
            kind, connection.topic, take, qos(reliable=reliable, latched=latched, depth=100), raw=True
        )
        self._listening[connection.topic] = _Listening(kind, connection, subscription, latched)
        self._unmatched.add(connection.topic)

    def _take(self, topic: str, connection: Connection, data: bytes) -> None:
        try:
            self._writer.write(connection, time.time_ns(), data)
        except OSError as error:
            self._failure = error
            return
        self.counts[topic] += 1
        self._latest = time.monotonic()

    def _flush(self) -> None:
        """Bring what has come to the disk: the writer itself would wait for a megabyte."""
        storage = self._writer.storage
        if isinstance(storage, McapWriter) and storage.chunk.bio.tell():
            try:
                storage.close_chunk()
                storage.bio.flush()
            except OSError as error:
                self._failure = error
