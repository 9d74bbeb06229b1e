"""The node around `tracking.Tracker`: boxes of base_link in, tracks of the map out."""

from __future__ import annotations

import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.node import Node
from streampetr_msgs.msg import Box3DArray
from visualization_msgs.msg import MarkerArray

from bag_tools import messages
from streampetr.display import Trails
from streampetr.health import OK, WARN, Latencies, ProblemLog, joined, status
from streampetr.parameters import TrackerParameters, declare
from streampetr.ros_tools import qos
from streampetr.subscriptions import Subscriptions
from streampetr_core.errors import StreamPETRError
from tracking import Tracker
from tracking.config_file import read_config

NEW = messages.new_ros_message
MAP_FRAME = "map"


class TrackerNode(Node):
    """Tracks what comes on `boxes`; a new scene, or time that goes back, begins anew (the tracker's rules).

    Raises:
        StreamPETRError: for a parameter that cannot be used.
    """

    def __init__(self) -> None:
        super().__init__("tracker_node")
        self._settings = declare(self, TrackerParameters)
        path = self._settings.config_file
        self._tracker = Tracker(read_config(path) if path else None)
        self._trails = Trails(self._settings.trail_seconds)
        self._results = self._failed = 0
        self._failure = ""
        self._duration = Latencies()
        self._problem_log = ProblemLog(self.get_logger())
        self._tracks = self.create_publisher(Box3DArray, "~/tracks", qos(reliable=True, latched=True, depth=5))
        self._markers = self.create_publisher(MarkerArray, "~/markers", qos(reliable=True, depth=5))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos(reliable=True, depth=5))
        self._inputs = Subscriptions(self)
        self._inputs.add(Box3DArray, "boxes", qos(reliable=True, latched=True, depth=10), self._boxes)
        self.create_timer(1.0, self._diagnose, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.get_logger().info("ready")

    def close(self, timeout: float) -> bool:
        """There are no threads to end."""
        return True

    def _boxes(self, message: Box3DArray) -> None:
        began = time.monotonic_ns()
        try:
            map_from_base = messages.pose_matrix(message.map_from_base)
            boxes = messages.boxes_from_message(message).transformed(map_from_base, MAP_FRAME)
            observed = self._tracker.config.observed(list(message.missing_cameras))
            tracks = self._tracker.step(boxes, map_from_base, message.scene, observed)
        except StreamPETRError as error:
            self._failed += 1
            self._failure = str(error)
            return
        self._failure = ""
        if self._tracker.last_reset_reason:
            self._trails.clear()
        self._tracks.publish(self._answer(message, tracks))
        self._results += 1
        self._duration.add(time.monotonic_ns() - began)
        if self._markers.get_subscription_count():
            shown = tracks[tracks.score >= self._settings.marker_min_score]
            self._markers.publish(self._trails.markers(shown, NEW))

    def _answer(self, message: Box3DArray, tracks: Any) -> Any:
        """The tracks under the header of the boxes they answer."""
        answer = messages.boxes_to_message(
            tracks,
            NEW,
            scene=message.scene,
            missing_cameras=list(message.missing_cameras),
            reset_reason=self._tracker.last_reset_reason,
            sequence=self._results,
        )
        answer.header.stamp = message.header.stamp
        answer.map_from_base = message.map_from_base
        return answer

    def _diagnose(self) -> None:
        now = time.monotonic_ns()
        problems = [*self._inputs.silent(now).values(), *self._inputs.mismatched.values()]
        if self._failure:
            problems.append(self._failure)
        self._problem_log.update({str(index): sentence for index, sentence in enumerate(problems)})
        values = {"results": self._results, "failed": self._failed, "late": self._tracker.late_frames}
        values |= self._duration.as_values("step")
        values |= {f"reset: {kind}": count for kind, count in self._tracker.reset_counts.items()}
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        level = WARN if problems else OK
        message.status = [status("tracker_node: tracker", level, joined(problems), values)]
        self._diagnostics.publish(message)
