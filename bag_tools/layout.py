"""Where things are in a bag: topics, frames and offered QoS, for converter, reader, replay and recorder."""

from __future__ import annotations

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

MAP_FRAME = "map"
BASE_FRAME = "base_link"
LIDAR_FRAME = "lidar_top"
"""tf frame that the published checkpoints were trained in (nuScenes LIDAR_TOP)."""

TF_TOPIC = "/tf"
TF_STATIC_TOPIC = "/tf_static"
ODOMETRY_TOPIC = "/localization/kinematic_state"
SAMPLE_TOPIC = "/streampetr/sample"
GROUND_TRUTH_TOPIC = "/streampetr/ground_truth"
GROUND_TRUTH_MARKERS_TOPIC = "/streampetr/ground_truth_markers"
IMAGE_PATTERN = "/sensing/camera/{camera}/image_rect/compressed"
INFO_PATTERN = "/sensing/camera/{camera}/camera_info"


def image_topic(camera: str, pattern: str = IMAGE_PATTERN) -> str:
    """Topic of a camera's images; `{camera}` in the pattern becomes its name in lower case."""
    return pattern.format(camera=camera.lower())


def info_topic(camera: str, pattern: str = INFO_PATTERN) -> str:
    """Topic of a camera's calibration."""
    return pattern.format(camera=camera.lower())


def optical_frame(camera: str) -> str:
    """tf frame of a camera: x right, y down, z forward."""
    return f"{camera.lower()}_optical_frame"


def _qos(reliability: QosReliability, durability: QosDurability, depth: int) -> tuple[Qos, ...]:
    forever = QosTime(9223372036, 854775807)  # how rmw writes "no limit"
    return (
        Qos(
            QosHistory.KEEP_LAST,
            depth,
            reliability,
            durability,
            forever,
            forever,
            QosLiveliness.AUTOMATIC,
            forever,
            False,
        ),
    )


SENSOR_QOS = _qos(QosReliability.BEST_EFFORT, QosDurability.VOLATILE, 5)
RELIABLE_QOS = _qos(QosReliability.RELIABLE, QosDurability.VOLATILE, 10)
LATCHED_QOS = _qos(QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, 100)


def qos(topic: str) -> tuple[Qos, ...]:
    """What a sensor driver or node would offer on one of our topics: cameras best effort, /tf_static latched.

    The samples wait for late subscribers, too: a recorder that is matched late would lose the first of them.
    """
    if topic in (TF_STATIC_TOPIC, SAMPLE_TOPIC):
        return LATCHED_QOS
    return SENSOR_QOS if topic.startswith("/sensing/") else RELIABLE_QOS
