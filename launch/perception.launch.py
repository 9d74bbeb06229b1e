"""The perception graph on live cameras: `ros2 launch streampetr perception.launch.py --show-args`."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from pathlib import Path

from launch.actions import OpaqueFunction
from streampetr import graph, launching

from launch import Action, LaunchContext, LaunchDescription

RVIZ_CONFIG = str(Path(__file__).with_name("perception.rviz"))


def start(context: LaunchContext) -> list[Action]:
    options = launching.read_options(context, graph.GraphOptions)
    return launching.node_actions(options, RVIZ_CONFIG)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*launching.declarations(graph.GraphOptions), OpaqueFunction(function=start)])
