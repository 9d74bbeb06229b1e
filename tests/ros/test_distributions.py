"""What differs between the distributions in the part of rclpy that we use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros

AS_IN_HUMBLE = """
import sys, types
import rclpy.node
from rclpy import event_handler, subscription
sys.modules["rclpy.qos_event"] = types.ModuleType("rclpy.qos_event")
sys.modules["rclpy.qos_event"].SubscriptionEventCallbacks = event_handler.SubscriptionEventCallbacks
sys.modules["rclpy.event_handler"] = None
del rclpy.event_handler, rclpy.try_shutdown, subscription.Subscription.get_publisher_count
"""

SUBSCRIBE = """
import time
from std_msgs.msg import Header
from streampetr.ros_tools import qos, ros_session
from streampetr.subscriptions import Subscriptions
with ros_session("listener") as session:
    heard = []
    inputs = Subscriptions(session.node)
    inputs.add(Header, "told", qos(reliable=True), heard.append)
    session.node.create_publisher(Header, "told", qos(reliable=False))
    assert session.spin_until(lambda: "/told" in inputs.mismatched, 10.0)
    publisher = session.node.create_publisher(Header, "told", qos(reliable=True))
    session.spin_until(lambda: publisher.get_subscription_count(), 10.0)
    publisher.publish(Header(frame_id="a"))
    assert session.spin_until(lambda: heard, 10.0)
print(inputs.mismatched["/told"])
"""

RECORD = """
import sys
from pathlib import Path
from streampetr.record import RecordArguments, run
sys.exit(run(RecordArguments(Path(sys.argv[1]), ("/tracker_node/tracks",), duration=1.0)))
"""


def run(code: str, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("before", ["", AS_IN_HUMBLE], ids=["here", "humble"])
def test_a_qos_that_does_not_fit_is_heard_of(ros_env: dict[str, str], before: str) -> None:
    """rclpy.event_handler is rclpy.qos_event in Humble."""
    done = run(before + SUBSCRIBE, ros_env)
    assert done.returncode == 0, done.stderr
    assert "offers another reliability than asked for" in done.stdout


def test_recording_without_publisher_counts_of_subscriptions(ros_env: dict[str, str], tmp_path: Path) -> None:
    done = run(AS_IN_HUMBLE + RECORD, ros_env, str(tmp_path / "out"))
    assert done.returncode == 1, done.stderr  # nothing came
    assert "Traceback" not in done.stderr
