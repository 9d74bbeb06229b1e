"""What a robot may expect of the tracker."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
from streampetr_core.cameras import CameraModel
from tracking import Tracker, TrackerConfig
from tracking.config import ClassParameters, TrackerConfigError
from tracking.tracker import TrackerError

CAR, TRUCK, PEDESTRIAN = (NUSCENES_CLASSES.index(name) for name in ("car", "truck", "pedestrian"))
EGO = np.eye(4)


def boxes(
    places: ArrayLike,
    seconds: float,
    label: int = CAR,
    velocity: ArrayLike | None = None,
    score: float = 0.8,
    yaw: ArrayLike = 0.0,
    **other,
) -> Boxes3D:
    """Cars at (x, y) places, heading along x unless told otherwise."""
    spots = np.asarray(places, dtype=float).reshape(-1, 2)
    n = len(spots)
    unknown = np.full((n, 2), np.nan)
    return Boxes3D(
        center=np.column_stack([spots, np.ones(n)]),
        size=np.tile([4.5, 1.9, 1.6], (n, 1)),
        yaw=np.broadcast_to(yaw, n),
        velocity=unknown if velocity is None else np.asarray(velocity, dtype=float).reshape(n, 2),
        score=np.full(n, score),
        label=np.full(n, label),
        frame_id="map",
        stamp_ns=round(seconds * 1e9) + 1_600_000_000_000_000_000,
        **other,
    )


def near(tracks: Boxes3D, x: float, y: float) -> int:
    """Id of the track nearest to a place."""
    return int(tracks.track_id[np.hypot(tracks.center[:, 0] - x, tracks.center[:, 1] - y).argmin()])


@pytest.mark.parametrize("with_velocity", [True, False])
def test_crossing_objects_keep_their_ids(with_velocity: bool) -> None:
    tracker = Tracker()
    velocity = [[8.0, 0.0], [0.0, 8.0]]
    ids = []
    for t in np.arange(0, 5, 0.5):
        # two cars through the same crossing, half a second apart
        places = [[-20 + 8 * t, 0.0], [0.0, -16 + 8 * t]]
        given = velocity if with_velocity else None
        tracks = tracker.step(boxes(places, t, velocity=given, yaw=[0, np.pi / 2]), EGO)
        ids.append([near(tracks, *places[0]), near(tracks, *places[1])])
    assert ids[0][0] != ids[0][1]
    assert ids == [ids[0]] * len(ids)


def test_an_object_hidden_for_a_second_keeps_its_id() -> None:
    tracker = Tracker()
    for t in np.arange(0, 3, 0.5):
        before = tracker.step(boxes([[5 * t, 10]], t), EGO)
    tracker.step(boxes([], 3.0), EGO)
    tracker.step(boxes([], 3.5), EGO)
    after = tracker.step(boxes([[20, 10]], 4.0), EGO)
    assert after.track_id.tolist() == before.track_id.tolist()


def test_a_lost_track_is_predicted_briefly_and_with_a_lower_score() -> None:
    tracker = Tracker()
    for t in np.arange(0, 3, 0.5):
        before = tracker.step(boxes([[5 * t, 10]], t), EGO)
    first = tracker.step(boxes([], 3.0), EGO)
    assert first.track_id.tolist() == before.track_id.tolist()
    assert first.center[0, 0] == pytest.approx(15.0, abs=0.5)
    assert first.score[0] < before.score[0]
    assert len(tracker.step(boxes([], 4.5), EGO)) == 0


def test_a_track_dies_after_max_age() -> None:
    config = TrackerConfig()
    tracker = Tracker(config)
    for t in np.arange(0, 2, 0.5):
        before = tracker.step(boxes([[10, 10]], t), EGO)
    for t in np.arange(2, 2 + config.max_age + 0.5, 0.5):
        tracker.step(boxes([], t), EGO)
    after = tracker.step(boxes([[10, 10]], 2.5 + config.max_age), EGO)
    assert set(after.track_id).isdisjoint(before.track_id)


def test_steps_of_any_length_track_alike() -> None:
    tracker = Tracker()
    stamps = np.cumsum([0, 0.5, 0.08, 0.08, 0.9, 0.02, 0.5, 1.3, 0.5])
    yaw = np.arctan2(-1, 3)
    ids = {near(tracker.step(boxes([[3 * t, -t + 8]], t, yaw=yaw), EGO), 3 * t, -t + 8) for t in stamps}
    assert len(ids) == 1
    assert tracker._last.velocity[0] == pytest.approx([3, -1], abs=0.3)


def test_a_rewind_and_a_gap_start_anew_with_fresh_ids() -> None:
    tracker = Tracker()
    first = tracker.step(boxes([[0, 5]], 10.0), EGO)
    back = tracker.step(boxes([[0, 5]], 2.0), EGO)
    assert tracker.last_reset_reason == "time_back"
    gap = tracker.step(boxes([[0, 5]], 2.1 + tracker.config.max_gap), EGO)
    assert tracker.last_reset_reason == "gap"
    assert len({*first.track_id, *back.track_id, *gap.track_id}) == 3
    assert tracker.reset_counts == {"time_back": 1, "gap": 1}


def test_a_late_frame_changes_nothing() -> None:
    tracker, reference = Tracker(), Tracker()
    for t in (0.0, 0.1, 0.2):
        reference.step(boxes([[t, 5]], t), EGO)
        newest = tracker.step(boxes([[t, 5]], t), EGO)
    late = tracker.step(boxes([[30, 30]], 0.15), EGO)
    again = tracker.step(boxes([[30, 30]], 0.2), EGO)
    assert late is newest
    assert again is newest
    assert tracker.late_frames == 2
    expected, got = (tr.step(boxes([[0.3, 5]], 0.3), EGO) for tr in (reference, tracker))
    np.testing.assert_array_equal(got.center, expected.center)
    np.testing.assert_array_equal(got.track_id, expected.track_id)


def test_two_scenes_in_a_row_share_no_id() -> None:
    tracker = Tracker()
    first = tracker.step(boxes([[0, 5], [9, 5]], 0.0), EGO, scene="a")
    second = tracker.step(boxes([[0, 5], [9, 5]], 0.5), EGO, scene="b")
    third = tracker.step(boxes([[0, 5], [9, 5]], 1.0), EGO, scene="b")
    assert set(first.track_id).isdisjoint(second.track_id)
    assert sorted(second.track_id) == sorted(third.track_id)
    tracker.reset()
    assert set(tracker.step(boxes([[0, 5]], 1.5), EGO).track_id).isdisjoint(third.track_id)


def test_the_order_of_boxes_does_not_matter() -> None:
    rng = np.random.default_rng(11)
    one, two = Tracker(), Tracker()
    places = rng.uniform(-40, 40, (60, 2))
    for t in np.arange(0, 4, 0.5):
        places = places + rng.normal(0, 0.3, places.shape)
        seen = boxes(places, t, score=0.5)
        order = rng.permutation(len(seen))
        a, b = one.step(seen, EGO), two.step(seen[order], EGO)
        np.testing.assert_array_equal(a.track_id, b.track_id)
        np.testing.assert_array_equal(a.center, b.center)
        np.testing.assert_array_equal(a.score, b.score)


@pytest.mark.parametrize("missing", [0.0, np.nan])
def test_velocity_of_zero_or_nan_is_not_measured(missing: float) -> None:
    tracker = Tracker()
    for t in np.arange(0, 4, 0.5):
        tracks = tracker.step(boxes([[6 * t, 3]], t, velocity=[[missing, missing]]), EGO)
    # a measured zero would have held the track back
    assert tracks.velocity[0] == pytest.approx([6, 0], abs=0.5)
    assert np.isfinite(tracks.velocity).all()


@pytest.mark.parametrize("off", [0.3, np.pi, np.pi / 2])
def test_a_wrong_heading_does_not_lose_the_track(off: float) -> None:
    tracker = Tracker()
    ids = {int(tracker.step(boxes([[4 * t, 20]], t, yaw=off), EGO).track_id[0]) for t in np.arange(0, 5, 0.5)}
    assert len(ids) == 1


def test_what_jumps_across_its_heading_does_not_move() -> None:
    rng = np.random.default_rng(5)
    tracker = Tracker()
    for t in np.arange(0, 6, 0.5):
        tracks = tracker.step(boxes([[10, 20 + rng.normal(0, 1)]], t), EGO)
    assert abs(tracks.velocity[0, 1]) < 0.3


def test_measured_velocity_is_used_at_once() -> None:
    tracker = Tracker()
    first = tracker.step(boxes([[0, 5]], 0.0, velocity=[[12, 0]]), EGO)
    second = tracker.step(boxes([[6, 5]], 0.5, velocity=[[12, 0]]), EGO)
    assert second.track_id.tolist() == first.track_id.tolist()
    assert second.velocity[0] == pytest.approx([12, 0], abs=1.0)


def test_one_object_seen_twice_along_the_ray_is_one_track() -> None:
    tracks = Tracker().step(boxes([[40.0, 0.0], [42.0, 0.05]], 0.0), EGO)
    assert len(tracks) == 1
    # the same distance across the ray is two objects
    assert len(Tracker().step(boxes([[40.0, -1.5], [40.0, 1.5]], 0.0), EGO)) == 2


def test_a_flipped_box_does_not_turn_the_track() -> None:
    tracker = Tracker()
    for k, t in enumerate(np.arange(0, 4, 0.5)):
        seen = boxes([[6 * t, 3]], t)
        if k == 5:
            seen = Boxes3D(**{**vars(seen), "yaw": np.array([np.pi])})
        tracks = tracker.step(seen, EGO)
        assert abs(tracks.yaw[0]) < 0.1


def test_boxes_beyond_their_class_range_are_left_aside() -> None:
    far = boxes([[45, 0]], 0.0, label=PEDESTRIAN)
    assert len(Tracker().step(far, EGO)) == 0
    pose = np.eye(4)
    pose[0, 3] = 20.0
    assert len(Tracker().step(far, pose)) == 1


def test_same_input_same_output() -> None:
    rng = np.random.default_rng(3)
    frames = [boxes(rng.uniform(-30, 30, (40, 2)), t) for t in np.arange(0, 3, 0.5)]
    one, two = Tracker(), Tracker()
    for frame in frames:
        a, b = one.step(frame, EGO), two.step(frame, EGO)
        np.testing.assert_array_equal(a.center, b.center)
        np.testing.assert_array_equal(a.track_id, b.track_id)


def test_empty_frames_are_fine() -> None:
    tracker = Tracker()
    for t in (0.0, 0.5, 1.0):
        assert len(tracker.step(Boxes3D.empty("map", round(t * 1e9)), EGO)) == 0
    assert len(tracker.step(boxes([[0, 5]], -1.6e9 + 1.5), EGO)) == 1


def test_without_an_ego_pose_it_still_tracks() -> None:
    tracker = Tracker()
    ids = {int(tracker.step(boxes([[1000 + 2 * t, 70]], t)).track_id[0]) for t in np.arange(0, 3, 0.5)}
    assert len(ids) == 1


def test_boxes_it_cannot_use_are_refused() -> None:
    with pytest.raises(TrackerError, match="base_link"):
        Tracker().step(Boxes3D.empty("base_link"))
    with pytest.raises(TrackerError, match="center"):
        Tracker().step(boxes([[np.nan, 0]], 0.0))
    tracker = Tracker()
    tracker.step(boxes([[0, 0]], 0.0))
    with pytest.raises(TrackerError, match="class list"):
        tracker.step(boxes([[0, 0]], 0.5, label=0, class_names=("car",)))


def test_other_class_lists_work() -> None:
    tracks = Tracker().step(boxes([[0, 0]], 0.0, label=1, class_names=("forklift", "pallet")))
    assert tracks.names().tolist() == ["pallet"]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(TrackerConfigError, match="max_age"):
        TrackerConfig(max_age=0)
    with pytest.raises(TrackerConfigError, match="speed"):
        ClassParameters(speed=-1)


def test_an_id_outlives_a_class_flip() -> None:
    tracker = Tracker()
    ids, labels = set(), []
    for k, t in enumerate(np.arange(0, 5, 0.5)):
        tracks = tracker.step(boxes([[3 * t, 12]], t, label=TRUCK if k in (3, 6) else CAR), EGO)
        ids.update(tracks.track_id.tolist())
        labels.append(int(tracks.label[0]))
    assert len(ids) == 1
    assert set(labels) == {CAR}  # two boxes of ten do not make it a truck


def test_a_class_that_changes_for_good_is_taken_over() -> None:
    tracker = Tracker()
    ids = set()
    for t in np.arange(0, 8, 0.5):
        tracks = tracker.step(boxes([[10, 12]], t, label=CAR if t < 1.5 else TRUCK), EGO)
        ids.update(tracks.track_id.tolist())
    assert len(ids) == 1
    assert tracks.names().tolist() == ["truck"]


def test_a_pedestrian_is_no_car() -> None:
    tracker = Tracker()
    for t in (0.0, 0.5, 1.0):
        first = tracker.step(boxes([[10, 5]], t), EGO)
    later = tracker.step(boxes([[10, 5]], 1.5, label=PEDESTRIAN), EGO)
    assert set(later.track_id) > set(first.track_id)
    assert sorted(later.names()) == ["car", "pedestrian"]


def front_camera() -> CameraModel:
    ego_from_camera = np.array([[0, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]], dtype=float)
    intrinsics = np.array([[1200, 0, 799.5], [0, 1200, 449.5], [0, 0, 1]], dtype=float)
    return CameraModel("CAM_FRONT", 1600, 900, intrinsics, ego_from_camera)


def test_a_track_that_no_camera_could_see_lives_on() -> None:
    ahead, behind = [20.0, 0.0], [-20.0, 0.0]
    ids = []
    for observed in (None, [front_camera()]):
        tracker = Tracker()
        for t in (0.0, 0.5, 1.0):
            before = tracker.step(boxes([ahead, behind], t), EGO, observed=observed)
        # the camera that saw what is behind drops out for longer than a missed track lives
        for t in np.arange(1.5, 4.6, 0.5):
            during = tracker.step(boxes([ahead], t), EGO, observed=observed)
        after = tracker.step(boxes([ahead, behind], 5.0), EGO)
        ids.append((near(before, *behind), near(after, *behind), len(during)))
    assert ids[0][0] != ids[0][1]
    assert ids[1][0] == ids[1][1]
    assert ids[0][2] == 1
    assert ids[1][2] == 2


def test_a_track_in_view_dies_also_when_other_cameras_are_missing() -> None:
    tracker = Tracker()
    for t in (0.0, 0.5, 1.0):
        tracker.step(boxes([[20, 0]], t), EGO, observed=[front_camera()])
    for t in np.arange(1.5, 4.6, 0.5):
        tracks = tracker.step(boxes([], t), EGO, observed=[front_camera()])
    assert len(tracks) == 0


def test_what_stays_hidden_is_forgotten_in_the_end() -> None:
    tracker = Tracker()
    for t in (0.0, 0.5, 1.0):
        tracker.step(boxes([[-20, 0]], t), EGO, observed=[front_camera()])
    for t in np.arange(1.5, 2 + tracker.config.max_hidden, 0.5):
        tracks = tracker.step(boxes([], t), EGO, observed=[front_camera()])
    assert len(tracks) == 0


def test_covariances_say_how_sure_a_track_is() -> None:
    tracker = Tracker()
    for t in np.arange(0, 4, 0.5):
        tracks = tracker.step(boxes([[40, 0], [0, 10]], t), EGO)
        if t == 0:
            first = tracks
    lost = tracker.step(boxes([], 4.0), EGO)
    far, close = (int(np.hypot(*tracks.center[:, :2].T).argsort()[row]) for row in (1, 0))
    assert first.position_covariance is not None
    assert tracks.position_covariance is not None
    assert lost.position_covariance is not None
    assert tracks.velocity_covariance is not None
    # along the viewing ray a camera is less sure than across it, and farther away less sure than close by
    assert tracks.position_covariance[far, 0, 0] > 4 * tracks.position_covariance[far, 1, 1]
    assert tracks.position_covariance[far, 0, 0] > tracks.position_covariance[close, 1, 1]
    assert np.trace(tracks.position_covariance.sum(0)) < np.trace(first.position_covariance.sum(0))
    assert np.trace(lost.position_covariance.sum(0)) > np.trace(tracks.position_covariance.sum(0))
    assert (np.linalg.eigvalsh(tracks.position_covariance) > 0).all()
    assert (np.linalg.eigvalsh(tracks.velocity_covariance) > 0).all()


def test_a_query_that_is_carried_on_tells_two_objects_apart() -> None:
    ids = []
    for bonus in (0.0, 9.0):
        tracker = Tracker(TrackerConfig(lineage=bonus))
        for t in (0.0, 0.5, 1.0):
            before = tracker.step(boxes([[20, 0], [20, 2.6]], t, lineage=np.array([7, 8])), EGO)
        # both boxes err sideways by more than half of the way to the other object; their queries do not
        after = tracker.step(boxes([[20, 1.75], [20, 0.5]], 1.5, lineage=np.array([7, 8])), EGO)
        first, last = (
            [near(before, 20, 0), near(before, 20, 2.6)],
            [int(tracker._tracks.track_id[tracker._tracks.lineage == number][0]) for number in (7, 8)],
        )
        assert len(after) == 2
        ids.append(first == last)
    assert ids == [False, True]


def covariance(variance: float, count: int = 1, size: int = 2) -> np.ndarray:
    """(count, size, size), the same in all directions."""
    return np.tile(variance * np.eye(size), (count, 1, 1))


def place_after(speed_variance: float | None) -> float:
    """Metres that the track of a truck is off that stands while its detector says 2 m/s, as sure of it as told."""
    tracker = Tracker()
    for t in np.arange(0, 4, 0.5):
        told = None if speed_variance is None else covariance(speed_variance)
        given = boxes([[20, 0]], t, TRUCK, velocity=[[2.0, 0.0]], velocity_covariance=told)
        tracks = tracker.step(given, EGO)
        assert tracks.track_id.tolist() == [0]
    return abs(float(tracks.center[0, 0]) - 20)


def test_a_velocity_that_the_detector_is_unsure_of_hardly_moves_a_track() -> None:
    unsure, usual, sure = (place_after(variance) for variance in (9.0, None, 0.25))
    assert unsure < 0.3 * usual < 0.3 * sure


@pytest.mark.parametrize("label", [CAR, TRUCK, PEDESTRIAN])
def test_a_detector_that_knows_nothing_of_velocities_loses_no_track(label: int) -> None:
    tracker = Tracker()
    for t in np.arange(0, 4, 0.5):
        told = {"velocity": [[1.0, 0.0]], "velocity_covariance": covariance(400.0)}
        tracks = tracker.step(boxes([[20 + t, 0]], t, label, **told), EGO)
        assert tracks.track_id.tolist() == [0]


def test_a_place_is_followed_as_far_as_the_detector_is_sure_of_it() -> None:
    sides = []
    for variance in (0.01, 4.0):
        tracker = Tracker()
        for t in np.arange(0, 3, 0.5):
            place = covariance(variance, size=3)
            last = tracker.step(boxes([[20, 0.6 * (t == 2.5)]], t, position_covariance=place), EGO)
        assert len(last) == 1
        sides.append(last.center[0, 1])
    assert sides[0] > 2 * sides[1]
    assert sides[0] > 0.35


def test_what_the_detector_does_not_tell_is_assumed() -> None:
    """Of one box or of all; zeros, as in messages, and NaN say nothing."""
    drives = []
    for nothing in (None, 0.0, np.nan):
        tracker = Tracker()
        place = None if nothing is None else np.full((2, 3, 3), nothing)
        speed = None if nothing is None else np.full((2, 2, 2), nothing)
        for t in np.arange(0, 3, 0.5):
            spots, motion = [[20 + 5 * t, 0], [10, 8 + (t == 1.0)]], [[5.0, 0.0], [0.1, 0.2]]
            given = boxes(spots, t, velocity=motion, position_covariance=place, velocity_covariance=speed)
            tracks = tracker.step(given, EGO)
        drives.append(tracks)
    for other in drives[1:]:
        np.testing.assert_array_equal(other.center, drives[0].center)
        np.testing.assert_array_equal(other.velocity, drives[0].velocity)


@pytest.mark.parametrize("count", [1, 300])
def test_a_box_that_may_be_far_off_still_continues_its_track(count: int) -> None:
    """3.5 m from where it was expected, at told deviations of 2 m: also where candidates come from a tree."""
    spots = np.column_stack([np.zeros(count), 60.0 * np.arange(count)])
    velocity, sure = np.full((count, 2), 0.01), covariance(0.04, count)
    lost = []
    for variance in (4.0, 0.3):
        tracker, told = Tracker(), covariance(variance, count, 3)
        for t, moved in ((0.0, 0.0), (0.5, 0.0), (1.0, 3.5)):
            given = boxes(
                spots + np.array([moved, 0.0]), t,
                velocity=velocity, position_covariance=told, velocity_covariance=sure,
            )  # fmt: skip
            tracks = tracker.step(given)
        lost.append(int((tracks.track_id < count).sum()) - len(tracks))
    assert lost == [0, -count]
