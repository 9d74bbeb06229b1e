"""The one way from a camera's bytes to the network's pixels: decode, undistort, resize, crop, normalise.

Training, evaluation and the node all come through here, so they make the same pixels. Legend: `h w` network input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

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

ChannelOrder = Literal["RGB", "BGR"]
"""Of the network's pixels; what it was pretrained with. Images everywhere else are RGB."""

_END_OF_IMAGE = b"\xff\xd9"


class ImageError(StreamPETRError):
    """An image that cannot be decoded or does not fit its camera."""


def decode_jpeg(data: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB pixels of a compressed image; lets go of the GIL while it decodes.

    Any format OpenCV reads is taken. The EXIF orientation is ignored: a calibration is of the sensor's pixels.

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


@dataclass(frozen=True)
class ImagePlan:
    """How a full image becomes the network's: scale it, then cut a window out.

    Attributes:
        scale: network pixels an image pixel; what enters the matrix, though sizes are whole numbers.
        resized: width, height after scaling.
        left, top: of the window in the scaled image; the bottom is kept, the sides are cut evenly.
        size: height, width of the window, the network's input. What lies outside the scaled image is black.
    """

    scale: float
    resized: tuple[int, int]
    left: int
    top: int
    size: tuple[int, int]

    def network_from_image(self) -> NDArray[np.float32]:
        """(3, 3) homogeneous pixel transform."""
        s = self.scale
        return np.array([[s, 0, -self.left], [0, s, -self.top], [0, 0, 1]], dtype=np.float32)


@lru_cache(maxsize=64)
def image_plan(width: int, height: int, size: tuple[int, int]) -> ImagePlan:
    """The plan for images of `width` x `height` and a network input `size` = (height, width).

    The larger of the two ratios decides, so the window is always filled.
    """
    scale = max(size[0] / height, size[1] / width)
    # the published code truncates; the epsilon keeps 703.9999 from losing a column
    resized = (int(width * scale + 1e-6), int(height * scale + 1e-6))
    return ImagePlan(scale, resized, int(max(0, resized[0] - size[1]) / 2), resized[1] - size[0], size)


def network_intrinsics(camera: CameraModel, size: tuple[int, int]) -> NDArray[np.float64]:
    """(3, 3) float64 intrinsics of the network's image of height, width `size`."""
    plan = image_plan(camera.width, camera.height, size)
    return plan.network_from_image().astype(np.float64) @ camera.intrinsics


def resize_and_crop(image: NDArray[np.uint8], plan: ImagePlan) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) -> uint8 (h, w, 3) by the plan, with Pillow's antialiased bicubic filter.

    Only the part of the image that the window needs is resampled; the pixels are those of resampling it whole.
    """
    height, width = image.shape[:2]
    h, w = plan.size
    columns = _needed_span(width, plan.resized[0], plan.left, plan.left + w)
    rows = _needed_span(height, plan.resized[1], plan.top, plan.top + h)
    box = (columns[0], rows[0], columns[1], rows[1])
    resized = Image.fromarray(image).resize(
        (columns[3] - columns[2], rows[3] - rows[2]), Image.Resampling.BICUBIC, box=box
    )
    left, top = plan.left - columns[2], plan.top - rows[2]
    if (left, top) != (0, 0) or resized.size != (w, h):
        resized = resized.crop((left, top, left + w, top + h))
    return np.asarray(resized)


def _needed_span(source: int, target: int, start: int, stop: int) -> tuple[int, int, int, int]:
    """Whole source pixels and target pixels (source start, stop, target start, stop) that give target start..stop.

    Cuts only where a source and a target pixel edge coincide, so that the filter's phases stay as they are, and
    outside the support of the filter. Enlarging is left whole: there the phases'
    rounding would show in single grey levels.
    """
    if target > source:
        return 0, source, 0, target
    period = math.gcd(source, target)
    source_step, target_step = source // period, target // period
    margin = 3  # bicubic: two pixels of the coarser grid, the target's
    first = max(0, (start - margin) // target_step)
    last = min(period, -((-stop - margin) // target_step))
    return first * source_step, last * source_step, first * target_step, last * target_step


_MEAN, _STD = np.array(MEAN_RGB, np.float32), np.array(STD_RGB, np.float32)
_TABLE = ((np.arange(256, dtype=np.float32)[:, None] - _MEAN) / _STD).reshape(256, 1, 3)
_TABLE_BGR = np.ascontiguousarray(_TABLE[..., ::-1])


def normalize(pixels: NDArray[np.uint8], order: ChannelOrder = "RGB") -> torch.Tensor:
    """uint8 (h, w, 3) RGB -> float32 (3, h, w) in `order`, zero mean, unit variance; channels last in memory."""
    if order == "BGR":
        return torch.from_numpy(cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), _TABLE_BGR)).permute(2, 0, 1)
    return torch.from_numpy(cv2.LUT(pixels, _TABLE)).permute(2, 0, 1)


def prepare(
    image: NDArray[np.uint8], camera: CameraModel, size: tuple[int, int], order: ChannelOrder = "RGB"
) -> torch.Tensor:
    """A camera's full image, uint8 (H, W, 3) RGB -> the network's, float32 (3, h, w); safe from any thread.

    Raises:
        ImageError: when the image has not the size that the camera was calibrated for.
    """
    check_image(image, camera)
    plan = image_plan(camera.width, camera.height, size)
    return normalize(resize_and_crop(undistort(image, camera), plan), order)


def check_image(image: NDArray[np.uint8], camera: CameraModel) -> None:
    """Refuse an image that is not the camera's.

    Raises:
        ImageError: naming the camera and both sizes.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ImageError(f"camera '{camera.name}': image is {image.dtype} {image.shape}, not uint8 (H, W, 3) RGB")
    if image.shape[:2] != (camera.height, camera.width):
        raise ImageError(
            f"camera '{camera.name}': image is {image.shape[1]}x{image.shape[0]} but the calibration is for "
            f"{camera.width}x{camera.height}; use the calibration of this resolution"
        )


def undistort(image: NDArray[np.uint8], camera: CameraModel) -> NDArray[np.uint8]:
    """The image as a pinhole camera with the same intrinsics sees it; the image itself where it is rectified.

    Raises:
        ImageError: on a distortion model that is not known.
    """
    if camera.is_rectified:
        return image
    key = (camera.name, camera.distortion_model, camera.width, camera.height)
    maps = _undistortion_maps(key, camera.intrinsics.tobytes(), camera.distortion.tobytes())
    return cv2.remap(image, *maps, interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]


@lru_cache(maxsize=16)
def _undistortion_maps(key: tuple[str, str, int, int], intrinsics: bytes, distortion: bytes) -> tuple:
    name, model, width, height = key
    matrix = np.frombuffer(intrinsics).reshape(3, 3)
    coefficients = np.frombuffer(distortion)
    if model in ("plumb_bob", "rational_polynomial"):
        return cv2.initUndistortRectifyMap(matrix, coefficients, None, matrix, (width, height), cv2.CV_16SC2)  # type: ignore[call-overload]
    if model in ("equidistant", "fisheye"):
        eye = np.eye(3)
        return cv2.fisheye.initUndistortRectifyMap(
            matrix, coefficients[:4], eye, matrix, (width, height), cv2.CV_16SC2
        )
    raise ImageError(
        f"camera '{name}': distortion model '{model}' is not known; use plumb_bob, rational_polynomial or "
        "equidistant, or rectify the image and set the coefficients to zero"
    )
