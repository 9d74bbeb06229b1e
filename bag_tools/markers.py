"""Boxes as visualization_msgs markers for RViz and Foxglove, in the colours of the pictures."""

from __future__ import annotations

from typing import Any

from bag_tools.messages import New, fill_header, fill_quaternion, fill_vector, new_message
from bag_tools.pictures import box_color
from streampetr_core.boxes import Boxes3D
from streampetr_core.geometry import quaternion_from_yaw

MARKER = "visualization_msgs/msg/Marker"
MARKER_ARRAY = "visualization_msgs/msg/MarkerArray"


def boxes_to_markers(
    boxes: Boxes3D,
    new: New = new_message,
    *,
    namespace: str = "boxes",
    alpha: float = 0.5,
    lifetime_s: float = 1.0,
) -> Any:
    """visualization_msgs/MarkerArray: a marker that clears the namespace, then one cube a box.

    Marker ids are the track ids where all boxes have one, else row numbers. `new` makes messages, see `messages`.
    """
    message = new(MARKER_ARRAY)
    clear = new(MARKER)
    fill_header(clear.header, boxes.stamp_ns, boxes.frame_id)
    clear.ns, clear.action = namespace, 3  # DELETEALL
    message.markers.append(clear)
    orientations = quaternion_from_yaw(boxes.yaw)
    tracked = bool((boxes.track_id >= 0).all())
    seconds, nanoseconds = divmod(round(lifetime_s * 1e9), 1_000_000_000)
    for row in range(len(boxes)):
        marker = new(MARKER)
        fill_header(marker.header, boxes.stamp_ns, boxes.frame_id)
        marker.ns, marker.id = namespace, int(boxes.track_id[row]) if tracked else row
        marker.type, marker.action = 1, 0  # CUBE, ADD
        fill_vector(marker.pose.position, boxes.center[row])
        fill_quaternion(marker.pose.orientation, orientations[row])
        fill_vector(marker.scale, boxes.size[row])
        red, green, blue = box_color(boxes, row)
        marker.color.r, marker.color.g, marker.color.b = red / 255, green / 255, blue / 255
        marker.color.a = alpha
        marker.lifetime.sec, marker.lifetime.nanosec = seconds, nanoseconds
        message.markers.append(marker)
    return message
