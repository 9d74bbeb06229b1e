"""Where and when objects changed their track or lost it: the switches and fragmentations behind the counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tracking.operating import Outcome, ego_range

Kind = Literal["switch", "fragmentation"]


@dataclass(frozen=True)
class Event:
    """One identity switch or fragmentation.

    Attributes:
        kind: "switch" where the object came back under another id, "fragmentation" where it was lost for a while.
        class_name: of the object.
        scene: its drive.
        sample: token of the key frame (or its stamp, where there are no samples): of the first box under the new
            id, or of the first miss.
        stamp_us: microseconds of that key frame.
        time_s: seconds since the scene's first key frame, to jump there.
        x, y: the object's centre in the map, metres.
        range_m: its planar distance to the ego.
        object: its annotated id.
        old_track, new_track: ids before and after; often the same where an object was lost and found again.
        unseen_s: seconds between the last box under the old id and the next.
    """

    kind: Kind
    class_name: str
    scene: str
    sample: str
    stamp_us: int
    time_s: float
    x: float
    y: float
    range_m: float
    object: str
    old_track: str
    new_track: str
    unseen_s: float

    @property
    def tracks(self) -> str:
        """The id, or both where it changed."""
        return self.old_track if self.old_track == self.new_track else f"{self.old_track} → {self.new_track}"

    def __str__(self) -> str:
        what = f"track {self.tracks}" + (
            f" lost for {self.unseen_s:.1f} s" if self.kind == "fragmentation" else ""
        )
        place = f"{self.range_m:.0f} m away at ({self.x:.1f}, {self.y:.1f})"
        return f"{self.scene} +{self.time_s:.1f} s: {self.class_name} {self.object[:8]} {what}, {place}"


def find_events(outcomes: Iterable[Outcome]) -> list[Event]:
    """Every switch and fragmentation of all classes in time order; their counts are the official IDS and FRAG."""
    events = [event for outcome in outcomes for event in _events(outcome)]
    return sorted(events, key=lambda event: (event.scene, event.stamp_us, event.class_name, event.object))


def worst_first(events: Iterable[Event], count: int) -> list[Event]:
    """The events nearest to the ego, switches first: what matters most to a robot."""
    return sorted(events, key=lambda event: (event.kind != "switch", event.range_m))[:count]


def _events(outcome: Outcome) -> list[Event]:
    truth, found, frames = outcome.truth, outcome.found, outcome.frames
    order = np.lexsort((truth.frame, truth.track))
    hit = outcome.partner[order] >= 0
    index = np.arange(len(order))
    first = np.append(True, np.diff(truth.track[order]) != 0)
    start = np.maximum.accumulate(np.where(first, index, 0))  # of each box's object
    latest = np.maximum.accumulate(np.where(hit, index, -1))
    before = np.append(-1, latest[:-1])  # the hit before this box, of whichever object
    again = hit & (before >= start)
    away = ego_range(truth, frames)
    begin = np.full(len(frames.scenes), np.iinfo(np.int64).max)
    np.minimum.at(begin, frames.scene, frames.stamp)
    tokens = list(frames.number)

    def event(kind: Kind, at: int, old: int, new: int) -> Event:
        row, frame = order[at], truth.frame[order[at]]
        scene, stamp = frames.scene[frame], int(frames.stamp[frame])
        tracks = [found.ids[found.track[outcome.partner[order[k]]]] for k in (old, new)]
        return Event(
            kind,
            outcome.name,
            frames.scenes[scene],
            tokens[frame],
            stamp,
            float((stamp - begin[scene]) * 1e-6),
            float(truth.xy[row, 0]),
            float(truth.xy[row, 1]),
            float(away[row]),
            truth.ids[truth.track[row]],
            tracks[0],
            tracks[1],
            float((frames.stamp[truth.frame[order[new]]] - frames.stamp[truth.frame[order[old]]]) * 1e-6),
        )

    lost = np.flatnonzero(again & (index - before > 1))
    changed = np.flatnonzero(again & outcome.switched[order])
    return [event("fragmentation", int(before[k]) + 1, int(before[k]), k) for k in lost.tolist()] + [
        event("switch", k, int(before[k]), k) for k in changed.tolist()
    ]
