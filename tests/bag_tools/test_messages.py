"""Messages carry boxes, poses, stamps and cameras without loss, in rosbags' classes and in rclpy's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bag_tools import messages
from bag_tools.markers import MARKER_ARRAY, boxes_to_markers
from streampetr_core import Boxes3D, CameraModel
from streampetr_core.cameras import CalibrationError
from streampetr_core.geometry import transform

POSE = transform([600.0, -3.5, 0.25], [0.9, 0.1, -0.2, 0.3])


def some_boxes(count: int = 7) -> Boxes3D:
    random = np.random.default_rng(3)
    velocity = random.normal(size=(count, 2))
    velocity[1] = np.nan
    return Boxes3D(
        center=random.normal(size=(count, 3)) * 20,
        size=random.uniform(0.5, 9, (count, 3)),
        yaw=random.uniform(-3, 3, count),
        velocity=velocity,
        score=random.uniform(size=count),
        label=np.arange(count) % 10,
        track_id=np.arange(count) - 1,
        attribute=np.array(["vehicle.moving", ""] * count)[:count],
        lineage=np.arange(count) * 3_000_000_000,  # the first is unknown
        frame_id="base_link",
        stamp_ns=1_533_151_603_547_590_001,
    )


def assert_equal_boxes(one: Boxes3D, other: Boxes3D) -> None:
    assert (one.frame_id, one.stamp_ns, one.class_names) == (other.frame_id, other.stamp_ns, other.class_names)
    for name in ("center", "size", "yaw", "velocity", "score", "label", "track_id", "attribute"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    unknown = np.zeros(len(one), dtype=np.int64)
    lineages = [unknown if boxes.lineage is None else boxes.lineage for boxes in (one, other)]
    np.testing.assert_array_equal(*lineages, err_msg="lineage")


def test_the_axes_in_which_boxes_stand_upright_survive() -> None:
    boxes = some_boxes().transformed(POSE, "map")
    again = messages.boxes_from_message(messages.boxes_to_message(boxes))
    assert again.frame_from_upright is not None
    np.testing.assert_allclose(again.frame_from_upright, POSE[:3, :3], atol=1e-12)
    np.testing.assert_allclose(again.quaternions(), boxes.quaternions(), atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_boxes_survive_serialisation_exactly(count: int) -> None:
    boxes = some_boxes(7)[:count]
    message = messages.boxes_to_message(
        boxes, map_from_base=POSE, scene="s", missing_cameras=["CAM_BACK"], reset_reason="gap", sequence=9
    )
    store = messages.typestore()
    data = store.serialize_cdr(message, messages.BOX_ARRAY)
    again: Any = store.deserialize_cdr(data, messages.BOX_ARRAY)
    assert_equal_boxes(messages.boxes_from_message(again), boxes)
    np.testing.assert_allclose(messages.pose_matrix(again.map_from_base), POSE, atol=1e-12)
    assert (again.scene, again.missing_cameras, again.reset_reason, again.sequence) == (
        "s",
        ["CAM_BACK"],
        "gap",
        9,
    )
    assert messages.stamp_of_cdr(bytes(data)) == boxes.stamp_ns


@pytest.mark.ros
def test_boxes_survive_in_ros_classes() -> None:
    boxes = some_boxes()
    message = messages.boxes_to_message(boxes, messages.new_ros_message, map_from_base=POSE)
    assert type(message).__module__.startswith("streampetr_msgs")
    assert_equal_boxes(messages.boxes_from_message(message), boxes)
    markers = boxes_to_markers(boxes, messages.new_ros_message)
    assert len(markers.markers) == len(boxes) + 1
    camera = CameraModel("CAM", 8, 6, np.array([[5.0, 0, 4], [0, 5, 3], [0, 0, 1]]), np.eye(4))
    info = messages.camera_info(camera, 5, "cam", messages.new_ros_message)
    np.testing.assert_array_equal(messages.camera_from_info(info, "CAM", np.eye(4)).intrinsics, camera.intrinsics)


def test_boxes_without_lineage_have_none_in_messages() -> None:
    boxes = replace(some_boxes(), lineage=None)
    message = messages.boxes_to_message(boxes)
    assert {box.lineage for box in message.boxes} == {0}
    assert messages.boxes_from_message(message).lineage is None


def test_classes_are_found_by_name() -> None:
    message = messages.boxes_to_message(some_boxes(3))
    again = messages.boxes_from_message(message, ("truck", "construction_vehicle", "car"))
    assert list(again.names()) == ["car", "truck", "construction_vehicle"]
    with pytest.raises(messages.MessageError, match=r"construction_vehicle.*known are car"):
        messages.boxes_from_message(message, ("car", "truck"))


def test_vision_msgs_are_the_distributions() -> None:
    hashes = {
        "Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
        "Detection3D": "ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b",
        "BoundingBox3D": "bbb73a65c163d7f9bb29009c7bde9f7faa576bd2d23299c4511d19230dab4698",
    }
    for name, expected in hashes.items():
        assert messages.typestore().hash_rihs01(f"vision_msgs/msg/{name}") == f"RIHS01_{expected}"


def test_every_type_has_a_default_that_serialises() -> None:
    store = messages.typestore()
    for kind in (messages.CAMERA_INFO, messages.IMAGE, messages.ODOMETRY, messages.SAMPLE_INFO, MARKER_ARRAY):
        assert len(store.serialize_cdr(messages.new_message(kind), kind)) > 4


def test_markers_stand_where_the_boxes_are() -> None:
    boxes = some_boxes()[1:]
    array = boxes_to_markers(boxes, namespace="truth")
    messages.typestore().serialize_cdr(array, MARKER_ARRAY)
    assert array.markers[0].action == 3
    assert [marker.id for marker in array.markers[1:]] == list(boxes.track_id)
    marker = array.markers[3]
    matrix = messages.pose_matrix(marker.pose)
    np.testing.assert_allclose(matrix[:3, 3], boxes.center[2])
    assert np.arctan2(matrix[1, 0], matrix[0, 0]) == pytest.approx(boxes.yaw[2])
    assert (marker.scale.x, marker.scale.y, marker.scale.z) == pytest.approx(tuple(boxes.size[2]))


def test_camera_info_there_and_back() -> None:
    matrix = np.array([[700.0, 0, 400], [0, 701, 300], [0, 0, 1]])
    camera = CameraModel("CAM_LEFT", 800, 600, matrix, POSE, distortion=np.array([0.1, -0.2, 0.0, 0.0, 0.3]))
    info = messages.camera_info(camera, 12_000_000_345, "cam_left_optical_frame")
    assert messages.stamp_to_ns(info.header.stamp) == 12_000_000_345
    again = messages.camera_from_info(info, "CAM_LEFT", POSE)
    np.testing.assert_array_equal(again.distortion, camera.distortion)
    np.testing.assert_array_equal(again.intrinsics, matrix)
    info.p[0] = 650.0  # image_proc: the rectified image has its own matrix and no distortion
    rectified = messages.camera_from_info(info, "CAM_LEFT", POSE, rectified=True)
    assert rectified.is_rectified
    assert rectified.intrinsics[0, 0] == 650.0


def test_uncalibrated_cameras_and_broken_poses_are_refused() -> None:
    info = messages.new_message(messages.CAMERA_INFO)
    info.width, info.height = 8, 6
    with pytest.raises(CalibrationError, match=r"CAM_X.*focal"):
        messages.camera_from_info(info, "CAM_X", np.eye(4))
    info.k = np.full(9, np.nan)
    with pytest.raises(CalibrationError, match=r"CAM_X.*NaN"):
        messages.camera_from_info(info, "CAM_X", np.eye(4))
    pose = messages.new_message("geometry_msgs/msg/Pose")
    pose.orientation.w = 0.0
    with pytest.raises(messages.MessageError, match="quaternion"):
        messages.pose_matrix(pose)
    with pytest.raises(messages.MessageError, match="header"):
        messages.stamp_of_cdr(b"\x00\x01\x00\x00")
