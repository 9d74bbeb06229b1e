"""Pixels: decoding, the resize rule, undistortion, and what is refused."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from streampetr_core.bench import ring_rig
from streampetr_core.detector import Detector
from streampetr_core.model import VARIANTS, StreamPETR
from streampetr_core.preprocessing import (
    MEAN_RGB,
    STD_RGB,
    ImageError,
    decode_jpeg,
    image_plan,
    network_intrinsics,
    normalize,
    prepare,
    resize_and_crop,
    undistort,
)

RNG = np.random.default_rng(11)


def _jpeg(width: int = 64, height: int = 48) -> bytes:
    image = cv2.resize(RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8), (width, height))
    return cv2.imencode(".jpg", image)[1].tobytes()


def test_decoding_gives_rgb_from_any_kind_of_bytes() -> None:
    data = _jpeg()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    for kind in (data, bytearray(data), memoryview(data), memoryview(array("B", data))):
        image = decode_jpeg(kind)
        assert image.shape == (48, 64, 3)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no data"),
        (b"not an image at all", "no readable image"),
        (_jpeg()[:-200], "truncated"),
        (b"\xff\xd8\xff\xe0" + bytes(500) + b"\xff\xd9", "no readable image|cannot be decoded"),
    ],
)
def test_corrupt_images_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        decode_jpeg(data)


def test_stored_pixels_exactly(shared: Path) -> None:
    """One original image: uint8 pixels and normalised floats of the published pipeline, bit for bit."""
    stored = np.load(shared / "golden" / "input_r50_704x256.npz")
    front = list(stored["cam_names"]).index("CAM_FRONT")
    image = decode_jpeg((shared / "golden" / "jpeg" / str(stored["jpeg_names"][front])).read_bytes())
    camera = replace(ring_rig().cameras[0], intrinsics=stored["intrinsics_raw"][front][:3, :3])
    tensor = prepare(image, camera, (256, 704))
    np.testing.assert_array_equal(tensor.numpy(), stored["img_f32_cam0"])
    adjusted = network_intrinsics(camera, (256, 704)).astype(np.float32)
    np.testing.assert_array_equal(adjusted, stored["intrinsics_adj"][front][:3, :3])


@pytest.mark.parametrize(
    "width_height", [(1600, 900), (1280, 960), (1920, 1080), (1920, 1200), (640, 360), (1601, 901)]
)
@pytest.mark.parametrize("size", [(256, 704), (160, 416), (320, 800)])
def test_resampling_only_what_is_needed_gives_the_same_pixels(
    width_height: tuple[int, int], size: tuple[int, int]
) -> None:
    width, height = width_height
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    plan = image_plan(width, height, size)
    window = (plan.left, plan.top, plan.left + size[1], plan.top + size[0])
    whole = Image.fromarray(image).resize(plan.resized, Image.Resampling.BICUBIC).crop(window)
    np.testing.assert_array_equal(resize_and_crop(image, plan), np.asarray(whole))


@pytest.mark.parametrize(
    ("width", "height", "scale", "resized", "left", "top"),
    [
        (1600, 900, 0.44, (704, 396), 0, 140),  # the published case
        (1280, 960, 0.55, (704, 528), 0, 272),  # taller: more sky is cut
        (1920, 600, 256 / 600, (819, 256), 57, 0),  # wider: both sides are cut
    ],
)
def test_plan(width: int, height: int, scale: float, resized: tuple[int, int], left: int, top: int) -> None:
    plan = image_plan(width, height, (256, 704))
    assert plan.scale == pytest.approx(scale)
    assert (plan.resized, plan.left, plan.top) == (resized, left, top)


def test_intrinsics_follow_the_pixels() -> None:
    """A point of the full image lands where the matrix says."""
    camera = ring_rig().cameras[0]
    plan = image_plan(1600, 900, (256, 704))
    image = np.zeros((900, 1600, 3), np.uint8)
    image[590:611, 790:811] = 255
    rows, columns = np.nonzero(resize_and_crop(image, plan)[..., 0] > 127)
    ray = np.linalg.inv(camera.intrinsics) @ [800, 600, 1]
    expected = network_intrinsics(camera, (256, 704)) @ ray
    # the published rule takes pixel centres at integers on both sides: half a pixel of slack
    assert abs(columns.mean() - expected[0]) < 0.6
    assert abs(rows.mean() - expected[1]) < 0.6


def test_normalisation() -> None:
    pixels = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    expected = (pixels.astype(np.float64) - MEAN_RGB) / STD_RGB
    np.testing.assert_allclose(normalize(pixels).numpy(), expected.transpose(2, 0, 1), atol=1e-6)


def test_bgr_is_the_same_in_the_other_order() -> None:
    """As V2-99 was pretrained: the published figures of blue, green and red on pixels that are not swapped."""
    pixels = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    blue_first = pixels[..., ::-1].astype(np.float64)
    expected = (blue_first - (103.530, 116.280, 123.675)) / (57.375, 57.120, 58.395)
    found = normalize(pixels, "BGR")
    np.testing.assert_allclose(found.numpy(), expected.transpose(2, 0, 1), atol=1e-6)
    assert torch.equal(found, normalize(pixels).flip(0))
    assert found.is_contiguous() == normalize(pixels).is_contiguous()


def test_the_detector_makes_the_variants_pixels() -> None:
    """The detector's pixels are those of `prepare` in the variant's order."""
    camera = ring_rig(160, 120).cameras[0]
    image = RNG.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    small = replace(VARIANTS["tiny"], input_size=(64, 96), backbone_width=8)
    found = []
    for order in ("RGB", "BGR"):
        detector = Detector(StreamPETR(replace(small, channel_order=order)), device="cpu")
        found.append(detector.prepare(image, camera))
        assert torch.equal(found[-1], prepare(image, camera, (64, 96), order))
    assert torch.equal(found[0].flip(0), found[1])
    assert not torch.equal(found[0], found[1])


def test_wrong_size_names_camera_and_sizes() -> None:
    camera = ring_rig().cameras[3]
    with pytest.raises(ImageError, match="'CAM_BACK': image is 640x480 but the calibration is for 1600x900"):
        prepare(np.zeros((480, 640, 3), np.uint8), camera, (256, 704))
    with pytest.raises(ImageError, match="not uint8"):
        prepare(np.zeros((900, 1600), np.uint8), camera, (256, 704))


@pytest.mark.parametrize(
    ("model", "coefficients"),
    [("plumb_bob", [-0.3, 0.1, 0.001, -0.001, 0.0]), ("equidistant", [-0.02, 0.01, 0.0, 0.0])],
)
def test_distorted_images_are_rectified(model: str, coefficients: list[float]) -> None:
    """A dot drawn where the lens puts a ray ends where the pinhole puts it."""
    camera = replace(ring_rig(640, 480).cameras[0], distortion_model=model, distortion=np.array(coefficients))
    ray = np.array([[[0.3, 0.2, 1.0]]])
    zero = np.zeros(3)
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    arguments = (ray, zero, zero, camera.intrinsics, camera.distortion)
    u, v = np.ravel(project(*arguments)[0])
    image = np.zeros((480, 640, 3), np.uint8)
    cv2.circle(image, (round(float(u) * 8), round(float(v) * 8)), 3 * 8, (255, 255, 255), -1, cv2.LINE_AA, 3)
    rows, columns = np.nonzero(undistort(image, camera)[..., 0] > 127)
    expected = camera.intrinsics @ ray.ravel()
    assert abs(columns.mean() - expected[0]) < 0.7
    assert abs(rows.mean() - expected[1]) < 0.7
    assert np.hypot(u - expected[0], v - expected[1]) > 0.7  # the lens did bend it


def test_unknown_lens_is_refused() -> None:
    camera = replace(ring_rig(64, 48).cameras[0], distortion_model="thin_prism", distortion=np.ones(5))
    with pytest.raises(ImageError, match="'thin_prism' is not known"):
        undistort(np.zeros((48, 64, 3), np.uint8), camera)
