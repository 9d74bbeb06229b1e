"""StreamPETR without ROS: boxes, cameras, the network, its temporal memory and the detector.

Names are loaded when they are first used, so that boxes and geometry do not cost the import of torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
    from streampetr_core.cameras import NUSCENES_CAMERAS, CameraModel, CameraRig
    from streampetr_core.checkpoint import load_checkpoint
    from streampetr_core.detector import Detector
    from streampetr_core.errors import StreamPETRError
    from streampetr_core.frame import Frame
    from streampetr_core.model import build_model

# Waiting OpenMP threads sleep at once. Spinning ones, the default, make a frame several times slower wherever
# other processes want the cores too, and some always do: the tracker, the replay. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "Boxes3D": "boxes",
    "NUSCENES_CLASSES": "boxes",
    "CameraModel": "cameras",
    "CameraRig": "cameras",
    "NUSCENES_CAMERAS": "cameras",
    "Detector": "detector",
    "Frame": "frame",
    "StreamPETRError": "errors",
    "build_model": "model",
    "load_checkpoint": "checkpoint",
}

__all__ = [
    "NUSCENES_CAMERAS",
    "NUSCENES_CLASSES",
    "Boxes3D",
    "CameraModel",
    "CameraRig",
    "Detector",
    "Frame",
    "StreamPETRError",
    "build_model",
    "load_checkpoint",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'streampetr_core' has no attribute '{name}'")
    return getattr(importlib.import_module(f"streampetr_core.{_HOMES[name]}"), name)
