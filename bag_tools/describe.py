"""What is in a bag and whether it can be run, for `streampetr doctor` and for people."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from bag_tools import messages
from bag_tools.bag_file import BagFile, Topic
from bag_tools.bag_plan import BagTopics, make_plan
from streampetr_core.errors import StreamPETRError


@dataclass(frozen=True)
class CameraSummary:
    """One camera of a bag: its name, image size and how many images there are."""

    name: str
    width: int
    height: int
    images: int


@dataclass(frozen=True)
class BagDescription:
    """A look at a bag without decoding images.

    Attributes:
        path: the bag.
        seconds: from the first to the last message.
        topics: all topics.
        cameras: of the rig, in its order; empty where no frames can be made.
        sets: camera sets, an upper bound without /streampetr/sample.
        ego_motion: its topic, "" where none was found.
        has_samples, has_ground_truth: whether the bag names its sets, and knows the truth.
        problems: why it cannot be run, or what is wrong with it; empty = all is well.
    """

    path: Path
    seconds: float
    topics: tuple[Topic, ...]
    cameras: tuple[CameraSummary, ...] = ()
    sets: int = 0
    ego_motion: str = ""
    has_samples: bool = False
    has_ground_truth: bool = False
    problems: tuple[str, ...] = ()

    @property
    def runnable(self) -> bool:
        """True where BagReader makes frames of it."""
        return any(camera.images for camera in self.cameras)


def describe(path: Path | str, topics: BagTopics | None = None) -> BagDescription:
    """Look into a bag.

    Raises:
        BagError: when it cannot be opened at all; anything less is in `problems`.
    """
    with BagFile(path) as bag:
        found = tuple(sorted(bag.topics.values(), key=lambda topic: topic.name))
        start, end = bag.span_ns
        problems = [f"{bag.lost_bytes} bytes at the end are cut off"] if bag.lost_bytes else []
        try:
            plan = make_plan(bag, topics or BagTopics())
        except StreamPETRError as error:
            return BagDescription(bag.path, (end - start) / 1e9, found, problems=(*problems, str(error)))
        counts: dict[str, int] = defaultdict(int)
        for topic in found:
            if topic.name in plan.images and topic.type_name in (messages.COMPRESSED_IMAGE, messages.IMAGE):
                counts[plan.images[topic.name]] += topic.count
    cameras = tuple(CameraSummary(c.name, c.width, c.height, counts[c.name]) for c in plan.rig.cameras)
    silent = [camera.name for camera in cameras if not camera.images]
    if silent:
        problems.append(f"no images of {', '.join(silent)}")
    return BagDescription(
        path=bag.path,
        seconds=(end - start) / 1e9,
        topics=found,
        cameras=cameras,
        sets=plan.sets,
        ego_motion=plan.motion,
        has_samples=plan.has_samples,
        has_ground_truth=plan.has_ground_truth,
        problems=tuple(problems),
    )
