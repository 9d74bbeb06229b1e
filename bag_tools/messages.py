"""ROS messages without ROS: the type store of our bags, and the two-way conversions of boxes, poses and cameras.

Every conversion works field by field, so the classes of rclpy and those of rosbags both do: functions that make a
message take `new`, a function from a type's full name ("std_msgs/msg/Header") to a default-filled message.
"""

from __future__ import annotations

import importlib
import os
import struct
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
from streampetr_core.cameras import CameraModel
from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import matrix_from_quaternion, quaternion_from_matrix, transform

New = Callable[[str], Any]

BOX_ARRAY = "streampetr_msgs/msg/Box3DArray"
SAMPLE_INFO = "streampetr_msgs/msg/SampleInfo"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGE = "sensor_msgs/msg/Image"
ODOMETRY = "nav_msgs/msg/Odometry"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"

_WORKSPACE = Path(__file__).resolve().parents[1] / "ros2_ws"
_SOURCES = {"streampetr_msgs": _WORKSPACE / "src", "vision_msgs": _WORKSPACE / "backfill"}


class MessageError(StreamPETRError):
    """A message whose content makes no sense, or a message definition that cannot be found."""


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """ROS 2 types as of Kilted, with streampetr_msgs and the part of vision_msgs that we use.

    The types in our bags have the same layout since Humble, so bags play on every distribution from there on.

    Raises:
        MessageError: when the definitions of our own messages are neither in the checkout nor installed.
    """
    store = get_typestore(Stores.ROS2_KILTED)
    types: dict[str, Any] = {}
    for package, workspace in _SOURCES.items():
        prefixes = [Path(p) / "share" for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
        folders = [parent / package / "msg" for parent in (workspace, *prefixes)]
        files = next((found for folder in folders if (found := sorted(folder.glob("*.msg")))), [])
        if not files:
            raise MessageError(
                f"no .msg files of {package} in {', '.join(map(str, folders))}; build ros2_ws first"
            )
        for path in files:
            types.update(get_types_from_msg(path.read_text(), f"{package}/msg/{path.stem}"))
    store.register({name: fields for name, fields in types.items() if name not in store.fielddefs})
    return store


def new_message(type_name: str) -> Any:
    """A message of rosbags' class for `type_name` with zeros, empty strings and empty lists, as in rclpy."""
    store = typestore()
    values = {name: _default(kind) for name, kind in store.fielddefs[type_name][1]}
    return store.types[type_name](**values)


def _default(kind: Any) -> Any:
    tag, detail = kind
    if tag == Nodetype.NAME:
        return new_message(detail)
    if tag == Nodetype.BASE:
        return {"string": "", "wstring": "", "bool": False}.get(detail[0], 0.0 if "float" in detail[0] else 0)
    (item_tag, item), length = detail
    count = length if tag == Nodetype.ARRAY else 0
    if item_tag == Nodetype.BASE and item[0] not in ("string", "wstring"):
        return np.zeros(count, dtype={"octet": "uint8", "byte": "uint8", "char": "uint8"}.get(item[0], item[0]))
    return [_default((item_tag, item)) for _ in range(count)]


def new_ros_message(type_name: str) -> Any:
    """A message of the Python class that a ROS installation gives for `type_name`: the nodes' `new`."""
    package, kind, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), name)()


def stamp_to_ns(stamp: Any) -> int:
    """Integer nanoseconds of a builtin_interfaces/Time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def stamp_of_cdr(data: bytes | memoryview) -> int:
    """Nanoseconds of the header stamp of a serialised message that begins with a std_msgs/Header, unparsed.

    Raises:
        MessageError: when there are fewer bytes than a stamp has.
    """
    if len(data) < 12:
        raise MessageError(f"a message of {len(data)} bytes holds no header")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * 1_000_000_000 + nanoseconds


def fill_header(header: Any, stamp_ns: int, frame_id: str) -> None:
    """Write an instant and a frame into a std_msgs/Header."""
    header.stamp.sec, header.stamp.nanosec = divmod(int(stamp_ns), 1_000_000_000)
    header.frame_id = frame_id


def fill_vector(message: Any, values: NDArray[np.float64]) -> None:
    """Write (3,) numbers into a geometry_msgs/Point or Vector3."""
    message.x, message.y, message.z = (float(value) for value in values)


def fill_quaternion(message: Any, wxyz: NDArray[np.float64]) -> None:
    """Write a quaternion (4,) given as w, x, y, z into a geometry_msgs/Quaternion."""
    message.w, message.x, message.y, message.z = (float(value) for value in wxyz)


def fill_pose(pose: Any, a_from_b: NDArray[np.float64]) -> None:
    """Write a 4x4 transform into a geometry_msgs/Pose (or any message with `position` and `orientation`)."""
    fill_vector(pose.position, a_from_b[:3, 3])
    fill_quaternion(pose.orientation, quaternion_from_matrix(a_from_b))


def pose_matrix(pose: Any) -> NDArray[np.float64]:
    """4x4 transform of a geometry_msgs/Pose.

    Raises:
        MessageError: on NaN or an orientation of zero length.
    """
    return _matrix(pose.position, pose.orientation)


def transform_message(
    parent: str, child: str, parent_from_child: NDArray[np.float64], stamp_ns: int, new: New = new_message
) -> Any:
    """geometry_msgs/TransformStamped."""
    message = new("geometry_msgs/msg/TransformStamped")
    fill_header(message.header, stamp_ns, parent)
    message.child_frame_id = child
    fill_vector(message.transform.translation, parent_from_child[:3, 3])
    fill_quaternion(message.transform.rotation, quaternion_from_matrix(parent_from_child))
    return message


def transform_matrix(message: Any) -> NDArray[np.float64]:
    """parent_from_child (4, 4) of a geometry_msgs/TransformStamped.

    Raises:
        MessageError: on NaN or a rotation of zero length.
    """
    return _matrix(message.transform.translation, message.transform.rotation)


def camera_info(camera: CameraModel, stamp_ns: int, frame_id: str, new: New = new_message) -> Any:
    """sensor_msgs/CameraInfo of a camera: R identity, P = [K | 0], at least five distortion coefficients."""
    message = new(CAMERA_INFO)
    fill_header(message.header, stamp_ns, frame_id)
    message.height, message.width = camera.height, camera.width
    message.distortion_model = camera.distortion_model
    coefficients = camera.distortion if camera.distortion.size else np.zeros(5)
    message.d = coefficients if isinstance(message.d, np.ndarray) else array("d", coefficients)  # rosbags, rclpy
    message.k = camera.intrinsics.reshape(9).copy()
    message.r = np.eye(3).reshape(9)
    message.p = np.hstack([camera.intrinsics, np.zeros((3, 1))]).reshape(12)
    return message


def camera_from_info(
    info: Any, name: str, ego_from_camera: NDArray[np.float64], rectified: bool = False
) -> CameraModel:
    """The camera that a sensor_msgs/CameraInfo describes.

    With `rectified` the images have no distortion left: the intrinsics are P's, as image_proc's convention says.

    Raises:
        CalibrationError: on an uncalibrated camera (zero focal length), NaN, or impossible sizes.
    """
    projection = np.asarray(info.p, dtype=np.float64).reshape(3, 4)[:, :3]
    use_projection = rectified and bool(np.any(projection))
    intrinsics = projection if use_projection else np.asarray(info.k, dtype=np.float64).reshape(3, 3)
    distortion = np.zeros(5) if rectified else np.asarray(info.d, dtype=np.float64)
    model = info.distortion_model or "plumb_bob"
    return CameraModel(name, int(info.width), int(info.height), intrinsics, ego_from_camera, model, distortion)


def boxes_to_message(
    boxes: Boxes3D,
    new: New = new_message,
    *,
    map_from_base: NDArray[np.float64] | None = None,
    scene: str = "",
    missing_cameras: Sequence[str] = (),
    reset_reason: str = "",
    sequence: int = 0,
) -> Any:
    """streampetr_msgs/Box3DArray of boxes; `map_from_base` (4, 4) is the robot's pose at their instant."""
    message = new(BOX_ARRAY)
    fill_header(message.header, boxes.stamp_ns, boxes.frame_id)
    fill_pose(message.map_from_base, np.eye(4) if map_from_base is None else map_from_base)
    message.scene, message.reset_reason, message.sequence = scene, reset_reason, sequence
    message.missing_cameras = list(missing_cameras)
    tilt = boxes.frame_from_upright
    fill_quaternion(message.frame_from_upright, quaternion_from_matrix(np.eye(3) if tilt is None else tilt))
    names = boxes.names()
    for row in range(len(boxes)):
        box = new("streampetr_msgs/msg/Box3D")
        fill_vector(box.center, boxes.center[row])
        fill_vector(box.size, boxes.size[row])
        box.yaw, box.score = float(boxes.yaw[row]), float(boxes.score[row])
        box.velocity = boxes.velocity[row].copy()
        if boxes.position_covariance is not None:
            box.position_covariance = boxes.position_covariance[row].reshape(9).copy()
        if boxes.velocity_covariance is not None:
            box.velocity_covariance = boxes.velocity_covariance[row].reshape(4).copy()
        box.label, box.class_name = int(boxes.label[row]), str(names[row])
        box.attribute, box.track_id = str(boxes.attribute[row]), int(boxes.track_id[row])
        if boxes.lineage is not None:
            box.lineage = int(boxes.lineage[row])
        message.boxes.append(box)
    return message


def boxes_from_message(message: Any, class_names: tuple[str, ...] = NUSCENES_CLASSES) -> Boxes3D:
    """Boxes of a streampetr_msgs/Box3DArray, labelled by their class names.

    Raises:
        MessageError: when a box's class is not one of `class_names`.
    """
    rows = message.boxes
    stamp, frame = stamp_to_ns(message.header.stamp), message.header.frame_id
    if not rows:
        return Boxes3D.empty(frame, stamp, class_names)
    index = {name: number for number, name in enumerate(class_names)}
    unknown = {box.class_name for box in rows} - index.keys()
    if unknown:
        raise MessageError(f"boxes at {stamp} ns have class {sorted(unknown)}; known are {', '.join(class_names)}")
    place = np.array([np.asarray(box.position_covariance) for box in rows]).reshape(-1, 3, 3)
    speed = np.array([np.asarray(box.velocity_covariance) for box in rows]).reshape(-1, 2, 2)
    lineage = np.array([box.lineage for box in rows], dtype=np.int64)
    tilt = message.frame_from_upright
    tilted = any((tilt.x, tilt.y, tilt.z))
    return Boxes3D(
        center=np.array([(box.center.x, box.center.y, box.center.z) for box in rows]),
        size=np.array([(box.size.x, box.size.y, box.size.z) for box in rows]),
        yaw=np.array([box.yaw for box in rows]),
        velocity=np.array([np.asarray(box.velocity) for box in rows]),
        score=np.array([box.score for box in rows]),
        label=np.array([index[box.class_name] for box in rows]),
        track_id=np.array([box.track_id for box in rows]),
        attribute=np.array([box.attribute for box in rows]),
        position_covariance=place if place.any() else None,
        velocity_covariance=speed if speed.any() else None,
        lineage=lineage if lineage.any() else None,
        frame_id=frame,
        frame_from_upright=matrix_from_quaternion((tilt.w, tilt.x, tilt.y, tilt.z)) if tilted else None,
        stamp_ns=stamp,
        class_names=class_names,
    )


def _matrix(translation: Any, rotation: Any) -> NDArray[np.float64]:
    position = (translation.x, translation.y, translation.z)
    quaternion = (rotation.w, rotation.x, rotation.y, rotation.z)
    if not np.isfinite([*position, *quaternion]).all() or not any(quaternion):
        raise MessageError(f"no pose: translation {position}, quaternion (w, x, y, z) {quaternion}")
    return transform(position, quaternion)
