"""The layouts for RViz and Foxglove: readable, and every topic in them is one that exists in the graph."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from streampetr.graph import OUTPUT_TOPICS
from streampetr.parameters import PerceptionParameters

from bag_tools import layout

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SETTINGS = PerceptionParameters()
IMAGES = {SETTINGS.image_topic.format(camera=name.lower()) for name in SETTINGS.cameras}
INFOS = {SETTINGS.info_topic.format(camera=name.lower()) for name in SETTINGS.cameras}
MARKERS = {topic for topic, kind in OUTPUT_TOPICS.items() if kind == "visualization_msgs/msg/MarkerArray"} | {
    layout.GROUND_TRUTH_MARKERS_TOPIC
}
FRAMES = {SETTINGS.map_frame, SETTINGS.base_frame, SETTINGS.model_frame} | {
    layout.optical_frame(name) for name in SETTINGS.cameras
}


@pytest.fixture(scope="module")
def rviz() -> dict[str, Any]:
    return yaml.safe_load((LAUNCH / "perception.rviz").read_text())["Visualization Manager"]


@pytest.fixture(scope="module")
def foxglove() -> dict[str, Any]:
    return json.loads((LAUNCH / "foxglove.json").read_text())


def leaves(tree: Any) -> list[str]:
    """The panels of a Foxglove layout's tree of halves."""
    return [tree] if isinstance(tree, str) else leaves(tree["first"]) + leaves(tree["second"])


def topics(tree: Any) -> Iterator[str]:
    """Every key and value that is an absolute name."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from topics(key)
            yield from topics(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from topics(value)
    elif isinstance(tree, str) and tree.startswith("/"):
        yield tree


def test_rviz_shows_all_markers_and_cameras_and_follows_the_robot(rviz: dict[str, Any]) -> None:
    shown: dict[str, set[str]] = {}
    for display in rviz["Displays"]:
        if "Topic" in display:
            shown.setdefault(display["Class"].rpartition("/")[2], set()).add(display["Topic"]["Value"])
    assert shown == {"MarkerArray": MARKERS, "Image": IMAGES}
    assert rviz["Global Options"]["Fixed Frame"] == SETTINGS.map_frame
    assert rviz["Views"]["Current"]["Target Frame"] == SETTINGS.base_frame


def test_rviz_asks_for_no_more_than_cameras_and_nodes_offer(rviz: dict[str, Any]) -> None:
    for display in rviz["Displays"]:
        if "Topic" in display:
            asked = display["Topic"]["Reliability Policy"], display["Topic"]["Durability Policy"]
            assert asked == ("Best Effort" if display["Class"].endswith("Image") else "Reliable", "Volatile")


def test_foxglove_names_only_topics_and_frames_that_exist(foxglove: dict[str, Any]) -> None:
    named = set(topics(foxglove))
    assert named == MARKERS | IMAGES | INFOS | {"/diagnostics"}
    scene = foxglove["configById"]["3D!scene"]
    assert set(scene["topics"]) == MARKERS
    assert {key.removeprefix("frame:") for key in scene["transforms"]} | {scene["followTf"]} <= FRAMES


def test_every_foxglove_panel_is_configured_and_each_camera_has_its_calibration(foxglove: dict[str, Any]) -> None:
    panels = foxglove["configById"]
    assert sorted(leaves(foxglove["layout"])) == sorted(panels)
    modes = [panel["imageMode"] for name, panel in panels.items() if name.startswith("Image!")]
    assert {mode["imageTopic"] for mode in modes} == IMAGES
    for mode in modes:
        assert mode["calibrationTopic"].split("/")[3] == mode["imageTopic"].split("/")[3]
