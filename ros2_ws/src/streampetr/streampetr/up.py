"""`streampetr up`: the graph as child processes of this one, where `launch` is not installed."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from streampetr import graph
from streampetr.environment import ros_environment
from streampetr.processes import Child, Processes, describe_status, stop_on_signals
from streampetr_core.errors import StreamPETRError

RVIZ_CONFIG = Path(__file__).resolve().parents[4] / "launch" / "perception.rviz"
RESPAWN_SECONDS = 1.0


class UpError(StreamPETRError):
    """Options from which no graph can be made."""


def run(options: graph.GraphOptions) -> int:
    """Start the nodes and stay until Ctrl-C, or until one ends by itself.

    Returns:
        0 after Ctrl-C; else the exit status of the node that ended first (1 where that was 0 or a signal).

    Raises:
        UpError: for a remapping or a parameter file that cannot be used.
        ProcessError: when a process cannot be started.
    """
    if options.params_file and not Path(options.params_file).is_file():
        raise UpError(f"parameter file {options.params_file} does not exist")
    try:
        commands = {node.name: node.command() for node in graph.nodes(options)}
    except ValueError as error:
        raise UpError(str(error)) from error
    if options.rviz and shutil.which("rviz2") is None:
        _say(f"--rviz: {graph.NO_RVIZ}")
    elif options.rviz:
        sim_time = ["--ros-args", "-p", "use_sim_time:=true"] if options.replayed else []
        commands["rviz2"] = ["rviz2", "-d", str(RVIZ_CONFIG), *sim_time]
    with stop_on_signals() as stop, Processes(sys.stdout) as processes:
        return supervise(processes, commands, ros_environment(), options.respawn, stop)


def supervise(
    processes: Processes,
    commands: Mapping[str, Sequence[str]],
    env: Mapping[str, str],
    respawn: bool,
    stop: threading.Event,
) -> int:
    """Start `commands` (name -> command line) and watch over them; see `run` for the result."""
    started: dict[str, float] = {}

    def start(name: str) -> Child:
        started[name] = time.monotonic()
        return processes.start(name, commands[name], env)

    for name in commands:
        start(name)
    while not stop.wait(0.1):
        for child in processes.ended():
            if not respawn:
                child.wait(1.0)
                _say(f"{child.name} {describe_status(child.returncode)}; stopping the others")
                status = child.returncode or 0
                return status if status > 0 else 1
            if time.monotonic() - started[child.name] > RESPAWN_SECONDS:
                _say(f"{child.name} {describe_status(child.returncode)}; starting it again")
                start(child.name)
    _say("stopping")
    return 0


def _say(text: str) -> None:
    print(f"[up] {text}", file=sys.stderr, flush=True)
