"""Replay and record over real DDS, with a stand-in for the nodes."""

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
FakeNode = Callable[..., Child]
START, PERIOD = 1_500_000_000_000_000_000, 500_000_000


def ended(child: Child, timeout: float = 60.0) -> int:
    status = child.wait(timeout)
    assert status is not None, f"{child.name} still runs:\n{child.tail()}"
    return status


def interrupt(child: Child) -> float:
    """Ctrl-C; seconds until the end."""
    began = time.monotonic()
    child.send(signal.SIGINT)
    ended(child, 5.0)
    return time.monotonic() - began


def stamps(bag: Path, topic: str) -> list[int]:
    with BagFile(bag) as file:
        return [stamp_to_ns(file.decode(message).header.stamp) for message in file.messages([topic])]


def test_lockstep_gives_one_result_a_set_and_the_recording_holds_them(
    command: Command, write_bag: WriteBag, fake_node: FakeNode, tmp_path: Path
) -> None:
    bag, out = write_bag(tmp_path / "bag", sets=6, without_images=(2,)), tmp_path / "recording"
    recorder = command("record", out)
    assert recorder.wait_for_line("recording", 30.0)
    fake_node()
    assert recorder.wait_for_line("found /tracker_node/tracks", 30.0)
    replay = command("replay", bag, "--lockstep", "--timeout", "10", "--wait", "30")
    assert ended(replay) == 0
    assert "5 sets with result" in replay.tail()
    assert "1 without images passed over" in replay.tail()
    time.sleep(0.3)
    assert not out.exists()
    assert interrupt(recorder) < 5.0
    assert recorder.returncode == 0
    assert stamps(out, "/tracker_node/tracks") == [START + k * PERIOD for k in (0, 1, 3, 4, 5)]
    assert sorted(path.name for path in out.iterdir()) == ["metadata.yaml", "recording.mcap"]


def test_lockstep_publishes_again_what_got_lost(
    command: Command, write_bag: WriteBag, fake_node: FakeNode, tmp_path: Path
) -> None:
    """The node keeps its first result to itself; the repeated set makes it answer."""
    fake_node(lose=1)
    replay = command(
        "replay", write_bag(tmp_path / "bag", sets=2), "--lockstep", "--timeout", "20", "--wait", "30"
    )
    assert ended(replay) == 0
    assert "2 sets with result" in replay.tail()
    assert "1 published again" in replay.tail()


def test_lockstep_survives_a_node_that_is_killed_and_started_again(
    command: Command, write_bag: WriteBag, fake_node: FakeNode, tmp_path: Path
) -> None:
    node = fake_node(lose=1)
    replay = command(
        "replay", write_bag(tmp_path / "bag", sets=3), "--lockstep", "--timeout", "30", "--wait", "30"
    )
    assert node.wait_for_line("ready", 30.0)
    time.sleep(1.0)
    node.send(signal.SIGKILL)
    ended(node, 5.0)
    fake_node()
    assert ended(replay) == 0
    assert "3 sets with result" in replay.tail()


def test_lockstep_counts_sets_without_result_and_says_no(
    command: Command, write_bag: WriteBag, fake_node: FakeNode, tmp_path: Path
) -> None:
    fake_node(lose=1)
    replay = command("replay", write_bag(tmp_path / "bag", sets=2), "--lockstep", "--timeout", "1", "--wait", "30")
    assert ended(replay) == 1
    assert f"1 WITHOUT RESULT, the first at {START} ns" in replay.tail()


def test_lockstep_without_nodes_is_one_clear_error(command: Command, write_bag: WriteBag, tmp_path: Path) -> None:
    replay = command("replay", write_bag(tmp_path / "bag"), "--lockstep", "--wait", "1")
    assert ended(replay) == 2
    assert len(replay.lines) == 1
    assert (
        "no publisher of /tracker_node/tracks and no subscriber of the images and no subscriber of /streampetr"
        in replay.lines[0]
    )


def test_who_waits_long_for_nodes_is_told_what_for(command: Command, write_bag: WriteBag, tmp_path: Path) -> None:
    replay = command("replay", write_bag(tmp_path / "bag"), "--lockstep", "--wait", "30")
    assert replay.wait_for_line("waiting for a publisher of /tracker_node/tracks", 15.0), replay.tail()
    assert "streampetr up --replayed" in replay.lines[0]
    assert interrupt(replay) < 5.0


def test_real_time_takes_the_time_of_the_bag_and_the_clock_runs(
    command: Command, write_bag: WriteBag, tmp_path: Path
) -> None:
    bag, out = write_bag(tmp_path / "bag", sets=5), tmp_path / "out"
    recorder = command(
        "record",
        out,
        "--topics",
        "/clock",
        "/streampetr/sample",
        "/tf_static",
    )
    assert recorder.wait_for_line("recording", 30.0)
    replay = command("replay", bag, "--rate", "2", "--wait", "4")
    assert ended(replay) == 0
    seconds = float(replay.lines[-1].split(" in ")[1].split(" s")[0])
    assert 1.0 <= seconds < 2.0  # 2.1 s of bag at double speed
    assert "nobody listens to " in replay.tail()
    assert "/sensing/camera/cam_back/image_rect/compressed" in replay.tail()
    time.sleep(0.3)
    assert interrupt(recorder) < 5.0
    assert stamps(out, "/streampetr/sample") == [START + k * PERIOD for k in range(5)]
    with BagFile(out) as file:
        clock = [stamp_to_ns(file.decode(message).clock) for message in file.messages(["/clock"])]
        assert file.topics["/tf_static"].count == 1
    assert clock == sorted(clock)
    assert START <= clock[-1] <= START + 5 * PERIOD
    assert len(clock) > 20


def test_part_of_a_bag(command: Command, write_bag: WriteBag, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", sets=5)
    out = tmp_path / "out"
    recorder = command("record", out, "--topics", "/streampetr/sample", "--until-idle", "3")
    assert recorder.wait_for_line("recording", 30.0)
    part = ("--start", "0.3", "--duration", "1.0", "--rate", "0", "--topics", "/streampetr/sample")
    assert ended(command("replay", bag, *part)) == 0
    assert ended(recorder) == 0
    assert stamps(out, "/streampetr/sample") == [START + k * PERIOD for k in (1, 2)]


@pytest.mark.parametrize("mode", ["--rate=0.1", "--lockstep"])
def test_ctrl_c_ends_replay_in_time(
    mode: str, command: Command, write_bag: WriteBag, fake_node: FakeNode, tmp_path: Path
) -> None:
    fake_node(lose=100)
    replay = command("replay", write_bag(tmp_path / "bag"), mode, "--wait", "30")
    time.sleep(6.0)
    assert replay.running
    assert interrupt(replay) < 5.0
    assert replay.returncode == 130


@pytest.mark.parametrize("verb", ["replay", "record"])
def test_wrong_paths_are_one_line(verb: str, command: Command, tmp_path: Path) -> None:
    if verb == "replay":
        child = command("replay", tmp_path / "no_such_bag")
        expected = "no such bag"
    else:
        (tmp_path / "out").mkdir()
        child = command("record", tmp_path / "out")
        expected = "exists; choose another path"
    assert ended(child) == 2
    assert len(child.lines) == 1
    assert expected in child.lines[0]


@pytest.mark.parametrize(("folder", "says"), [("/proc", "/proc"), ("a_file", "a_file")])
def test_a_recording_that_cannot_be_written_is_one_line(
    folder: str, says: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "a_file").write_text("no folder")
    child = command("record", tmp_path / folder / "out")
    assert ended(child) == 2
    assert len(child.lines) == 1
    assert says in child.lines[0]


def test_a_disk_that_fills_up_ends_the_recording_with_one_line(
    processes: Processes, ros_env: dict[str, str], tmp_path: Path
) -> None:
    """Files of this process may grow to 64 kB, then writing fails as on a full disk."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        f"sys.argv = ['streampetr', 'record', {str(tmp_path / 'out')!r}, '--topics', '/noise'];"
        "from streampetr_cli import main; sys.exit(main())"
    )
    recorder = processes.start("record", [sys.executable, "-c", code], ros_env)
    assert recorder.wait_for_line("recording", 60.0), recorder.tail()
    talk = (
        "import rclpy, time; from std_msgs.msg import String; rclpy.init(); n = rclpy.create_node('noise')\n"
        "p = n.create_publisher(String, '/noise', 10)\n"
        "for _ in range(400): p.publish(String(data='x' * 1000)); time.sleep(0.05)\n"
    )
    processes.start("noise", [sys.executable, "-c", talk], ros_env)
    assert ended(recorder) == 2, recorder.tail()
    assert "cannot write the recording: File too large; what came before is in" in recorder.tail()
    assert "Traceback" not in recorder.tail(100)
    assert not (tmp_path / "out").exists()
    (rest,) = tmp_path.glob("out.incomplete-*")
    with BagFile(next(rest.glob("*.mcap"))) as bag:
        assert len(list(bag.messages(["/noise"]))) >= 1


def test_what_is_no_bag_is_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(b"this is no bag" * 100)
    child = command("replay", tmp_path / "x.mcap")
    assert ended(child) == 2
    assert len(child.lines) == 1
    assert "cannot be opened as a bag" in child.lines[0]


def test_a_bag_that_was_cut_off_is_played_to_its_end_and_said(
    command: Command, write_bag: WriteBag, tmp_path: Path
) -> None:
    bag = write_bag(tmp_path / "bag", sets=60, image_bytes=40_000)
    file = bag / "bag.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    child = command("replay", bag, "--rate", "0", "--wait", "0")
    assert ended(child) == 0
    assert "cut off, the last" in child.tail()


def test_a_killed_recorder_leaves_no_bag_but_readable_messages(
    command: Command, write_bag: WriteBag, tmp_path: Path
) -> None:
    out = tmp_path / "recording"
    recorder = command("record", out, "--topics", "/streampetr/sample")
    assert recorder.wait_for_line("recording", 30.0)
    assert ended(command("replay", write_bag(tmp_path / "bag", sets=8), "--rate", "2", "--wait", "5")) == 0
    time.sleep(1.5)
    recorder.send(signal.SIGKILL)
    ended(recorder, 5.0)
    assert not out.exists()
    (rest,) = tmp_path.glob(".recording.*.tmp/recording/*.mcap")
    assert len(stamps(rest, "/streampetr/sample")) == 8
