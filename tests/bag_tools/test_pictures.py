"""Pictures: boxes are drawn where the geometry says, moved to the instant of each image, and cut at the lens."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from bag_tools.pictures import GROUND_TRUTH, Style, draw_on_camera, picture_of, view_from_above, write_video
from streampetr_core import Boxes3D, CameraModel, CameraRig, Frame

EGO_FROM_CAMERA = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
RED = (255, 0, 0)


def frame_of(late_ns: int = 0, speed: float = 0.0, ground_truth: Boxes3D | None = None) -> Frame:
    """One camera at the ego origin looking forward, whose image is `late_ns` late while the ego drives."""
    camera = CameraModel("CAM", 800, 400, np.array([[400.0, 0, 400], [0, 400, 200], [0, 0, 1]]), EGO_FROM_CAMERA)
    map_from_ego_at_camera = np.eye(4)
    map_from_ego_at_camera[0, 3] = speed * late_ns * 1e-9
    return Frame(
        stamp_ns=10**9,
        images=(np.zeros((400, 800, 3), np.uint8),),
        image_stamps_ns=np.array([10**9 + late_ns]),
        rig=CameraRig((camera,), np.eye(4)),
        map_from_ego=np.eye(4),
        map_from_ego_at_camera=map_from_ego_at_camera[None],
        ground_truth=ground_truth,
    )


def cube(x: float, velocity: tuple[float, float] = (0.0, 0.0), track_id: int = -1) -> Boxes3D:
    return Boxes3D(
        np.array([[x, 0.0, 0.0]]),
        np.array([[2.0, 2.0, 2.0]]),
        np.zeros(1),
        velocity=np.array([velocity]),
        track_id=np.array([track_id]),
    )


def extent(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Left, right, top, bottom of what is drawn."""
    rows, columns = np.nonzero(picture.any(axis=-1))
    return int(columns.min()), int(columns.max()), int(rows.min()), int(rows.max())


def test_a_cube_covers_the_pixels_that_the_pinhole_model_gives():
    picture = np.zeros((400, 800, 3), np.uint8)
    draw_on_camera(picture, cube(11.0), frame_of(), 0, RED, width=1)
    # the front face stands 10 m ahead: 1 m is 40 pixels around the principal point
    np.testing.assert_allclose(extent(picture), (360, 440, 160, 240), atol=1)


def test_a_smaller_picture_of_the_same_camera_scales():
    picture = np.zeros((200, 400, 3), np.uint8)
    draw_on_camera(picture, cube(11.0), frame_of(), 0, RED, width=1)
    np.testing.assert_allclose(extent(picture), (180, 220, 80, 120), atol=1)


def test_ego_motion_and_own_motion_until_the_image_both_count():
    standing, following = np.zeros((400, 800, 3), np.uint8), np.zeros((400, 800, 3), np.uint8)
    frame = frame_of(late_ns=100_000_000, speed=50.0)  # the ego is 5 m further when the image is taken
    draw_on_camera(standing, cube(11.0), frame, 0, RED, width=1)
    draw_on_camera(following, cube(11.0, velocity=(50.0, 0.0)), frame, 0, RED, width=1)
    np.testing.assert_allclose(extent(standing), (320, 480, 120, 280), atol=1)
    np.testing.assert_allclose(extent(following), (360, 440, 160, 240), atol=1)


def test_a_box_behind_is_not_drawn_and_one_around_the_lens_does_not_break():
    picture = np.zeros((400, 800, 3), np.uint8)
    draw_on_camera(picture, cube(-11.0), frame_of(), 0, RED)
    assert not picture.any()
    draw_on_camera(picture, cube(0.5), frame_of(), 0, RED)
    assert np.isfinite(picture).all()


def test_the_view_from_above_has_forward_up_and_left_left():
    style = Style(range_m=50.0)
    empty = view_from_above(Boxes3D.empty(), 500, style)
    box = Boxes3D(np.array([[30.0, 20.0, 0.0]]), np.array([[4.0, 2.0, 1.5]]), np.zeros(1))
    changed = np.abs(view_from_above(box, 500, style).astype(int) - empty).sum(axis=-1) > 0
    rows, columns = np.nonzero(changed)
    np.testing.assert_allclose([rows.mean(), columns.mean()], [250 - 30 * 5, 250 - 20 * 5], atol=4)


def test_a_whole_picture_shows_ground_truth_and_becomes_a_video(tmp_path: Path):
    picture = picture_of(frame_of(ground_truth=cube(11.0)), cube(20.0, track_id=4), title="frame 1")
    assert (picture == np.array(GROUND_TRUTH)).all(axis=-1).any()
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file in files:
        cv2.imwrite(str(file), picture[..., ::-1])
    write_video(tmp_path / "video.mp4", files, 2.0)
    video = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 3
