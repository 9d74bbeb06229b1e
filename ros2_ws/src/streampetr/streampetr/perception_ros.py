"""The node around `perception.py`: messages in, messages out, and nothing decided here."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger
from streampetr_msgs.msg import Box3DArray, ModelInfo, SampleInfo
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from bag_tools import messages
from bag_tools.markers import boxes_to_markers
from streampetr.camera_input import Pixels, Shot
from streampetr.camera_sets import CameraSetFilter
from streampetr.display import boxes_to_detections
from streampetr.health import ERROR, OK, WARN, Latencies, ProblemLog, joined, status
from streampetr.parameters import PerceptionParameters, declare
from streampetr.perception import Perception, Result, Sample
from streampetr.ros_tools import qos
from streampetr.subscriptions import Subscriptions
from streampetr_core.checkpoint import UNTRAINED
from streampetr_core.detector import Continuity, Detector
from streampetr_core.errors import StreamPETRError
from streampetr_core.preprocessing import decode_jpeg
from streampetr_core.raw_images import image_from_raw
from streampetr_core.synchronizer import REFERENCE

POLL_SECONDS = 0.02
NEW = messages.new_ros_message


class PerceptionNode(Node):
    """Subscriptions, publishers and timers around `Perception`.

    Raises:
        StreamPETRError: for a parameter, model or checkpoint that cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("perception_node")
        settings = declare(self, PerceptionParameters)
        self._settings = settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        began = time.monotonic()
        detector = Detector.from_checkpoint(
            settings.weights,
            model=settings.model,
            backend=settings.backend,
            device=settings.device,
            continuity=Continuity(max_gap=settings.max_gap),
        )
        self._latency, self._step_time = Latencies(), Latencies()
        self._bad_messages = 0
        self._bad_message = ""
        self._problem_log = ProblemLog(self.get_logger())
        self._boxes = self.create_publisher(Box3DArray, "~/boxes", qos(reliable=True, latched=True, depth=5))
        self._detections = self.create_publisher(Detection3DArray, "~/detections", qos(reliable=True, depth=5))
        self._markers = self.create_publisher(MarkerArray, "~/markers", qos(reliable=True, depth=5))
        self._model_info = self.create_publisher(
            ModelInfo, "~/model_info", qos(reliable=True, latched=True, depth=1)
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos(reliable=True, depth=5))
        self.perception = Perception(detector, settings, self._publish)
        for camera in self.perception.cameras.values():  # remapped names, for subscriptions and sentences
            camera.image_topic = self.resolve_topic_name(camera.image_topic)
            camera.info_topic = self.resolve_topic_name(camera.info_topic)
            camera.rectified = "rect" in camera.image_topic
        self._announce(detector)
        self._inputs = Subscriptions(self)
        self._sets = self._subscribe()
        self._sets.registerCallback(self.perception.take)
        self.create_service(Trigger, "~/reset", self._reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # neither waits nor diagnostics depend on simulated time
        self.create_timer(POLL_SECONDS, self._poll, clock=steady)
        self.create_timer(1.0, self._diagnose, clock=steady)
        self.get_logger().info(
            f"ready: {detector.model_name} ({detector.weights_name}) on {detector.device} after "
            f"{time.monotonic() - began:.1f} s, cameras {', '.join(settings.cameras)}"
        )
        if settings.weights in UNTRAINED:
            self.get_logger().warning(
                "the network is untrained: its boxes mean nothing; set weights to a checkpoint"
            )

    def close(self, timeout: float) -> bool:
        """End the worker; False where the network is still busy after `timeout` seconds."""
        return self.perception.close(timeout)

    # Inputs

    def _subscribe(self) -> CameraSetFilter:
        """Calibrations and motion first: the executor asks in this order. Images meet in the filter."""
        settings, inputs = self._settings, self._inputs
        reliable = settings.image_reliability == "reliable"
        infos = qos(reliable=reliable, depth=10)
        images = qos(reliable=reliable, depth=max(settings.image_queue, 10) if reliable else settings.image_queue)
        inputs.add(TFMessage, "/tf_static", qos(reliable=True, latched=True, depth=100), partial(self._tf, True))
        inputs.add(TFMessage, "/tf", qos(reliable=True, depth=100), partial(self._tf, False))
        if settings.ego_motion == "odometry":
            inputs.add(Odometry, settings.odometry_topic, qos(reliable=False, depth=50), self._odometry)
        for name, camera in self.perception.cameras.items():
            inputs.add(CameraInfo, camera.info_topic, infos, partial(self._info, name))
        reference = None
        if settings.reference_topic:
            reference = inputs.add(SampleInfo, settings.reference_topic, qos(reliable=True, depth=50))
        kind = CompressedImage if settings.transport == "compressed" else Image
        sources = {
            name: inputs.add(kind, camera.image_topic, images) for name, camera in self.perception.cameras.items()
        }
        return CameraSetFilter(self.perception.synchronizer, sources, reference, self._payload)

    def _payload(self, source: str, message: Any, now: int) -> Sample | Shot | None:
        """What the perception wants of a SampleInfo or an image."""
        if source == REFERENCE:
            return Sample(message.scene, message.sample_token, message.is_key_frame)
        stamp = messages.stamp_to_ns(message.header.stamp)
        decode = _decode_compressed if self._settings.transport == "compressed" else _decode_raw
        return self.perception.shot(source, stamp, partial(decode, message), now)

    def _info(self, camera: str, message: CameraInfo) -> None:
        self.perception.info(camera, message, time.monotonic_ns())

    def _tf(self, fixed: bool, message: TFMessage) -> None:
        found = []
        for item in message.transforms:
            try:
                matrix = messages.transform_matrix(item)
            except StreamPETRError as error:
                self._note_bad(f"{item.header.frame_id} -> {item.child_frame_id}: {error}")
                continue
            stamp = messages.stamp_to_ns(item.header.stamp)
            found.append((item.header.frame_id, item.child_frame_id, stamp, matrix))
        self.perception.transforms(found, fixed)

    def _odometry(self, message: Odometry) -> None:
        try:
            pose = messages.pose_matrix(message.pose.pose)
        except StreamPETRError as error:
            self._note_bad(f"{self._settings.odometry_topic}: {error}")
            return
        self.perception.pose(messages.stamp_to_ns(message.header.stamp), pose)

    def _note_bad(self, sentence: str) -> None:
        self._bad_messages += 1
        self._bad_message = sentence

    def _poll(self) -> None:
        self._sets.poll()
        self.perception.poll(time.monotonic_ns())

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.perception.reset("asked for by service")
        response.success, response.message = True, "the memory begins anew with the next set"
        return response

    # Outputs

    def _publish(self, result: Result) -> None:
        """Called in the worker thread: rclpy's publishers may be used from any."""
        boxes = result.boxes
        if result.reset_reason:
            self.get_logger().info(f"the memory begins anew: {result.reset_details}")
        message = messages.boxes_to_message(
            boxes,
            NEW,
            map_from_base=result.map_from_base,
            scene=result.scene,
            missing_cameras=result.missing,
            reset_reason=result.reset_reason,
            sequence=result.sequence,
        )
        message.header.frame_id = self._settings.base_frame
        self._boxes.publish(message)
        self._latency.add(result.latency_ns)
        self._step_time.add(result.step_ns)
        shown = boxes[boxes.score >= self._settings.marker_min_score]
        for publisher, make in ((self._detections, boxes_to_detections), (self._markers, boxes_to_markers)):
            if publisher.get_subscription_count():
                publisher.publish(make(shown, NEW))

    def _announce(self, detector: Detector) -> None:
        message = ModelInfo()
        message.header.stamp = self.get_clock().now().to_msg()
        message.model, message.weights = detector.model_name, detector.weights_name
        message.class_names, message.cameras = list(detector.class_names), list(self._settings.cameras)
        self._model_info.publish(message)

    # Health

    def _diagnose(self) -> None:
        now = time.monotonic_ns()
        reference = self._settings.reference_topic and self.resolve_topic_name(self._settings.reference_topic)
        problems = self.perception.problems(now)
        silent = self._inputs.silent(now)
        mismatched = self._inputs.mismatched
        for name, camera in self.perception.cameras.items():
            topics = (camera.image_topic, camera.info_topic)
            problems[name] += [
                found[topic] for found in (silent, mismatched) for topic in topics if topic in found
            ]
        own = {t for camera in self.perception.cameras.values() for t in (camera.image_topic, camera.info_topic)}
        for topic, sentence in [*silent.items(), *mismatched.items()]:
            if topic not in own:
                place = "synchroniser" if topic == reference else "ego motion"
                problems[place].append(sentence)
        if self._bad_message:
            problems["ego motion"].append(
                f"{self._bad_messages} messages refused, the latest: {self._bad_message}"
            )
        lasting = {f"{place} {i}": s for place, found in problems.items() for i, s in enumerate(found)}
        if silent:  # one line for all topics
            lasting = {key: sentence for key, sentence in lasting.items() if sentence not in silent.values()}
            lasting["silent"] = f"nothing comes on {', '.join(silent)}"
        self._problem_log.update(lasting)
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [self._camera_status(name, problems[name], now) for name in self.perception.cameras]
        message.status += [self._set_status(problems["synchroniser"]), self._detector_status()]
        level = ERROR if problems["ego motion"] else OK
        message.status.append(status("perception_node: ego motion", level, joined(problems["ego motion"]), {}))
        self._diagnostics.publish(message)

    def _camera_status(self, name: str, problems: list[str], now: int) -> Any:
        camera = self.perception.cameras[name]
        counts = self.perception.synchronizer.counts[name]
        values = {"topic": camera.image_topic, "rate Hz": f"{camera.rate(now):.2f}", "refused": camera.refused}
        level = OK if not problems else WARN if camera.usable else ERROR
        return status(f"perception_node: {name}", level, joined(problems), values | vars(counts), name)

    def _set_status(self, problems: list[str]) -> Any:
        perception = self.perception
        period = perception.synchronizer.period_ns
        values = vars(perception.synchronizer.sets) | {
            "replaced (network busy)": perception.counts.replaced,
            "no pose": perception.counts.no_pose,
            "not calibrated": perception.counts.not_calibrated,
            "skew in force ms": f"{perception.synchronizer.skew_ns / 1e6:.1f}",
            "camera period ms": "" if period is None else f"{period / 1e6:.1f}",
        }
        return status("perception_node: synchroniser", WARN if problems else OK, joined(problems), values)

    def _detector_status(self) -> Any:
        counts, detector = self.perception.counts, self.perception.detector
        values = {
            "model": detector.model_name,
            "weights": detector.weights_name,
            "device": detector.device,
            "results": counts.results,
            "failed": counts.failed,
        }
        values |= self._latency.as_values("latency") | self._step_time.as_values("network")
        values |= {f"memory reset: {kind}": count for kind, count in detector.reset_counts.items()}
        failure = counts.last_failure
        return status("perception_node: detector", WARN if failure else OK, failure or "OK", values)


def _decode_compressed(message: CompressedImage) -> Pixels:
    return decode_jpeg(memoryview(message.data))


def _decode_raw(message: Image) -> Pixels:
    big_endian = bool(message.is_bigendian)
    return image_from_raw(message.encoding, message.height, message.width, message.step, message.data, big_endian)
