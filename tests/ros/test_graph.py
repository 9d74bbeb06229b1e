"""The graph's description: what the nodes are told, and that launch files and `up` tell them the same."""
# pyright: reportMissingImports=false

from __future__ import annotations

import ast
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from streampetr import graph
from streampetr.environment import INSTALL
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


def test_the_documentation_lists_every_output_with_its_type() -> None:
    text = (ROOT / "docs" / "ros.md").read_text()
    for topic, kind in graph.OUTPUT_TOPICS.items():
        reliability = "reliable, transient local" if topic in graph.LATCHED_TOPICS else "reliable, 5"
        assert f"| `{topic}` | `{kind.replace('/msg/', '/')}` | {reliability}" in text


@pytest.mark.parametrize("name", ["perception.launch.py", "replay.launch.py"])
def test_launch_files_hold_no_logic_of_their_own(name: str) -> None:
    """Names of nodes, parameters and topics stand in graph.py only."""
    tree = ast.parse((ROOT / "launch" / name).read_text())
    texts = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not {text for text in texts if "_node" in text or text.startswith("/")}


@pytest.fixture
def sourced(ros_env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in a shell that has sourced ros2_ws/install, as on a distribution."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        line = f"source {shlex.quote(str(INSTALL))}/setup.bash && exec {shlex.join(map(str, words))}"
        return subprocess.run(["bash", "-c", line], env=ros_env, capture_output=True, text=True, timeout=90)

    return run


@pytest.mark.ros
@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("perception_node", "--ros-args", "-p", "model:=nosuch"), 2, "perception_node: unknown model 'nosuch'"),
        (("tracker_node", "--ros-args", "-p", "trail:=1"), 2, "tracker_node: unknown parameter 'trail'"),
        (
            ("tracker_node", "--ros-args", "-p", "config_file:=/nowhere.json"),
            2,
            "tracker settings /nowhere.json: No such file",
        ),
        (("streampetr", "replay", "no_such_bag"), 2, "no_such_bag"),
    ],
)
def test_installed_programs_start(sourced: Callable, words: tuple[str, ...], status: int, says: str) -> None:
    """What `ros2 run` and the launch files look for in lib/streampetr."""
    done = sourced(INSTALL / "lib" / graph.PACKAGE / words[0], *words[1:])
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ros
def test_launch_files_and_layouts_are_installed() -> None:
    shared = INSTALL / "share" / graph.PACKAGE
    names = {path.name for path in (ROOT / "launch").iterdir() if path.is_file()}
    assert {path.name for path in (shared / "launch").iterdir()} == names
    assert {"perception.launch.py", "replay.launch.py", "perception.rviz", "foxglove.json"} <= names
    assert (shared / "config" / "perception.yaml").is_file()


RUN_LAUNCH_FILE = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(word.split(":=")) for word in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
service = LaunchService()
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""


@pytest.mark.ros
@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("perception.launch.py", ("model:=nosuch",), "perception_node: unknown model 'nosuch'"),
        ("perception.launch.py", ("transport:=h264",), "transport"),
        ("replay.launch.py", ("model:=tiny",), "no bag given"),
        ("replay.launch.py", ("model:=tiny", "weights:=random", "bag:=no_such_bag"), "no_such_bag"),
    ],
)
def test_launch_files_with_the_real_launch(
    sourced: Callable, name: str, arguments: tuple[str, ...], says: str
) -> None:
    """The end of one process is the end of all, and its reason is on the screen."""
    for package in ("launch.actions", "launch_ros.actions"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    done = sourced(sys.executable, "-c", RUN_LAUNCH_FILE, ROOT / "launch" / name, *arguments)
    output = done.stdout + done.stderr
    assert says in output
    assert "Traceback" not in output
    if name.startswith("replay") and len(arguments) > 1:
        for process in ("perception_node-1", "tracker_node-2", "replay-3"):
            assert f"[{process}]: process" in output, output
