"""Processes that use ROS 2 get their environment here, so that nobody has to source anything.

Two kinds of installation count: a sourced distribution (`ROS_DISTRO` is set; whatever its set-up files exported is
kept) and the PyPI wheels, which put an ordinary ROS prefix into the virtual environment. On top of either comes
`ros2_ws/install`, the interfaces that `make setup` built.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from streampetr_core.errors import StreamPETRError

WORKSPACE = Path(__file__).resolve().parents[3]
"""The checkout's ros2_ws (the package is always used from its source: editable, or linked by colcon)."""

INSTALL = WORKSPACE / "install"
FAST_DDS_PROFILE = Path(__file__).resolve().parents[1] / "config" / "fastdds.xml"
_FAST_DDS_FILES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
_GUARD = "STREAMPETR_ROS_ENVIRONMENT"
_WHEELS_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"


class RosEnvironmentError(StreamPETRError):
    """ROS 2 or the interfaces of this project are not installed."""


def ros_distribution(environment: Mapping[str, str] | None = None) -> str | None:
    """Name of the sourced distribution ("jazzy"), or None where the wheels are to be used."""
    environment = os.environ if environment is None else environment
    return environment.get("ROS_DISTRO") if environment.get("AMENT_PREFIX_PATH") else None


def ros_environment(
    base: Mapping[str, str] | None = None, install: Path = INSTALL, prefix: Path | None = None
) -> dict[str, str]:
    """The environment of a process that imports rclpy and our messages, and of its children.

    Args:
        base: environment to start from; this process's when None.
        install: merged colcon installation with our interfaces.
        prefix: of the wheels; this interpreter's environment when None. Not used with a sourced distribution.

    Returns:
        A copy of `base` with AMENT_PREFIX_PATH, LD_LIBRARY_PATH, PYTHONPATH and PATH extended; what was there
        comes after ours and nothing is entered twice. With the wheels RMW_IMPLEMENTATION is rmw_fastrtps_cpp (the
        only one among them), with room for images in shared memory, and discovery stays on this machine, unless
        these are set already; a distribution keeps its own choice, so that nodes meet the robot's.
    """
    environment = dict(os.environ if base is None else base)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefixes = [install]
    libraries = [install / "lib"]
    if ros_distribution(environment) is None:
        wheels = Path(sys.prefix) if prefix is None else prefix
        prefixes.append(wheels)
        libraries += [wheels / "lib", *sorted((wheels / "lib" / python / "site-packages").glob("ros_*.libs"))]
        # the wheels start every interpreter twice to set LD_LIBRARY_PATH; here it is set already
        environment[_WHEELS_GUARD] = "1"
        environment.setdefault("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
        if not any(name in environment for name in _FAST_DDS_FILES) and FAST_DDS_PROFILE.is_file():
            environment[_FAST_DDS_FILES[0]] = str(FAST_DDS_PROFILE)  # room for images in shared memory
        if "ROS_LOCALHOST_ONLY" not in environment and "ROS_STATIC_PEERS" not in environment:
            environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        _prepend(environment, "PATH", [wheels / "bin"])
    _prepend(environment, "AMENT_PREFIX_PATH", prefixes)
    _prepend(environment, "LD_LIBRARY_PATH", libraries)
    _prepend(environment, "PYTHONPATH", [install / "lib" / python / "site-packages"])
    environment[_GUARD] = str(install)
    return environment


def is_ready() -> bool:
    """True when this process can import rclpy and our messages."""
    return all(importlib.util.find_spec(name) is not None for name in ("rclpy", "streampetr_msgs"))


def ensure_ros() -> None:
    """Return when rclpy and our messages can be imported; else start this process anew where they can.

    The shared libraries of ROS 2 are found through LD_LIBRARY_PATH, which the loader reads only at the start of
    a process: so the same command line is executed again, under the same process id, with `ros_environment()`.

    Raises:
        RosEnvironmentError: when the interfaces have not been built or ROS 2 is not installed.
    """
    if is_ready():
        return
    if not (INSTALL / "share" / "streampetr_msgs").is_dir():
        raise RosEnvironmentError(f"the ROS 2 interfaces are not built in {INSTALL}; run `make setup`")
    if os.environ.get(_GUARD) == str(INSTALL):
        missing = "rclpy" if importlib.util.find_spec("rclpy") is None else "streampetr_msgs"
        raise RosEnvironmentError(
            f"{missing} cannot be imported by {sys.executable} although the ROS 2 environment is set; "
            "the interfaces were built for another Python or distribution: run `make setup` in this shell"
        )
    restart(ros_environment())


def restart(environment: Mapping[str, str]) -> NoReturn:
    """Execute this process's own command line again, with `environment`."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, sys.orig_argv, dict(environment))


def _prepend(environment: dict[str, str], name: str, folders: list[Path]) -> None:
    ours = [str(folder) for folder in folders]
    others = [entry for entry in environment.get(name, "").split(os.pathsep) if entry and entry not in ours]
    environment[name] = os.pathsep.join(ours + others)
