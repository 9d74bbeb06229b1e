"""Images of a bag gathered into sets: by the bag's own word (/streampetr/sample), or by time as the node does."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from bag_tools.bag_file import RawMessage
from bag_tools.messages import stamp_to_ns
from streampetr_core.synchronizer import CameraSet, CameraSynchronizer

PATIENCE_NS = 1_000_000_000
"""How far (log time) a bag is read beyond a set for its images, poses and ground truth before it goes without."""


@dataclass(frozen=True)
class ImageSet:
    """One cycle of undecoded images: camera -> (stamp, message)."""

    stamp_ns: int
    images: dict[str, tuple[int, RawMessage]]
    scene: str = ""
    scene_name: str = ""
    sample_token: str = ""
    is_key_frame: bool = True
    warnings: tuple[str, ...] = ()

    @property
    def latest_ns(self) -> int:
        """The latest instant whose pose the set needs."""
        return max([self.stamp_ns, *(stamp for stamp, _ in self.images.values())])


class Grouping(Protocol):
    """What gathers sets; `now_ns` is the log time."""

    def add_image(self, camera: str, stamp_ns: int, message: RawMessage, now_ns: int) -> None: ...

    def add_sample(self, info: Any, now_ns: int) -> None: ...

    def ready(self, now_ns: int, at_end: bool = False) -> list[ImageSet]:
        """Sets that are finished, in order."""
        ...


class SampleGrouping:
    """Exactly the sets that SampleInfo messages name, empty ones too.

    Waiting is measured in log time since arrival: a bag recorded during a replay has stamps of another year.
    """

    def __init__(self) -> None:
        self._images: dict[tuple[str, int], tuple[int, RawMessage]] = {}  # -> arrival, message
        self._infos: deque[tuple[int, Any]] = deque()

    def add_image(self, camera: str, stamp_ns: int, message: RawMessage, now_ns: int) -> None:
        self._images[camera, stamp_ns] = (now_ns, message)

    def add_sample(self, info: Any, now_ns: int) -> None:
        self._infos.append((now_ns, info))

    def ready(self, now_ns: int, at_end: bool = False) -> list[ImageSet]:
        sets = []
        while self._infos:
            arrival, info = self._infos[0]
            stamps = zip(info.camera_names, info.image_stamps_ns, strict=True)
            wanted = {name: int(stamp) for name, stamp in stamps if stamp >= 0}
            missing = [name for name, stamp in wanted.items() if (name, stamp) not in self._images]
            if missing and not at_end and now_ns < arrival + PATIENCE_NS:
                break
            self._infos.popleft()
            found = {n: (s, self._images.pop((n, s))[1]) for n, s in wanted.items() if n not in missing}
            warnings = tuple(f"{name}: image {wanted[name]} ns is not in the bag" for name in missing)
            reference = stamp_to_ns(info.header.stamp)
            names, key = (info.scene, info.scene_name, info.sample_token), bool(info.is_key_frame)
            sets.append(ImageSet(reference, found, *names, key, warnings))
        for key, (arrival, _) in list(self._images.items()):
            if arrival > now_ns - 3 * PATIENCE_NS:
                break  # in order of arrival
            del self._images[key]  # belongs to no set
        return sets


class TimeGrouping:
    """Sets as the node's synchroniser makes them from the same stream."""

    def __init__(
        self, cameras: tuple[str, ...], scene: str, synchronizer: CameraSynchronizer | None = None
    ) -> None:
        self.synchronizer = synchronizer or CameraSynchronizer(cameras)
        self._scene = scene
        self._sets: list[ImageSet] = []

    def add_image(self, camera: str, stamp_ns: int, message: RawMessage, now_ns: int) -> None:
        self._keep(self.synchronizer.add(camera, stamp_ns, message, now_ns))

    def add_sample(self, info: Any, now_ns: int) -> None:
        """There are none."""

    def ready(self, now_ns: int, at_end: bool = False) -> list[ImageSet]:
        self._keep(self.synchronizer.poll(now_ns + 10 * PATIENCE_NS if at_end else now_ns))
        sets, self._sets = self._sets, []
        return sets

    def _keep(self, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, CameraSet):
                images = {name: (event.stamps_ns[name], event.payloads[name]) for name in event.payloads}
                self._sets.append(ImageSet(event.stamp_ns, images, self._scene, self._scene))
