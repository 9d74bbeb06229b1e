"""What the messages of several streams say: their period, who has fallen silent, when time went back.

Stamps and arrivals are integer nanoseconds; arrivals are in a clock that never goes back, stamps may do anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

MILLISECOND = 1_000_000
REWIND_NS = 500 * MILLISECOND
"""A stream whose stamp falls back by more than this has been rewound; by less, it is merely out of order."""
STALE_NS = 200 * MILLISECOND
"""For this long after a rewind, messages of the earlier pass may still be on their way."""
SILENT_AFTER = 4
"""A stream is silent when some camera has given so many images since its last one. Counting images instead of time
keeps a pause of the whole drive, a slow replay or one wrong clock from making anybody look silent."""
INTERVALS = 8


class StreamClock:
    """Newest stamps and message counts of some streams, and what follows from them.

    Args:
        cameras: the streams that share a period.
        others: further streams, for silence and rewinds only.
    """

    def __init__(self, cameras: Sequence[str], others: Sequence[str] = ()) -> None:
        self.cameras, self.others = tuple(cameras), tuple(others)
        self._period: int | None = None
        self._new_interval = False
        self.newest: dict[str, int] = {}
        self._received = dict.fromkeys(self.cameras, 0)
        self._received_then = {name: self._received.copy() for name in (*self.cameras, *self.others)}
        self._intervals: dict[str, deque[int]] = {name: deque(maxlen=INTERVALS) for name in self.cameras}
        self._last: int | None = None
        self._rewound_at: int | None = None
        self._rewound_by = 0

    def notice(self, stream: str, stamp: int) -> None:
        """Take the stamp of one message."""
        newest = self.newest.get(stream)
        if stream in self._received:
            self._received[stream] += 1
            if newest is not None and stamp > newest:
                self._intervals[stream].append(stamp - newest)
                self._new_interval = True
        self._received_then[stream] = self._received.copy()
        self.newest[stream] = stamp if newest is None else max(newest, stamp)
        self._last = stamp if self._last is None else max(self._last, stamp)

    @property
    def period(self) -> int | None:
        """Median of the cameras' latest intervals; None before the first."""
        if self._new_interval:
            pooled = sorted(interval for intervals in self._intervals.values() for interval in intervals)
            self._period, self._new_interval = pooled[len(pooled) // 2], False
        return self._period

    def restart(self, from_ns: int, to_ns: int, now: int) -> None:
        """Forget all stamps: time went back from `from_ns` to `to_ns`."""
        StreamClock.__init__(self, self.cameras, self.others)
        self._rewound_at, self._rewound_by, self._last = now, max(from_ns - to_ns, 0), to_ns

    def went_back(self, stream: str, stamp: int) -> bool:
        """Whether `stamp` is so far behind the stream's newest that time was turned back."""
        return stamp < self.newest.get(stream, stamp) - REWIND_NS

    def is_stale(self, stamp: int, now: int) -> bool:
        """Whether this is a straggler of the pass before a rewind: soon after it, far ahead of the new pass."""
        if self._rewound_at is None or now - self._rewound_at > STALE_NS or self._last is None:
            return False
        return 2 * (stamp - self._last) > max(self._rewound_by, REWIND_NS)

    def is_silent(self, stream: str) -> bool:
        """Whether others have gone on without this stream, so that nobody needs to wait for it."""
        then = self._received_then[stream]
        return any(count - then[camera] >= SILENT_AFTER for camera, count in self._received.items())

    def period_of(self, camera: str) -> int | None:
        """Median of a camera's latest intervals; None before the first."""
        intervals = sorted(self._intervals[camera])
        return intervals[len(intervals) // 2] if intervals else None
