"""Boxes as vision_msgs detections, and tracks as markers with trails."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from bag_tools.markers import boxes_to_markers
from bag_tools.messages import New, fill_header, fill_quaternion, fill_vector
from bag_tools.pictures import box_color
from streampetr_core.boxes import Boxes3D
from streampetr_core.geometry import quaternion_from_yaw

LINE_STRIP, ADD, DELETE_ALL = 4, 0, 3


def boxes_to_detections(boxes: Boxes3D, new: New) -> Any:
    """vision_msgs/Detection3DArray; ids are those of tracks. The message has no place for velocity.

    The pose's covariance is that of the place, where it is known; about the angles nothing is (pi squared).
    """
    message = new("vision_msgs/msg/Detection3DArray")
    fill_header(message.header, boxes.stamp_ns, boxes.frame_id)
    names, orientations = boxes.names(), quaternion_from_yaw(boxes.yaw)
    covariance = np.zeros((len(boxes), 6, 6))
    if boxes.position_covariance is not None:
        covariance[:, :3, :3] = boxes.position_covariance
        covariance[:, 3:, 3:] = np.pi**2 * np.eye(3)
    for row in range(len(boxes)):
        detection = new("vision_msgs/msg/Detection3D")
        fill_header(detection.header, boxes.stamp_ns, boxes.frame_id)
        fill_vector(detection.bbox.center.position, boxes.center[row])
        fill_quaternion(detection.bbox.center.orientation, orientations[row])
        fill_vector(detection.bbox.size, boxes.size[row])
        result = new("vision_msgs/msg/ObjectHypothesisWithPose")
        result.hypothesis.class_id, result.hypothesis.score = str(names[row]), float(boxes.score[row])
        result.pose.pose, result.pose.covariance = detection.bbox.center, covariance[row].ravel()
        detection.results.append(result)
        if boxes.track_id[row] >= 0:
            detection.id = str(boxes.track_id[row])
        message.detections.append(detection)
    return message


class Trails:
    """Where each track has been over the last seconds, as line strips beside the boxes' markers."""

    def __init__(self, seconds: float) -> None:
        self.length_ns = round(seconds * 1e9)
        self._points: dict[int, deque[tuple[int, np.ndarray]]] = {}

    def clear(self) -> None:
        """Forget all."""
        self._points.clear()

    def markers(self, tracks: Boxes3D, new: New) -> Any:
        """visualization_msgs/MarkerArray: everything old away, a box and a trail for each track."""
        since = tracks.stamp_ns - self.length_ns
        for row, track in enumerate(tracks.track_id.tolist()):
            self._points.setdefault(track, deque(maxlen=200)).append((tracks.stamp_ns, tracks.center[row]))
        for track, points in list(self._points.items()):
            while points and points[0][0] < since:
                points.popleft()
            if not points:
                del self._points[track]
        message = boxes_to_markers(tracks, new, namespace="tracks")
        clear = new("visualization_msgs/msg/Marker")
        fill_header(clear.header, tracks.stamp_ns, tracks.frame_id)
        clear.ns, clear.action = "trails", DELETE_ALL
        message.markers.insert(0, clear)  # before the boxes: RViz takes DELETEALL for every namespace
        for row, track in enumerate(tracks.track_id.tolist()):
            points = self._points.get(track, ())
            if len(points) < 2:
                continue
            marker = new("visualization_msgs/msg/Marker")
            fill_header(marker.header, tracks.stamp_ns, tracks.frame_id)
            marker.ns, marker.id, marker.type, marker.action = "trails", track, LINE_STRIP, ADD
            marker.scale.x, marker.pose.orientation.w = 0.15, 1.0
            red, green, blue = box_color(tracks, row)
            marker.color.r, marker.color.g, marker.color.b, marker.color.a = (
                red / 255,
                green / 255,
                blue / 255,
                0.9,
            )
            marker.lifetime.sec = 1
            for _, center in points:
                point = new("geometry_msgs/msg/Point")
                fill_vector(point, center)
                marker.points.append(point)
            message.markers.append(marker)
        return message
