"""Which images of a nuScenes scene belong together: key frames as the samples say, sweeps by time."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from bag_tools.nuscenes_source import LIDAR
from bag_tools.nuscenes_tables import NuScenesTables, Row, nanoseconds

LIDAR_REACH_NS = 50_000_000
"""A lidar sweep this near to a set's last image gives the set its reference instant."""


@dataclass(frozen=True)
class RecordSet:
    """One image of each camera, taken in one cycle.

    Attributes:
        stamp_ns: the reference instant: the sample's stamp; for sweeps that of the lidar sweep nearest to the last
            image, or where there is none the anchor camera's stamp and the distance that key frames have to it.
        sample: the key frame, None for sweeps.
        records: camera -> row of `sample_data`.
    """

    stamp_ns: int
    sample: Row | None
    records: dict[str, Row]


def record_sets(
    tables: NuScenesTables, scene: Row, cameras: tuple[str, ...], sweeps: bool = True
) -> list[RecordSet]:
    """All sets of a scene by reference instant.

    Sweeps gather around the images of the first camera: from each other camera the nearest one within half the
    period, so every image belongs to one set at most.
    """
    sets = []
    for sample in tables.samples(scene):
        data = tables.sample_data(sample)
        records = {name: data[name] for name in cameras if name in data}
        sets.append(RecordSet(nanoseconds(sample["timestamp"]), sample, records))
    if sweeps:
        sets += _sweep_sets(tables, scene, cameras)
    return sorted(sets, key=lambda group: group.stamp_ns)


def _sweep_sets(tables: NuScenesTables, scene: Row, cameras: tuple[str, ...]) -> list[RecordSet]:
    everything = tables.sweeps(scene)
    between = {name: [row for row in everything.get(name, []) if not row["is_key_frame"]] for name in cameras}
    anchor = next((name for name in cameras if between[name]), None)
    if anchor is None:
        return []
    stamps = [row["timestamp"] for row in everything[anchor]]
    intervals = sorted(later - earlier for earlier, later in pairwise(stamps))
    period = intervals[len(intervals) // 2] if intervals else 100_000
    lidar = [row["timestamp"] for row in everything.get(LIDAR, []) if not row["is_key_frame"]]
    sets = []
    for first in between[anchor]:
        records = {anchor: first}
        for name in cameras:
            near = _nearest(between[name], first["timestamp"]) if name != anchor else None
            if near is not None and 2 * abs(near["timestamp"] - first["timestamp"]) < period:
                records[name] = near
        last = max(row["timestamp"] for row in records.values())
        reference = min(lidar, key=lambda stamp: abs(stamp - last), default=None)
        if reference is None or nanoseconds(abs(reference - last)) > LIDAR_REACH_NS:
            reference = first["timestamp"] + _key_frame_offset(tables, scene, anchor)
        ordered = {name: records[name] for name in cameras if name in records}
        sets.append(RecordSet(nanoseconds(reference), None, ordered))
    return sets


def _key_frame_offset(tables: NuScenesTables, scene: Row, camera: str) -> int:
    """How long after a camera's image the reference instant of a key frame comes: the median, in microseconds.

    So the time between sets is regular, whatever kind they are.
    """
    samples = [(sample, tables.sample_data(sample)) for sample in tables.samples(scene)]
    offsets = sorted(s["timestamp"] - data[camera]["timestamp"] for s, data in samples if camera in data)
    return offsets[len(offsets) // 2] if offsets else 0


def _nearest(rows: list[Row], stamp: int) -> Row | None:
    """The row of time-sorted `rows` whose timestamp is nearest."""
    index = bisect_left(rows, stamp, key=lambda row: row["timestamp"])
    return min(rows[max(index - 1, 0) : index + 1], key=lambda row: abs(row["timestamp"] - stamp), default=None)
