"""CvBridge with the names and results of the distributions' cv_bridge, on cv2 and numpy alone.

Encodings: mono8/16, rgb8/16, bgr8/16, rgba8/16, bgra8/16, the eight Bayer patterns, yuv422 (UYVY) and yuv422_yuy2
(YUY2) under both their names, and the generic 8UC3, 32FC1, ... . Colour conversion is for 8 and 16 bits.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import cv2
import numpy as np
import sensor_msgs.msg

_DTYPES = {
    "8U": "uint8",
    "8S": "int8",
    "16U": "uint16",
    "16S": "int16",
    "32S": "int32",
    "32F": "float32",
    "64F": "float64",
}
_DEPTHS = {dtype: depth for depth, dtype in _DTYPES.items()}
_GENERIC = re.compile(r"(8U|8S|16U|16S|32S|32F|64F)(?:C(\d+))?")
_COLOUR = re.compile(r"(mono|rgb|bgr|rgba|bgra)(8|16)")
_BAYER = re.compile(r"bayer_(rggb|bggr|gbrg|grbg)(8|16)")
_CHANNELS = {"mono": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}
_YUV = {"yuv422": "UYVY", "uyvy": "UYVY", "yuv422_yuy2": "YUY2", "yuyv": "YUY2"}
_OPENCV_BAYER = {"rggb": "BayerBG", "bggr": "BayerRG", "gbrg": "BayerGR", "grbg": "BayerGB"}
"""OpenCV names a pattern by its second row, ROS by its first."""


class CvBridgeError(TypeError):
    """An image that cannot be converted as asked for."""


class CvBridge:
    """Converts between sensor_msgs images and numpy arrays."""

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        """numpy type and number of channels of an encoding: "bgr8" -> ("uint8", 3)."""
        if match := _COLOUR.fullmatch(encoding):
            return f"uint{match[2]}", _CHANNELS[match[1]]
        if match := _BAYER.fullmatch(encoding):
            return f"uint{match[2]}", 1
        if encoding in _YUV:
            return "uint8", 2
        if match := _GENERIC.fullmatch(encoding):
            return _DTYPES[match[1]], int(match[2] or 1)
        raise CvBridgeError(f"Unrecognized image encoding [{encoding}]")

    def dtype_with_channels_to_cvtype2(self, dtype: np.dtype, n_channels: int) -> str:
        """Generic encoding of an array: (uint8, 3) -> "8UC3"."""
        return f"{_DEPTHS[np.dtype(dtype).name]}C{n_channels}"

    def imgmsg_to_cv2(self, img_msg: Any, desired_encoding: str = "passthrough") -> np.ndarray:
        """The pixels of a sensor_msgs/Image.

        Args:
            img_msg: the message.
            desired_encoding: encoding of the result; "passthrough" keeps the message's.

        Returns:
            (height, width) for one channel, else (height, width, channels), in this machine's byte order; not a
            copy of the message where nothing had to be changed.

        Raises:
            CvBridgeError: on an unknown encoding, a data size that does not fit, or a conversion without sense.
        """
        name, channels = self.encoding_to_dtype_with_channels(img_msg.encoding)
        dtype = np.dtype(name).newbyteorder(">" if img_msg.is_bigendian else "<")
        height, width, step = img_msg.height, img_msg.width, img_msg.step
        data = np.frombuffer(img_msg.data, np.uint8) if len(img_msg.data) else np.empty(0, np.uint8)
        if step < width * channels * dtype.itemsize or data.size < height * step:
            raise CvBridgeError(
                f"Image is wrongly formed: {data.size} bytes, step {step}, {width}x{height} [{img_msg.encoding}]"
            )
        rows = data[: height * step].reshape(height, step)[:, : width * channels * dtype.itemsize]
        image = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
        if channels == 1:
            image = image[:, :, 0]
        image = np.ascontiguousarray(image, dtype=dtype.newbyteorder("="))
        return (
            image
            if desired_encoding == "passthrough"
            else _convert(self, image, img_msg.encoding, desired_encoding)
        )

    def compressed_imgmsg_to_cv2(self, cmprs_img_msg: Any, desired_encoding: str = "passthrough") -> np.ndarray:
        """The pixels of a sensor_msgs/CompressedImage: as stored (colour is bgr8), or converted from bgr8.

        Raises:
            CvBridgeError: when the data cannot be decoded (the distributions' gives None then) or converted.
        """
        data = np.frombuffer(cmprs_img_msg.data, np.uint8) if len(cmprs_img_msg.data) else None
        image = None if data is None else cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        if image is None:
            raise CvBridgeError(f"data of format '{cmprs_img_msg.format}' cannot be decoded")
        return image if desired_encoding == "passthrough" else _convert(self, image, "bgr8", desired_encoding)

    def cv2_to_imgmsg(self, cvim: np.ndarray, encoding: str = "passthrough", header: Any = None) -> Any:
        """A sensor_msgs/Image with these pixels.

        Args:
            cvim: (height, width) or (height, width, channels).
            encoding: what the pixels mean (nothing is converted); "passthrough" gives a generic one, as 8UC3.
            header: std_msgs/Header of the message.

        Raises:
            CvBridgeError: when the array's type is not the encoding's.
            TypeError: when `cvim` is not an array.
        """
        if not isinstance(cvim, np.ndarray | np.generic):
            raise TypeError("Your input type is not a numpy array")
        channels = 1 if cvim.ndim < 3 else cvim.shape[2]
        generic = self.dtype_with_channels_to_cvtype2(cvim.dtype, channels)
        message = sensor_msgs.msg.Image()
        message.height, message.width = cvim.shape[:2]
        if header is not None:
            message.header = header
        if encoding == "passthrough":
            encoding = generic
        elif self.encoding_to_dtype_with_channels(encoding) != (cvim.dtype.name, channels):
            raise CvBridgeError(f"encoding specified as {encoding}, but image has incompatible type {generic}")
        message.encoding = encoding
        order = cvim.dtype.byteorder
        message.is_bigendian = int(order == ">" or (order == "=" and sys.byteorder == "big"))
        message.data.frombytes(cvim.tobytes())
        message.step = len(message.data) // message.height
        return message

    def cv2_to_compressed_imgmsg(self, cvim: np.ndarray, dst_format: str = "jpg") -> Any:
        """A sensor_msgs/CompressedImage with these pixels, encoded as "jpg", "png" or another of OpenCV's formats.

        Raises:
            CvBridgeError: when OpenCV cannot encode the array in this format.
            TypeError: when `cvim` is not an array.
        """
        if not isinstance(cvim, np.ndarray | np.generic):
            raise TypeError("Your input type is not a numpy array")
        message = sensor_msgs.msg.CompressedImage()
        message.format = dst_format
        try:
            encoded = cv2.imencode(f".{dst_format}", cvim)[1]
        except cv2.error as error:
            raise CvBridgeError(str(error)) from error
        message.data.frombytes(encoded.tobytes())
        return message


def _convert(bridge: CvBridge, image: np.ndarray, source: str, target: str) -> np.ndarray:
    """`image` from one encoding to another: colours first, then the depth, 8 and 16 bits scaled to full range."""
    if source == target:
        return image
    dtype, channels = bridge.encoding_to_dtype_with_channels(source)
    target_dtype, target_channels = bridge.encoding_to_dtype_with_channels(target)
    if _GENERIC.fullmatch(source) or _GENERIC.fullmatch(target):
        if not _GENERIC.fullmatch(target):
            raise CvBridgeError(f"[{source}] is not a color format. but [{target}] is")
        if channels != target_channels:
            raise CvBridgeError(f"[{source}] and [{target}] do not have the same number of channels")
    elif _family(source) != _family(target):
        try:
            code = getattr(cv2, _conversion(source, target))
            image = cv2.cvtColor(image, code)
        except (AttributeError, cv2.error) as error:
            raise CvBridgeError(f"Unsupported conversion from [{source}] to [{target}]") from error
    if dtype == target_dtype:
        return image
    scale = {("uint8", "uint16"): 65535 / 255, ("uint16", "uint8"): 255 / 65535}.get((dtype, target_dtype), 1.0)
    if np.dtype(target_dtype).kind == "f":
        return image.astype(target_dtype)
    limits = np.iinfo(target_dtype)
    return np.clip(np.rint(image * scale), limits.min, limits.max).astype(target_dtype)


def _family(encoding: str) -> str:
    """The encoding without its depth; both names of a YUV layout are one."""
    return _YUV.get(encoding) or encoding.rstrip("0123456789")


def _conversion(source: str, target: str) -> str:
    """Name of OpenCV's code for a colour conversion; a name that cv2 lacks where there is none."""
    colour = _family(target).replace("mono", "gray").upper()
    if source in _YUV:
        return f"COLOR_YUV2{colour}_{_YUV[source]}"
    if match := _BAYER.fullmatch(source):
        return f"COLOR_{_OPENCV_BAYER[match[1]]}2{colour}"
    return f"COLOR_{_family(source).replace('mono', 'gray').upper()}2{colour}"
