"""Raw sensor images of every supported encoding become the RGB picture they stand for."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest

from streampetr_core.preprocessing import ImageError
from streampetr_core.raw_images import image_from_raw

RGB = np.random.default_rng(11).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def padded(rows: np.ndarray, padding: int) -> tuple[int, bytes]:
    """Row step and bytes of (H, W, ...) pixels with `padding` bytes after each row."""
    flat = rows.reshape(rows.shape[0], -1).view(np.uint8)
    return flat.shape[1] + padding, np.pad(flat, ((0, 0), (0, padding)), constant_values=77).tobytes()


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("8UC3", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, np.full((6, 8), 9, np.uint8)])),
        ("bgra8", np.dstack([RGB[..., ::-1], np.full((6, 8), 9, np.uint8)])),
    ],
)
def test_colour_is_exact(encoding: str, pixels: np.ndarray, padding: int) -> None:
    step, data = padded(np.ascontiguousarray(pixels), padding)
    for source in (data, array("B", data), np.frombuffer(data, np.uint8)):
        image = image_from_raw(encoding, 6, 8, step, source)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, RGB)


@pytest.mark.parametrize("big", [False, True])
def test_sixteen_bits_keep_the_high_byte(big: bool) -> None:
    wide = (RGB.astype(np.uint16) * 256 + 13).astype(">u2" if big else "<u2")
    step, data = padded(wide, 4)
    np.testing.assert_array_equal(image_from_raw("rgb16", 6, 8, step, data, big), RGB)
    step, data = padded(np.ascontiguousarray(wide[..., 1]), 0)
    grey = image_from_raw("mono16", 6, 8, step, data, big)
    np.testing.assert_array_equal(grey, np.repeat(RGB[..., 1:2], 3, axis=2))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_patterns_give_back_a_plain_colour(pattern: str) -> None:
    colour = {"r": 200, "g": 90, "b": 30}
    tile = np.array([colour[c] for c in pattern], np.uint8).reshape(2, 2)
    mosaic = np.tile(tile, (4, 4))
    image = image_from_raw(f"bayer_{pattern}8", 8, 8, 8, mosaic.tobytes())
    assert (image[2:-2, 2:-2] == [200, 90, 30]).all()


@pytest.mark.parametrize(("encoding", "order"), [("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv")])
def test_yuv_gives_back_a_plain_colour(encoding: str, order: str) -> None:
    rgb = np.full((1, 1, 3), (180, 100, 60), np.uint8)
    y, u, v = (int(value) for value in cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)[0, 0])
    limited = {"y": round(16 + y * 219 / 255), "u": u, "v": v}
    row = np.array([limited[c] for c in order] * 4, np.uint8)
    image = image_from_raw(encoding, 4, 8, 16, np.tile(row, (4, 1)).tobytes())
    assert np.abs(image.astype(int) - [180, 100, 60]).max() < 25  # chroma scales differ between YUV flavours


@pytest.mark.parametrize(
    ("encoding", "height", "step", "size", "words"),
    [
        ("32FC1", 6, 32, 192, "32FC1.*not supported"),
        ("rgb8", 6, 24, 100, "100 bytes"),
        ("rgb8", 6, 20, 200, "a row has 24 bytes"),
        ("rgb8", 0, 24, 0, "no 8x0"),
    ],
)
def test_impossible_images_are_refused(encoding: str, height: int, step: int, size: int, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        image_from_raw(encoding, height, 8, step, bytes(size))
