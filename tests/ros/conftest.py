"""Fixtures for tests with real processes: an own ROS domain for each, the command as a child, a hand-made bag."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from streampetr.environment import INSTALL, ros_environment
from streampetr.processes import Child, Processes

from bag_tools import layout, messages
from bag_tools.convert import BAG_VERSION

_domains = iter(range(10_000))


@pytest.fixture
def ros_env() -> dict[str, str]:
    """Environment of processes with ROS 2, in a domain that no other test uses at the same time."""
    if not (INSTALL / "share" / "streampetr_msgs").is_dir():
        pytest.skip("the ROS 2 interfaces are not built; run `make setup`")
    domain = 1 + (os.getpid() * 7 + next(_domains)) % 100  # domains above 101 may meet ephemeral ports
    return ros_environment() | {"ROS_DOMAIN_ID": str(domain)}


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Children that end with the test."""
    with Processes(sys.stdout) as group:
        yield group


@pytest.fixture
def command(processes: Processes, ros_env: dict[str, str]) -> Callable[..., Child]:
    """`command("replay", bag, "--lockstep")` starts that verb as a child process."""

    def start(*arguments: object, name: str = "") -> Child:
        words = [str(argument) for argument in arguments]
        return processes.start(name or words[0], [sys.executable, "-m", "streampetr_cli", *words], ros_env)

    return start


BAG_START = 1_500_000_000_000_000_000
PERIOD = 500_000_000
CAMERAS = ("CAM_FRONT", "CAM_BACK")


def _write_bag(path: Path, sets: int = 4, without_images: Sequence[int] = (), image_bytes: int = 20_000) -> Path:
    """A bag of camera sets every 0.5 s; their images hold no picture and are 7 ms off the reference instant."""
    store = messages.typestore()
    events: list[tuple[int, str, Any]] = []
    static = messages.new_message(messages.TF_MESSAGE)
    frames = [layout.LIDAR_FRAME, *(layout.optical_frame(name) for name in CAMERAS)]
    static.transforms = [messages.transform_message(layout.BASE_FRAME, f, np.eye(4), BAG_START) for f in frames]
    events.append((BAG_START - 100_000_000, layout.TF_STATIC_TOPIC, static))
    for k in range(sets):
        reference = BAG_START + k * PERIOD
        stamps = [reference - 7_000_000, reference + 7_000_000]
        for stamp in (*stamps, reference):
            pose = messages.new_message(messages.TF_MESSAGE)
            pose.transforms = [messages.transform_message(layout.MAP_FRAME, layout.BASE_FRAME, np.eye(4), stamp)]
            events.append((stamp, layout.TF_TOPIC, pose))
        sample = messages.new_message(messages.SAMPLE_INFO)
        messages.fill_header(sample.header, reference, layout.BASE_FRAME)
        sample.scene, sample.sample_token, sample.is_key_frame = "s", f"token{k}", True
        sample.camera_names = list(CAMERAS)
        present = k not in without_images
        sample.image_stamps_ns = np.array(stamps if present else [-1, -1], dtype=np.int64)
        events.append((reference, layout.SAMPLE_TOPIC, sample))
        for camera, stamp in zip(CAMERAS, stamps, strict=True) if present else ():
            image = messages.new_message(messages.COMPRESSED_IMAGE)
            messages.fill_header(image.header, stamp, layout.optical_frame(camera))
            image.format, image.data = "jpeg", np.full(image_bytes, k, dtype=np.uint8)
            events.append((stamp, layout.image_topic(camera), image))
    with Writer(path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for stamp, topic, message in sorted(events, key=lambda event: event[0]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
            writer.write(connections[topic], stamp, store.serialize_cdr(message, message.__msgtype__))
    return path


FAKE_NODE = """
# Answers a camera set with an empty Box3DArray once it has the sample and its images; stands for both nodes.
import sys
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage
from streampetr_msgs.msg import Box3DArray, SampleInfo
from tf2_msgs.msg import TFMessage

topic, lose, cameras = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
rclpy.init()
node = rclpy.create_node("fake_perception")
out = node.create_publisher(Box3DArray, topic, QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL))
have, samples, state = set(), {}, {"lose": lose}

def ns(stamp):
    return stamp.sec * 10**9 + stamp.nanosec

def answer():
    for reference, sample in list(samples.items()):
        if all((c, s) in have for c, s in zip(sample.camera_names, sample.image_stamps_ns)):
            del samples[reference]
            if state["lose"]:
                state["lose"] -= 1
                continue
            message = Box3DArray()
            message.header = sample.header
            out.publish(message)

def image(camera):
    def take(message):
        have.add((camera, ns(message.header.stamp)))
        answer()
    return take

def sample(message):
    if all(s >= 0 for s in message.image_stamps_ns):
        samples[ns(message.header.stamp)] = message
        answer()

for name in cameras:
    images = f"/sensing/camera/{name.lower()}/image_rect/compressed"
    node.create_subscription(CompressedImage, images, image(name), qos_profile_sensor_data)
node.create_subscription(SampleInfo, "/streampetr/sample", sample, QoSProfile(depth=10))
node.create_subscription(TFMessage, "/tf", lambda message: None, QoSProfile(depth=10))
print("ready", flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    pass
"""


@pytest.fixture
def write_bag() -> Callable[..., Path]:
    """Writes a hand-made bag of two cameras."""
    return _write_bag


@pytest.fixture
def fake_node(processes: Processes, ros_env: dict[str, str]) -> Callable[..., Child]:
    """Starts a stand-in for the nodes, which keeps the first `lose` results to itself."""

    def start(lose: int = 0, topic: str = "/tracker_node/tracks") -> Child:
        return processes.start(
            "node", [sys.executable, "-c", FAKE_NODE, topic, str(lose), ",".join(CAMERAS)], ros_env
        )

    return start
