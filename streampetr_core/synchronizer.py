"""Images of N cameras become sets of one cycle each; knows neither ROS nor a clock, only what it is told.

A *cycle* is one round of the cameras. Its images lie within `max_skew` of its anchor: the stamp of the anchor
camera, or what stands for it while that camera gives none. As long as `max_skew` is less than half the camera
period, no image can belong to two cycles, so no set can mix two; the synchroniser measures the period and keeps to
that bound whatever it was asked for (`problems` says so).

Where the data say themselves which images belong together (`add_reference` with `image_stamps_ns`, as bags do),
sets are exactly those, and neither skew nor anchor matter.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streampetr_core.errors import StreamPETRError
from streampetr_core.stream_clock import MILLISECOND, SILENT_AFTER, StreamClock

SAFE_FRACTION = 0.48
"""Share of the camera period that `max_skew` may reach: below one half with room for jitter."""
REFERENCE = "reference"


class SynchronizerError(StreamPETRError):
    """Settings that cannot work, or an unknown camera."""


@dataclass
class CameraCounts:
    """What became of the images of one camera: `received` is the sum of the others and of those still waiting."""

    received: int = 0
    used: int = 0
    duplicate: int = 0  # same stamp as an earlier one
    late: int = 0  # its set had gone
    unmatched: int = 0  # no set wanted it, or its set had too few cameras
    dropped: int = 0  # a nearer image took its place, the queue was full, or time went back


@dataclass
class SetCounts:
    """What became of the sets."""

    complete: int = 0
    partial: int = 0  # used, with cameras absent
    skipped: int = 0  # fewer than min_cameras
    rewinds: int = 0


@dataclass(frozen=True)
class CameraSet:
    """Images of one cycle.

    Attributes:
        stamp_ns: the reference instant: the reference stream's stamp, else the anchor image's.
        payloads: camera -> what was given to `add`; absent cameras are not in it.
        stamps_ns: camera -> image stamp, same keys.
        missing: the cameras that gave no image.
        reference: payload of the reference stream, None without one.
        anchor: the camera, or "reference", whose stamp the set was gathered around.
        arrival_ns: when the anchor arrived (the caller's clock).
    """

    stamp_ns: int
    payloads: dict[str, Any]
    stamps_ns: dict[str, int]
    missing: tuple[str, ...]
    reference: Any
    anchor: str
    arrival_ns: int


@dataclass(frozen=True)
class Rewind:
    """Time went back: everything gathered so far is gone."""

    from_ns: int
    to_ns: int
    source: str


@dataclass(order=True)
class _Item:
    stamp: int
    arrival: int = field(compare=False)
    payload: Any = field(compare=False)
    expected: dict[str, int] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class _Anchor:
    name: str
    center: int  # the stamp around which images are looked for
    item: _Item


class CameraSynchronizer:
    """Gathers images into sets; see the module's first lines for the rule.

    `add`, `add_reference` and `poll` return what has happened, in order: `CameraSet`s, their stamps rising, and
    `Rewind`s. A set comes out as soon as every camera has its image; `max_wait_ns` after the anchor's arrival it
    comes out with the cameras absent that are not there, if at least `min_cameras` are. A set that is whole also
    ends the waiting of older ones. A camera that has missed four cycles is not waited for until it is back. Where
    the anchor camera lost one image or all, the next camera in order anchors the set. Images are used once.

    Not thread safe: call it from one thread or under a lock.

    Args:
        cameras: names, in the order that decides who replaces the anchor camera.
        anchor: the camera whose stamp is the centre of a cycle; by default the first.
        max_skew_ns: largest distance of an image from the anchor. The default, 40 ms, holds the stagger of
            nuScenes (36 ms around CAM_FRONT), below half the period at 12 Hz; it shrinks for faster cameras.
        max_wait_ns: longest waiting after the anchor's arrival, in the clock of `now_ns`.
        min_cameras: fewest images of a set; by default half the cameras, rounded up.
        use_reference: wait for `add_reference` as for a camera.
        reference_wait_ns: takes the place of `max_wait_ns` where the reference stream names the images. It may be
            long: what is named has been sent, and a newer set that is whole ends the waiting.
        queue_size: images kept waiting per camera.

    Raises:
        SynchronizerError: for settings out of range.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        *,
        anchor: str = "",
        max_skew_ns: int = 40 * MILLISECOND,
        max_wait_ns: int = 100 * MILLISECOND,
        min_cameras: int = 0,
        use_reference: bool = False,
        reference_wait_ns: int = 5000 * MILLISECOND,
        queue_size: int = 8,
    ) -> None:
        self.cameras = tuple(cameras)
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise SynchronizerError(f"synchroniser: cameras {self.cameras} must be one or more different names")
        if anchor and anchor not in self.cameras:
            raise SynchronizerError(f"synchroniser: anchor '{anchor}' is none of {', '.join(self.cameras)}")
        if not 0 <= min_cameras <= len(self.cameras):
            raise SynchronizerError(f"synchroniser: min_cameras {min_cameras} is not in 0..{len(self.cameras)}")
        if max_skew_ns <= 0 or max_wait_ns < 0 or queue_size < 2:
            raise SynchronizerError(
                f"synchroniser: max_skew {max_skew_ns} ns and max_wait {max_wait_ns} ns must be positive, "
                f"queue_size {queue_size} at least 2"
            )
        self.anchor = anchor or self.cameras[0]
        self.max_skew_ns = max_skew_ns
        self.max_wait_ns = max_wait_ns
        self.min_cameras = min_cameras or (len(self.cameras) + 1) // 2
        self.use_reference = use_reference
        self.reference_wait_ns = reference_wait_ns
        self.queue_size = queue_size
        self.counts = {camera: CameraCounts() for camera in self.cameras}
        self.sets = SetCounts()
        self._by_priority = (self.anchor, *(c for c in self.cameras if c != self.anchor))
        self._clock = StreamClock(self.cameras, (REFERENCE,))
        self._forget()

    # What the caller feeds and gets

    def add(self, camera: str, stamp_ns: int, payload: Any, now_ns: int) -> list[CameraSet | Rewind]:
        """Take one image; `now_ns` is its arrival in a clock that never goes back.

        Raises:
            SynchronizerError: for a camera that is not one of `cameras`.
        """
        counts = self.counts.get(camera)
        if counts is None:
            raise SynchronizerError(f"synchroniser: camera '{camera}' is none of {', '.join(self.cameras)}")
        counts.received += 1
        if self._clock.is_stale(stamp_ns, now_ns):
            counts.late += 1
            return []
        events = self._rewind_if_back(camera, stamp_ns, now_ns)
        seen = self._seen[camera]
        if stamp_ns in seen:
            counts.duplicate += 1
            return events
        seen.append(stamp_ns)
        self._clock.notice(camera, stamp_ns)
        if stamp_ns <= self._floor.get(camera, stamp_ns - 1):
            counts.late += 1
            return events
        queue = self._queues[camera]
        insort(queue, _Item(stamp_ns, now_ns, payload))
        if len(queue) > self.queue_size:
            queue.pop(0)
            counts.dropped += 1
        return events + self._drain(now_ns)

    def add_reference(
        self, stamp_ns: int, payload: Any, now_ns: int, image_stamps_ns: Mapping[str, int] | None = None
    ) -> list[CameraSet | Rewind]:
        """Take one reference instant; `image_stamps_ns` names the images that belong to it (negative = absent)."""
        if not self.use_reference or self._clock.is_stale(stamp_ns, now_ns):
            return []
        events = self._rewind_if_back(REFERENCE, stamp_ns, now_ns)
        if stamp_ns in self._seen[REFERENCE]:
            return events
        self._seen[REFERENCE].append(stamp_ns)
        self._clock.notice(REFERENCE, stamp_ns)
        if stamp_ns <= self._floor.get(REFERENCE, stamp_ns - 1):
            return events
        expected = None
        if image_stamps_ns:
            expected = {c: s for c, s in image_stamps_ns.items() if s >= 0 and c in self.counts}
        insort(self._references, _Item(stamp_ns, now_ns, payload, expected))
        del self._references[: -self.queue_size]
        return events + self._drain(now_ns)

    def poll(self, now_ns: int) -> list[CameraSet | Rewind]:
        """What has become due because time passed."""
        return self._drain(now_ns)

    def clear(self, source: str, from_ns: int, to_ns: int, now_ns: int) -> Rewind:
        """Forget all that waits: time went back, as noticed here or by the caller elsewhere (ego motion)."""
        for camera, queue in self._queues.items():
            self.counts[camera].dropped += len(queue)
        self._forget()
        self._clock.restart(from_ns, to_ns, now_ns)
        self.sets.rewinds += 1
        return Rewind(from_ns, to_ns, source)

    def reopen(self, images: CameraSet) -> None:
        """A set that came out could not be used for want of something else: what it held may come once more.

        Streams that have had a newer set since stay closed, so that the stamps of sets keep rising.
        """
        stamps = (
            {**images.stamps_ns, REFERENCE: images.stamp_ns} if images.reference is not None else images.stamps_ns
        )
        for stream, stamp in stamps.items():
            if self._floor.get(stream) == stamp:
                self._floor[stream] = stamp - 1
                if stamp in self._seen[stream]:
                    self._seen[stream].remove(stamp)

    @property
    def period_ns(self) -> int | None:
        """The cameras' period as observed: the median of the latest intervals; None before the first."""
        return self._clock.period

    @property
    def skew_ns(self) -> int:
        """The skew in force: `max_skew_ns`, or less where the cameras are too fast for it."""
        period = self._clock.period
        return self.max_skew_ns if period is None else min(self.max_skew_ns, int(SAFE_FRACTION * period))

    @property
    def waiting(self) -> dict[str, int]:
        """Camera -> images in its queue."""
        return {camera: len(queue) for camera, queue in self._queues.items()}

    def problems(self) -> list[str]:
        """What an operator should know now, one sentence each; empty when all is well."""
        found = []
        period = self._clock.period
        if period is not None and 2 * self.max_skew_ns >= period:
            found.append(
                f"max_skew {self.max_skew_ns / 1e6:.1f} ms is not below half the camera period "
                f"{period / 1e6:.1f} ms: using {self.skew_ns / 1e6:.1f} ms; set max_skew between the cameras' "
                "stagger and half the period"
            )
        found += [f"camera '{c}' misses the latest sets" for c in self.cameras if self._clock.is_silent(c)]
        if self.use_reference and self._clock.is_silent(REFERENCE):
            found.append(f"the reference stream is silent: sets carry the stamp of '{self._anchor_camera()}'")
        return found

    # Gathering

    def _forget(self) -> None:
        self._queues: dict[str, list[_Item]] = {camera: [] for camera in self.cameras}
        self._references: list[_Item] = []
        self._seen: dict[str, deque[int]] = {name: deque(maxlen=32) for name in (*self.cameras, REFERENCE)}
        self._floor: dict[str, int] = {}  # stream -> stamps up to here have had their set
        self._offset: dict[str, int] = {}  # camera -> its stamp minus the anchor camera's, as usual
        self._misses: dict[str, int] = {}  # camera -> sets since its last image
        self._last_center: int | None = None
        self._exact = False

    def _rewind_if_back(self, stream: str, stamp: int, now: int) -> list[CameraSet | Rewind]:
        if not self._clock.went_back(stream, stamp):
            return []
        return [self.clear(stream, self._clock.newest[stream], stamp, now)]

    def _anchor_camera(self) -> str:
        """The anchor camera, or while it is silent the first other that is not."""
        return next((c for c in self._by_priority if not self._clock.is_silent(c)), self.anchor)

    def _anchors(self, skew: int) -> list[_Anchor]:
        """The sets that wait, oldest first."""
        if self.use_reference:
            exact = [
                _Anchor(REFERENCE, item.stamp, item) for item in self._references if item.expected is not None
            ]
            self._exact = self._exact or bool(exact)
            if exact or (self._exact and not self._clock.is_silent(REFERENCE)):
                return exact
        camera = self._anchor_camera()
        anchors = [_Anchor(camera, self._center(camera, item), item) for item in self._queues[camera]]
        return self._with_orphans(camera, anchors, skew) if anchors else anchors

    def _center(self, camera: str, item: _Item) -> int:
        """Where the anchor camera's stamp is, or would have been."""
        return item.stamp - (0 if camera == self.anchor else self._offset.get(camera, 0))

    def _with_orphans(self, camera: str, anchors: list[_Anchor], skew: int) -> list[_Anchor]:
        """`anchors`, and before the newest of them one for each cycle whose anchor image was lost."""
        period = self._clock.period_of(camera)
        if period is None:
            return anchors
        centers = [anchor.center for anchor in anchors]
        if self._last_center is not None:
            centers.append(self._last_center)
        newest, apart = anchors[-1].center, max(skew, period // 2)
        for other in self._by_priority:
            known = other == self.anchor or other in self._offset
            for item in self._queues[other] if known and other != camera else ():
                center = self._center(other, item)
                if center < newest and all(abs(center - c) > apart for c in centers):
                    anchors.append(_Anchor(other, center, item))
                    centers.append(center)
        return sorted(anchors, key=lambda anchor: anchor.center)

    def _match(self, anchor: _Anchor, skew: int) -> dict[str, _Item]:
        """The waiting images that belong to an anchor, in the cameras' order."""
        expected = anchor.item.expected
        matched = {}
        for camera in self.cameras:
            queue = self._queues[camera]
            if expected is not None:
                stamp = expected.get(camera)
                found = next((item for item in queue if item.stamp == stamp), None)
            elif camera == anchor.name:
                found = anchor.item
            else:
                found = min(queue, key=lambda item: abs(item.stamp - anchor.center), default=None)
                if found is not None and not self._belongs(camera, found.stamp - anchor.center, skew):
                    found = None
            if found is not None:
                matched[camera] = found
        return matched

    def _belongs(self, camera: str, distance: int, skew: int) -> bool:
        """Whether an image so far from the anchor is of its cycle: near, and not a period off its usual place."""
        usual, period = self._offset.get(camera), self._clock.period
        return abs(distance) <= skew and (usual is None or period is None or 2 * abs(distance - usual) < period)

    def _match_reference(self, anchor: _Anchor, skew: int) -> _Item | None:
        if anchor.name == REFERENCE:
            return anchor.item
        item = min(self._references, key=lambda item: abs(item.stamp - anchor.center), default=None)
        return item if item is not None and abs(item.stamp - anchor.center) <= skew else None

    def _is_ready(self, anchor: _Anchor, skew: int) -> bool:
        """Whether nothing more is to be waited for."""
        matched = self._match(anchor, skew)
        if anchor.item.expected is not None:
            return all(camera in matched or self._clock.is_silent(camera) for camera in anchor.item.expected)
        if self._clock.period is None:  # without a period the skew is only a guess: give it until max_wait
            return False
        missing = [camera for camera in self.cameras if camera not in matched]
        if self.use_reference and self._match_reference(anchor, skew) is None:
            missing.append(REFERENCE)
        return all(self._clock.is_silent(stream) for stream in missing)

    def _drain(self, now: int) -> list[CameraSet | Rewind]:
        events: list[CameraSet | Rewind] = []
        while anchors := self._anchors(skew := self.skew_ns):
            oldest = anchors[0].item
            wait = self.max_wait_ns if oldest.expected is None else self.reference_wait_ns
            due = now - oldest.arrival >= wait
            if not due and not any(self._is_ready(anchor, skew) for anchor in anchors):
                break
            # A newer set that is whole ends the waiting of the older ones: they go first, as they are.
            events += self._finish(anchors[0], skew)
        return events

    def _finish(self, anchor: _Anchor, skew: int) -> list[CameraSet]:
        """Take the images of an anchor out of the queues, with everything older; one set, or none when too few."""
        matched = self._match(anchor, skew)
        reference = self._match_reference(anchor, skew)
        enough = len(matched) >= self.min_cameras
        self._raise_floor(anchor, matched, reference, skew)
        self._last_center = anchor.center
        for camera, queue in self._queues.items():
            counts, mine = self.counts[camera], matched.get(camera)
            kept = [item for item in queue if item.stamp > self._floor.get(camera, item.stamp - 1)]
            for item in queue[: len(queue) - len(kept)]:
                if item is mine and enough:
                    counts.used += 1
                elif mine is not None and enough and item.stamp >= anchor.center - skew:
                    counts.dropped += 1
                else:
                    counts.unmatched += 1
            self._queues[camera] = kept
        if not enough:
            self.sets.skipped += 1
            return []
        self._learn_offsets(matched)
        missing = tuple(camera for camera in self.cameras if camera not in matched)
        if missing:
            self.sets.partial += 1
        else:
            self.sets.complete += 1
        return [
            CameraSet(
                stamp_ns=anchor.item.stamp if reference is None else reference.stamp,
                payloads={camera: item.payload for camera, item in matched.items()},
                stamps_ns={camera: item.stamp for camera, item in matched.items()},
                missing=missing,
                reference=None if reference is None else reference.payload,
                anchor=anchor.name,
                arrival_ns=anchor.item.arrival,
            )
        ]

    def _learn_offsets(self, matched: dict[str, _Item]) -> None:
        """Follow where the cameras stand to the anchor camera; a place long unused is forgotten."""
        primary = matched.get(self.anchor)
        for camera in self.cameras:
            self._misses[camera] = 0 if camera in matched else self._misses.get(camera, 0) + 1
            if self._misses[camera] >= SILENT_AFTER and primary is not None:
                self._offset.pop(camera, None)
            if primary is not None and camera in matched:
                distance = matched[camera].stamp - primary.stamp
                usual = self._offset.get(camera, distance)
                self._offset[camera] = usual + (distance - usual) // 8

    def _raise_floor(self, anchor: _Anchor, matched: dict[str, _Item], reference: _Item | None, skew: int) -> None:
        """Remember up to which stamp each stream has had its set, so that later arrivals are late."""
        expected = anchor.item.expected
        if reference is not None:
            self._floor[REFERENCE] = reference.stamp
        self._references = [r for r in self._references if r.stamp > self._floor.get(REFERENCE, r.stamp - 1)]
        for camera in self.cameras:
            if expected is None:
                floor = max(anchor.center + skew, anchor.item.stamp if camera == anchor.name else 0)
                if camera in matched:
                    floor = max(floor, matched[camera].stamp)
            else:
                floor = expected.get(camera, min(expected.values(), default=0))
            self._floor[camera] = max(self._floor.get(camera, floor), floor)
