"""The chain exists once: a lock-step replay through the real nodes gives the submissions of the offline chain."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streampetr import graph
from streampetr.processes import Child, Processes

from bag_tools import BagReader, convert_nuscenes
from bag_tools.pipeline import Results, detect_source, recorded_boxes, run
from streampetr_core import Detector
from tracking import Tracker

pytestmark = [pytest.mark.ros, pytest.mark.slow]

OPTIONS = graph.GraphOptions(model="tiny", weights="recipe", replayed=True)
TOLERANCE = 1e-4
READY = 90.0

LISTENER = """
# Prints one line for each Box3DArray of perception_node: the number of boxes and why the memory began anew.
import rclpy
from rclpy.qos import QoSProfile
from streampetr_msgs.msg import Box3DArray

rclpy.init()
node = rclpy.create_node("listener")

def say(message):
    stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
    print("boxes", stamp, len(message.boxes), message.reset_reason or "continued", flush=True)

node.create_subscription(Box3DArray, "/perception_node/boxes", say, QoSProfile(depth=50))
print("listening", flush=True)
try:
    rclpy.spin(node)
except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
    pass
"""

StartNode = Callable[[str], Child]


@pytest.fixture(scope="module")
def rendered_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight key frames of the rendered world, six small cameras each."""
    from bag_tools.rendered.dataset_writer import write_dataset

    folder = tmp_path_factory.mktemp("rendered")
    write_dataset(folder / "root", scenes=1, seconds=4.0, seed=3, size=(320, 180))
    (report,) = convert_nuscenes(folder / "root", folder / "bags")
    assert report.path is not None
    assert report.images == 48
    return report.path


@pytest.fixture(scope="module")
def real_bag(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty real key frames, of which four have their images."""
    root, folder = shared / "data" / "nuscenes_mini_val", tmp_path_factory.mktemp("real")
    (report,) = convert_nuscenes(root, folder, scenes=["scene-0103"])
    assert report.path is not None
    return report.path


@pytest.fixture
def start_node(processes: Processes, ros_env: dict[str, str]) -> StartNode:
    """Starts a node of the graph as `streampetr up --replayed` does."""
    commands = {node.name: node.command() for node in graph.nodes(OPTIONS)}
    return lambda name: processes.start(name, commands[name], ros_env)


def offline(bag: Path) -> Results:
    """What `streampetr detect` and `track` say of a bag."""
    return run(detect_source(BagReader(bag), Detector.from_checkpoint("recipe", model="tiny")), Tracker())


def as_results(recording: Path) -> Results:
    """What the nodes said, filed under the samples as the recording names them."""
    tracks = {item.stamp_ns: item.in_map() for item in recorded_boxes(recording, graph.TRACKS_TOPIC)}
    results = Results()
    for item in recorded_boxes(recording, graph.BOXES_TOPIC):
        results.add(item, tracks[item.stamp_ns])
    return results


def online(bag: Path, out: Path, start_node: StartNode, command: Callable[..., Child]) -> Results:
    """Replay a bag through both nodes in lock-step, record, read the recording."""
    recorder = command("record", out)
    for name in ("perception_node", "tracker_node"):
        start_node(name)
    for topic in (graph.BOXES_TOPIC, graph.TRACKS_TOPIC):
        assert recorder.wait_for_line(f"found {topic}", READY), recorder.tail()
    replay = command("replay", bag, "--lockstep", "--wait", READY)
    assert replay.wait(150.0) == 0, replay.tail()
    assert "lack cameras" not in replay.tail()
    recorder.send(signal.SIGINT)
    assert recorder.wait(5.0) == 0, recorder.tail()
    return as_results(out)


def load(path: Path) -> dict[str, list[dict[str, Any]]]:
    return json.loads(path.read_text())["results"]


def compare(ours: dict[str, list[dict[str, Any]]], theirs: dict[str, list[dict[str, Any]]]) -> int:
    """Assert that two submissions say the same, ids up to renaming; the number of rows compared."""
    renamed: dict[str, str] = {}
    rows = 0
    for token, expected in theirs.items():
        found = ours.get(token, [])
        assert len(found) == len(expected), f"sample {token}: {len(found)} rows, offline {len(expected)}"
        for mine, other in zip(found, expected, strict=True):
            assert mine.keys() == other.keys()
            for key, value in other.items():
                if key == "tracking_id":
                    assert renamed.setdefault(value, mine[key]) == mine[key]
                elif isinstance(value, str):
                    assert mine[key] == value, key
                else:
                    np.testing.assert_allclose(mine[key], value, rtol=0, atol=TOLERANCE, err_msg=key)
            rows += 1
    assert len(set(renamed.values())) == len(renamed), "two offline ids became one"
    assert not {token for token, found in ours.items() if found} - theirs.keys()
    return rows


@pytest.mark.parametrize(("source", "key_frames"), [("rendered_bag", 8), ("real_bag", 4)])
def test_lockstep_replay_gives_the_offline_submissions(
    source: str,
    key_frames: int,
    request: pytest.FixtureRequest,
    start_node: StartNode,
    command: Callable[..., Child],
    tmp_path: Path,
) -> None:
    bag: Path = request.getfixturevalue(source)
    nodes, chain = online(bag, tmp_path / "recording", start_node, command), offline(bag)
    assert nodes.counts["key frames"] == key_frames
    assert chain.counts["key frames"] - chain.counts["key frames without images"] == key_frames
    for write in ("write_detections", "write_tracks"):
        ours = load(getattr(nodes, write)(tmp_path / "online"))
        theirs = load(getattr(chain, write)(tmp_path / "offline"))
        assert compare(ours, theirs) > 20 * key_frames


def test_a_killed_perception_node_gives_boxes_again_when_it_is_back(
    rendered_bag: Path,
    start_node: StartNode,
    processes: Processes,
    ros_env: dict[str, str],
    command: Callable[..., Child],
) -> None:
    """The set that was lost with the node comes again; its memory begins anew once and then goes on."""
    listener = processes.start("listener", [sys.executable, "-c", LISTENER], ros_env)
    first = start_node("perception_node")
    start_node("tracker_node")
    replay = command("replay", rendered_bag, "--lockstep", "--wait-for", "boxes", "--wait", READY)
    assert listener.wait_for_line("continued", READY), listener.tail()  # the second result or a later one
    first.send(signal.SIGKILL)
    assert first.wait(5.0) == -signal.SIGKILL
    before = sum(line.startswith("boxes") for line in listener.lines)
    start_node("perception_node")
    assert replay.wait(120.0) == 0, replay.tail()
    assert "8 sets with result" in replay.tail()
    said = [line.split(" ", 3) for line in listener.lines if line.startswith("boxes")]
    assert len({words[1] for words in said}) == 8
    assert 2 <= before < len(said)
    again = said[before:]
    assert all(int(words[2]) > 0 for words in again)
    assert [words[3] == "continued" for words in again] == [False] + [True] * (len(again) - 1)
