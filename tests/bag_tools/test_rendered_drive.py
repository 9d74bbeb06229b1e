"""The rendered world: pixels agree with boxes, time and motion are what the frames say they are."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from bag_tools.rendered.drive import ANNOTATED_METRES, RenderedDrive, RenderError, parse_size
from bag_tools.rendered.rig import EGO_CENTER_X, EGO_SIZE, stagger_ns
from bag_tools.rendered.traffic import overlaps
from streampetr_core.geometry import apply, inverse

SIZE = (480, 270)


@pytest.fixture(scope="module")
def drive() -> Iterator[RenderedDrive]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two busy cores render faster without waiting for each other
    yield RenderedDrive(11, 4.0, SIZE, device="cpu", fog=0.0)
    torch.set_num_threads(threads)  # other tests compare with processes that have the default


def _same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and np.array_equal(a, b)


def _outlines(corners: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    projected = corners @ intrinsics.T
    return (projected[..., :2] / projected[..., 2:]).astype(np.float32)


@pytest.mark.parametrize("index", [0, 5])
def test_pixels_lie_in_the_projected_boxes_and_fill_them(drive: RenderedDrive, index: int) -> None:
    stamp = drive.stamp_ns(index)
    stamps = stamp + stagger_ns(drive.rig)
    _, actor = drive.render(stamps, range(6))
    truth = drive.truth(stamp, actor)
    clear = set(truth.boxes.track_id[truth.visibility > 0.97].tolist())
    checked = filled = 0
    for view, camera in enumerate(drive.rig.cameras):
        boxes = drive.boxes(int(stamps[view]))
        camera_from_map = inverse(drive.map_from_ego(stamps)[view] @ camera.ego_from_camera)
        corners = apply(camera_from_map @ drive.map_from_world, boxes.corners())
        ids = actor[view].numpy()
        for number in np.unique(ids[ids >= 0]):
            rows, columns = np.nonzero(ids == number)
            if len(rows) < 40 or (corners[number, :, 2] < 0.3).any():
                continue
            outline = _outlines(corners[number], camera.intrinsics)
            hull = cv2.convexHull(outline)
            # Half a pixel of tolerance: a pixel counts where its centre is.
            distance = [
                cv2.pointPolygonTest(hull, (float(x), float(y)), True) for x, y in zip(columns, rows, strict=True)
            ]
            inside = np.mean(np.array(distance) > -0.6)
            name = drive.actors[number].name
            assert inside > 0.95, f"{name} {number} in {camera.name}: {inside:.2f} of its pixels in its box"
            checked += 1
            low, high = outline.min(0), outline.max(0)
            whole = (low > 1).all() and (high < np.array(SIZE) - 2).all() and number in clear
            if whole and len(rows) > 150:
                covered = np.array([np.ptp(columns) + 1, np.ptp(rows) + 1]) / (high - low)
                assert (covered > 0.8).all(), f"{name} {number} in {camera.name} covers {covered} of its box"
                filled += 1
    assert checked >= 10
    assert filled >= 2


def test_ground_truth_reaches_the_image_through_calibration_and_poses(drive: RenderedDrive) -> None:
    """What still objects' pixels say, by nothing but what a frame carries."""
    frame, truth = drive.frame_with_truth(3)
    assert frame.ground_truth is not None
    _, actor = drive.render(frame.image_stamps_ns, range(6))
    still = truth.boxes[(np.linalg.norm(truth.boxes.velocity, axis=1) < 1e-6) & (truth.points > 20)]
    assert len(still) >= 3
    agreed = 0
    for view, camera in enumerate(frame.rig.cameras):
        camera_from_map = inverse(frame.map_from_ego_at_camera[view] @ camera.ego_from_camera)
        centers = apply(camera_from_map @ frame.map_from_ego, still.center)
        for point, number in zip(centers, still.track_id, strict=True):
            where = camera.intrinsics @ (point / max(point[2], 0.1))
            pixels = np.argwhere(actor[view].numpy() == number)
            if point[2] < 2 or not (0 < where[0] < SIZE[0] and 0 < where[1] < SIZE[1]) or len(pixels) < 100:
                continue
            assert np.abs(pixels[:, ::-1] - where[:2]).max(1).min() < 12
            agreed += 1
    assert agreed >= 3


def test_same_seed_same_bytes(drive: RenderedDrive) -> None:
    again = RenderedDrive(11, 4.0, SIZE, device="cpu", fog=0.0)
    other = RenderedDrive(12, 4.0, SIZE, device="cpu", fog=0.0)
    a, b, c = drive.frame(2), again.frame(2), other.frame(2)
    assert all(_same(x, y) for x, y in zip(a.images, b.images, strict=True))
    assert a.ground_truth is not None
    assert b.ground_truth is not None
    assert np.array_equal(a.ground_truth.center, b.ground_truth.center)
    assert a.sample_token == b.sample_token
    assert not _same(a.images[0], c.images[0])


def test_cameras_fire_one_after_the_other(drive: RenderedDrive) -> None:
    frame = drive.frame(1)
    offset = dict(zip(frame.rig.names, frame.image_stamps_ns - frame.stamp_ns, strict=True))
    order = sorted(offset, key=offset.__getitem__)
    assert order == [f"CAM_{n}" for n in ("FRONT_LEFT", "FRONT", "FRONT_RIGHT", "BACK_RIGHT", "BACK", "BACK_LEFT")]
    assert np.ptp(list(offset.values())) == 42_600_000
    # The ego moves between them: each image has the pose of its own instant.
    gone = np.linalg.norm(frame.map_from_ego_at_camera[:, :2, 3] - frame.map_from_ego[:2, 3], axis=1)
    speed = gone[2] / 0.0428
    assert 3 < speed < 11
    np.testing.assert_allclose(gone, -speed * 1e-9 * (frame.image_stamps_ns - frame.stamp_ns), atol=0.02)
    assert (frame.map_from_ego_at_camera[:, 2, 3] == 0).all()


def test_velocity_is_the_change_of_position(drive: RenderedDrive) -> None:
    stamp = drive.stamp_ns(3)
    before, now, after = (drive.boxes(stamp + shift) for shift in (-100_000_000, 0, 100_000_000))
    difference = (after.center - before.center)[:, :2] / 0.2
    assert (np.linalg.norm(now.velocity, axis=1) > 1).sum() >= 5
    np.testing.assert_allclose(now.velocity, difference, atol=0.35)
    moving = [a.startswith(("vehicle.moving", "pedestrian.moving")) for a in now.attribute]
    assert (np.linalg.norm(now.velocity[moving], axis=1) > 0.2).all()
    # Vehicles head where they go.
    heading = np.stack([np.cos(now.yaw), np.sin(now.yaw)], axis=1)
    speed = np.linalg.norm(now.velocity, axis=1)
    fast = speed > 1
    assert ((heading * now.velocity).sum(1)[fast] > 0.99 * speed[fast]).all()


def test_nobody_overlaps_anybody(drive: RenderedDrive) -> None:
    for seed in (11, 12):
        world = drive if seed == 11 else RenderedDrive(seed, 4.0, (64, 36), device="cpu")
        for step in range(21):
            stamp = world.start_ns + step * 200_000_000
            boxes = world.boxes(stamp)
            pose = world.world_from_ego(np.array([stamp]))[0]
            yaw = np.arctan2(pose[1, 0], pose[0, 0])
            ego = [*(pose[:2, 3] + EGO_CENTER_X * pose[:2, 0]), yaw]
            places = np.vstack([np.column_stack([boxes.center[:, :2], boxes.yaw]), ego])
            halves = np.vstack([boxes.size[:, :2], EGO_SIZE[:2]]) / 2 - 0.01
            i, j = np.triu_indices(len(places), 1)
            clash = overlaps(places[i], halves[i], places[j], halves[j])
            pairs = [(world.actors[a].name, b) for a, b in zip(i[clash], j[clash], strict=True)]
            # A tractor carries the nose of its trailer.
            assert all(name == "truck" for name, _ in pairs), pairs


def test_hidden_objects_have_no_points(drive: RenderedDrive) -> None:
    frame, truth = drive.frame_with_truth(4)
    _, actor = drive.render(frame.image_stamps_ns, range(6))
    seen = set(np.unique(actor.numpy()).tolist())
    hidden = [n not in seen for n in truth.boxes.track_id.tolist()]
    assert any(hidden)
    assert (truth.points[hidden] == 0).all()
    assert (truth.points > 0).sum() >= 10
    assert frame.ground_truth is not None
    assert set(frame.ground_truth.track_id.tolist()) == set(truth.boxes.track_id[truth.points > 0].tolist())
    assert (np.linalg.norm(truth.boxes.center[:, :2], axis=1) <= ANNOTATED_METRES).all()
    nearest = truth.points[np.linalg.norm(truth.boxes.center[:, :2], axis=1) < 15]
    assert nearest.max() > 50


def test_sweeps_hold_the_same_key_frames(drive: RenderedDrive) -> None:
    sweeps = RenderedDrive(11, 4.0, SIZE, device="cpu", fog=0.0, sweeps=True)
    assert (len(drive), len(sweeps)) == (8, 48)
    frame = sweeps.frame(6)
    assert frame.is_key_frame
    assert _same(frame.images[3], drive.frame(1).images[3])
    assert not sweeps.frame(7).is_key_frame


@pytest.mark.parametrize("text", ["1600", "1600*900", "axb", ""])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(RenderError, match="WIDTHxHEIGHT"):
        parse_size(text)


def test_wrong_drives_are_refused() -> None:
    with pytest.raises(RenderError, match="seconds"):
        RenderedDrive(0, 0.0)
    with pytest.raises(RenderError, match="pixels"):
        RenderedDrive(0, 1.0, (4, 4))
    with pytest.raises(RenderError, match="toaster"):
        RenderedDrive(0, 1.0, device="toaster")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_sees_what_a_cpu_sees(drive: RenderedDrive) -> None:
    other = RenderedDrive(11, 4.0, SIZE, device="cuda", fog=0.0)
    for mine, theirs in zip(drive.frame(2).images, other.frame(2).images, strict=True):
        assert mine is not None
        assert theirs is not None
        assert (np.abs(mine.astype(int) - theirs).max(-1) <= 2).mean() > 0.99
