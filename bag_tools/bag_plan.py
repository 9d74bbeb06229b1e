"""What a bag offers, and whether frames can be made of it: cameras, calibration, ego motion."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag_tools import layout, messages
from bag_tools.bag_file import BagError, BagFile, RawMessage, Topic
from streampetr_core.cameras import NUSCENES_CAMERAS, NUSCENES_EGO_FROM_LIDAR, CameraModel, CameraRig
from streampetr_core.ego_motion import EgoMotionError
from streampetr_core.tf_motion import TfMotion
from streampetr_core.transform_tree import TransformError, TransformTree

StampedTransform = tuple[str, str, int, NDArray[np.float64]]
"""Parent, child, stamp, parent_from_child (4, 4)."""

IMAGE_PATTERNS = (
    layout.IMAGE_PATTERN,
    "/sensing/camera/{camera}/image_rect",
    "/sensing/camera/{camera}/image_raw/compressed",
    "/sensing/camera/{camera}/image_raw",
)
"""Tried in this order where no pattern is given."""
IMAGE_TYPES = (messages.COMPRESSED_IMAGE, messages.IMAGE)


@dataclass(frozen=True)
class BagTopics:
    """Where a reader finds things; `{camera}` stands for a camera's name.

    Attributes:
        image: pattern of the image topics; "" tries the usual ones.
        info: pattern of the camera_info topics.
        cameras: names in the rig's order; empty = all that the patterns find.
        ego_motion: "tf", "odometry", or "auto": tf where it moves the robot in the map, else odometry.
        map_frame, base_frame, model_frame: tf frames of the world, the robot, and the one the checkpoint works in.
    """

    image: str = ""
    info: str = layout.INFO_PATTERN
    cameras: tuple[str, ...] = ()
    ego_motion: str = "auto"
    tf: str = layout.TF_TOPIC
    tf_static: str = layout.TF_STATIC_TOPIC
    odometry: str = layout.ODOMETRY_TOPIC
    sample: str = layout.SAMPLE_TOPIC
    ground_truth: str = layout.GROUND_TRUTH_TOPIC
    map_frame: str = layout.MAP_FRAME
    base_frame: str = layout.BASE_FRAME
    model_frame: str = layout.LIDAR_FRAME


@dataclass(frozen=True)
class BagPlan:
    """Everything that reading frames needs to know before it begins.

    Attributes:
        rig: cameras as calibrated at the beginning.
        images, infos: topic -> camera.
        motion: the topic of ego motion, `motion_type` its message type.
        has_samples, has_ground_truth: whether these topics hold something.
        sets: camera sets in the bag, exact with samples, else the first camera's images.
        topics: the names in use.
        fixed: the transforms of /tf_static.
        tree: how the sensors are mounted.
        rectified: cameras whose image topic says that no distortion is left.
    """

    rig: CameraRig
    images: dict[str, str]
    infos: dict[str, str]
    motion: str
    motion_type: str
    has_samples: bool
    has_ground_truth: bool
    sets: int
    topics: BagTopics
    fixed: tuple[StampedTransform, ...]
    tree: TransformTree
    rectified: frozenset[str]

    @property
    def read(self) -> set[str]:
        """Topics that an iteration reads."""
        optional = {self.topics.sample} if self.has_samples else set()
        optional |= {self.topics.ground_truth} if self.has_ground_truth else set()
        return {*self.images, *self.infos, self.motion} | optional


def make_plan(bag: BagFile, names: BagTopics) -> BagPlan:
    """Look at a bag's topics, first calibrations and transforms.

    Raises:
        BagError: naming what is missing, where it was looked for, and what to do.
    """
    found = {name: topic for name, topic in bag.topics.items() if topic.count}
    if not found:
        raise BagError(f"{bag.path}: the bag holds no messages; record or convert it again")
    _check_types(bag, found, names)
    has_samples = names.sample in found
    images = _find_images(bag, found, names)
    infos = match_cameras(names.info, _of_type(found, (messages.CAMERA_INFO,)))
    wanted = set(names.cameras) or set(images.values()) | (set(infos.values()) if has_samples else set())
    missing = sorted(wanted - set(infos.values()))
    if missing:
        there = ", ".join(_of_type(found, (messages.CAMERA_INFO,))) or "none"
        expected = ", ".join(layout.info_topic(name, names.info) for name in missing)
        raise BagError(
            f"{bag.path}: no camera_info for {', '.join(missing)} (expected {expected}; camera_info topics: "
            f"{there}); give the pattern of the camera_info topics, or leave the camera out"
        )
    order = names.cameras or tuple(name for name in NUSCENES_CAMERAS if name in wanted) + tuple(
        sorted(wanted - set(NUSCENES_CAMERAS))
    )
    images = {topic: name for topic, name in images.items() if name in wanted}
    infos = {topic: name for topic, name in infos.items() if name in wanted}
    static = bag.messages([names.tf_static]) if names.tf_static in found else ()
    fixed = tuple(transform for message in static for transform in transforms_of(bag, message))
    motion = _find_motion(bag, found, names, fixed)
    first = next(topic for name in order for topic, camera in {**images, **infos}.items() if camera == name)
    tree = _read_tree(bag, names, found, fixed)
    rectified = frozenset(name for topic, name in images.items() if "rect" in topic)
    rig = _read_rig(bag, names, order, infos, tree, rectified)
    return BagPlan(
        rig=rig,
        images=images,
        infos=infos,
        motion=motion,
        motion_type=found[motion].type_name,
        has_samples=has_samples,
        has_ground_truth=names.ground_truth in found,
        sets=found[names.sample].count if has_samples else found[first].count,
        topics=names,
        fixed=fixed,
        tree=tree,
        rectified=rectified,
    )


def match_cameras(pattern: str, topics: Iterable[str]) -> dict[str, str]:
    """topic -> camera name (upper case) of the topics that a pattern describes."""
    regex = re.compile(re.escape(pattern).replace(r"\{camera\}", "(?P<camera>[^/]+)", 1))
    if "camera" not in regex.groupindex:
        raise BagError(f"pattern '{pattern}' lacks {{camera}}, the place of the camera's name")
    return {name: match["camera"].upper() for name in topics if (match := regex.fullmatch(name))}


def update_cameras(
    cameras: dict[str, CameraModel], name: str, info: Any, tree: TransformTree, base: str, rectified: bool
) -> None:
    """Put the camera that a CameraInfo describes into `cameras`.

    Raises:
        CalibrationError, TransformError: for a calibration or mounting that cannot be used.
    """
    ego_from_camera = tree.lookup(base, info.header.frame_id)
    cameras[name] = messages.camera_from_info(info, name, ego_from_camera, rectified)


def _of_type(found: dict[str, Topic], types: tuple[str, ...]) -> list[str]:
    return sorted(name for name, topic in found.items() if topic.type_name in types)


def _check_types(bag: BagFile, found: dict[str, Topic], names: BagTopics) -> None:
    expected = (
        (names.tf, messages.TF_MESSAGE),
        (names.tf_static, messages.TF_MESSAGE),
        (names.odometry, messages.ODOMETRY),
        (names.sample, messages.SAMPLE_INFO),
        (names.ground_truth, messages.BOX_ARRAY),
    )
    for name, kind in expected:
        if name in found and found[name].type_name != kind:
            raise BagError(f"{bag.path}: topic {name} is {found[name].type_name}, not {kind}; remap it")


def _find_images(bag: BagFile, found: dict[str, Topic], names: BagTopics) -> dict[str, str]:
    """topic -> camera; the first pattern that finds something wins."""
    candidates = _of_type(found, IMAGE_TYPES)
    patterns = (names.image,) if names.image else IMAGE_PATTERNS
    images = next((match for pattern in patterns if (match := match_cameras(pattern, candidates))), {})
    chosen = {topic: name for topic, name in images.items() if not names.cameras or name in names.cameras}
    absent = sorted(set(names.cameras) - set(images.values()))
    if not chosen or (absent and names.sample not in found):
        what = f"no images of {', '.join(absent)}" if absent else "no camera images"
        raise BagError(
            f"{bag.path}: {what} on {' or '.join(patterns)}; image topics in the bag: "
            f"{', '.join(candidates) or 'none'}; the nodes can be told other names, and in Python it is "
            "BagReader(path, BagTopics(image='/my/{camera}/image/compressed'))"
        )
    return chosen


def _find_motion(
    bag: BagFile, found: dict[str, Topic], names: BagTopics, fixed: tuple[StampedTransform, ...]
) -> str:
    """The topic that says where the robot is."""
    if names.ego_motion not in ("auto", "tf", "odometry"):
        raise BagError(f"ego_motion '{names.ego_motion}' is unknown; use auto, tf or odometry")
    seen: set[str] = set()
    if names.ego_motion != "odometry" and names.tf in found:
        motion = tf_motion(names, fixed)
        for message in bag.messages([names.tf]):
            for parent, child, stamp, matrix in transforms_of(bag, message):
                motion.add(parent, child, stamp, matrix)
                seen.add(f"{parent} -> {child}")
                if _reaches_map(motion, stamp):
                    return names.tf
    if names.ego_motion != "tf" and names.odometry in found:
        return names.odometry
    looked = {"auto": f"{names.tf} and {names.odometry}", "tf": names.tf, "odometry": names.odometry}
    others = ", ".join(_of_type(found, (messages.ODOMETRY,))) or "none"
    raise BagError(
        f"{bag.path}: no ego motion: looked for {names.map_frame} -> {names.base_frame} on "
        f"{looked[names.ego_motion]} (tf has {', '.join(sorted(seen)[:8]) or 'nothing'}; Odometry: {others}); "
        "name the frames or the topic"
    )


def transforms_of(bag: BagFile, message: RawMessage) -> list[StampedTransform]:
    """Parent, child, stamp and parent_from_child (4, 4) of each transform in a TFMessage."""
    return [
        (
            item.header.frame_id.lstrip("/"),
            item.child_frame_id.lstrip("/"),
            messages.stamp_to_ns(item.header.stamp),
            messages.transform_matrix(item),
        )
        for item in bag.decode(message).transforms
    ]


def tf_motion(names: BagTopics, fixed: tuple[StampedTransform, ...]) -> TfMotion:
    """What gathers /tf, knowing /tf_static already."""
    motion = TfMotion(names.map_frame, names.base_frame)
    for parent, child, _, matrix in fixed:
        motion.add_fixed(parent, child, matrix)
    return motion


def _reaches_map(motion: TfMotion, stamp_ns: int) -> bool:
    """Whether the frames from robot to map are joined, however far their poses reach."""
    try:
        motion.at(stamp_ns)
    except TransformError:
        return False
    except EgoMotionError:
        return True
    return True


def _read_tree(
    bag: BagFile, names: BagTopics, found: dict[str, Topic], fixed: tuple[StampedTransform, ...]
) -> TransformTree:
    """How the sensors are mounted: /tf_static, and what /tf says of other frames than the robot at the start.

    The latter is for drivers that send fixed transforms again and again.
    """
    motion = tf_motion(names, fixed)
    if names.tf in found:
        for message in bag.messages([names.tf], stop_ns=bag.span_ns[0] + 2_000_000_000):
            for transform in transforms_of(bag, message):
                motion.add(*transform)
    return motion.mountings


def _read_rig(
    bag: BagFile,
    names: BagTopics,
    order: tuple[str, ...],
    infos: dict[str, str],
    tree: TransformTree,
    rectified: frozenset[str],
) -> CameraRig:
    """The rig of the first camera_info of each camera."""
    cameras: dict[str, CameraModel] = {}
    for message in bag.messages(list(infos)):
        name = infos[message.topic]
        if name in cameras:
            continue
        try:
            update_cameras(cameras, name, bag.decode(message), tree, names.base_frame, name in rectified)
        except TransformError as error:
            raise BagError(
                f"{bag.path}: {name}: {error}; {names.tf_static} must say where the camera is mounted"
            ) from error
        if len(cameras) == len(order):
            break
    return CameraRig(tuple(cameras[name] for name in order), model_frame(tree, names))


def model_frame(tree: TransformTree, names: BagTopics) -> NDArray[np.float64]:
    """ego_from_model (4, 4): from tf where it knows the frame, else as on the nuScenes cars."""
    try:
        return tree.lookup(names.base_frame, names.model_frame)
    except TransformError:
        return NUSCENES_EGO_FROM_LIDAR
