"""Every parameter of the nodes, declared once: a dataclass field is name, type, default, description and range.

The parameter file in `config/` holds the same names; a name that is not here is refused when a node starts.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from streampetr_core.cameras import NUSCENES_CAMERAS
from streampetr_core.errors import StreamPETRError

P = TypeVar("P")


class ParameterError(StreamPETRError):
    """A parameter with an unknown name or a value that it cannot have."""


def _parameter(
    default: Any,
    description: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {"description": description, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class PerceptionParameters:
    """Parameters of perception_node."""

    model: str = _parameter("auto", "Network variant; auto = what the checkpoint says of itself.")
    weights: str = _parameter("shipped", "Checkpoint file; shipped = this program's; random, recipe: untrained.")
    backend: str = _parameter("auto", "What runs the network; auto = the best that works here.")
    device: str = _parameter("auto", "cpu, cuda, cuda:1; auto = a GPU where there is one.")
    threads: int = _parameter(0, "Threads of the network on a CPU; 0 = what torch chooses: one a core.", 0, 256)
    decode_threads: int = _parameter(2, "Threads that decode and resize images.", 1, 64)

    cameras: tuple[str, ...] = _parameter(NUSCENES_CAMERAS, "Camera names in the order of the network.")
    image_topic: str = _parameter(
        "/sensing/camera/{camera}/image_rect/compressed",
        "Topic of the images; {camera} stands for the camera's name in lower case.",
    )
    info_topic: str = _parameter("/sensing/camera/{camera}/camera_info", "Topic of the calibrations, likewise.")
    transport: str = _parameter(
        "compressed",
        "compressed = sensor_msgs/CompressedImage, raw = sensor_msgs/Image (many times the cost).",
        choices=("compressed", "raw"),
    )
    image_reliability: str = _parameter(
        "best_effort", "Reliability asked of images and calibrations.", choices=("best_effort", "reliable")
    )
    image_queue: int = _parameter(2, "Images kept a camera between two turns of the executor.", 1, 100)

    anchor_camera: str = _parameter("", "Camera whose stamp is the middle of a cycle; empty = the first.")
    max_skew: float = _parameter(0.040, "Farthest that an image may lie from the anchor, seconds.", 0.001, 1.0)
    max_wait: float = _parameter(
        0.1, "Longest waiting for cameras and poses after the anchor, seconds.", 0.0, 10.0
    )
    min_cameras: int = _parameter(0, "Fewest cameras of a set; 0 = half of them.", 0, 64)
    reference_topic: str = _parameter(
        "", "Topic (streampetr_msgs/SampleInfo) that says reference instants; empty = the anchor camera's stamps."
    )
    reference_wait: float = _parameter(
        5.0, "Takes the place of max_wait where the reference topic names the images, seconds.", 0.0, 60.0
    )
    calibration_wait: float = _parameter(
        3.0, "How long the first images wait for camera_info and tf before they are reported, seconds.", 0.0, 60.0
    )

    ego_motion: str = _parameter(
        "tf", "Where the motion comes from: tf = /tf, odometry = nav_msgs/Odometry.", choices=("tf", "odometry")
    )
    odometry_topic: str = _parameter("/localization/kinematic_state", "Topic of the odometry.")
    map_frame: str = _parameter("map", "Frame that stands still.")
    base_frame: str = _parameter("base_link", "Frame of the robot, x forward, on the ground.")
    model_frame: str = _parameter(
        "lidar_top", "tf frame in which the checkpoint was trained; where tf lacks it, as on the nuScenes cars."
    )

    max_gap: float = _parameter(2.0, "The memory is forgotten after a longer pause, seconds.", 0.0, 60.0)
    marker_min_score: float = _parameter(
        0.2, "Boxes below this are neither drawn nor sent as detections.", 0.0, 1.0
    )

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ParameterError(
                f"parameter cameras {list(self.cameras)}: one or more different names are expected"
            )
        for name in ("image_topic", "info_topic"):
            if len(self.cameras) > 1 and "{camera}" not in getattr(self, name):
                raise ParameterError(f"parameter {name} '{getattr(self, name)}' lacks {{camera}}")
        if self.anchor_camera and self.anchor_camera not in self.cameras:
            raise ParameterError(f"parameter anchor_camera '{self.anchor_camera}' is none of {list(self.cameras)}")
        if self.min_cameras > len(self.cameras):
            raise ParameterError(
                f"parameter min_cameras {self.min_cameras}: there are {len(self.cameras)} cameras"
            )
        check(self)


@dataclass(frozen=True)
class TrackerParameters:
    """Parameters of tracker_node."""

    config_file: str = _parameter(
        "", "Settings of the tracker (JSON), the same file as for streampetr track --config; empty = the defaults."
    )
    marker_min_score: float = _parameter(0.2, "Tracks below this are not drawn.", 0.0, 1.0)
    trail_seconds: float = _parameter(3.0, "Length of the trails behind the tracks.", 0.0, 60.0)

    def __post_init__(self) -> None:
        check(self)


def check(parameters: Any) -> None:
    """Refuse values out of their range or choice.

    Raises:
        ParameterError: naming parameter, value and what is allowed.
    """
    for field in dataclasses.fields(parameters):
        value, meta = getattr(parameters, field.name), field.metadata
        if meta["choices"] and value not in meta["choices"]:
            raise ParameterError(f"parameter {field.name} '{value}' is none of {', '.join(meta['choices'])}")
        if meta["low"] is not None and not meta["low"] <= value <= meta["high"]:
            raise ParameterError(f"parameter {field.name} {value:g} is not in {meta['low']:g} to {meta['high']:g}")


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse parameters that a file or a command line sets and nobody has declared.

    Raises:
        ParameterError: naming them, with the nearest name that exists.
    """
    declared = set(known)
    unknown = sorted(name for name in given if name not in declared and not name.startswith("qos_overrides."))
    if unknown:
        near = difflib.get_close_matches(unknown[0], sorted(declared), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ParameterError(f"unknown parameter {', '.join(repr(name) for name in unknown)}{hint}")


def from_values(kind: type[P], values: Mapping[str, Any]) -> P:
    """The dataclass `kind` from parameter values; lists become tuples, whole numbers serve as decimals.

    Raises:
        ParameterError: see `check`.
    """
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def parameter_file(nodes: Mapping[str, type]) -> str:
    """The text of a ROS parameter file with every parameter of `nodes` (name -> dataclass) at its default."""
    lines = ["# Parameters of the nodes with their defaults: copy, change, and start with params_file:=FILE."]
    for node, kind in nodes.items():
        lines += [f"{node}:", "  ros__parameters:"]
        for field in dataclasses.fields(kind):
            lines.append(f"    # {field.metadata['description']}")
            if limits := _limits(field):
                lines.append(f"    # Allowed: {limits}.")
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            lines.append(f"    {field.name}: {json.dumps(default)}")  # JSON is YAML
    return "\n".join(lines) + "\n"


def parameter_table(kind: type) -> str:
    """Markdown: every parameter of `kind` with default, range or choices, and meaning."""
    lines = ["| parameter | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(kind):
        row = (f"`{field.name}`", f"`{json.dumps(field.default)}`", _limits(field), field.metadata["description"])
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _limits(field: dataclasses.Field) -> str:
    low, high = field.metadata["low"], field.metadata["high"]
    return ", ".join(field.metadata["choices"]) if low is None else f"{low:g} to {high:g}"


def declare(node: Any, kind: type[P]) -> P:
    """Declare the parameters of `kind` on an rclpy node, read only, and read what a user has set.

    Raises:
        ParameterError: for an unknown name, a value of another type, or one out of its range.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
    from rclpy.parameter import Parameter

    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    overrides = dict(getattr(node, "_parameter_overrides", {}))
    existing = [name for name in overrides if node.has_parameter(name)]
    refuse_unknown(overrides, [*existing, *(field.name for field in fields)])
    values = {}
    for field in fields:
        low, high = field.metadata["low"], field.metadata["high"]
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        descriptor = ParameterDescriptor(description=field.metadata["description"], read_only=True)
        if field.metadata["choices"]:
            descriptor.additional_constraints = "one of " + ", ".join(field.metadata["choices"])
        if isinstance(default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        elif low is not None:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
        given = overrides.get(field.name)
        if given is not None and isinstance(default, float) and given.type_ == Parameter.Type.INTEGER:
            node._parameter_overrides[field.name] = Parameter(field.name, value=float(given.value))  # `2` for 2.0
        try:
            values[field.name] = node.declare_parameter(field.name, default, descriptor).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            value = None if given is None else given.value
            kind_name = "list of texts" if isinstance(default, list) else type(default).__name__
            limits = "" if low is None else f" from {low:g} to {high:g}"
            raise ParameterError(f"parameter {field.name}: {value!r} is no {kind_name}{limits}") from error
    return from_values(kind, values)
