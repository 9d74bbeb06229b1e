"""A bag's messages in time order, cut into camera sets: what must be published to get one result.

A bag says in /streampetr/sample which images make a set and at which instant the result is wanted. A set's horizon
is the latest of these stamps. With a set go its images, its SampleInfo and every other message up to the horizon
that no earlier set took; beyond it one more message of each topic that carries ego motion, so that the pose at the
horizon can be interpolated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bag_tools.bag_file import BagFile, RawMessage
from bag_tools.layout import SAMPLE_TOPIC
from bag_tools.messages import COMPRESSED_IMAGE, IMAGE, ODOMETRY, TF_MESSAGE, stamp_to_ns

EGO_MOTION_TYPES: frozenset[str] = frozenset({TF_MESSAGE, ODOMETRY})
_LOOKAHEAD_NS = 1_000_000_000
"""A topic with ego motion that is silent for longer does not hold up the reading."""

IMAGE_TYPES: frozenset[str] = frozenset({COMPRESSED_IMAGE, IMAGE})


@dataclass(frozen=True)
class SetDescription:
    """What a SampleInfo says: the reference instant and each camera's image stamp (absent cameras left out)."""

    reference_ns: int
    image_stamps_ns: Mapping[str, int]
    sample_token: str = ""
    is_key_frame: bool = True

    @property
    def horizon_ns(self) -> int:
        """The latest instant that the set's result depends on."""
        return max((self.reference_ns, *self.image_stamps_ns.values()))


@dataclass(frozen=True)
class ReplaySet:
    """A set with its messages in publishing order: motion and calibration first, then the images and the sample.

    Attributes:
        leading: everything but images: what came since the set before.
        images: the images, then the SampleInfo.
        cameras: how many images there are.
    """

    description: SetDescription
    leading: tuple[RawMessage, ...]
    images: tuple[RawMessage, ...]
    cameras: int

    @property
    def reference_ns(self) -> int:
        """The instant whose stamp the result carries."""
        return self.description.reference_ns


def set_descriptions(bag: BagFile, sample_topic: str = SAMPLE_TOPIC) -> list[SetDescription]:
    """What the SampleInfo messages of a bag say, in time order; empty where it has none."""
    found = []
    for raw in bag.messages([sample_topic]):
        info = bag.decode(raw)
        stamps = zip(info.camera_names, info.image_stamps_ns, strict=True)
        present = {name: int(stamp) for name, stamp in stamps if stamp >= 0}
        found.append(SetDescription(stamp_to_ns(info.header.stamp), present, info.sample_token, info.is_key_frame))
    return sorted(found, key=lambda item: item.reference_ns)


def camera_of_topic(topic: str, cameras: Iterable[str]) -> str | None:
    """The camera whose lower-case name is one of the parts of `topic`."""
    parts = set(topic.lower().split("/"))
    return next((camera for camera in cameras if camera.lower() in parts), None)


def replay_sets(
    messages: Iterable[RawMessage], descriptions: Iterable[SetDescription], sample_topic: str = SAMPLE_TOPIC
) -> Iterator[ReplaySet]:
    """The sets of `descriptions`, in time order, with the messages that belong to them.

    Args:
        messages: of the whole bag in time order, static ones (/tf_static) left out. Log times are taken as the
            stamps, as they are in bags that carry SampleInfo.
        descriptions: one a SampleInfo of the bag.

    A set whose images are not in the bag comes with fewer `cameras`; images that belong to no set are left out.
    Only the messages around one set are held at a time.
    """
    ordered = sorted(descriptions, key=lambda item: item.reference_ns)
    owner_of_image = {
        (camera, stamp): k for k, item in enumerate(ordered) for camera, stamp in item.image_stamps_ns.items()
    }
    owner_of_sample = {item.reference_ns: k for k, item in enumerate(ordered)}
    names = {camera for camera, _ in owner_of_image}

    source = iter(messages)
    images: dict[int, list[RawMessage]] = {}
    others: list[RawMessage] = []
    motion_read: dict[str, int] = {}
    read_to: float = -1

    for k, description in enumerate(ordered):
        horizon = description.horizon_ns
        while read_to <= horizon or (
            read_to <= horizon + _LOOKAHEAD_NS and any(stamp < horizon for stamp in motion_read.values())
        ):
            message = next(source, None)
            if message is None:
                read_to = float("inf")
                break
            read_to = message.log_ns
            owner = None
            if message.topic == sample_topic:
                owner = owner_of_sample.get(message.log_ns)
            elif message.type_name in IMAGE_TYPES:
                owner = owner_of_image.get((camera_of_topic(message.topic, names) or "", message.log_ns))
            else:
                others.append(message)
                if message.type_name in EGO_MOTION_TYPES:
                    motion_read[message.topic] = message.log_ns
            if owner is not None:
                images.setdefault(owner, []).append(message)
        leading, others = _split(others, horizon)
        own = sorted(images.pop(k, []), key=lambda message: message.topic == sample_topic)
        yield ReplaySet(description, tuple(leading), tuple(own), sum(m.topic != sample_topic for m in own))


def _split(messages: list[RawMessage], horizon_ns: int) -> tuple[list[RawMessage], list[RawMessage]]:
    """Messages up to the horizon and, of topics with ego motion, on to the first at or after it; the rest."""
    now: list[RawMessage] = []
    later: list[RawMessage] = []
    reached: set[str] = set()
    for message in messages:
        is_motion = message.type_name in EGO_MOTION_TYPES
        if message.log_ns > horizon_ns and (not is_motion or message.topic in reached):
            later.append(message)
            continue
        now.append(message)
        if is_motion and message.log_ns >= horizon_ns:
            reached.add(message.topic)
    return now, later
