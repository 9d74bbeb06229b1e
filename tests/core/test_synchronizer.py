"""CameraSynchronizer against scripted streams: stagger, jitter, loss, rewinds; nothing mixed, all counted."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np
import pytest

from streampetr_core.cameras import NUSCENES_CAMERAS
from streampetr_core.synchronizer import CameraSet, CameraSynchronizer, Rewind, SynchronizerError

MS = 1_000_000
START = 1_532_402_927_000 * MS
# Stamp of each camera minus the lidar's at nuScenes key frames: 42.6 ms from first to last.
STAGGER_MS = {
    "CAM_FRONT_LEFT": -43.1,
    "CAM_FRONT": -35.5,
    "CAM_FRONT_RIGHT": -27.5,
    "CAM_BACK_RIGHT": -20.1,
    "CAM_BACK": -10.4,
    "CAM_BACK_LEFT": -0.5,
}


@dataclasses.dataclass(frozen=True)
class Shot:
    """One image on its way: the payload is its cycle, so that a test can see what a set mixes."""

    camera: str
    stamp: int
    cycle: int
    arrival: int


def script(
    cycles: int,
    *,
    period_ms: float = 1000 / 12,
    jitter_ms: float = 0.0,
    delay_ms: float = 5.0,
    loss: float = 0.0,
    seed: int = 0,
    start: int = START,
    arrival_start: int = 0,
    first_cycle: int = 0,
) -> list[Shot]:
    """Images of the nuScenes rig in order of arrival; each stamp and each transport delay varies by itself."""
    rng = np.random.default_rng(seed)
    shots = []
    for cycle in range(cycles):
        for camera in NUSCENES_CAMERAS:
            at = cycle * period_ms + STAGGER_MS[camera] + rng.uniform(-jitter_ms, jitter_ms)
            arrival = at + rng.uniform(0.0, delay_ms) + 50
            if rng.random() >= loss:
                shots.append(
                    Shot(camera, start + int(at * MS), first_cycle + cycle, arrival_start + int(arrival * MS))
                )
    return sorted(shots, key=lambda shot: shot.arrival)


def play(sync: CameraSynchronizer, shots: Iterable[Shot], poll_ms: float = 10.0) -> list[CameraSet | Rewind]:
    """Feed the shots at their arrival and poll every `poll_ms` in between, as the node does, and at the end."""
    events: list[CameraSet | Rewind] = []
    now = None
    for shot in shots:
        while now is not None and now + poll_ms * MS < shot.arrival:
            now += int(poll_ms * MS)
            events += sync.poll(now)
        now = shot.arrival
        events += sync.add(shot.camera, shot.stamp, shot.cycle, now)
    assert now is not None
    return events + sync.poll(now + 10**9)


def sets_of(events: Iterable[CameraSet | Rewind]) -> list[CameraSet]:
    return [event for event in events if isinstance(event, CameraSet)]


def check(sync: CameraSynchronizer, events: list[CameraSet | Rewind]) -> list[CameraSet]:
    """What holds for every script: no mixing, stamps within the skew, every image accounted for."""
    sets = sets_of(events)
    for one in sets:
        assert len(set(one.payloads.values())) == 1, f"cycles mixed: {one}"
        assert one.payloads.keys() == one.stamps_ns.keys()
        assert set(one.missing) == set(sync.cameras) - set(one.payloads)
        if one.anchor == sync.anchor:
            center = one.stamps_ns[one.anchor]
            assert max(abs(stamp - center) for stamp in one.stamps_ns.values()) <= sync.max_skew_ns
    for camera, counts in sync.counts.items():
        total = counts.used + counts.duplicate + counts.late + counts.unmatched + counts.dropped
        assert counts.received == total + sync.waiting[camera], (camera, counts)
        assert counts.used == sum(camera in one.payloads for one in sets)
    assert sync.sets.complete == sum(not one.missing for one in sets)
    assert sync.sets.partial == sum(bool(one.missing) for one in sets)
    assert sync.sets.rewinds == sum(isinstance(event, Rewind) for event in events)
    return sets


def in_order(sets: list[CameraSet]) -> bool:
    return all(a.stamp_ns < b.stamp_ns for a, b in itertools.pairwise(sets))


@pytest.mark.parametrize("rate_hz", [12.0, 2.0])
def test_clean_stagger_gives_every_set_whole(rate_hz: float):
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    sets = check(sync, play(sync, script(240, period_ms=1000 / rate_hz)))
    assert [one.payloads["CAM_FRONT"] for one in sets] == list(range(240))
    assert (sync.sets.complete, sync.sets.partial, sync.sets.skipped) == (240, 0, 0)
    assert in_order(sets)
    assert not sync.problems()


@pytest.mark.parametrize("seed", range(5))
def test_jitter_of_stamps_and_reordered_arrivals_lose_nothing(seed: int):
    print(f"seed {seed}")
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    shots = script(240, jitter_ms=2.0, delay_ms=60.0, seed=seed)
    assert any(a.stamp > b.stamp for a, b in itertools.pairwise(shots))
    sets = check(sync, play(sync, shots))
    assert sync.sets.complete == 240
    assert in_order(sets)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rate_hz", [12.0, 2.0])
def test_two_percent_loss_costs_only_the_lost_images(seed: int, rate_hz: float):
    print(f"seed {seed}")
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    shots = script(240, period_ms=1000 / rate_hz, jitter_ms=1.0, delay_ms=20.0, loss=0.02, seed=seed)
    sets = check(sync, play(sync, shots))
    lost = 240 * 6 - len(shots)
    assert lost > 5
    # A lost image of the anchor does not cost its set either, but in the first cycles, when the period and the
    # cameras' places are not yet known, and in the very last, which no next one follows.
    gone = set(range(240)) - {next(iter(one.payloads.values())) for one in sets}
    assert gone <= {0, 1, 2, 239}
    unused = sum(shot.cycle in gone for shot in shots)
    assert sum(counts.used for counts in sync.counts.values()) == len(shots) - unused
    assert sum(counts.unmatched for counts in sync.counts.values()) == unused - sum(sync.waiting.values())
    assert in_order(sets)


@pytest.mark.parametrize("dead", ["CAM_BACK", "CAM_FRONT"])
def test_one_dead_camera_leaves_sets_of_the_others(dead: str):
    """CAM_FRONT is the anchor: another takes over."""
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    shots = [shot for shot in script(60, jitter_ms=1.0) if shot.camera != dead]
    sets = check(sync, play(sync, shots))
    assert sync.sets.complete == 0
    assert sync.sets.partial >= 59
    assert all(one.missing == (dead,) for one in sets)
    assert sync.counts[dead].received == 0
    assert any(dead in problem for problem in sync.problems())
    # Once it is known to be dead nobody waits for it: the last image of a cycle completes its set.
    for one in sets[10:]:
        cycle = [shot for shot in shots if shot.cycle == next(iter(one.payloads.values()))]
        assert max(shot.stamp for shot in cycle) - one.stamp_ns < 50 * MS


@pytest.mark.parametrize("camera", ["CAM_BACK_LEFT", "CAM_FRONT"])
def test_a_camera_that_stops_and_returns(camera: str):
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    gone = range(60, 120)
    shots = [s for s in script(240, jitter_ms=1.0) if s.camera != camera or s.cycle not in gone]
    sets = check(sync, play(sync, shots))
    without = [one for one in sets if camera in one.missing]
    assert 60 <= len(without) <= 62  # on its return its first image may come too late
    assert sync.sets.complete >= 178
    assert len(sets) == 240
    assert in_order(sets)


def test_a_camera_that_lags_for_a_while_is_counted_late_and_mixes_nothing():
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    shots = [
        dataclasses.replace(s, arrival=s.arrival + 150 * MS)
        if s.camera == "CAM_BACK" and 60 <= s.cycle < 90
        else s
        for s in script(150)
    ]
    sets = check(sync, play(sync, sorted(shots, key=lambda s: s.arrival)))
    assert len(sets) == 150
    assert sync.counts["CAM_BACK"].late >= 20


def test_a_stall_of_everything_resumes_with_whole_sets():
    """A pause of the drive must make no camera look dead: the first image after it waits for the others."""
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    before = script(30)
    after = script(30, start=START + 20_000 * MS, arrival_start=20_000 * MS, first_cycle=30)
    check(sync, play(sync, before + after))
    assert (sync.sets.complete, sync.sets.partial, sync.sets.rewinds) == (60, 0, 0)


def test_duplicated_stamps_are_counted_and_used_once():
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    shots = script(100)
    again = [dataclasses.replace(s, arrival=s.arrival + 3 * MS) for s in shots[::5]]
    check(sync, play(sync, sorted(shots + again, key=lambda s: s.arrival)))
    assert sync.sets.complete == 100
    assert sum(counts.duplicate for counts in sync.counts.values()) == len(again)


@pytest.mark.parametrize("seed", range(4))
def test_rewind_clears_once_and_the_second_pass_is_whole(seed: int):
    """The bag loops; up to 60 ms of the first pass are still on their way when the second begins."""
    print(f"seed {seed}")
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    first = script(60, delay_ms=60.0, seed=seed)
    second = script(60, delay_ms=5.0, seed=seed, arrival_start=60 * 83 * MS, first_cycle=1000)
    events = play(sync, sorted(first + second, key=lambda s: s.arrival))
    sets = check(sync, events)
    assert sync.sets.rewinds == 1
    assert [one.payloads["CAM_FRONT"] for one in sets if not one.missing][-58:] == list(range(1002, 1060))
    assert sync.sets.complete >= 117
    where = next(i for i, event in enumerate(events) if isinstance(event, Rewind))
    assert all(next(iter(one.payloads.values())) < 1000 for one in sets_of(events[:where]))
    assert all(next(iter(one.payloads.values())) >= 1000 for one in sets_of(events[where:]))


def test_a_camera_with_a_wrong_clock_spoils_only_itself():
    sync = CameraSynchronizer(NUSCENES_CAMERAS)
    shots = [
        dataclasses.replace(s, stamp=s.stamp + 3_600_000 * MS) if s.camera == "CAM_BACK" else s for s in script(60)
    ]
    sets = check(sync, play(sync, shots))
    assert len(sets) == 60
    assert all(one.missing == ("CAM_BACK",) for one in sets)
    assert sync.counts["CAM_BACK"].dropped > 40
    assert sync.sets.rewinds == 0


def test_too_few_cameras_are_skipped_and_counted():
    sync = CameraSynchronizer(NUSCENES_CAMERAS, min_cameras=5)
    shots = [s for s in script(40) if s.camera in ("CAM_FRONT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")]
    assert not check(sync, play(sync, shots))
    assert sync.sets.skipped >= 39
    assert sum(counts.unmatched for counts in sync.counts.values()) == len(shots)


@pytest.mark.parametrize("seed", range(6))
def test_everything_at_once_mixes_nothing(seed: int):
    """Loss, jitter, reordering, duplicates, a camera that comes and goes, and a rewind in the middle."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    sync = CameraSynchronizer(NUSCENES_CAMERAS, min_cameras=2)
    shots: list[Shot] = []
    for part in range(2):
        shots += script(
            120,
            jitter_ms=3.0,
            delay_ms=70.0,
            loss=0.1,
            seed=100 * seed + part,
            arrival_start=part * 120 * 84 * MS,
            first_cycle=1000 * part,
        )
    shots += [dataclasses.replace(s, arrival=s.arrival + 40 * MS) for s in shots if rng.random() < 0.05]
    away = str(rng.choice(NUSCENES_CAMERAS))
    shots = [s for s in shots if s.camera != away or s.cycle % 40 < 25]
    sets = check(sync, play(sync, sorted(shots, key=lambda s: s.arrival)))
    assert sync.sets.rewinds == 1
    assert len(sets) >= 230


def test_a_skew_beyond_half_the_period_is_named_and_held_back():
    sync = CameraSynchronizer(NUSCENES_CAMERAS, max_skew_ns=150 * MS)
    sets = check(sync, play(sync, script(240, loss=0.02, seed=3)))
    assert len(sets) >= 239
    (problem,) = sync.problems()
    assert "max_skew 150.0 ms" in problem
    assert "83.3 ms" in problem
    assert sync.skew_ns < 83.4 * MS / 2


def test_fast_cameras_shrink_the_default_skew():
    sync = CameraSynchronizer(("a", "b"))
    shots = [
        Shot(c, START + int((i * 33.3 + o) * MS), i, int((i * 33.3 + o) * MS))
        for i in range(60)
        for c, o in (("a", 0.0), ("b", 12.0))
        if not (c == "b" and i % 7 == 3) and not (c == "a" and i == 0)  # b comes first, alone
    ]
    sets = check(sync, play(sync, sorted(shots, key=lambda s: s.arrival)))
    assert sync.skew_ns < 16 * MS
    assert sum("b" in one.missing for one in sets) == 9


def test_reference_stream_says_exactly_which_images_belong_together():
    """Stamps that no skew could pair; an image that never comes ends in a partial set."""
    sync = CameraSynchronizer(("a", "b"), use_reference=True, reference_wait_ns=100 * MS, min_cameras=1)
    stamps = {0: {"a": START, "b": START + 300 * MS}, 1: {"a": START + 200 * MS, "b": START + 500 * MS}}
    events = sync.add_reference(START + 310 * MS, "first", 0, stamps[0])
    events += sync.add("a", stamps[0]["a"], 0, 1 * MS)
    events += sync.add("a", stamps[1]["a"], 1, 2 * MS)
    assert not events
    (whole,) = sets_of(sync.add("b", stamps[0]["b"], 0, 3 * MS))
    assert (whole.stamp_ns, whole.reference, whole.missing) == (START + 310 * MS, "first", ())
    assert whole.stamps_ns == stamps[0]
    assert not sync.add_reference(START + 510 * MS, "second", 10 * MS, stamps[1])
    assert not sync.poll(100 * MS)
    (partial,) = sets_of(sync.poll(111 * MS))
    assert (partial.missing, partial.reference) == (("b",), "second")
    assert not sync.add("b", stamps[1]["b"], 1, 112 * MS)
    assert sync.counts["b"].late == 1
    assert (sync.counts["a"].used, sync.counts["b"].used) == (2, 1)


def test_reference_that_names_an_absent_camera_does_not_wait_for_it():
    sync = CameraSynchronizer(("a", "b"), use_reference=True, min_cameras=1)
    sync.add("a", START, 0, 0)
    (one,) = sets_of(sync.add_reference(START + 5 * MS, "r", 1, {"a": START, "b": -1}))
    assert one.missing == ("b",)


def test_reference_without_a_list_is_waited_for_like_a_camera():
    sync = CameraSynchronizer(NUSCENES_CAMERAS, use_reference=True)
    events: list[CameraSet | Rewind] = []
    shots = script(50)
    for shot in shots:
        events += sync.add(shot.camera, shot.stamp, shot.cycle, shot.arrival)
        if shot.camera == "CAM_BACK_LEFT":
            events += sync.add_reference(START + shot.cycle * 83_333_333, shot.cycle, shot.arrival + 2 * MS)
    sets = check(sync, events + sync.poll(10**12))
    assert len(sets) == 50
    assert all(one.reference == one.payloads["CAM_FRONT"] for one in sets)
    assert [one.stamp_ns for one in sets] == [START + cycle * 83_333_333 for cycle in range(50)]


def test_dead_reference_stream_is_named_and_sets_still_come():
    sync = CameraSynchronizer(NUSCENES_CAMERAS, use_reference=True)
    sets = check(sync, play(sync, script(50)))
    assert len(sets) == 50
    assert sets[-1].stamp_ns == sets[-1].stamps_ns["CAM_FRONT"]
    assert any("reference stream is silent" in problem for problem in sync.problems())


def test_queues_are_bounded():
    sync = CameraSynchronizer(NUSCENES_CAMERAS, use_reference=True, queue_size=4)
    for i in range(1000):
        sync.add("CAM_BACK", START + i * 10 * MS, i, i)
        sync.add_reference(START + i * 10 * MS, i, i, {"CAM_FRONT": START + i * 10 * MS})
    assert sync.waiting["CAM_BACK"] <= 4
    counts = sync.counts["CAM_BACK"]
    assert counts.dropped + counts.unmatched + counts.late + sync.waiting["CAM_BACK"] == 1000


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"anchor": "CAM_TOP"}, "CAM_TOP"),
        ({"min_cameras": 7}, "min_cameras 7"),
        ({"max_skew_ns": 0}, "max_skew 0"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict, named: str):
    with pytest.raises(SynchronizerError, match=named):
        CameraSynchronizer(NUSCENES_CAMERAS, **settings)


def test_unknown_camera_is_refused():
    with pytest.raises(SynchronizerError, match="CAM_TOP"):
        CameraSynchronizer(NUSCENES_CAMERAS).add("CAM_TOP", START, 0, 0)
