"""`ros_environment` gives a process what it needs to import rclpy and our messages, however it was started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from streampetr import environment


def bare_environment() -> dict[str, str]:
    """This process's environment without anything that the ROS 2 set-up put there."""
    names = (
        "AMENT_PREFIX_PATH",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
        environment._GUARD,
    )
    return {name: value for name, value in os.environ.items() if name not in names}


def test_wheels_prefix_comes_after_our_interfaces(tmp_path: Path) -> None:
    result = environment.ros_environment(
        {"PATH": "/usr/bin"}, install=tmp_path / "install", prefix=tmp_path / "venv"
    )
    assert result["AMENT_PREFIX_PATH"] == f"{tmp_path}/install:{tmp_path}/venv"
    assert result["LD_LIBRARY_PATH"].split(":")[:2] == [f"{tmp_path}/install/lib", f"{tmp_path}/venv/lib"]
    assert result["PATH"] == f"{tmp_path}/venv/bin:/usr/bin"
    assert result["RMW_IMPLEMENTATION"] == "rmw_fastrtps_cpp"
    assert result["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"


def test_second_application_changes_nothing() -> None:
    once = environment.ros_environment(bare_environment())
    assert environment.ros_environment(once) == once


@pytest.mark.parametrize(
    ("name", "value"),
    [("RMW_IMPLEMENTATION", "rmw_zenoh_cpp"), ("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET"), ("ROS_DOMAIN_ID", "7")],
)
def test_choices_of_the_user_are_kept(name: str, value: str) -> None:
    assert environment.ros_environment({name: value})[name] == value


def test_a_user_who_names_peers_keeps_the_network() -> None:
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in environment.ros_environment({"ROS_STATIC_PEERS": "10.0.0.2"})


def test_a_sourced_distribution_is_kept(tmp_path: Path) -> None:
    sourced = {
        "ROS_DISTRO": "jazzy",
        "AMENT_PREFIX_PATH": "/opt/ros/jazzy",
        "LD_LIBRARY_PATH": "/opt/ros/jazzy/lib",
        "PYTHONPATH": "/opt/ros/jazzy/lib/python3.12/site-packages",
    }
    result = environment.ros_environment(sourced, install=tmp_path)
    assert environment.ros_distribution(sourced) == "jazzy"
    assert result["AMENT_PREFIX_PATH"] == f"{tmp_path}:/opt/ros/jazzy"
    assert result["LD_LIBRARY_PATH"] == f"{tmp_path}/lib:/opt/ros/jazzy/lib"
    assert result["PYTHONPATH"].endswith(":/opt/ros/jazzy/lib/python3.12/site-packages")
    # the robot's own middleware and discovery: no default of ours
    assert "RMW_IMPLEMENTATION" not in result
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" not in result


@pytest.mark.ros
def test_a_bare_process_restarts_itself_and_keeps_its_arguments() -> None:
    code = (
        "import os, sys; print(os.getpid()); sys.stdout.flush();"
        "from streampetr.environment import ensure_ros; ensure_ros();"
        "import rclpy, streampetr_msgs.msg; rclpy.init(); rclpy.shutdown(); print(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--flag", "two words"],
        env=bare_environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *pids, arguments = done.stdout.splitlines()
    assert len(pids) == 2  # started twice ...
    assert len(set(pids)) == 1  # ... as one process, so that signals sent to it arrive
    assert arguments == "['--flag', 'two words']"


def test_interfaces_not_built_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "INSTALL", tmp_path)
    monkeypatch.setattr(environment, "is_ready", lambda: False)
    with pytest.raises(environment.RosEnvironmentError, match="make setup"):
        environment.ensure_ros()


def test_a_restart_that_did_not_help_is_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "share" / "streampetr_msgs").mkdir(parents=True)
    monkeypatch.setattr(environment, "INSTALL", tmp_path)
    monkeypatch.setattr(environment, "is_ready", lambda: False)
    monkeypatch.setenv(environment._GUARD, str(tmp_path))
    with pytest.raises(environment.RosEnvironmentError, match="cannot be imported"):
        environment.ensure_ros()
