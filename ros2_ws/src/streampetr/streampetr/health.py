"""How a node says how it is: latencies, /diagnostics, and each new problem once in the log."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

OK, WARN, ERROR, STALE = 0, 1, 2, 3
"""Levels of diagnostic_msgs/DiagnosticStatus."""


class Latencies:
    """The latest durations and their quantiles; safe from any thread."""

    def __init__(self, kept: int = 256) -> None:
        self._values: deque[int] = deque(maxlen=kept)
        self._lock = threading.Lock()

    def add(self, nanoseconds: int) -> None:
        """Keep one."""
        with self._lock:
            self._values.append(nanoseconds)

    def quantile_ms(self, fraction: float) -> float:
        """Milliseconds that `fraction` of the kept durations stay below; 0 without any."""
        with self._lock:
            values = list(self._values)
        return float(np.quantile(values, fraction)) / 1e6 if values else 0.0

    def as_values(self, name: str) -> dict[str, str]:
        """Rows of a diagnostic status."""
        return {f"{name} p{round(q * 100)} ms": f"{self.quantile_ms(q):.1f}" for q in (0.5, 0.9)}


def status(name: str, level: int, message: str, values: Mapping[str, Any], hardware_id: str = "") -> Any:
    """diagnostic_msgs/DiagnosticStatus."""
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

    rows = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=bytes([level]), name=name, message=message, hardware_id=hardware_id, values=rows)


def joined(problems: Iterable[str]) -> str:
    """One message of several sentences; "OK" for none."""
    return "; ".join(problems) or "OK"


class ProblemLog:
    """Logs a problem when it appears and when it has gone, not while it lasts.

    Sentences often hold counters and times: what is the same problem is said by its key.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._known: dict[str, str] = {}

    def update(self, problems: Mapping[str, str]) -> None:
        """All problems of now: key -> sentence."""
        for key, sentence in problems.items():
            if key not in self._known:
                self._logger.warning(sentence)
        for key in self._known.keys() - problems.keys():
            self._logger.info(f"no longer: {self._known[key]}")
        self._known = {key: self._known.get(key, sentence) for key, sentence in problems.items()}
