"""`streampetr up`: starts the graph, watches over it, and ends it."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streampetr.processes import Child, Processes
from streampetr.up import supervise

FOREVER = [sys.executable, "-c", "import time\nprint('up', flush=True)\ntime.sleep(60)"]

Command = Callable[..., Child]


def fails(status: int) -> list[str]:
    return [sys.executable, "-c", f"print('no such checkpoint'); raise SystemExit({status})"]


def children_of(pid: int) -> list[int]:
    """Process ids whose parent is `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rsplit(")", 1)[1].split()[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def test_a_node_that_fails_ends_the_others_and_gives_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    output = io.StringIO()
    with Processes(output) as processes:
        commands = {"perception_node": fails(3), "tracker_node": FOREVER}
        assert supervise(processes, commands, os.environ, False, threading.Event()) == 3
    assert "perception_node ended with status 3; stopping the others" in capsys.readouterr().err
    assert "[perception_node] no such checkpoint" in output.getvalue()
    assert [child.running for child in processes.children] == [False, False]


def test_a_node_that_ends_without_being_asked_is_a_failure_too() -> None:
    with Processes(None) as processes:
        assert supervise(processes, {"a": fails(0)}, os.environ, False, threading.Event()) == 1


def test_respawn_starts_a_node_again_until_the_stop(capsys: pytest.CaptureFixture[str]) -> None:
    stop = threading.Event()
    threading.Timer(3.5, stop.set).start()
    with Processes(None) as processes:
        assert supervise(processes, {"a": fails(3)}, os.environ, True, stop) == 0
    starts = capsys.readouterr().err.count("a ended with status 3; starting it again")
    assert 2 <= starts <= 4  # no faster than once a second


@pytest.mark.ros
def test_ctrl_c_ends_all_nodes_in_time(command: Command) -> None:
    up = command("up", "--model", "tiny", "--weights", "random")
    assert up.wait_for_line("[perception_node] [INFO]", 60.0), up.tail()
    assert up.wait_for_line("[tracker_node]: ready", 60.0), up.tail()
    nodes = children_of(up.pid)
    assert len(nodes) == 2
    began = time.monotonic()
    os.kill(up.pid, signal.SIGINT)  # to this process alone: it must pass it on
    assert up.wait(6.0) == 0
    assert time.monotonic() - began < 5.0
    assert not [pid for pid in nodes if Path(f"/proc/{pid}").exists()]


@pytest.mark.ros
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "r50_70_428q"], "did you mean"),
        (["--weights", "no_such_file.safetensors"], "no_such_file.safetensors"),
        (["--params-file", "no_such_file.yaml"], "parameter file no_such_file.yaml does not exist"),
        (["--remap", "/tf"], "remapping '/tf' is not of the form from:=to"),
    ],
)
def test_wrong_options_are_named_and_end_it(options: list[str], said: str, command: Command) -> None:
    up = command("up", *options)
    assert up.wait(60.0) == 2, up.tail()
    assert any(said in line for line in up.lines), up.tail()
