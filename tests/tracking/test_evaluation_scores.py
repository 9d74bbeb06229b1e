"""HOTA, CLEAR, identity scores, rings of range and events, on cases that can be reckoned by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tracking.analysis import analyse
from tracking.devkit import official_config
from tracking.events import worst_first
from tracking.fast_evaluation import fast_tracking_metrics
from tracking.fast_tracks import Box, KeyFrames, TrackSet, tracks_of_boxes
from tracking.hota import ALPHAS, hota
from tracking.nuscenes_format import TRACKING_CLASSES

CAR = TRACKING_CLASSES.index("car")
Step = tuple[int, float, str]
"""Frame, x in metres, id."""


def track_set(truth: Sequence[Step], found: Sequence[Step], frames: int = 10, y: float = 5.0) -> TrackSet:
    """Cars at `y`, half a second between frames, the ego at the origin."""
    numbers = {f"sample{i}": i for i in range(frames)}
    stamps = 1_000_000 + 500_000 * np.arange(frames)
    key_frames = KeyFrames(numbers, stamps, np.zeros(frames, dtype=np.int64), np.zeros((frames, 3)), ("drive",))

    def boxes(steps: Sequence[Step], score: float) -> list[Box]:
        return [(frame, name, CAR, (x, y, 0.0), -1, score) for frame, x, name in sorted(steps)]

    return tracks_of_boxes(boxes(truth, -1.0), boxes(found, 0.5), key_frames, official_config()["class_range"])


def scores(tracks: TrackSet) -> dict[str, float]:
    return hota(tracks.truth, tracks.found, tracks.frames.scene).scores()


def line(name: str, frames: Sequence[int], offset: float = 0.0) -> list[Step]:
    return [(frame, offset, name) for frame in frames]


OBJECT = line("a", range(10))


def test_perfect_tracks_have_every_score_one() -> None:
    assert set(scores(track_set(OBJECT, line("t", range(10)))).values()) == {1.0}


def test_a_track_broken_in_two_halves_the_association() -> None:
    found = scores(track_set(OBJECT, line("t", range(5)) + line("u", range(5, 10))))
    assert found["deta"] == 1
    assert found["assa"] == pytest.approx(0.5)  # of 10 boxes of the object, 5 are with either track
    assert found["hota"] == pytest.approx(np.sqrt(0.5))
    assert (found["assre"], found["asspr"]) == (0.5, 1)


def test_distance_takes_the_stricter_thresholds_away() -> None:
    found = scores(track_set(OBJECT, line("t", range(10), offset=1.0)))  # similarity 0.5
    kept = np.sum(ALPHAS <= 0.5 + 1e-9) / len(ALPHAS)
    assert found["hota"] == pytest.approx(kept)
    assert found["loca"] == pytest.approx(0.5 * kept + (1 - kept))


def test_missed_and_false_boxes_lower_both_halves() -> None:
    found = scores(track_set(OBJECT, line("t", range(6)) + line("false", range(4), offset=30.0)))
    assert found["deta"] == pytest.approx(6 / (6 + 4 + 4))
    assert found["assa"] == pytest.approx(0.6)
    assert (found["detre"], found["detpr"]) == (0.6, 0.6)


def test_finding_nothing_is_zero() -> None:
    found = scores(track_set(OBJECT, []))
    assert (found["hota"], found["deta"], found["loca"]) == (0, 0, 1)


def crossing() -> TrackSet:
    """Object a: seen, followed 4 m beside it for two frames, seen again, then by another id. b: never seen."""
    found = [
        *line("t", [0, 1, 2, 5, 6]),
        *line("t", [3, 4], offset=4.0),
        *line("u", [7, 8, 9]),
        *line("false", [3], offset=40.0),
    ]
    return track_set([*OBJECT, *line("b", range(4), offset=20.0)], found)


def test_events_say_when_where_and_who() -> None:
    tracks = crossing()
    _, details = fast_tracking_metrics(tracks, official_config())
    result = analyse(tracks, details)
    lost, switched = result.events
    assert (lost.kind, lost.sample, lost.time_s, lost.unseen_s) == ("fragmentation", "sample3", 1.5, 1.5)
    assert (switched.kind, switched.scene, switched.sample) == ("switch", "drive", "sample7")
    assert (switched.object, switched.old_track, switched.new_track) == ("a", "t", "u")
    assert (switched.x, switched.y, switched.range_m) == (0, 5, 5)
    assert "drive +3.5 s: car a track t → u, 5 m away" in str(switched)
    assert worst_first(result.events, 1) == [switched]


def test_clear_and_identity_scores_are_those_of_the_textbook() -> None:
    tracks = crossing()
    _, details = fast_tracking_metrics(tracks, official_config())
    car = analyse(tracks, details).classes["car"]
    assert (car["objects"], car["fn"], car["fp"], car["ids"], car["frag"]) == (14, 6, 3, 1, 1)
    assert car["mota"] == pytest.approx(1 - 10 / 14)
    assert (car["idtp"], car["idfp"], car["idfn"]) == (5, 6, 9)  # object a is track t, all else is wrong
    assert car["idf1"] == pytest.approx(10 / 25)


def test_rings_split_what_the_class_sums() -> None:
    tracks = crossing()
    _, details = fast_tracking_metrics(tracks, official_config())
    result = analyse(tracks, details)
    rings = [row for row in result.ranges if row.class_name == "car"]
    assert [(row.near, row.objects, row.tp, row.fn, row.fp, row.ids) for row in rings] == [
        (0, 10, 8, 2, 2, 1),
        (20, 4, 0, 4, 0, 0),
        (40, 0, 0, 0, 1, 0),
    ]
    assert rings[0].recall == 0.8
    assert np.isnan(rings[2].mota)
    assert result.range_table().row_count == 3
    assert result.class_table().row_count == 2
