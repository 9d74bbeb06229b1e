"""Tracking of boxes over time, submission files and the official scores; knows only boxes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracking.config import TrackerConfig
    from tracking.evaluation import evaluate_detection, evaluate_tracking
    from tracking.tracker import Tracker

_LAZY = {
    "Tracker": "tracking.tracker",
    "TrackerConfig": "tracking.config",
    "evaluate_detection": "tracking.evaluation",
    "evaluate_tracking": "tracking.evaluation",
}

__all__ = ["Tracker", "TrackerConfig", "evaluate_detection", "evaluate_tracking"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: scipy and the devkit take their time."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tracking' has no attribute '{name}'")
