"""A robot with cameras for the tests: publishes, with the faults it is told to have, and prints the answers.

    python fake_robot.py '{"cameras": ["CAM_FRONT"], "seconds": 10, ...}'

Prints lines "KIND {json}": boxes, tracks, detections, markers, model, reset, and at the end diagnostics.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger
from streampetr.ros_tools import qos
from streampetr_msgs.msg import Box3DArray, ModelInfo
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from bag_tools import layout, messages
from streampetr_core.cameras import CameraModel
from streampetr_core.geometry import quaternion_from_yaw, transform

NEW = messages.new_ros_message
WIDTH, HEIGHT = 320, 180
K = np.array([[250.0, 0, 160], [0, 250.0, 90], [0, 0, 1]])
OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
START = 1_600_000_000_000_000_000


def jpeg(seed: int) -> bytes:
    """A textured picture."""
    small = np.random.default_rng(seed).integers(0, 255, (18, 32, 3), dtype=np.uint8)
    picture = cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def pose(stamp_ns: int) -> np.ndarray:
    """map_from_base: 8 m/s straight ahead."""
    return transform([8.0 * (stamp_ns - START) / 1e9, 3.0, 0.0], quaternion_from_yaw(0.3))


def camera(name: str, index: int, faults: dict[str, str]) -> CameraModel:
    turn = transform([0.0, 0.0, 0.0], quaternion_from_yaw(index))
    width = WIDTH * 2 if faults.get(name) == "size" else WIDTH
    return CameraModel(name, width, HEIGHT, K, turn @ OPTICAL)


class Robot(Node):
    """Publishes cycles of images with motion and calibration."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__("fake_robot")
        self.told = told
        self.names: list[str] = told["cameras"]
        self.faults: dict[str, str] = told.get("faults", {})
        self.raw = told.get("transport") == "raw"
        self.models = {name: camera(name, i, self.faults) for i, name in enumerate(self.names)}
        self.pictures = [jpeg(seed) for seed in range(3)]
        self.diagnostics: dict[str, Any] = {}
        self.model: Any = None
        self.count = 0
        image = qos(reliable=told.get("reliable", False), depth=5)
        pattern = "/sensing/camera/{camera}/image_raw" if self.raw else layout.IMAGE_PATTERN
        kind = Image if self.raw else CompressedImage
        self.images = {n: self.create_publisher(kind, layout.image_topic(n, pattern), image) for n in self.names}
        self.infos = {n: self.create_publisher(CameraInfo, layout.info_topic(n), image) for n in self.names}
        self.tf = self.create_publisher(TFMessage, "/tf", qos(reliable=True, depth=100))
        self.tf_static = self.create_publisher(TFMessage, "/tf_static", qos(reliable=True, latched=True, depth=1))
        self.odometry = self.create_publisher(Odometry, layout.ODOMETRY_TOPIC, qos(reliable=True, depth=50))
        self._mount()
        answers = qos(reliable=True, depth=50)
        p, t = "/perception_node/", "/tracker_node/"
        self.create_subscription(Box3DArray, p + "boxes", lambda m: self._boxes("boxes", m), answers)
        self.create_subscription(Box3DArray, t + "tracks", lambda m: self._boxes("tracks", m), answers)
        self.create_subscription(Detection3DArray, p + "detections", self._detections, answers)
        self.create_subscription(MarkerArray, p + "markers", lambda m: say("markers", n=len(m.markers)), answers)
        self.create_subscription(MarkerArray, t + "markers", lambda m: say("trails", n=len(m.markers)), answers)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, answers)
        latched = qos(reliable=True, latched=True, depth=1)
        self.create_subscription(ModelInfo, p + "model_info", self._model, latched)
        self.reset = self.create_client(Trigger, p + "reset")

    def _mount(self) -> None:
        mounted = {n: m for n, m in self.models.items() if self.faults.get(n) != "nomount"}
        transforms = [
            messages.transform_message("base_link", layout.optical_frame(n), m.ego_from_camera, START, NEW)
            for n, m in mounted.items()
        ]
        self.tf_static.publish(TFMessage(transforms=transforms))

    def cycle(self, stamp: int) -> None:
        """One image of each camera, 2 ms apart, after motion and calibration."""
        if self.told.get("motion", "tf") == "tf":
            self.tf.publish(
                TFMessage(
                    transforms=[
                        messages.transform_message("map", "odom", transform([1.0, 0, 0], [1, 0, 0, 0]), at, NEW)
                        for at in (stamp, stamp + 50_000_000)
                    ]
                    + [
                        messages.transform_message("odom", "base_link", pose(at), at, NEW)
                        for at in (stamp, stamp + 50_000_000)
                    ]
                )
            )
        elif self.told["motion"] == "odometry":
            for at in (stamp, stamp + 50_000_000):
                message = Odometry()
                messages.fill_header(message.header, at, "map")
                messages.fill_pose(message.pose.pose, pose(at))
                self.odometry.publish(message)
        for index, name in enumerate(self.names):
            self._shoot(index, name, stamp + index * 2_000_000)
        self.count += 1

    def _shoot(self, index: int, name: str, stamp: int) -> None:
        fault, frame = self.faults.get(name, ""), layout.optical_frame(name)
        if fault != "noinfo":
            info = messages.camera_info(self.models[name], stamp, frame, NEW)
            if fault == "nan":
                info.k[0] = info.p[0] = float("nan")
            self.infos[name].publish(info)
        if fault == "silent":
            return
        data = self.pictures[(self.count + index) % 3]
        if self.raw:
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            message = Image(height=HEIGHT, width=WIDTH, encoding="bgr8", step=3 * WIDTH)
            message.data = array("B", picture.tobytes())
        else:
            message = CompressedImage(format="jpeg", data=array("B", data[:500] if fault == "corrupt" else data))
        messages.fill_header(message.header, stamp, frame)
        self.images[name].publish(message)

    def _boxes(self, kind: str, m: Any) -> None:
        boxes = messages.boxes_from_message(m)
        say(
            kind,
            stamp=boxes.stamp_ns,
            frame=boxes.frame_id,
            n=len(boxes),
            variances=[] if boxes.position_covariance is None else boxes.position_covariance[:, 0, 0].tolist(),
            ids=bool((boxes.track_id >= 0).all()),
            velocity=bool(np.isfinite(boxes.velocity).all()),
            x=m.map_from_base.position.x,
            missing=list(m.missing_cameras),
            reset=m.reset_reason,
            sequence=m.sequence,
        )

    def _detections(self, m: Detection3DArray) -> None:
        variances = [float(detection.results[0].pose.covariance[0]) for detection in m.detections]
        say("detections", n=len(m.detections), frame=m.header.frame_id, variances=variances)

    def _model(self, m: ModelInfo) -> None:
        say("model", model=m.model, weights=m.weights, classes=list(m.class_names), cameras=list(m.cameras))

    def _diagnose(self, m: DiagnosticArray) -> None:
        for s in m.status:
            values = {v.key: v.value for v in s.values}
            self.diagnostics[s.name] = {"level": s.level[0], "message": s.message, "values": values}


def say(kind: str, **what: Any) -> None:
    print(kind, json.dumps(what), flush=True)


def main() -> None:
    told = json.loads(sys.argv[1])
    rclpy.init()
    robot = Robot(told)
    say("ready")
    period = told.get("period", 0.5)
    stop = time.monotonic() + told["seconds"]
    stamp, next_cycle, cycles = START, time.monotonic(), 0
    while time.monotonic() < stop:
        if time.monotonic() >= next_cycle:
            robot.cycle(stamp)
            cycles += 1
            stamp += round(period * 1e9)
            next_cycle += period
            if cycles == told.get("rewind_after"):
                stamp = START
                say("rewound")
            if cycles == told.get("reset_after"):
                robot.reset.call_async(Trigger.Request()).add_done_callback(
                    lambda f: say("reset", success=getattr(f.result(), "success", None))
                )
        rclpy.spin_once(robot, timeout_sec=0.01)
    say("diagnostics", **robot.diagnostics)


if __name__ == "__main__":
    main()
