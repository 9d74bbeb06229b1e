"""Images go into messages and come out again unchanged, or converted as OpenCV converts them."""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = 6, 8


@pytest.fixture
def bridge() -> Any:
    return pytest.importorskip("cv_bridge").CvBridge()


def pixels(channels: int, dtype: str = "uint8") -> np.ndarray:
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    return np.random.default_rng(5).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


@pytest.mark.parametrize(
    ("encoding", "channels", "dtype"),
    [
        ("mono8", 1, "uint8"),
        ("rgb8", 3, "uint8"),
        ("bgr8", 3, "uint8"),
        ("rgba8", 4, "uint8"),
        ("bgra8", 4, "uint8"),
        ("mono16", 1, "uint16"),
        ("bayer_rggb8", 1, "uint8"),
        ("yuv422", 2, "uint8"),
        ("yuv422_yuy2", 2, "uint8"),
        ("8UC3", 3, "uint8"),
        ("16SC2", 2, "int16"),
    ],
)
def test_round_trip(bridge: Any, encoding: str, channels: int, dtype: str) -> None:
    image = pixels(channels, dtype)
    message = bridge.cv2_to_imgmsg(image, encoding)
    assert (message.encoding, message.height, message.width) == (encoding, HEIGHT, WIDTH)
    assert message.step == WIDTH * channels * image.itemsize
    result = bridge.imgmsg_to_cv2(message)
    assert result.dtype == image.dtype
    np.testing.assert_array_equal(result, image)


@pytest.mark.parametrize(
    ("source", "target", "code", "channels"),
    [
        ("rgb8", "bgr8", cv2.COLOR_RGB2BGR, 3),
        ("bgr8", "rgb8", cv2.COLOR_BGR2RGB, 3),
        ("rgba8", "rgb8", cv2.COLOR_RGBA2RGB, 4),
        ("bgra8", "rgb8", cv2.COLOR_BGRA2RGB, 4),
        ("mono8", "rgb8", cv2.COLOR_GRAY2RGB, 1),
        ("bgr8", "mono8", cv2.COLOR_BGR2GRAY, 3),
        ("yuv422", "rgb8", cv2.COLOR_YUV2RGB_UYVY, 2),
        ("yuv422_yuy2", "bgr8", cv2.COLOR_YUV2BGR_YUY2, 2),
        ("bayer_rggb8", "rgb8", cv2.COLOR_BayerBG2RGB, 1),
        ("bayer_bggr8", "rgb8", cv2.COLOR_BayerRG2RGB, 1),
        ("bayer_gbrg8", "bgr8", cv2.COLOR_BayerGR2BGR, 1),
        ("bayer_grbg8", "bgr8", cv2.COLOR_BayerGB2BGR, 1),
    ],
)
def test_conversion(bridge: Any, source: str, target: str, code: int, channels: int) -> None:
    image = pixels(channels)
    result = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(image, source), target)
    np.testing.assert_array_equal(result, cv2.cvtColor(image, code))


def test_a_red_pixel_of_a_bayer_image_is_red(bridge: Any) -> None:
    mosaic = np.zeros((HEIGHT, WIDTH), np.uint8)
    mosaic[0::2, 0::2] = 200  # rggb: red stands first in the first row
    red, green, blue = bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(mosaic, "bayer_rggb8"), "rgb8")[2, 2]
    assert (red, green, blue) == (200, 0, 0)


def test_sixteen_bits_are_scaled_to_eight(bridge: Any) -> None:
    image = np.array([[0, 257, 65535]], np.uint16)
    assert bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(image, "mono16"), "mono8").tolist() == [[0, 1, 255]]


def test_padded_rows_and_foreign_byte_order(bridge: Any) -> None:
    from sensor_msgs.msg import Image

    image = pixels(1, "uint16")
    rows = np.zeros((HEIGHT, WIDTH * 2 + 10), np.uint8)
    rows[:, : WIDTH * 2] = image.astype(">u2").view(np.uint8).reshape(HEIGHT, -1)
    message = Image(height=HEIGHT, width=WIDTH, encoding="mono16", is_bigendian=1, step=rows.shape[1])
    message.data = array.array("B", rows.tobytes())
    np.testing.assert_array_equal(bridge.imgmsg_to_cv2(message), image)


def test_compressed_round_trip(bridge: Any) -> None:
    image = pixels(3)
    message = bridge.cv2_to_compressed_imgmsg(image, "png")
    assert message.format == "png"
    np.testing.assert_array_equal(bridge.compressed_imgmsg_to_cv2(message), image)
    np.testing.assert_array_equal(bridge.compressed_imgmsg_to_cv2(message, "rgb8"), image[:, :, ::-1])


def test_what_cannot_be_is_refused(bridge: Any) -> None:
    from cv_bridge import CvBridgeError

    with pytest.raises(CvBridgeError, match="incompatible type"):
        bridge.cv2_to_imgmsg(pixels(1), "rgb8")
    message = bridge.cv2_to_imgmsg(pixels(3), "rgb8")
    message.encoding = "rainbow"
    with pytest.raises(CvBridgeError, match="rainbow"):
        bridge.imgmsg_to_cv2(message)
    with pytest.raises(CvBridgeError):
        bridge.imgmsg_to_cv2(bridge.cv2_to_imgmsg(pixels(3)), "bgr8")  # 8UC3 has no colours to convert
    with pytest.raises(TypeError):
        bridge.cv2_to_imgmsg([[1, 2]])
