"""The one way from a camera's bytes to the pixels that the network sees: decode, undistort, resize, crop, normalise.

Training, evaluation and the node all come through here, so they make the same pixels. Legend: `h w` network input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from streampetr_core.cameras import CameraModel
from streampetr_core.errors import StreamPETRError

MEAN_RGB = (123.675, 116.28, 103.53)
STD_RGB = (58.395, 57.12, 57.375)
"""ImageNet statistics on the scale 0 to 255, as in every published configuration."""

_END_OF_IMAGE = b"\xff\xd9"


class ImageError(StreamPETRError):
    """An image that cannot be decoded or does not fit its camera."""


def decode_jpeg(data: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB pixels of a compressed image; lets go of the GIL while it decodes.

    Any format OpenCV reads is taken. The EXIF orientation is ignored: a calibration belongs to the sensor's pixels.

    Raises:
        ImageError: on empty, truncated or otherwise undecodable data.
    """
    view = memoryview(data).cast("B") if not isinstance(data, bytes | bytearray) else memoryview(data)
    if len(view) == 0:
        raise ImageError("image: no data; the message or file is empty")
    if bytes(view[:2]) == b"\xff\xd8" and _END_OF_IMAGE not in bytes(view[-4096:]):
        # OpenCV fills what is missing with grey and says nothing
        raise ImageError(f"image: JPEG of {len(view)} bytes is truncated (no end marker)")
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        bgr = cv2.imdecode(np.frombuffer(view, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"image: {len(view)} bytes cannot be decoded ({error.err})") from error
    if bgr is None:
        head = bytes(view[:4]).hex(" ")
        raise ImageError(f"image: {len(view)} bytes beginning with {head} are no readable image")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr)  # type: ignore[return-value]
