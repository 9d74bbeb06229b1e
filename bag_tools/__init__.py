"""Sources of frames and ROS 2 bags without ROS: nuScenes <-> rosbag2, the bag reader, the rendered world.

Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bag_tools.bag_reader import BagReader
    from bag_tools.convert import convert_nuscenes
    from bag_tools.convert_back import convert_bag
    from bag_tools.nuscenes_source import NuScenesSource

_HOMES = {
    "BagReader": "bag_reader",
    "NuScenesSource": "nuscenes_source",
    "convert_bag": "convert_back",
    "convert_nuscenes": "convert",
}

__all__ = ["BagReader", "NuScenesSource", "convert_bag", "convert_nuscenes"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'bag_tools' has no attribute '{name}'")
    return getattr(importlib.import_module(f"bag_tools.{_HOMES[name]}"), name)
