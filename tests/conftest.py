"""Fixtures for every test: the shared reference data, where it is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as streampetr_core does; before torch loads

SHARED = Path(os.environ.get("STREAMPETR_SHARED", Path(__file__).resolve().parents[2] / "shared"))
ROS_MISSING = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Start pytest anew with the ROS 2 environment, once: tests import rclpy however pytest was called."""
    from streampetr.environment import RosEnvironmentError, ensure_ros

    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)  # the new process must write to the real outputs
    try:
        ensure_ros()
    except RosEnvironmentError as error:
        config.stash[ROS_MISSING] = str(error)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `ros` where ROS 2 is absent; in CI that is a failure."""
    reason = item.config.stash.get(ROS_MISSING, "")
    if reason and item.get_closest_marker("ros"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference vectors and real keyframes; in CI its absence is a failure, elsewhere a skip."""
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"reference data not found at {SHARED}")
        pytest.skip(f"reference data not found at {SHARED} (set STREAMPETR_SHARED)")
    return SHARED
