"""A node's process from start to end: one clear line for a wrong setting, gone within seconds on a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

from streampetr_core.errors import StreamPETRError

STOP_SECONDS = 3.0
"""Longest waiting for a node's own threads at the end."""


class RunningNode(Protocol):
    """What `run_node` needs of a node besides being an rclpy node."""

    def close(self, timeout: float) -> bool:
        """End own threads; False where one is still busy after `timeout` seconds."""
        ...


class _Stopped(Exception):
    """A signal came while the node was still starting."""


def run_node(name: str, make: Callable[[], RunningNode], argv: list[str] | None = None) -> int:
    """Make a node and spin it until SIGINT or SIGTERM.

    The executor has one thread; callbacks only store. Ends the process itself where a thread does not end in time.

    Returns:
        0 after a signal, 2 for a wrong parameter, model or checkpoint, after one line on standard error.
    """
    from streampetr.environment import ensure_ros

    stop = threading.Event()
    starting = True

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        if starting:
            raise _Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    try:
        ensure_ros()
        import rclpy
        from rclpy.signals import SignalHandlerOptions

        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
        node = make()
    except _Stopped:
        return _leave(0)
    except StreamPETRError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return _leave(2)
    starting = False
    status = _spin(name, node, stop)
    if not node.close(STOP_SECONDS):
        print(f"{name}: the network is still busy; leaving it", file=sys.stderr, flush=True)
        return _leave(status)
    with contextlib.suppress(Exception):  # what happens now harms nobody
        node.destroy_node()  # type: ignore[attr-defined]
        rclpy.shutdown()
    return status


def _spin(name: str, node: RunningNode, stop: threading.Event) -> int:
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)  # type: ignore[arg-type]
    try:
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.2)
    except ExternalShutdownException:
        return 0
    except _Stopped:
        return 0
    except StreamPETRError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return 2
    finally:
        executor.remove_node(node)  # type: ignore[arg-type]
        executor.shutdown(timeout_sec=1.0)
    return 0


def _leave(status: int) -> int:
    """End now: threads that are still busy in a library would keep or break the interpreter's own end."""
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.05)
    os._exit(status)
