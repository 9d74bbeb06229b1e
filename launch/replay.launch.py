"""The perception graph fed by a bag: `ros2 launch streampetr replay.launch.py bag:=drive.mcap`."""
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.actions import OpaqueFunction
from streampetr import graph, launching

from launch import Action, LaunchContext, LaunchDescription

RVIZ_CONFIG = str(Path(__file__).with_name("perception.rviz"))


def start(context: LaunchContext) -> list[Action]:
    playing = launching.read_options(context, graph.ReplayOptions)
    if not playing.bag:
        raise RuntimeError("no bag given; say bag:=PATH")
    options = replace(launching.read_options(context, graph.GraphOptions), replayed=True)
    return [*launching.node_actions(options, RVIZ_CONFIG), launching.replay_action(playing)]


def generate_launch_description() -> LaunchDescription:
    declarations = launching.declarations(graph.ReplayOptions, graph.GraphOptions)
    return LaunchDescription([*declarations, OpaqueFunction(function=start)])
