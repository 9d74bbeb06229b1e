"""The graph's description: what the nodes are told, and that launch files and `up` tell them the same."""
# pyright: reportMissingImports=false

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from streampetr import graph
from streampetr.graph import GraphOptions, NodeSpec, ReplayOptions

ROOT = Path(__file__).resolve().parents[2]


def test_empty_options_leave_everything_to_the_nodes() -> None:
    perception, tracker = graph.nodes(GraphOptions())
    assert (perception.parameters, perception.parameter_files, perception.remappings) == ({}, (), ())
    assert tracker.remappings == (("boxes", "perception_node/boxes"),)


def test_options_become_parameters_and_a_replay_has_its_own_time() -> None:
    options = GraphOptions(
        model="tiny", cameras=("CAM_FRONT", "CAM_BACK"), replayed=True, params_file="robot.yaml"
    )
    perception, tracker = graph.nodes(options)
    assert perception.parameters == {
        "use_sim_time": True,
        "model": "tiny",
        "cameras": ("CAM_FRONT", "CAM_BACK"),
        "reference_topic": "/streampetr/sample",
        "image_reliability": "reliable",
    }
    assert tracker.parameters == {"use_sim_time": True}
    assert perception.parameter_files == tracker.parameter_files == ("robot.yaml",)


def test_command_line_is_what_rcl_reads() -> None:
    node = NodeSpec(
        "n",
        "perception_node",
        {"cameras": ("A", "B"), "on": True, "text": "1e5", "gap": 2.0},
        ("f.yaml",),
        (("a", "b"),),
    )
    assert node.command()[:3] == [sys.executable, "-m", "streampetr.perception_node"]
    text = " ".join(node.ros_arguments())
    assert text == (
        '--ros-args -r __node:=n --params-file f.yaml -p cameras:=["A", "B"] -p on:=true -p text:="1e5" '
        "-p gap:=2.0 -r a:=b"
    )


def test_remappings_reach_both_nodes_and_nonsense_is_refused() -> None:
    for node in graph.nodes(GraphOptions(remap=("/tf:=/robot/tf",), namespace="car")):
        assert ("/tf", "/robot/tf") in node.remappings
        assert "__ns:=/car" in node.ros_arguments()
    with pytest.raises(ValueError, match="'/tf' is not of the form from:=to"):
        graph.nodes(GraphOptions(remap=("/tf",)))


def test_tracker_can_be_left_out() -> None:
    assert [node.name for node in graph.nodes(GraphOptions(tracker=False))] == ["perception_node"]


@pytest.mark.parametrize("options_class", [GraphOptions, ReplayOptions])
def test_every_option_is_a_launch_argument_with_help_and_its_default_comes_back(options_class: type) -> None:
    arguments = graph.launch_arguments(options_class)
    assert [argument.name for argument in arguments] == [item.name for item in fields(options_class)]
    assert all(argument.description for argument in arguments)
    texts = {argument.name: argument.default for argument in arguments}
    assert graph.options_from_text(options_class, texts) == options_class()


def test_texts_become_typed_options() -> None:
    texts = {"cameras": "CAM_FRONT, CAM_BACK", "replayed": "true", "model": " tiny "}
    expected = GraphOptions(model="tiny", cameras=("CAM_FRONT", "CAM_BACK"), replayed=True)
    assert graph.options_from_text(GraphOptions, texts) == expected
    assert graph.options_from_text(ReplayOptions, {"bag": "x", "rate": "2"}) == ReplayOptions("x", 2.0)
    with pytest.raises(ValueError, match="rate:=fast: a number"):
        graph.options_from_text(ReplayOptions, {"rate": "fast"})
    with pytest.raises(ValueError, match="replayed:=maybe: true or false"):
        graph.options_from_text(GraphOptions, {"replayed": "maybe"})


def test_replay_arguments_name_what_is_set() -> None:
    options = ReplayOptions("drive", 0.5, lockstep=True)
    assert graph.replay_arguments(options) == ["replay", "drive", "--rate", "0.5", "--lockstep"]
    assert "--loop" in graph.replay_arguments(replace(options, loop=True))


def test_description_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, importlib.util as u\n"
        f"s = u.spec_from_file_location('graph', {str(Path(graph.__file__))!r})\n"
        "m = u.module_from_spec(s); sys.modules['graph'] = m; s.loader.exec_module(m)\n"
        "print(len(m.launch_arguments(m.GraphOptions)))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(fields(GraphOptions))


@pytest.mark.parametrize("name", ["perception.launch.py", "replay.launch.py"])
def test_launch_files_hold_no_logic_of_their_own(name: str) -> None:
    """Names of nodes, parameters and topics stand in graph.py only."""
    tree = ast.parse((ROOT / "launch" / name).read_text())
    texts = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not {text for text in texts if "_node" in text or text.startswith("/")}


@pytest.mark.parametrize("name", ["perception.launch.py", "replay.launch.py"])
def test_launch_files_with_the_real_launch(name: str) -> None:
    launch = pytest.importorskip("launch", reason="the launch package is not installed")
    pytest.importorskip("launch_ros", reason="the launch_ros package is not installed")
    from launch.actions import ExecuteProcess
    from launch.launch_description_sources import get_launch_description_from_python_launch_file
    from launch.utilities import perform_substitutions
    from launch_ros.actions import Node

    description = get_launch_description_from_python_launch_file(str(ROOT / "launch" / name))
    declared = {argument.name: argument for argument in description.get_launch_arguments()}
    assert {item.name for item in fields(GraphOptions)} <= set(declared)
    context = launch.LaunchContext()
    context.launch_configurations.update(
        {n: perform_substitutions(context, a.default_value) for n, a in declared.items()}
    )
    context.launch_configurations.update({"model": "tiny", "rviz": "true", "bag": "drive", "remap": "/tf:=/x/tf"})
    actions = description.entities[-1].execute(context)
    nodes = [action.node_executable for action in actions if isinstance(action, Node)]
    assert nodes == ["perception_node", "tracker_node", "rviz2"]
    replays = [a for a in actions if isinstance(a, ExecuteProcess) and not isinstance(a, Node)]
    assert len(replays) == (name == "replay.launch.py")
