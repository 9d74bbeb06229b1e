"""Uncompressed images as sensor_msgs/Image carries them, to RGB pixels."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from streampetr_core.preprocessing import ImageError

_TO_RGB: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),  # OpenCV's own order
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a Bayer pattern by its second row, ROS by its first
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}
"""encoding -> bytes a pixel, OpenCV conversion (None: RGB already)."""
_SIXTEEN_BITS = {"mono16": "mono8", "rgb16": "rgb8", "bgr16": "bgr8", "rgba16": "rgba8", "bgra16": "bgra8"}


def image_from_raw(
    encoding: str, height: int, width: int, step: int, data: object, is_bigendian: bool = False
) -> NDArray[np.uint8]:
    """uint8 (height, width, 3) RGB of the fields of a sensor_msgs/Image.

    Args:
        encoding: one of sensor_msgs/image_encodings: 8 and 16 bit colour and mono, Bayer, YUV 4:2:2.
        step: bytes a row, padding included.
        data: anything with the buffer protocol (bytes, array.array, numpy).

    Raises:
        ImageError: for an encoding that is not known and for too few bytes.
    """
    wide = encoding in _SIXTEEN_BITS
    conversion = _TO_RGB.get(_SIXTEEN_BITS.get(encoding, encoding))
    if conversion is None:
        known = ", ".join([*_TO_RGB, *_SIXTEEN_BITS])
        raise ImageError(f"image: encoding '{encoding}' is not supported; convert to one of {known}")
    channels, code = conversion
    row_bytes = width * channels * (2 if wide else 1)
    pixels = np.frombuffer(data, np.uint8)  # type: ignore[call-overload]
    if height <= 0 or width <= 0 or step < row_bytes or pixels.size < step * height:
        raise ImageError(
            f"image: {pixels.size} bytes with step {step} are no {width}x{height} {encoding} image "
            f"(a row has {row_bytes} bytes)"
        )
    rows = pixels[: step * height].reshape(height, step)[:, :row_bytes]
    if wide:  # the network sees 8 bits: the high byte
        high = 0 if is_bigendian else 1
        rows = np.ascontiguousarray(rows).reshape(height, -1, 2)[:, :, high]
    image = np.ascontiguousarray(rows.reshape(height, width, channels))
    if code is None:
        return image.copy() if image.base is not None else image
    return cv2.cvtColor(image, code)  # type: ignore[return-value]
