"""The node's chain without ROS: the same pixels and boxes as offline, and degradations that are counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from streampetr.parameters import PerceptionParameters
from streampetr.perception import Perception, Result, Sample

from bag_tools import layout, messages
from streampetr_core.assembly import assemble_frame
from streampetr_core.cameras import NUSCENES_EGO_FROM_LIDAR, CameraModel, CameraRig
from streampetr_core.detector import Detector
from streampetr_core.ego_motion import EgoMotionBuffer
from streampetr_core.frame import Frame
from streampetr_core.geometry import quaternion_from_yaw, transform
from streampetr_core.preprocessing import decode_jpeg
from streampetr_core.synchronizer import CameraSet, Rewind

MS = 1_000_000
START = 1_600_000_000_000 * MS
CAMERAS = ("CAM_FRONT", "CAM_BACK")
K = np.array([[250.0, 0, 160], [0, 250.0, 90], [0, 0, 1]])
OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
MODELS = {
    name: CameraModel(name, 320, 180, K, transform([0, 0, 0], quaternion_from_yaw(i * np.pi)) @ OPTICAL)
    for i, name in enumerate(CAMERAS)
}


def jpeg(seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (18, 32, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(small, (320, 180)))[1].tobytes()


def pose(stamp_ns: int) -> np.ndarray:
    seconds = (stamp_ns - START) / 1e9
    return transform([100 + 8.0 * seconds, 3.0, 0.0], quaternion_from_yaw(0.2 * seconds))


class WatchedDetector(Detector):
    """Keeps what it was given; can be made to take its time."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.pixels: list[tuple[torch.Tensor | None, ...]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def step(self, frame: Frame, prepared: Any = None) -> Any:
        self.go_on.wait(20.0)
        self.pixels.append(tuple(self._prepared(frame) if prepared is None else prepared))
        return super().step(frame, prepared)


@pytest.fixture
def detector() -> WatchedDetector:
    return WatchedDetector.from_checkpoint("random", model="tiny", device="cpu")  # type: ignore[return-value]


class Chain:
    """Perception with a list of results, fed by hand; time passes only where a test says so."""

    def __init__(self, detector: Detector, **settings: Any) -> None:
        self.results: list[Result] = []
        self.perception = Perception(
            detector, PerceptionParameters(cameras=CAMERAS, **settings), self.results.append
        )
        self.now = 0

    def mount(self) -> None:
        fixed = [("base_link", layout.optical_frame(n), 0, m.ego_from_camera) for n, m in MODELS.items()]
        self.perception.transforms([*fixed, ("base_link", "lidar_top", 0, NUSCENES_EGO_FROM_LIDAR)], True)

    def calibrate(self, *names: str) -> None:
        for name in names or CAMERAS:
            info = messages.camera_info(MODELS[name], START, layout.optical_frame(name))
            self.perception.info(name, info, self.now)

    def move(self, *stamps: int) -> None:
        self.perception.transforms([("map", "base_link", stamp, pose(stamp)) for stamp in stamps], False)

    def shoot(self, name: str, stamp: int, data: bytes) -> None:
        self.now += MS
        shot = self.perception.shot(name, stamp, lambda: decode_jpeg(data), self.now)
        if shot is not None:
            self.take(self.perception.synchronizer.add(name, stamp, shot, self.now))

    def take(self, events: list[CameraSet | Rewind]) -> None:
        for event in events:
            self.perception.take(event, self.now)

    def poll(self) -> None:
        self.take(self.perception.synchronizer.poll(self.now))
        self.perception.poll(self.now)

    def wait_for(self, results: int, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while len(self.results) < results and time.monotonic() < deadline:
            time.sleep(0.005)
            self.poll()
        assert len(self.results) >= results, (self.perception.counts, self.perception.problems(self.now))


@pytest.fixture
def chain(detector: WatchedDetector) -> Iterator[Chain]:
    made = Chain(detector, reference_topic="/streampetr/sample")
    yield made
    detector.go_on.set()
    assert made.perception.close(10.0)


def sample(chain: Chain, stamp: int, stamps: dict[str, int], scene: str = "s") -> None:
    chain.take(chain.perception.synchronizer.add_reference(stamp, Sample(scene), chain.now, stamps))


def cycle(k: int) -> tuple[int, dict[str, int], dict[str, bytes]]:
    reference = START + k * 500 * MS
    stamps = {"CAM_FRONT": reference - 35 * MS, "CAM_BACK": reference - 10 * MS}
    return reference, stamps, {name: jpeg(10 * k + i) for i, name in enumerate(CAMERAS)}


def test_same_pixels_and_same_boxes_as_offline_to_the_last_bit(chain: Chain, detector: WatchedDetector) -> None:
    """Six frames with moving robot and memory; one camera is absent in one of them."""
    offline = WatchedDetector.from_checkpoint("random", model="tiny", device="cpu")
    assert isinstance(offline, WatchedDetector)
    motion = EgoMotionBuffer()
    rig = CameraRig(tuple(MODELS.values()), NUSCENES_EGO_FROM_LIDAR)
    chain.mount()
    chain.calibrate()
    for k in range(6):
        reference, stamps, data = cycle(k)
        if k == 3:
            del stamps["CAM_BACK"], data["CAM_BACK"]
        for stamp in (*stamps.values(), reference):
            motion.add(stamp, pose(stamp))
        frame = assemble_frame(
            rig, {n: decode_jpeg(d) for n, d in data.items()}, stamps, motion, stamp_ns=reference, scene="s"
        )
        expected = offline.step(frame)
        for name in data:
            chain.shoot(name, stamps[name], data[name])
        sample(chain, reference, {name: stamps.get(name, -1) for name in CAMERAS})
        chain.move(*stamps.values(), reference)
        chain.wait_for(k + 1)
        result = chain.results[k]
        for ours, theirs in zip(detector.pixels[k], offline.pixels[k], strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or (theirs is not None and torch.equal(ours, theirs))
        for column in ("center", "size", "yaw", "velocity", "score", "label"):
            np.testing.assert_array_equal(getattr(result.boxes, column), getattr(expected, column))
        assert result.boxes.stamp_ns == reference
        assert result.missing == (("CAM_BACK",) if k == 3 else ())
        np.testing.assert_array_equal(result.map_from_base, pose(reference))
    assert chain.results[5].reset_reason == ""
    assert len(chain.results[0].boxes) > 0


def test_a_busy_network_takes_the_newest_set_and_counts_the_rest(chain: Chain, detector: WatchedDetector) -> None:
    chain.mount()
    chain.calibrate()
    detector.go_on.clear()
    for k in range(6):
        reference, stamps, data = cycle(k)
        chain.move(*stamps.values(), reference)
        for name in data:
            chain.shoot(name, stamps[name], data[name])
        sample(chain, reference, stamps)
        time.sleep(0.05)
    detector.go_on.set()
    chain.wait_for(2)
    time.sleep(0.2)
    assert [result.boxes.stamp_ns for result in chain.results] == [cycle(0)[0], cycle(5)[0]]
    assert chain.perception.counts.replaced == 4


def test_a_set_waits_for_its_pose_but_not_for_ever(chain: Chain) -> None:
    chain.mount()
    chain.calibrate()
    for k in range(2):
        reference, stamps, data = cycle(k)
        for name in data:
            chain.shoot(name, stamps[name], data[name])
        sample(chain, reference, stamps)
        time.sleep(0.05)
        chain.poll()
        assert len(chain.results) == k
        if k == 0:
            chain.move(*stamps.values(), reference)
            chain.wait_for(1)
    chain.now += 6_000 * MS
    chain.poll()
    assert chain.perception.counts.no_pose == 1
    (problem,) = chain.perception.problems(chain.now)["ego motion"]
    assert "after the last pose" in problem


def test_images_before_their_calibration_are_kept_for_it(chain: Chain) -> None:
    reference, stamps, data = cycle(0)
    chain.move(*stamps.values(), reference)
    for name in data:
        chain.shoot(name, stamps[name], data[name])
    sample(chain, reference, stamps)
    chain.poll()
    chain.mount()
    chain.calibrate("CAM_FRONT")
    time.sleep(0.05)
    assert not chain.results
    chain.calibrate("CAM_BACK")
    chain.wait_for(1)
    assert chain.results[0].missing == ()


def test_a_camera_without_calibration_is_named_and_left_out(chain: Chain) -> None:
    chain.mount()
    chain.calibrate("CAM_FRONT")
    for k in range(2):
        reference, stamps, data = cycle(k)
        chain.move(*stamps.values(), reference)
        for name in data:
            chain.shoot(name, stamps[name], data[name])
        sample(chain, reference, stamps)
        chain.now += 4_000 * MS
        chain.poll()
        chain.wait_for(k + 1)
    assert chain.results[1].missing == ("CAM_BACK",)
    problems = chain.perception.problems(chain.now)
    assert "no camera_info has come on /sensing/camera/cam_back/camera_info" in problems["CAM_BACK"][0]
    assert not problems["CAM_FRONT"]


def test_a_calibration_that_turns_bad_and_good_again(chain: Chain) -> None:
    chain.mount()
    chain.calibrate()
    for k in range(3):
        reference, stamps, data = cycle(k)
        info = messages.camera_info(MODELS["CAM_BACK"], START, layout.optical_frame("CAM_BACK"))
        if k == 1:
            info.k[0] = info.p[0] = np.nan
        chain.perception.info("CAM_BACK", info, chain.now)
        chain.move(*stamps.values(), reference)
        for name in data:
            chain.shoot(name, stamps[name], data[name])
        sample(chain, reference, stamps)
        chain.wait_for(k + 1)
        assert chain.results[k].missing == (("CAM_BACK",) if k == 1 else ())
        assert bool(chain.perception.problems(chain.now)["CAM_BACK"]) == (k == 1)
    assert chain.results[2].reset_reason == ""  # one bad camera does not cost the memory


def test_a_set_without_any_usable_image_is_counted_and_the_memory_survives(chain: Chain) -> None:
    chain.mount()
    chain.calibrate()
    for k in range(3):
        reference, stamps, data = cycle(k)
        chain.move(*stamps.values(), reference)
        for name in data:
            chain.shoot(name, stamps[name], b"no picture" if k == 1 else data[name])
        sample(chain, reference, stamps)
        if k != 1:
            chain.wait_for(1 if k == 0 else 2)
        else:
            deadline = time.monotonic() + 10
            while not chain.perception.counts.failed and time.monotonic() < deadline:
                time.sleep(0.01)
    assert chain.perception.counts.failed == 1
    assert chain.results[1].reset_reason == ""
    assert chain.perception.cameras["CAM_BACK"].refused == 1


def test_a_stamp_of_zero_is_refused_by_name(chain: Chain) -> None:
    chain.shoot("CAM_FRONT", 0, jpeg(0))
    (problem,) = chain.perception.problems(chain.now)["CAM_FRONT"]
    assert "stamp is 0 on /sensing/camera/cam_front/image_rect/compressed" in problem


@pytest.mark.parametrize("late", ["mounting", "motion"])
def test_a_set_that_came_too_early_can_be_used_when_it_comes_again(chain: Chain, late: str) -> None:
    """A node that has just started may hear images before /tf_static or /tf; lock-step replay repeats them."""
    reference, stamps, data = cycle(0)

    def play() -> None:
        chain.calibrate()
        for name in data:
            chain.shoot(name, stamps[name], data[name])
        sample(chain, reference, stamps)

    if late == "motion":
        chain.mount()
    else:
        chain.move(*stamps.values(), reference)
    play()
    chain.now += 6000 * MS
    chain.poll()
    counts = chain.perception.counts
    assert (counts.not_calibrated, counts.no_pose) == ((1, 0) if late == "mounting" else (0, 1))
    chain.mount()
    chain.move(*stamps.values(), reference)
    play()
    chain.wait_for(1)
    assert chain.results[0].boxes.stamp_ns == reference
    play()  # used now: nothing comes of a third time
    chain.poll()
    assert counts.replaced == 0
    assert sum(c.duplicate for c in chain.perception.synchronizer.counts.values()) == 2
