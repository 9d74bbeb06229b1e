"""Augmentation: the published numbers, the same pixels where it is off, boxes that stay on their pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from bag_tools.rendered.drive import RenderedDrive
from streampetr_core.boxes import NUSCENES_CLASSES
from streampetr_core.cameras import NUSCENES_CAMERAS, CameraModel, CameraRig
from streampetr_core.frame import Frame
from streampetr_core.frame_geometry import frame_matrices
from streampetr_core.geometry import inverse
from streampetr_core.model.variants import R50_704_900Q, TINY
from streampetr_core.preprocessing import decode_jpeg, prepare
from training.augmentation import NO_AUGMENTATION, ZOOM_800, Augmentation, AugmentationError, Draw
from training.boxes_2d import View
from training.example import Example, FrameTruth, make_example
from training.rendered_source import rendered_truth

Arrays = dict[str, NDArray]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Arrays:
    with np.load(shared / "golden/golden_train_stream_petr_r50_900q.npz") as train:
        wanted = ("raw_", "aug_", "gt", "img_fp16", "lidar2img", "intrinsics", "ego_pose", "timestamp")
        arrays = {k: train[k] for k in train.files if k[3:].startswith(wanted)}
    with np.load(shared / "golden/golden_stream_stream_petr_r50_428q.npz") as stream:
        arrays |= {f"f{i}_plain_ego_pose": stream[f"f{i}_ego_pose"] for i in (0, 1)}
    with np.load(shared / "golden/input_r50_704x256.npz") as inputs:
        names = ("intrinsics_raw", "extrinsics_raw", "jpeg_names")
        arrays |= {name: inputs[name] for name in names}
    return arrays


def golden_frame(golden: Arrays, shared: Path, number: int) -> tuple[Frame, FrameTruth, Draw]:
    """A frame of the reference before augmentation, and what was drawn for it."""

    def of(name: str) -> NDArray:
        return golden[f"f{number}_{name}"]

    images = [decode_jpeg((shared / "golden/jpeg" / str(n)).read_bytes()) for n in golden["jpeg_names"]]
    cameras = []
    for i, name in enumerate(NUSCENES_CAMERAS):
        extrinsics = golden["extrinsics_raw"][i].astype(np.float64)
        cameras.append(CameraModel(name, 1600, 900, golden["intrinsics_raw"][i][:3, :3], inverse(extrinsics)))
    pose = of("plain_ego_pose").astype(np.float64)
    stamp = round(float(of("timestamp")) * 1e6) * 1000
    frame = Frame(
        stamp,
        tuple(images),
        np.full(6, stamp),
        CameraRig(tuple(cameras), np.eye(4)),
        pose,
        np.tile(pose, (6, 1, 1)),
    )
    boxes = np.concatenate([of("raw_gt_boxes"), of("raw_gt_velocity")], axis=1)
    labels_3d = np.array([NUSCENES_CLASSES.index(n) for n in of("raw_gt_names")])
    # the reference's outlines are not of these 3D boxes: give them 3D rows of their own that are not valid
    views, extra = [], []
    for name in NUSCENES_CAMERAS:
        labels = of(f"raw_labels2d_{name}")
        rows = len(labels_3d) + len(extra) + np.arange(len(labels))
        extra += labels.tolist()
        columns = (of(f"raw_{kind}_{name}") for kind in ("bboxes2d", "centers2d", "depths"))
        views.append(View(rows, *columns))
    truth = FrameTruth(
        np.concatenate([boxes, np.zeros((len(extra), 9))]),
        np.concatenate([labels_3d, np.array(extra, dtype=np.int64)]),
        np.arange(len(labels_3d) + len(extra)) < len(labels_3d),
        tuple(views),
    )
    # the reference gives the crop in pixels; its share of the spare width is what is drawn here
    resize, crop = float(of("aug_ida_resize")), of("aug_ida_crop")
    spare = float(of("aug_ida_resize_dims")[0]) - 704
    column = (float(crop[0]) + 0.5) / spare if spare > 0 else 0.0
    draw = Draw(
        zoom=resize / 0.44,
        column=column,
        flip=bool(of("aug_ida_flip")),
        rotation=float(of("aug_bda_rot_angle")),
        scale=float(of("aug_bda_scale")),
    )
    return frame, truth, draw


@pytest.mark.parametrize("number", [0, 1])
def test_reference_vectors(golden: Arrays, shared: Path, number: int) -> None:
    frame, truth, draw = golden_frame(golden, shared, number)
    plan = draw.plan(1600, 900, (256, 704))
    example = make_example(frame, truth, draw, R50_704_900Q)

    def of(name: str) -> NDArray:
        return golden[f"f{number}_{name}"]

    assert (*plan.resized, plan.left, plan.top) == (*of("aug_ida_resize_dims"), *of("aug_ida_crop")[:2])
    np.testing.assert_allclose(example.intrinsics, of("intrinsics")[:, :3, :3], rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(example.image_from_model, of("lidar2img"), rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(example.world_from_model, of("ego_pose"), rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(example.model_from_world, of("ego_pose_inv"), rtol=1e-6, atol=2e-4)
    assert example.timestamp == pytest.approx(float(of("timestamp")), abs=1e-6)
    boxes, labels, *views = example.targets
    expected = of("gt_boxes_3d_gravity_center")
    angle = boxes[:, 6] - expected[:, 6]
    assert np.abs(np.arctan2(np.sin(angle), np.cos(angle))).max() < 1e-5
    np.testing.assert_allclose(np.delete(boxes, 6, 1), np.delete(expected, 6, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(labels, of("gt_labels_3d"))
    for i, name in enumerate(NUSCENES_CAMERAS):
        for values, kind in zip(views[:4], ("boxes", "labels", "centers", "depths"), strict=True):
            expected = of(f"gt2d_{kind}_{name}")
            np.testing.assert_allclose(values[i], expected.reshape(values[i].shape), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_reference_pixels(golden: Arrays, shared: Path, number: int) -> None:
    # frame 0 is flipped, and smaller than the network's image; frame 1 larger
    frame, truth, draw = golden_frame(golden, shared, number)
    images = make_example(frame, truth, draw, R50_704_900Q).images.permute(0, 3, 1, 2)
    expected = torch.from_numpy(golden[f"f{number}_img_fp16"]).float()
    # fp16 rounding is 2e-3; a grey level is 0.017, and other JPEG decoders differ by one here and there
    difference = (images - expected).abs()
    assert float((difference > 2e-3).float().mean()) < 1e-3
    assert float(difference.max()) < 0.04


def test_nothing_drawn_is_the_evaluation(shared: Path, golden: Arrays) -> None:
    frame, truth, _ = golden_frame(golden, shared, 0)
    for size in ((256, 704), (320, 800), (160, 416)):
        variant = replace(R50_704_900Q, input_size=size)
        draw = NO_AUGMENTATION.draw((5, 6))
        assert draw == Draw()
        example = make_example(frame, truth, draw, variant)
        matrices = frame_matrices(frame, size, frame.present)
        assert np.array_equal(example.image_from_model, matrices.image_from_model)
        assert np.array_equal(example.intrinsics, matrices.intrinsics)
        for image, pixels, camera in zip(frame.images, example.images, frame.rig.cameras, strict=True):
            assert image is not None
            assert torch.equal(pixels.permute(2, 0, 1), prepare(image, camera, size))


@pytest.mark.parametrize("seed", range(4))
def test_a_zoomed_window_is_cut_out_of_the_zoomed_image(golden: Arrays, shared: Path, seed: int) -> None:
    image = decode_jpeg((shared / "golden/jpeg" / str(golden["jpeg_names"][0])).read_bytes())
    draw = Augmentation(flip=0.0).draw((seed,))
    plan = draw.plan(1600, 900, (256, 704))
    whole = Image.fromarray(image).resize(plan.resized)
    expected = np.asarray(whole.crop((plan.left, plan.top, plan.left + 704, plan.top + 256)))
    difference = np.abs(draw.image(image, plan).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


DRAWS = {
    "plain": Draw(),
    "zoomed in": Draw(zoom=1.2, column=0.8),
    "smaller than the image": Draw(zoom=0.87),
    "flipped": Draw(zoom=1.1, column=0.1, flip=True),
    "turned and scaled": Draw(rotation=0.35, scale=1.05),
    "everything": Draw(zoom=0.95, column=0.4, flip=True, rotation=-0.39, scale=0.95),
}


@pytest.fixture(scope="module")
def marked() -> tuple[Frame, FrameTruth]:
    """A rendered frame with a bright green square where each box centre is seen, nearer than 40 m."""
    frame, truth = RenderedDrive(3, 1.0, (704, 396), device="cpu").frame_with_truth(0)
    images = [np.minimum(image, 90) for image in frame.images if image is not None]
    before = rendered_truth(frame, truth)
    for image, view in zip(images, before.views, strict=True):
        for x, y in view.centers[view.depths < 40].round().astype(int).tolist():
            if 6 <= x < 704 - 6 and 6 <= y < 396 - 6:
                image[y - 3 : y + 4, x - 3 : x + 4] = (0, 255, 0)
    return replace(frame, images=tuple(images)), before


def marker_at(example: Example, camera: int, x: float, y: float) -> tuple[float, float] | None:
    """Offset of the centre of the green pixels within 6 pixels of a place; None where there are none."""
    left, top = max(0, round(x) - 6), max(0, round(y) - 6)
    patch = example.images[camera, top : top + 13, left : left + 13]
    weight = (patch[..., 1] - torch.maximum(patch[..., 0], patch[..., 2])).clamp(min=0.8) - 0.8
    if float(weight.sum()) == 0:
        return None
    rows, columns = torch.nonzero(weight, as_tuple=True)
    mass = weight[rows, columns]
    center_x = float((columns * mass).sum() / mass.sum()) + left
    center_y = float((rows * mass).sum() / mass.sum()) + top
    return center_x - x, center_y - y


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_boxes_stay_on_their_pixels(marked: tuple[Frame, FrameTruth], draw: Draw) -> None:
    frame, truth = marked
    variant = replace(TINY, input_size=(256, 704))
    example = make_example(frame, truth, draw, variant)
    boxes = example.targets[0]
    points = np.concatenate([boxes[:, :3], np.ones((len(boxes), 1))], axis=1)
    offsets = []
    for camera in range(6):
        u, v, depth, _ = example.image_from_model[camera] @ points.T
        for x, y, z in zip(u / depth, v / depth, depth, strict=True):
            if 0.9 < z < 36 and 12 < x < 704 - 12 and 12 < y < 256 - 12:
                found = marker_at(example, camera, x, y)
                if found is not None:
                    offsets.append(found)
                else:  # only where the marker lay at the full image's border
                    assert not (40 < x < 664 and y > 40 and draw.zoom >= 1), (camera, x, y)
    assert len(offsets) > 15
    # squares of neighbours may run into one another; a flip as published is half a pixel off to either side
    assert np.abs(np.median(offsets, axis=0)).max() < 1.1
    assert np.quantile(np.abs(offsets), 0.7) < 1.5


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_outlines_are_where_their_centers_are(marked: tuple[Frame, FrameTruth], draw: Draw) -> None:
    """Projecting the augmented 3D boxes gives the augmented 2D centres and depths, with their boxes' shapes."""
    frame, truth = marked
    example = make_example(frame, truth, draw, replace(TINY, input_size=(256, 704)), all_views=False)
    boxes = example.targets[0].astype(np.float64)
    points = np.concatenate([boxes[:, :3], np.ones((len(boxes), 1))], axis=1)
    seen = 0
    for camera in range(6):
        u, v, depth, _ = example.image_from_model[camera].astype(np.float64) @ points.T
        projected = np.stack([u / depth, v / depth, depth], axis=1)
        centers, depths = example.targets[4][camera], example.targets[5][camera]
        for center, far, shape in zip(centers, depths, example.targets[6][camera], strict=True):
            if 0 < center[0] < 704 and 0 < center[1] < 256 and far < 45:
                distances = np.abs(projected - [*center, far]).max(axis=1)
                assert distances.min() < 0.05
                np.testing.assert_array_equal(shape, example.targets[0][distances.argmin(), 3:9])
                seen += 1
        outlines = example.targets[2][camera]
        assert (outlines[:, 2:] - outlines[:, :2] >= 2 - 1e-4).all()
        assert (outlines >= 0).all()
        assert (outlines <= [704, 256, 704, 256]).all()
        assert (np.diff(depths) <= 0).all()  # far to near
    assert seen > 15


def test_poses_and_times_agree_with_the_boxes(marked: tuple[Frame, FrameTruth]) -> None:
    """The world sees the same box at the same place whatever was drawn."""
    frame, truth = marked
    plain = make_example(frame, truth, Draw(), TINY)
    drawn = make_example(frame, truth, DRAWS["everything"], TINY)

    def in_world(example: Example) -> NDArray:
        return example.targets[0][:, :3] @ example.world_from_model[:3, :3].T + example.world_from_model[:3, 3]

    np.testing.assert_allclose(in_world(plain), in_world(drawn), atol=2e-3)
    for example in (plain, drawn):
        product = example.model_from_world.astype(np.float64) @ example.world_from_model
        np.testing.assert_allclose(product, np.eye(4), atol=5e-4)


def test_draws_fill_the_published_limits() -> None:
    draws = [Augmentation().draw((1, k)) for k in range(2000)]
    zoom = np.array([d.zoom for d in draws]) * 0.44
    assert 0.38 <= zoom.min() < 0.383
    assert 0.547 < zoom.max() <= 0.55
    rotation = np.array([d.rotation for d in draws])
    assert -0.3925 <= rotation.min() < -0.385
    assert 0.385 < rotation.max() <= 0.3925
    scale = np.array([d.scale for d in draws])
    assert 0.95 <= scale.min() < 0.952
    assert 1.048 < scale.max() <= 1.05
    assert 0.45 < np.mean([d.flip for d in draws]) < 0.55
    assert len({d.column for d in draws}) == 2000
    assert (ZOOM_800[0] * 0.5, ZOOM_800[1] * 0.5) == (0.47, 0.625)
    assert Augmentation().draw((1, 2)) == Augmentation().draw((1, 2)) != Augmentation().draw((2, 2))


def test_wrong_limits_are_named() -> None:
    with pytest.raises(AugmentationError, match=r"zoom limits 2\.0 and 1\.0"):
        Augmentation(zoom=(2.0, 1.0))
    with pytest.raises(AugmentationError, match=r"flip 1\.5"):
        Augmentation(flip=1.5)
