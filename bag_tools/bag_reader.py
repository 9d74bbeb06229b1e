"""A bag as a sequence of frames, without ROS: those of the data set it was made from, or those a node makes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bag_tools import messages
from bag_tools.bag_file import BagError, BagFile, RawMessage, decode_message
from bag_tools.bag_plan import BagPlan, BagTopics, make_plan, tf_motion, transforms_of, update_cameras
from bag_tools.describe import BagDescription, CameraSummary, describe
from bag_tools.set_grouping import PATIENCE_NS, Grouping, ImageSet, SampleGrouping, TimeGrouping
from streampetr_core.assembly import assemble_frame
from streampetr_core.boxes import Boxes3D
from streampetr_core.cameras import CameraModel, CameraRig
from streampetr_core.ego_motion import EgoMotionBuffer
from streampetr_core.errors import StreamPETRError
from streampetr_core.frame import Frame
from streampetr_core.tf_motion import FixedPoses, TfMotion

__all__ = ["BagDescription", "BagError", "BagReader", "BagTopics", "CameraSummary", "describe"]


@dataclass(frozen=True)
class PosedSet:
    """A camera set with what a frame needs, images undecoded."""

    images: ImageSet
    rig: CameraRig
    poses: FixedPoses
    ground_truth: Boxes3D | None

    def at(self, stamp_ns: int) -> NDArray[np.float64]:
        """`map_from_ego` (4, 4) at the reference instant or an image's stamp."""
        return self.poses.at(stamp_ns)


class BagReader:
    """Frames of a bag in time order; every iteration reads the bag anew, a few sets of images in memory at a time.

    Sets are those that `/streampetr/sample` names, where the bag has it; else the synchroniser makes them as in
    the node. Ego poses at every stamp come from /tf or Odometry. Ground truth is attached where it is in the bag.
    Corrupt and missing images are None with a warning in the frame.

    Args:
        path: a rosbag2 folder or an .mcap file.
        topics: names other than the convention's.
        key_frames_only: leave the sets between key frames out.

    Attributes:
        rig: the cameras as calibrated at the beginning of the bag.
        counts: what the latest iteration could not use, by reason.
        lost_bytes: what is missing at the end of an MCAP that was cut off.

    Raises:
        BagError: at once for what cannot work: no cameras, no calibration, no ego motion, no messages.
    """

    def __init__(self, path: Path | str, topics: BagTopics | None = None, key_frames_only: bool = False) -> None:
        self.path = Path(path)
        self.key_frames_only = key_frames_only
        self.counts: Counter[str] = Counter()
        with BagFile(self.path) as bag:
            self.plan: BagPlan = make_plan(bag, topics or BagTopics())
            self.lost_bytes = bag.lost_bytes
        self.rig: CameraRig = self.plan.rig

    def __len__(self) -> int:
        """Sets in the bag: exact with /streampetr/sample, else an upper bound. For progress bars."""
        return self.plan.sets

    def __iter__(self) -> Iterator[Frame]:
        return (self.decode(group) for group in self.sets())

    def sets(self) -> Iterator[PosedSet]:
        """The camera sets with poses and ground truth, their images still serialised: for those who copy bytes."""
        self.counts = Counter()
        with BagFile(self.path) as bag:
            stream = _Stream(bag, self.plan, self.counts)
            for message in bag.messages(self.plan.read):
                stream.take(message)
                yield from self._wanted(stream.finished(message.log_ns))
            yield from self._wanted(stream.finished(stream.now_ns, at_end=True))
        if not stream.given:
            why = stream.last_problem or "no set of images came together"
            raise BagError(f"{self.path}: {len(self)} sets, but no frame could be made of any: {why}")

    def decode(self, group: PosedSet) -> Frame:
        """The frame of a set; images that cannot be decoded become None, with a warning."""
        images: dict[str, NDArray[np.uint8]] = {}
        warnings = list(group.images.warnings)
        for name, (_, message) in group.images.images.items():
            try:
                images[name] = decode_image(message)
            except StreamPETRError as error:
                warnings.append(f"{name}: {error}")
                self.counts["corrupt images"] += 1
        return assemble_frame(
            group.rig,
            images,
            {name: stamp for name, (stamp, _) in group.images.images.items()},
            group.poses,
            stamp_ns=group.images.stamp_ns,
            scene=group.images.scene,
            sample_token=group.images.sample_token,
            is_key_frame=group.images.is_key_frame,
            ground_truth=group.ground_truth,
            warnings=warnings,
        )

    def _wanted(self, sets: Iterator[PosedSet]) -> Iterator[PosedSet]:
        return (group for group in sets if group.images.is_key_frame or not self.key_frames_only)


def decode_image(message: RawMessage) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB of a serialised CompressedImage or Image.

    Raises:
        ImageError, BagError: for content that is no image.
    """
    from streampetr_core.preprocessing import decode_jpeg  # costs the import of torch
    from streampetr_core.raw_images import image_from_raw

    image = decode_message(message)
    if message.type_name == messages.COMPRESSED_IMAGE:
        return decode_jpeg(memoryview(image.data))
    return image_from_raw(
        image.encoding, image.height, image.width, image.step, image.data, bool(image.is_bigendian)
    )


class _Stream:
    """What one pass over a bag has gathered and not yet given out."""

    def __init__(self, bag: BagFile, plan: BagPlan, counts: Counter[str]) -> None:
        self.bag, self.plan, self.counts = bag, plan, counts
        self.now_ns = 0
        is_tf = plan.motion_type == messages.TF_MESSAGE
        self._motion = tf_motion(plan.topics, plan.fixed) if is_tf else EgoMotionBuffer(plan.motion)
        self.given = 0
        self.last_problem = ""
        self._cameras = {camera.name: camera for camera in plan.rig.cameras}
        self._calibrations: dict[str, bytes] = {}
        self._rig = plan.rig
        self._truth: dict[int, tuple[int, Boxes3D]] = {}  # stamp -> arrival, boxes
        self._waiting: deque[tuple[int, ImageSet]] = deque()  # arrival, set
        names = plan.rig.names
        self._grouping: Grouping = SampleGrouping() if plan.has_samples else TimeGrouping(names, bag.path.stem)

    def take(self, message: RawMessage) -> None:
        """Sort one message in."""
        plan, topic = self.plan, message.topic
        self.now_ns = max(self.now_ns, message.log_ns)
        if topic in plan.images:
            stamp = messages.stamp_of_cdr(message.data)
            self._grouping.add_image(plan.images[topic], stamp, message, self.now_ns)
        elif topic in plan.infos:
            self._calibrate(plan.infos[topic], message)
        elif topic == plan.motion:
            self._move(message)
        elif topic == plan.topics.ground_truth:
            boxes = messages.boxes_from_message(self.bag.decode(message))
            self._truth[boxes.stamp_ns] = (self.now_ns, boxes)
        elif topic == plan.topics.sample:
            self._grouping.add_sample(self.bag.decode(message), self.now_ns)

    def finished(self, now_ns: int, at_end: bool = False) -> Iterator[PosedSet]:
        """The sets for which everything is there, or has been waited for long enough."""
        self._waiting.extend((now_ns, group) for group in self._grouping.ready(now_ns, at_end))
        while self._waiting and (at_end or self._is_complete(*self._waiting[0], now_ns)):
            group = self._posed(self._waiting.popleft()[1])
            if group is not None:
                self.given += 1
                yield group

    def _is_complete(self, arrival_ns: int, group: ImageSet, now_ns: int) -> bool:
        if now_ns > arrival_ns + PATIENCE_NS:
            return True
        expects_truth = self.plan.has_ground_truth and bool(group.sample_token)
        return self._motion.covers(group.latest_ns) and (not expects_truth or group.stamp_ns in self._truth)

    def _calibrate(self, name: str, message: RawMessage) -> None:
        """Take over a calibration where it differs from the last one (the stamp does not count)."""
        content = message.data[12:]
        if self._calibrations.get(name) == content:
            return
        self._calibrations[name] = content
        plan = self.plan
        before = self._cameras[name]
        info = self.bag.decode(message)
        update_cameras(self._cameras, name, info, plan.tree, plan.topics.base_frame, name in plan.rectified)
        if not _same(before, self._cameras[name]):
            cameras = tuple(self._cameras[camera] for camera in self._rig.names)
            self._rig = CameraRig(cameras, self._rig.ego_from_model)

    def _move(self, message: RawMessage) -> None:
        if isinstance(self._motion, TfMotion):
            for transform in transforms_of(self.bag, message):
                self._motion.add(*transform)
        else:
            odometry = self.bag.decode(message)
            stamp = messages.stamp_to_ns(odometry.header.stamp)
            self._motion.add(stamp, messages.pose_matrix(odometry.pose.pose))

    def _posed(self, group: ImageSet) -> PosedSet | None:
        """A set with its poses; None, and counted, where the robot's pose at its instants is not in the bag."""
        if group.warnings:
            self.counts["missing images"] += len(group.warnings)
        _, truth = self._truth.pop(group.stamp_ns, (0, None))
        for stamp in [s for s, (arrival, _) in self._truth.items() if arrival < self.now_ns - 3 * PATIENCE_NS]:
            del self._truth[stamp]  # belongs to no set
        stamps = {group.stamp_ns, *(stamp for stamp, _ in group.images.values())}
        try:
            poses = FixedPoses(self._motion, sorted(stamps))
        except StreamPETRError as error:
            self.counts["sets without an ego pose"] += 1
            self.last_problem = str(error)
            return None
        return PosedSet(group, self._rig, poses, truth)


def _same(a: CameraModel, b: CameraModel) -> bool:
    return (
        (a.width, a.height) == (b.width, b.height)
        and np.array_equal(a.intrinsics, b.intrinsics)
        and np.array_equal(a.distortion, b.distortion)
        and np.array_equal(a.ego_from_camera, b.ego_from_camera)
    )
