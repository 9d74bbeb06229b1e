"""From the graph's description to actions of the real `launch` and `launch_ros` (imported only here)."""
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streampetr import graph

if TYPE_CHECKING:
    from launch.action import Action
    from launch.launch_context import LaunchContext


def declarations(*options_classes: type) -> list[Action]:
    """The launch arguments of options classes; where a name comes twice the first counts."""
    from launch.actions import DeclareLaunchArgument

    arguments: dict[str, graph.Argument] = {}
    for options_class in options_classes:
        for argument in graph.launch_arguments(options_class):
            arguments.setdefault(argument.name, argument)
    return [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            choices=list(argument.choices) or None,
        )
        for argument in arguments.values()
    ]


def read_options(context: LaunchContext, options_class: type) -> Any:
    """The options object that the launch arguments of this run describe."""
    values = {
        argument.name: context.launch_configurations[argument.name]
        for argument in graph.launch_arguments(options_class)
    }
    return graph.options_from_text(options_class, values)


def node_actions(options: graph.GraphOptions, rviz_config: str) -> list[Action]:
    """The nodes of the graph, and RViz where it is asked for. A node's end is the end of all, or its new start."""
    from launch.actions import Shutdown
    from launch_ros.actions import Node

    actions: list[Action] = []
    for node in graph.nodes(options):
        parameters: list[Any] = [*node.parameter_files]
        if node.parameters:
            parameters.append({k: list(v) if isinstance(v, tuple) else v for k, v in node.parameters.items()})
        actions.append(
            Node(
                package=graph.PACKAGE,
                executable=node.executable,
                name=node.name,
                namespace=node.namespace or None,
                parameters=parameters,
                remappings=list(node.remappings),
                output="screen",
                respawn=options.respawn,
                respawn_delay=1.0,
                on_exit=None if options.respawn else Shutdown(reason=f"{node.name} has ended"),
            )
        )
    if options.rviz:
        actions.append(_rviz(options, rviz_config))
    return actions


def _rviz(options: graph.GraphOptions, config: str) -> Action:
    """RViz, whose end ends nothing else; where it is not installed, a line that says so."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix
    from launch.actions import LogInfo
    from launch_ros.actions import Node

    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        return LogInfo(msg=f"rviz:=true: {graph.NO_RVIZ}")
    parameters = [{"use_sim_time": options.replayed}]
    return Node(package="rviz2", executable="rviz2", arguments=["-d", config], parameters=parameters)


def replay_action(options: graph.ReplayOptions) -> Action:
    """`streampetr replay` as a process of the launch; its end is the end of all."""
    from launch.actions import ExecuteProcess, Shutdown
    from launch_ros.substitutions import ExecutableInPackage

    program = ExecutableInPackage(executable="streampetr", package=graph.PACKAGE)
    return ExecuteProcess(
        cmd=[program, *graph.replay_arguments(options)],
        name="replay",
        output="screen",
        on_exit=Shutdown(reason="the bag has been played"),
    )
