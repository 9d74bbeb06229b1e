"""assemble_frame: every camera gets the ego pose of its own stamp; absent ones stand at the reference."""

from __future__ import annotations

import numpy as np
import pytest

from streampetr_core.assembly import assemble_frame
from streampetr_core.cameras import CameraModel, CameraRig
from streampetr_core.ego_motion import EgoMotionBuffer, EgoMotionError
from streampetr_core.frame import FrameError
from streampetr_core.geometry import transform

K = np.array([[100.0, 0, 16], [0, 100.0, 8], [0, 0, 1]])
RIG = CameraRig(tuple(CameraModel(name, 32, 16, K, np.eye(4)) for name in ("A", "B", "C")), np.eye(4))
IMAGE = np.zeros((16, 32, 3), np.uint8)
MS = 1_000_000


def motion() -> EgoMotionBuffer:
    buffer = EgoMotionBuffer()
    for i in range(11):
        buffer.add(i * 100 * MS, transform([i, 0, 0], [1, 0, 0, 0]))
    return buffer


def test_poses_at_each_image_and_at_the_reference():
    frame = assemble_frame(
        RIG, {"C": IMAGE, "A": IMAGE}, {"A": 400 * MS, "C": 450 * MS}, motion(), stamp_ns=500 * MS, scene="s",
        sample_token="t", is_key_frame=False, warnings=["B: dark"],
    )  # fmt: skip
    assert frame.present.tolist() == [True, False, True]
    assert frame.image_stamps_ns.tolist() == [400 * MS, 500 * MS, 450 * MS]
    np.testing.assert_allclose(frame.map_from_ego_at_camera[:, 0, 3], [4.0, 5.0, 4.5])
    assert frame.map_from_ego[0, 3] == 5.0
    assert (frame.scene, frame.sample_token, frame.is_key_frame, frame.warnings) == ("s", "t", False, ("B: dark",))


def test_foreign_images_and_missing_stamps_are_named():
    with pytest.raises(FrameError, match="images of D"):
        assemble_frame(RIG, {"D": IMAGE}, {"D": 0}, motion(), stamp_ns=0)
    with pytest.raises(FrameError, match="image of B has no stamp"):
        assemble_frame(RIG, {"B": IMAGE}, {}, motion(), stamp_ns=0)


def test_unknown_ego_motion_is_an_error_not_a_guess():
    with pytest.raises(EgoMotionError, match="after the last"):
        assemble_frame(RIG, {"A": IMAGE}, {"A": 400 * MS}, motion(), stamp_ns=3000 * MS)
