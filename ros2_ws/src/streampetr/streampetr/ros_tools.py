"""What replay and record share: a node with a bounded life, message classes and QoS from a bag's words."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from streampetr_core.errors import StreamPETRError


class RosToolError(StreamPETRError):
    """A message type that is not installed."""


class Session:
    """A node with its own context and executor, used from one thread."""

    def __init__(self, name: str, use_sim_time: bool = False) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        parameters = [Parameter("use_sim_time", value=True)] if use_sim_time else []
        self.node = Node(name, context=self._context, parameter_overrides=parameters)
        self.executor = SingleThreadedExecutor(context=self._context)
        self.executor.add_node(self.node)

    def spin(self, seconds: float) -> None:
        """Handle what has come, for at least one and at most `seconds` seconds' worth of waiting."""
        with contextlib.suppress(ExternalShutdownException):
            self.executor.spin_once(timeout_sec=seconds)

    def spin_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Spin until `condition()` holds; False where it does not within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not condition():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            self.spin(min(remaining, 0.05))
        return True

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self._context.try_shutdown()


@contextlib.contextmanager
def ros_session(name: str, use_sim_time: bool = False) -> Iterator[Session]:
    """A node named `name` that leaves the graph with the block. Signals stay with the caller."""
    session = Session(name, use_sim_time)
    try:
        yield session
    finally:
        session.close()


def message_class(type_name: str) -> Any:
    """The Python class of "package/msg/Type".

    Raises:
        RosToolError: when the package is not installed or has no such message.
    """
    parts = type_name.split("/")
    try:
        return getattr(importlib.import_module(".".join(parts[:-1])), parts[-1])
    except (ImportError, AttributeError, ValueError) as error:
        raise RosToolError(
            f"message type {type_name} is not installed; install the package {parts[0]} or leave its topics out"
        ) from error


def qos(*, reliable: bool, latched: bool = False, depth: int = 10) -> QoSProfile:
    """Keep-last QoS; `latched` = transient local, for late subscribers."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
