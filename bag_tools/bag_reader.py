"""A bag as a sequence of frames, without ROS: those of the data set it was made from, or those a node makes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bag_tools import messages
from bag_tools.bag_file import BagError, BagFile, RawMessage
from bag_tools.bag_plan import BagPlan, BagTopics, make_plan, update_cameras
from bag_tools.set_grouping import PATIENCE_NS, Grouping, ImageSet, SampleGrouping, TimeGrouping
from streampetr_core.boxes import Boxes3D
from streampetr_core.cameras import CameraModel, CameraRig
from streampetr_core.errors import StreamPETRError
from streampetr_core.frame import Frame
from streampetr_core.geometry import interpolate


class EgoMotionBuffer:
    def __init__(self) -> None:
        self._poses: dict[int, NDArray[np.float64]] = {}

    def add(self, stamp_ns: int, map_from_ego: NDArray[np.float64]) -> None:
        self._poses[stamp_ns] = map_from_ego

    def at(self, stamp_ns: int) -> NDArray[np.float64]:
        if stamp_ns in self._poses:
            return self._poses[stamp_ns]
        before = max((s for s in self._poses if s < stamp_ns), default=None)
        after = min((s for s in self._poses if s > stamp_ns), default=None)
        if before is None or after is None:
            raise BagError(f"no ego pose at {stamp_ns}")
        fraction = (stamp_ns - before) / (after - before)
        return interpolate(self._poses[before], self._poses[after], fraction)


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
        self.counts = Counter()
        with BagFile(self.path) as bag:
            stream = _Stream(bag, self.plan, self.counts)
            for message in bag.messages(self.plan.read):
                stream.take(message)
                yield from self._wanted(stream.frames(message.log_ns))
            yield from self._wanted(stream.frames(stream.now_ns, at_end=True))

    def _wanted(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        return (frame for frame in frames if frame.is_key_frame or not self.key_frames_only)


class _Stream:
    """What one pass over a bag has gathered and not yet given out."""

    def __init__(self, bag: BagFile, plan: BagPlan, counts: Counter[str]) -> None:
        self.bag, self.plan, self.counts = bag, plan, counts
        self.now_ns = 0
        self._motion = EgoMotionBuffer()
        self._newest_pose_ns = -1
        self._cameras = {camera.name: camera for camera in plan.rig.cameras}
        self._calibrations: dict[str, bytes] = {}
        self._rig = plan.rig
        self._truth: dict[int, Boxes3D] = {}
        self._waiting: deque[ImageSet] = deque()
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
            self._truth[boxes.stamp_ns] = boxes
        elif topic == plan.topics.sample:
            self._grouping.add_sample(self.bag.decode(message), self.now_ns)

    def frames(self, now_ns: int, at_end: bool = False) -> Iterator[Frame]:
        """Frames of the sets for which everything is there, or has been waited for long enough."""
        self._waiting.extend(self._grouping.ready(now_ns, at_end))
        while self._waiting and (at_end or self._is_complete(self._waiting[0], now_ns)):
            frame = self._frame(self._waiting.popleft())
            if frame is not None:
                yield frame

    def _is_complete(self, group: ImageSet, now_ns: int) -> bool:
        if now_ns > group.latest_ns + PATIENCE_NS:
            return True
        expects_truth = self.plan.has_ground_truth and bool(group.sample_token)
        return self._newest_pose_ns >= group.latest_ns and (not expects_truth or group.stamp_ns in self._truth)

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
        decoded = self.bag.decode(message)
        names = self.plan.topics
        if self.plan.motion_type == messages.ODOMETRY:
            self._add_pose(messages.stamp_to_ns(decoded.header.stamp), messages.pose_matrix(decoded.pose.pose))
            return
        for item in decoded.transforms:
            frames = (item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/"))
            if frames == (names.map_frame, names.base_frame):
                self._add_pose(messages.stamp_to_ns(item.header.stamp), messages.transform_matrix(item))

    def _add_pose(self, stamp_ns: int, map_from_ego: NDArray[np.float64]) -> None:
        self._motion.add(stamp_ns, map_from_ego)
        self._newest_pose_ns = max(self._newest_pose_ns, stamp_ns)

    def _frame(self, group: ImageSet) -> Frame | None:
        """Decode a set; None, and counted, where the robot's pose at its instants is not in the bag."""
        names = self._rig.names
        images: list[NDArray[np.uint8] | None] = [None] * len(names)
        stamps = np.full(len(names), group.stamp_ns, dtype=np.int64)
        warnings = list(group.warnings)
        for index, name in enumerate(names):
            if name not in group.images:
                continue
            stamp, message = group.images[name]
            try:
                images[index] = self._decode(message)
                stamps[index] = stamp
            except StreamPETRError as error:
                warnings.append(f"{name}: {error}")
                self.counts["corrupt image"] += 1
        try:
            map_from_ego = self._motion.at(group.stamp_ns)
            poses = np.stack([self._motion.at(int(stamp)) for stamp in stamps])
        except StreamPETRError:
            self.counts["no ego pose at the set's instants"] += 1
            return None
        truth = self._truth.pop(group.stamp_ns, None)
        for stamp in [stamp for stamp in self._truth if stamp < group.stamp_ns - PATIENCE_NS]:
            del self._truth[stamp]
        return Frame(
            stamp_ns=group.stamp_ns,
            images=tuple(images),
            image_stamps_ns=stamps,
            rig=self._rig,
            map_from_ego=map_from_ego,
            map_from_ego_at_camera=poses,
            scene=group.scene,
            sample_token=group.sample_token,
            is_key_frame=group.is_key_frame,
            ground_truth=truth,
            warnings=tuple(warnings),
        )

    def _decode(self, message: RawMessage) -> NDArray[np.uint8]:
        from streampetr_core.preprocessing import decode_jpeg  # costs the import of torch
        from streampetr_core.raw_images import image_from_raw

        decoded = self.bag.decode(message)
        if message.type_name == messages.COMPRESSED_IMAGE:
            return decode_jpeg(memoryview(decoded.data))
        return image_from_raw(
            decoded.encoding, decoded.height, decoded.width, decoded.step, decoded.data, bool(decoded.is_bigendian)
        )


def _same(a: CameraModel, b: CameraModel) -> bool:
    return (
        (a.width, a.height) == (b.width, b.height)
        and np.array_equal(a.intrinsics, b.intrinsics)
        and np.array_equal(a.distortion, b.distortion)
        and np.array_equal(a.ego_from_camera, b.ego_from_camera)
    )
