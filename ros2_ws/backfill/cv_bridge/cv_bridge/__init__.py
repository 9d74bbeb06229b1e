"""Conversion between image messages and numpy arrays as OpenCV lays them out: (height, width[, channels])."""

from cv_bridge.core import CvBridge, CvBridgeError

__all__ = ["CvBridge", "CvBridgeError"]
