"""The perception chain of the node without ROS: images, calibrations, motion in; results out of a worker thread.

Everything but the network runs in the caller's thread; the caller says what time it is (monotonic nanoseconds) and
carries shots to the synchroniser and its sets back (in the node, `camera_sets.CameraSetFilter`).

    image -> Shot (decoded in a pool) -> CameraSynchronizer -> set waits for poses and calibration -> worker:
    assemble_frame -> Detector.step -> on_result
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streampetr.camera_input import CameraInput, Pixels, Shot
from streampetr.latest_worker import LatestWorker
from streampetr.parameters import PerceptionParameters
from streampetr_core.assembly import assemble_frame
from streampetr_core.boxes import Boxes3D
from streampetr_core.cameras import NUSCENES_EGO_FROM_LIDAR, CameraRig
from streampetr_core.detector import Detector
from streampetr_core.ego_motion import EgoMotionBuffer
from streampetr_core.errors import StreamPETRError
from streampetr_core.stream_clock import REWIND_NS
from streampetr_core.synchronizer import CameraSet, CameraSynchronizer, Rewind
from streampetr_core.tf_motion import FixedPoses, TfMotion
from streampetr_core.transform_tree import TransformError

DECODE_SECONDS = 5.0
"""Longest waiting of the worker for one image's pixels."""
HELD_SETS = 4
"""Sets that may wait for poses and calibrations."""


@dataclass(frozen=True)
class Sample:
    """What a reference stream says besides its stamp."""

    scene: str = ""
    sample_token: str = ""
    is_key_frame: bool = True


@dataclass(frozen=True)
class Result:
    """What one set gave.

    Attributes:
        boxes: in base_link at the reference instant, which is their stamp.
        map_from_base: (4, 4) at that instant.
        scene: of the reference stream.
        missing: cameras that gave no image.
        reset_reason: why the memory began anew, in one word (see `Detector.reset_counts`); "" where it went on.
        reset_details: the same as a sentence.
        sequence: results so far, this one not counted.
        latency_ns: from the arrival of the set's first image to the boxes.
        step_ns: of these, in the network.
    """

    boxes: Boxes3D
    map_from_base: NDArray[np.float64]
    scene: str
    missing: tuple[str, ...]
    reset_reason: str
    reset_details: str
    sequence: int
    latency_ns: int
    step_ns: int


@dataclass(frozen=True)
class _Job:
    """A set with everything it needs."""

    images: CameraSet
    rig: CameraRig
    poses: FixedPoses
    sample: Sample
    arrival_ns: int


@dataclass
class _Held:
    images: CameraSet
    since_ns: int


@dataclass
class PerceptionCounts:
    """What became of sets after the synchroniser: `results` came out, the others did not.

    Attributes:
        replaced: gave way to a newer set while the network was busy.
        no_pose: the robot's pose at one of their instants was not known in time.
        not_calibrated: no camera with images had a calibration.
        failed: no usable image, or the network refused.
        last_failure: why; "" when a result came after it.
    """

    results: int = 0
    replaced: int = 0
    no_pose: int = 0
    not_calibrated: int = 0
    failed: int = 0
    last_failure: str = ""


class Perception:
    """See the module's first lines. All methods but `close` are for one thread and return at once.

    Args:
        detector: owns memory and network; used by the worker alone after this.
        settings: the node's parameters.
        on_result: called with each result in the worker thread.
    """

    def __init__(
        self, detector: Detector, settings: PerceptionParameters, on_result: Callable[[Result], None]
    ) -> None:
        self.settings = settings
        self.detector = detector
        self.counts = PerceptionCounts()
        self.cameras = {
            name: CameraInput(
                name, image_topic := settings.image_topic.format(camera=name.lower()),
                settings.info_topic.format(camera=name.lower()), "rect" in image_topic,
            )
            for name in settings.cameras
        }  # fmt: skip
        self.synchronizer = CameraSynchronizer(
            settings.cameras,
            anchor=settings.anchor_camera,
            max_skew_ns=round(settings.max_skew * 1e9),
            max_wait_ns=round(settings.max_wait * 1e9),
            min_cameras=settings.min_cameras,
            use_reference=bool(settings.reference_topic),
            reference_wait_ns=round(settings.reference_wait * 1e9),
        )
        self.tf = TfMotion(settings.map_frame, settings.base_frame)
        self.odometry = EgoMotionBuffer("odometry")
        self.motion = self.tf if settings.ego_motion == "tf" else self.odometry
        self.motion_problem = ""
        self._on_result = on_result
        self._rig: CameraRig | None = None
        self._held: deque[_Held] = deque()
        self._reset: tuple[str, str] | None = None
        self._pool = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self._worker: LatestWorker[_Job] = LatestWorker(self._work, self._replaced)

    # What comes in

    def shot(self, camera: str, stamp_ns: int, decode: Callable[[], Pixels], now_ns: int) -> Shot | None:
        """An image has arrived; `decode` gives its pixels, in another thread. None where it cannot be used."""
        state = self.cameras[camera]
        state.seen(now_ns)
        if stamp_ns <= 0:
            state.refused += 1
            state.image_problem = (
                f"camera '{camera}': stamp is {stamp_ns} on {state.image_topic}; set header.stamp"
            )
            return None
        shot = Shot(stamp_ns, now_ns, decode)
        if not self._worker.busy:  # a busy worker will want a newer one: do not spend the CPU before that is known
            self._start(camera, shot)
        return shot

    def take(self, event: CameraSet | Rewind, now_ns: int) -> None:
        """The synchroniser has put out a set (payloads: `Shot`s, reference: `Sample`), or seen time go back."""
        if isinstance(event, Rewind):
            self._held.clear()
            self._worker.drop_waiting()
            self.motion.forget_after(event.to_ns + 2 * REWIND_NS)
            self._reset = (f"time went back by {(event.from_ns - event.to_ns) / 1e9:.3f} s", "time_back")
        else:
            self._held.append(_Held(event, now_ns))
            if len(self._held) > HELD_SETS:
                self._submit(self._held.popleft().images)
        self._release(now_ns)

    def info(self, camera: str, info: Any, now_ns: int) -> None:
        """A CameraInfo has arrived."""
        state = self.cameras[camera]
        if state.is_new(info) and state.calibrate(info, self.tf.mountings, self.settings.base_frame):
            self._rig = None
        self._release(now_ns)

    def transforms(self, transforms: list[tuple[str, str, int, NDArray[np.float64]]], fixed: bool) -> None:
        """Transforms of /tf, or with `fixed` of /tf_static: parent, child, stamp, parent_from_child."""
        mounted = fixed
        for parent, child, stamp, matrix in transforms:
            if fixed:
                self.tf.add_fixed(parent, child, matrix)
            else:
                mounted |= self.tf.add(parent, child, stamp, matrix)
        if mounted:
            for state in self.cameras.values():
                state.calibrate(None, self.tf.mountings, self.settings.base_frame)
            self._rig = None

    def pose(self, stamp_ns: int, map_from_base: NDArray[np.float64]) -> None:
        """A pose of the odometry has arrived."""
        self.odometry.add(stamp_ns, map_from_base)

    def poll(self, now_ns: int) -> None:
        """Time has passed; call it some fifty times a second.

        Raises:
            BaseException: what ended the worker, once.
        """
        if self._worker.failure is not None:
            raise self._worker.failure
        self._release(now_ns)

    def reset(self, reason: str) -> None:
        """Forget the past before the next set."""
        self._reset = (reason, "request")

    def close(self, timeout: float) -> bool:
        """End the threads; False where the network is still busy after `timeout` seconds."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        return self._worker.stop(timeout)

    # What an operator should know

    def problems(self, now_ns: int) -> dict[str, list[str]]:
        """camera name, "synchroniser" or "ego motion" -> sentences; empty lists where all is well."""
        grace = round(self.settings.calibration_wait * 1e9)
        found: dict[str, list[str]] = {name: [] for name in self.cameras}
        for name, state in self.cameras.items():
            waited = state.first_image_ns is not None and now_ns - state.first_image_ns > grace
            if state.problem or (waited and state.missing()):
                found[name].append(state.missing())
            if state.image_problem:
                found[name].append(state.image_problem)
        found["synchroniser"] = self.synchronizer.problems()
        found["ego motion"] = [self.motion_problem] if self.motion_problem else []
        return found

    # On the way to the worker

    def _start(self, camera: str, shot: Shot) -> None:
        state = self.cameras[camera]
        if state.usable and state.model is not None:
            shot.start(self._pool, self.detector.prepare, state.model)

    def _release(self, now: int) -> None:
        """Hand on the sets that have what they need or waited long enough; a ready one takes older ones along."""
        last = -1
        for index, held in enumerate(self._held):
            if self._is_ready(held, now):
                last = index
        for _ in range(last + 1):
            self._submit(self._held.popleft().images)

    def _is_ready(self, held: _Held, now: int) -> bool:
        exact = held.images.anchor == "reference"
        wait = self.settings.reference_wait if exact else self.settings.max_wait
        states = [self.cameras[name] for name in held.images.payloads]
        uncalibrated = [state for state in states if state.model is None and not state.problem]
        first = min((s.first_image_ns or now for s in uncalibrated), default=now)
        if uncalibrated and now - first <= self.settings.calibration_wait * 1e9:
            return False
        if now - held.since_ns > wait * 1e9:
            return True
        return self.motion.covers(max(held.images.stamp_ns, *held.images.stamps_ns.values()))

    def _submit(self, images: CameraSet) -> None:
        rig = self._current_rig()
        if rig is None:
            self.counts.not_calibrated += 1
            self.synchronizer.reopen(images)
            return
        try:
            poses = FixedPoses(self.motion, sorted({images.stamp_ns, *images.stamps_ns.values()}))
        except StreamPETRError as error:
            self.counts.no_pose += 1
            self.motion_problem = str(error)
            self.synchronizer.reopen(images)
            return
        self.motion_problem = ""
        for camera, shot in images.payloads.items():
            self._start(camera, shot)
        sample = images.reference if isinstance(images.reference, Sample) else Sample()
        arrival = min(shot.arrival_ns for shot in images.payloads.values())
        self._worker.submit(_Job(images, rig, poses, sample, arrival))

    def _current_rig(self) -> CameraRig | None:
        """The cameras that have been calibrated, in order; None while there is none."""
        if self._rig is None:
            models = [state.model for state in self.cameras.values() if state.model is not None]
            try:
                ego_from_model = self.tf.mountings.lookup(self.settings.base_frame, self.settings.model_frame)
            except TransformError:
                ego_from_model = NUSCENES_EGO_FROM_LIDAR
            self._rig = CameraRig(tuple(models), ego_from_model) if models else None
        return self._rig

    def _replaced(self, job: _Job) -> None:
        self.counts.replaced += 1
        for shot in job.images.payloads.values():
            shot.cancel()

    # In the worker

    def _work(self, job: _Job) -> None:
        reset, self._reset = self._reset, None
        if reset is not None:
            self.detector.reset(*reset)
        try:
            self._step(job)
        except StreamPETRError as error:
            self.counts.failed += 1
            self.counts.last_failure = str(error)

    def _step(self, job: _Job) -> None:
        pictures: dict[str, Pixels | None] = {}
        prepared: dict[str, Any] = {}
        warnings = []
        for camera in job.rig.names:
            shot = job.images.payloads.get(camera)
            if shot is None:
                continue
            try:
                pictures[camera], prepared[camera] = self._pixels(camera, shot, job.rig)
            except StreamPETRError as error:
                warnings.append(f"{camera}: {error}")
        frame = assemble_frame(
            job.rig,
            pictures,
            job.images.stamps_ns,
            job.poses,
            stamp_ns=job.images.stamp_ns,
            scene=job.sample.scene,
            sample_token=job.sample.sample_token,
            is_key_frame=job.sample.is_key_frame,
            warnings=warnings,
        )
        began = time.monotonic_ns()
        boxes = self.detector.step(frame, [prepared.get(camera) for camera in job.rig.names])
        ended = time.monotonic_ns()
        result = Result(
            boxes=boxes,
            map_from_base=frame.map_from_ego,
            scene=frame.scene,
            missing=tuple(camera for camera in self.cameras if pictures.get(camera) is None),
            reset_reason=self.detector.last_reset_kind,
            reset_details=self.detector.last_reset_reason,
            sequence=self.counts.results,
            latency_ns=ended - job.arrival_ns,
            step_ns=ended - began,
        )
        self.counts.results += 1
        self.counts.last_failure = ""
        self._on_result(result)

    def _pixels(self, camera: str, shot: Shot, rig: CameraRig) -> tuple[Pixels, Any]:
        """Full and prepared image.

        Raises:
            StreamPETRError: where there is none; noted and counted.
        """
        state = self.cameras[camera]
        try:
            if state.problem:
                raise StreamPETRError(state.problem)
            shot.start(self._pool, self.detector.prepare, rig.cameras[rig.names.index(camera)])
            pair = shot.result(DECODE_SECONDS)
        except (FutureTimeoutError, CancelledError) as error:
            state.refused += 1
            raise StreamPETRError(f"no pixels within {DECODE_SECONDS:g} s") from error
        except StreamPETRError as error:
            state.refused += 1
            state.image_problem = f"camera '{camera}': {error} (topic {state.image_topic})"
            raise
        state.image_problem = ""
        return pair
