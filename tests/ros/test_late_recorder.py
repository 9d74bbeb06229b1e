"""No sample is lost where the recorder is found late, is busy for a while, or meets another kind of publisher."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streampetr.processes import Child, Processes

from bag_tools.bag_file import BagFile
from bag_tools.messages import stamp_to_ns

pytestmark = pytest.mark.ros

Command = Callable[..., Child]
WriteBag = Callable[..., Path]
TOPIC = "/streampetr/sample"

PLAY_AND_STAY = """
import sys, time
from pathlib import Path
from bag_tools.bag_file import BagFile
from streampetr.publishing import BagPublishers
from streampetr.ros_tools import ros_session
with BagFile(Path(sys.argv[1])) as bag, ros_session("player") as session:
    publishers = BagPublishers(session, bag.topics, reliable_images=True)
    for message in bag.messages():
        publishers.publish(message)
    print("published", flush=True)
    time.sleep(60)
"""

KEEP_NOTHING = """
import sys, time
from streampetr.ros_tools import qos, ros_session
from streampetr_msgs.msg import SampleInfo
with ros_session("player") as session:
    publisher = session.node.create_publisher(SampleInfo, sys.argv[1], qos(reliable=True))
    while True:
        publisher.publish(SampleInfo(scene="s"))
        time.sleep(0.1)
"""


def samples(bag: Path) -> list[int]:
    with BagFile(bag) as file:
        return [stamp_to_ns(file.decode(message).header.stamp) for message in file.messages([TOPIC])]


def finish(recorder: Child) -> None:
    recorder.send(signal.SIGINT)
    assert recorder.wait(10.0) == 0, recorder.tail()


def test_a_recorder_that_begins_late_has_every_sample(
    command: Command, processes: Processes, write_bag: WriteBag, ros_env: dict[str, str], tmp_path: Path
) -> None:
    bag, out = write_bag(tmp_path / "bag", sets=12), tmp_path / "recording"
    player = processes.start("player", [sys.executable, "-c", PLAY_AND_STAY, str(bag)], ros_env)
    assert player.wait_for_line("published", 30.0), player.tail()
    recorder = command("record", out, "--until-idle", "2")
    assert recorder.wait(60.0) == 0, recorder.tail()
    assert samples(out) == samples(bag)


def test_replay_leaves_only_when_a_busy_recorder_has_every_sample(
    command: Command, write_bag: WriteBag, tmp_path: Path
) -> None:
    """The recorder stands still from the first sample to the end of the bag, and half a second longer."""
    bag, out = write_bag(tmp_path / "bag", sets=5), tmp_path / "recording"
    recorder = command("record", out)
    assert recorder.wait_for_line("recording", 30.0)
    replay = command("replay", bag, "--topics", TOPIC, "--rate", "0.5", "--wait", "30")
    assert recorder.wait_for_line(f"found {TOPIC}", 30.0)
    recorder.send(signal.SIGSTOP)
    assert replay.wait_for_line("replay: ", 30.0)
    time.sleep(0.5)
    recorder.send(signal.SIGCONT)
    assert replay.wait(30.0) == 0, replay.tail()
    assert "have not taken everything" not in replay.tail()
    finish(recorder)
    assert samples(out) == samples(bag)


def test_replay_says_who_has_not_taken_everything(command: Command, write_bag: WriteBag, tmp_path: Path) -> None:
    recorder = command("record", tmp_path / "recording")
    assert recorder.wait_for_line("recording", 30.0)
    bag = write_bag(tmp_path / "bag", sets=5)
    replay = command("replay", bag, "--topics", TOPIC, "--rate", "0.5", "--wait", "30")
    assert recorder.wait_for_line(f"found {TOPIC}", 30.0)
    recorder.send(signal.SIGSTOP)
    try:
        assert replay.wait(30.0) == 0, replay.tail()
        assert f"subscribers of {TOPIC} have not taken everything" in replay.tail()
    finally:
        recorder.send(signal.SIGCONT)


@pytest.mark.parametrize("first", ["nothing", "one that keeps them"])
def test_publishers_that_keep_nothing_are_recorded_too(
    first: str,
    command: Command,
    processes: Processes,
    write_bag: WriteBag,
    ros_env: dict[str, str],
    tmp_path: Path,
) -> None:
    """As other programs publish a bag that offers the samples without keeping them; alone, or after a replay."""
    bag, out = write_bag(tmp_path / "bag", sets=2), tmp_path / "recording"
    recorder = command("record", out)
    assert recorder.wait_for_line("recording", 30.0)
    if first != "nothing":
        assert command("replay", bag, "--topics", TOPIC, "--rate", "0").wait(60.0) == 0

    def times_found() -> int:
        return sum(f"found {TOPIC}" in line for line in list(recorder.lines))

    before = times_found()
    processes.start("player", [sys.executable, "-c", KEEP_NOTHING, TOPIC], ros_env)
    deadline = time.monotonic() + 30.0
    while times_found() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2.0)
    finish(recorder)
    kept = 0 if first == "nothing" else 2
    found = samples(out)
    assert found[:kept] == samples(bag)[:kept]
    assert len(found) >= kept + 3
