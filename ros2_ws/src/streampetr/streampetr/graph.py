"""The running graph, described once: which nodes, with which parameters, files and remappings.

`launch/perception.launch.py`, `launch/replay.launch.py` and `streampetr up` are made from this description. It
imports nothing but the standard library, because `ros2 launch` may run in another Python than the nodes.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

PACKAGE = "streampetr"
SAMPLE_TOPIC = "/streampetr/sample"
BOXES_TOPIC = "/perception_node/boxes"
TRACKS_TOPIC = "/tracker_node/tracks"

OUTPUT_TOPICS: dict[str, str] = {
    BOXES_TOPIC: "streampetr_msgs/msg/Box3DArray",
    "/perception_node/detections": "vision_msgs/msg/Detection3DArray",
    "/perception_node/markers": "visualization_msgs/msg/MarkerArray",
    "/perception_node/model_info": "streampetr_msgs/msg/ModelInfo",
    TRACKS_TOPIC: "streampetr_msgs/msg/Box3DArray",
    "/tracker_node/markers": "visualization_msgs/msg/MarkerArray",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}
"""What the graph publishes: topic -> type."""

LATCHED_TOPICS = frozenset({SAMPLE_TOPIC, BOXES_TOPIC, TRACKS_TOPIC, "/perception_node/model_info"})
"""Topics whose last messages wait for late subscribers (transient local): a recorder found late has them."""

NO_RVIZ = "the package rviz2 is not installed; Foxglove shows the same with launch/foxglove.json"

Parameter = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True)
class GraphOptions:
    """Start the perception and tracker nodes.

    What is left empty is taken from the parameter file, else from the node's own default.
    """

    model: str = ""
    """Network variant, for example r50_704_428q or tiny."""
    weights: str = ""
    """Checkpoint file, or "shipped" (the one that comes with this program), "random" or "recipe" (untrained)."""
    cameras: tuple[str, ...] = ()
    """Names of the cameras in the order of the network, for example CAM_FRONT CAM_BACK."""
    transport: Literal["", "compressed", "raw"] = ""
    """compressed = sensor_msgs/CompressedImage, raw = sensor_msgs/Image."""
    ego_motion: Literal["", "tf", "odometry"] = ""
    """Where the motion of the robot comes from: tf = /tf, odometry = nav_msgs/Odometry."""
    image_reliability: Literal["", "best_effort", "reliable"] = ""
    """QoS asked of images and calibrations; of a replayed bag reliable, so that none is lost, else best effort."""
    backend: str = ""
    """What runs the network; auto = the best that works here."""
    device: str = ""
    """cpu, cuda, cuda:1; auto = a GPU where there is one."""
    params_file: str = ""
    """ROS parameter file (YAML) for both nodes; options given here override it."""
    namespace: str = ""
    """ROS namespace of both nodes."""
    remap: tuple[str, ...] = ()
    """Name remappings for both nodes, each written from:=to."""
    replayed: bool = False
    """For a replayed bag: time from /clock, reference instants from /streampetr/sample."""
    tracker: bool = True
    """Start the tracker as well."""
    respawn: bool = False
    """Start a node again when it dies; otherwise the whole graph ends with it."""
    rviz: bool = False
    """Start RViz with the layout of this package, where RViz is installed."""


@dataclass(frozen=True)
class ReplayOptions:
    """How a bag is played; the options of `streampetr replay`."""

    bag: str = ""
    """Bag folder or MCAP file."""
    rate: float = 1.0
    """Speed; 2 = twice as fast, 0 = as fast as possible."""
    lockstep: bool = False
    """Publish the next camera set only after the result of the last."""
    loop: bool = False
    """Begin again at the end."""


@dataclass(frozen=True)
class NodeSpec:
    """One node of the graph.

    Attributes:
        name: of the node.
        executable: console script of the ROS package and module of the Python package.
        parameters: set on top of `parameter_files`.
        remappings: pairs (from, to).
    """

    name: str
    executable: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    parameter_files: tuple[str, ...] = ()
    remappings: tuple[tuple[str, str], ...] = ()
    namespace: str = ""

    def ros_arguments(self) -> list[str]:
        """The node's command line arguments behind its program; files first, so that parameters win."""
        arguments = ["--ros-args", "-r", f"__node:={self.name}"]
        if self.namespace:
            arguments += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        for file in self.parameter_files:
            arguments += ["--params-file", file]
        for name, value in self.parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is the YAML that rcl reads
        for source, target in self.remappings:
            arguments += ["-r", f"{source}:={target}"]
        return arguments

    def command(self) -> list[str]:
        """Command line that starts the node without `ros2 run`."""
        return [sys.executable, "-m", f"{PACKAGE}.{self.executable}", *self.ros_arguments()]


_NODE_PARAMETERS = (
    "model",
    "weights",
    "cameras",
    "transport",
    "ego_motion",
    "image_reliability",
    "backend",
    "device",
)
"""Options that are parameters of perception_node of the same name."""


def nodes(options: GraphOptions) -> tuple[NodeSpec, ...]:
    """The nodes that `options` ask for, in the order of the data.

    Raises:
        ValueError: when a remapping is not of the form from:=to.
    """
    shared: dict[str, Parameter] = {"use_sim_time": True} if options.replayed else {}
    perception = dict(shared)
    if options.replayed:
        perception |= {"reference_topic": SAMPLE_TOPIC, "image_reliability": "reliable"}
    perception |= {name: value for name in _NODE_PARAMETERS if (value := getattr(options, name))}
    files = (options.params_file,) if options.params_file else ()
    remappings = tuple(_remapping(text) for text in options.remap)
    common: dict[str, Any] = {"parameter_files": files, "namespace": options.namespace}
    graph = [
        NodeSpec("perception_node", "perception_node", perception, remappings=remappings, **common),
    ]
    if options.tracker:
        joined = (("boxes", "perception_node/boxes"), *remappings)
        graph.append(NodeSpec("tracker_node", "tracker_node", shared, remappings=joined, **common))
    return tuple(graph)


def replay_arguments(options: ReplayOptions) -> list[str]:
    """Arguments of `streampetr replay` that say the same as `options`."""
    arguments = ["replay", options.bag, "--rate", f"{options.rate:g}"]
    return arguments + ["--lockstep"] * options.lockstep + ["--loop"] * options.loop


def _remapping(text: str) -> tuple[str, str]:
    source, separator, target = text.partition(":=")
    if not (separator and source.strip() and target.strip()):
        raise ValueError(f"remapping '{text}' is not of the form from:=to")
    return source.strip(), target.strip()


@dataclass(frozen=True)
class Argument:
    """A launch argument: text in, text default, text help; `choices` empty = free."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()


def launch_arguments(options_class: type) -> tuple[Argument, ...]:
    """One launch argument a field of an options class, with the field's own default and help."""
    texts, types = _field_texts(options_class), get_type_hints(options_class)
    result = []
    for item in fields(options_class):
        kind = types[item.name]
        choices = tuple(get_args(kind)) if get_origin(kind) is Literal else ()
        choices = ("true", "false") if kind is bool else choices
        result.append(Argument(item.name, _to_text(item.default), texts[item.name], choices))
    return tuple(result)


def options_from_text(options_class: type, values: Mapping[str, str]) -> Any:
    """An options object from the texts of launch arguments; lists are separated by commas or spaces.

    Raises:
        ValueError: when a text does not fit its field; the message names both.
    """
    types = get_type_hints(options_class)
    parsed: dict[str, Any] = {}
    for item in fields(options_class):
        if item.name not in values:
            continue
        text, kind = values[item.name].strip(), types[item.name]
        if kind is bool:
            if text.lower() not in ("true", "false", "1", "0"):
                raise ValueError(f"{item.name}:={text}: true or false is expected")
            parsed[item.name] = text.lower() in ("true", "1")
        elif kind is float:
            try:
                parsed[item.name] = float(text)
            except ValueError:
                raise ValueError(f"{item.name}:={text}: a number is expected") from None
        elif get_origin(kind) is tuple:
            parsed[item.name] = tuple(text.replace(",", " ").split())
        else:
            parsed[item.name] = text
    return options_class(**parsed)


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _field_texts(options_class: type) -> dict[str, str]:
    """The string that stands below each field in the source of the class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(options_class))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for item, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(below, ast.Expr):
            texts[item.target.id] = str(ast.literal_eval(below.value))
    return texts
