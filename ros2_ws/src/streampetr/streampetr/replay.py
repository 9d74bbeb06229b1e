"""`streampetr replay`: a bag's messages back on the wire in real time, faster, or in lock-step with results."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

from bag_tools import layout
from bag_tools.bag_file import BagFile, RawMessage
from bag_tools.replay_sets import SetDescription, replay_sets, set_descriptions
from streampetr.graph import BOXES_TOPIC, TRACKS_TOPIC
from streampetr.lockstep import Lockstep, ResultListener
from streampetr.processes import stop_on_signals
from streampetr.publishing import BagPublishers, is_static
from streampetr.ros_tools import Session, ros_session
from streampetr_core.console import progress
from streampetr_core.errors import StreamPETRError

_WAIT, _LOCKSTEP_WAIT = 5.0, 60.0
_MATCHED_SECONDS, _SETTLED_SECONDS, _SILENT_SECONDS = 1.0, 2.0, 3.0
_FLIGHT_SECONDS, _DELIVERY_SECONDS = 0.2, 7.0  # Fast DDS may ask what has come only every 3 s


class ReplayError(StreamPETRError):
    """A bag that cannot be played as asked."""


@dataclass(frozen=True)
class ReplayArguments:
    """Publish a bag to the nodes, with /clock. Messages go out as the bytes that the bag holds.

    Exit status: 0 well, 1 sets without a result (lock-step), 2 wrong input, 130 interrupted.
    """

    bag: tyro.conf.Positional[Path]
    """Bag folder or MCAP file."""
    rate: float = 1.0
    """Speed; 2 = twice as fast, 0 = as fast as possible. Lock-step goes at the speed of the results."""
    lockstep: bool = False
    """Publish the next camera set only after the result of the last; needs /streampetr/sample in the bag."""
    wait_for: str = TRACKS_TOPIC
    """Lock-step: topic of the results to wait for; "boxes" and "tracks" stand for the nodes' own."""
    timeout: float = 60.0
    """Lock-step: seconds to wait for the result of one set."""
    loop: bool = False
    """Begin again at the end, until interrupted."""
    start: float = 0.0
    """Begin so many seconds into the bag."""
    duration: float = 0.0
    """Play so many seconds of the bag; 0 = to the end."""
    topics: tuple[str, ...] = ()
    """Only these topics (and /tf_static); all of them when empty."""
    wait: float | None = None
    """Seconds to wait for subscribers of the images (of all topics, where no images are played) before it begins;
    by default 5, in lock-step 60."""
    best_effort: bool = False
    """Publish images best effort, as a camera driver does; otherwise reliable, which suits every subscriber."""


def run(arguments: ReplayArguments) -> int:
    """Play the bag; the exit status.

    Raises:
        BagError: when the bag cannot be read.
        ReplayError: when it has nothing to play, or lock-step finds nobody to play to.
    """
    if arguments.rate < 0 or arguments.start < 0 or arguments.duration < 0:
        raise ReplayError("--rate, --start and --duration must not be negative")
    with (
        BagFile(arguments.bag) as bag,
        stop_on_signals() as stop,
        ros_session("streampetr_replay") as session,
    ):
        player = _Player(arguments, bag, session, stop)
        while True:
            status = player.play()
            if not arguments.loop or stop.is_set() or status:
                break
        if not stop.is_set():
            player.deliver()
    if stop.is_set():
        print("interrupted", file=sys.stderr)
        return 130
    return status


class _Player:
    def __init__(self, arguments: ReplayArguments, bag: BagFile, session: Session, stop: threading.Event) -> None:
        self.arguments, self.bag, self.session, self.stop = arguments, bag, session, stop
        if bag.lost_bytes:
            print(
                f"{bag.path}: cut off, the last {bag.lost_bytes} bytes are lost; playing the rest", file=sys.stderr
            )
        everything = bag.topics
        self.topics = {
            name: topic
            for name, topic in everything.items()
            if not arguments.topics or name in (*arguments.topics, layout.TF_STATIC_TOPIC)
        }
        unknown = sorted(set(arguments.topics) - everything.keys())
        if unknown or not any(topic.count for topic in self.topics.values()):
            wanted = f"no topic {', '.join(unknown)}" if unknown else "no messages"
            raise ReplayError(f"{bag.path}: {wanted}; the bag has {', '.join(sorted(everything)) or 'nothing'}")
        self.descriptions = self._descriptions() if arguments.lockstep else []
        self.publishers = BagPublishers(session, self.topics, not arguments.best_effort)
        for name, why in self.publishers.skipped.items():
            print(f"topic {name} is not played: {why}", file=sys.stderr)
        self.listener: ResultListener | None = None
        if arguments.lockstep:
            short = {"boxes": BOXES_TOPIC, "tracks": TRACKS_TOPIC}
            self.listener = ResultListener(session, short.get(arguments.wait_for, arguments.wait_for))
        self._static = [name for name in self.topics if is_static(name)]
        for message in bag.messages(self._static):
            self.publishers.publish(message)
        self._wait_for_others()

    @property
    def _window(self) -> tuple[int, int | None]:
        """Log times of the first message to play and the first not to play any more."""
        first, _ = self.bag.span_ns
        begin = first + round(self.arguments.start * 1e9)
        return begin, begin + round(self.arguments.duration * 1e9) if self.arguments.duration else None

    def _descriptions(self) -> list[SetDescription]:
        begin, end = self._window
        found = [
            item
            for item in set_descriptions(self.bag)
            if item.reference_ns >= begin and (end is None or item.horizon_ns < end)
        ]
        if not found:
            what = "in the chosen part" if self.arguments.start or self.arguments.duration else "in it"
            raise ReplayError(
                f"{self.bag.path}: lock-step needs {layout.SAMPLE_TOPIC}, which has no message {what}; make the "
                "bag with 'streampetr convert', or replay without --lockstep"
            )
        return found

    def _messages(self) -> Iterator[RawMessage]:
        begin, end = self._window
        names = [name for name in self.topics if name not in self._static]
        return self.bag.messages(names, begin, end)

    def play(self) -> int:
        """The bag once; 1 where lock-step misses results."""
        began = time.monotonic()
        if self.listener is not None:
            lockstep = Lockstep(self.session, self.publishers, self.listener, self.arguments.timeout, self.stop)
            self.listener.missing_cameras.clear()
            sets = replay_sets(self._messages(), self.descriptions)
            report = lockstep.play(progress(sets, "replay", len(self.descriptions)))
            print(f"replay: {report.summary()}; {time.monotonic() - began:.1f} s", flush=True)
            return 1 if report.without_result else 0
        self._in_time()
        print(f"replay: {self.publishers.published} messages in {time.monotonic() - began:.1f} s", flush=True)
        return 0

    def deliver(self) -> None:
        """Let the last messages arrive while the publishers still exist; name the topics of those that do not."""
        time.sleep(_FLIGHT_SECONDS)  # best-effort subscribers acknowledge nothing
        late = self.publishers.undelivered(_DELIVERY_SECONDS, self.stop)
        if late:
            print(f"subscribers of {', '.join(late)} have not taken everything", file=sys.stderr)

    def _in_time(self) -> None:
        """Messages at their log times, `rate` times as fast."""
        total = sum(topic.count for topic in self.topics.values() if topic.name not in self._static)
        rate, first, began = self.arguments.rate, None, time.monotonic()
        whole = not (self.arguments.start or self.arguments.duration)
        for message in progress(self._messages(), "replay", total if whole else None):
            first = message.log_ns if first is None else first
            while rate and not self.stop.is_set():
                bag_ns = first + (time.monotonic() - began) * rate * 1e9
                if bag_ns >= message.log_ns:
                    break
                self.publishers.clock(int(bag_ns))
                self.stop.wait(min(0.02, (message.log_ns - bag_ns) / rate / 1e9))
            if self.stop.is_set():
                return
            self.publishers.clock(message.log_ns)
            self.publishers.publish(message)

    def _wait_for_others(self) -> None:
        """Let subscribers (and in lock-step the node that gives results) be found, within a bounded time.

        The wait is over when everything is matched and has been for a moment (a best-effort reader must know the
        writer before it takes a message), or when some images are listened to and nothing changes any more.
        """
        publishers, patience = self.publishers, self.arguments.wait
        if patience is None:
            patience = _LOCKSTEP_WAIT if self.listener is not None else _WAIT
        began = since = time.monotonic()
        before, said = None, False
        while not self.stop.is_set() and (now := time.monotonic()) - began < patience:
            self.session.spin(0.05)
            lacks = self._lacks()
            # the counts too: a recorder may be found a moment later than the nodes
            state = (publishers.unheard(), publishers.incompatible(), lacks, publishers.listeners())
            if state != before:
                before, since = state, now
            settled = _MATCHED_SECONDS if not any(state[:3]) else _SETTLED_SECONDS
            if lacks and not said and now - began > _SILENT_SECONDS:
                said = True
                print(
                    f"waiting for a {' and a '.join(lacks)}: the nodes of 'streampetr up --replayed', "
                    f"up to {patience:g} s",
                    file=sys.stderr,
                )
            if not lacks and publishers.is_heard() and now - since > settled:
                break
        if self.stop.is_set():
            return
        lacks = self._lacks()
        if lacks:
            raise ReplayError(
                f"after {patience:g} s there is no {' and no '.join(lacks)}; start the nodes "
                "('streampetr up --replayed') in the same ROS_DOMAIN_ID, or wait longer with --wait"
            )
        missing = publishers.unheard()
        if missing:
            print(f"nobody listens to {', '.join(missing)}", file=sys.stderr)
        clash = publishers.incompatible()
        if clash:
            print(
                f"subscribers of {', '.join(clash)} ask for another QoS; replay without --best-effort",
                file=sys.stderr,
            )

    def _lacks(self) -> list[str]:
        """What lock-step cannot begin without and has not found."""
        if self.listener is None:
            return []
        found = {
            f"publisher of {self.listener.topic}": self.listener.has_publisher(),
            "subscriber of the images": self.publishers.is_heard(),
            f"subscriber of {layout.SAMPLE_TOPIC}": self.publishers.has_listener(layout.SAMPLE_TOPIC),
        }
        return [name for name, is_there in found.items() if not is_there]
