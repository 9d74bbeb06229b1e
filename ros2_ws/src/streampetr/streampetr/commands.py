"""The verbs of the command line that need ROS 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from streampetr_core.console import parse


def up(argv: list[str]) -> int:
    """`streampetr up`."""
    from streampetr.environment import ensure_ros
    from streampetr.graph import GraphOptions

    options = parse(GraphOptions, "up", argv, "streampetr up --model tiny --weights random")
    ensure_ros()
    from streampetr.up import run

    return run(options)


def replay(argv: list[str]) -> int:
    """`streampetr replay`."""
    from streampetr.environment import ensure_ros

    ensure_ros()
    from streampetr.replay import ReplayArguments, run

    return run(parse(ReplayArguments, "replay", argv, "streampetr replay out/bags/scene-0103 --lockstep"))


def record(argv: list[str]) -> int:
    """`streampetr record`."""
    from streampetr.environment import ensure_ros

    ensure_ros()
    from streampetr.record import RecordArguments, run

    return run(parse(RecordArguments, "record", argv, "streampetr record out/recording"))


@dataclass
class DoctorArguments:
    """Say what is installed and what works; or what a bag contains and whether it can be run.

    Exit status 1 when something that is needed is broken.
    """

    bag: Positional[Path | None] = None
    """A rosbag2 folder or .mcap file; the machine where not given."""


def doctor(argv: list[str]) -> int:
    """`streampetr doctor`."""
    arguments = parse(DoctorArguments, "doctor", argv, "streampetr doctor out/bags/scene-0103")
    from streampetr.doctor import run

    return run(arguments.bag)
