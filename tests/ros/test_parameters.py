"""Parameters: the file in config/ is the declaration's, and wrong values are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from streampetr import parameters
from streampetr.parameters import ParameterError, PerceptionParameters, TrackerParameters

CONFIG = Path(parameters.__file__).parents[1] / "config" / "perception.yaml"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "ros.md"
NODES = {"perception_node": PerceptionParameters, "tracker_node": TrackerParameters}


def test_the_parameter_file_is_what_the_code_declares() -> None:
    """Regenerate it with parameters.parameter_file when this fails."""
    assert CONFIG.read_text() == parameters.parameter_file(NODES)
    loaded = yaml.safe_load(CONFIG.read_text())
    for node, kind in NODES.items():
        assert parameters.from_values(kind, loaded[node]["ros__parameters"]) == kind()


@pytest.mark.parametrize("kind", NODES.values())
def test_the_documentation_lists_what_the_code_declares(kind: type) -> None:
    """Put parameters.parameter_table into docs/ros.md when this fails."""
    assert parameters.parameter_table(kind) in DOCUMENTATION.read_text()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"max_skew": 2.0}, "max_skew 2 is not in 0.001 to 1"),
        ({"transport": "h264"}, "transport 'h264' is none of compressed, raw"),
        ({"cameras": ["A", "A"]}, "one or more different names"),
        ({"anchor_camera": "CAM_TOP"}, "anchor_camera 'CAM_TOP'"),
        ({"image_topic": "/image"}, r"image_topic '/image' lacks \{camera\}"),
    ],
)
def test_values_that_cannot_be_are_named(values: dict, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        parameters.from_values(PerceptionParameters, values)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    parameters.refuse_unknown(["max_skew", "qos_overrides./tf.subscription.depth"], ["max_skew"])
    with pytest.raises(ParameterError, match="'max_skev'; did you mean 'max_skew'"):
        parameters.refuse_unknown(["max_skev"], ["max_skew", "max_wait"])
