"""One frame with its truth and a draw -> what the network and the losses take; and many of them -> a batch.

Legend: `N` cameras, `H W` the network's image, `G` boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streampetr_core.boxes import NUSCENES_CLASSES
from streampetr_core.frame import Frame
from streampetr_core.frame_geometry import camera_from_model, ego_motion, project
from streampetr_core.model import FrameGeometry
from streampetr_core.model.variants import Variant
from streampetr_core.preprocessing import check_image, normalize, undistort
from training.augmentation import Draw
from training.batch import Batch, Targets
from training.boxes_2d import View
from training.occlusion import drop_hidden


@dataclass(frozen=True)
class FrameTruth:
    """What there is around one frame, before augmentation.

    Attributes:
        boxes: (M, 9) float x, y, z of the geometric centre (metres, model frame), length, width, height, yaw, vx,
            vy; no NaN.
        labels: (M,) int64 into NUSCENES_CLASSES.
        valid: (M,) bool, False for what no sensor has seen.
        views: what each camera sees of them, hidden ones too.
    """

    boxes: NDArray
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]
    views: tuple[View, ...]


@dataclass(frozen=True)
class Origin:
    """A place and an instant near a scene: poses and times are told from there, so that float32 is fine enough.

    Attributes:
        position: (3,) metres in the map.
        stamp_ns: integer nanoseconds.
    """

    position: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    stamp_ns: int = 0


@dataclass(frozen=True)
class Example:
    """One augmented frame as plain arrays.

    Attributes:
        images: (N, H, W, 3) float32, normalised; absent cameras 0.
        present: (N,) bool.
        image_from_model: (N, 4, 4) float32.
        intrinsics: (N, 3, 3) float32.
        model_from_world, world_from_model: (4, 4) float32; the world is the map moved to the scene's origin.
        timestamp: seconds since the origin's instant.
        continues: False where the memory must be forgotten.
        targets: as in `Targets`, of numpy arrays: boxes, labels, and per camera boxes, labels, centres, depths,
            shapes.
        token: of the frame.
    """

    images: Tensor
    present: NDArray[np.bool_]
    image_from_model: NDArray[np.float32]
    intrinsics: NDArray[np.float32]
    model_from_world: NDArray[np.float32]
    world_from_model: NDArray[np.float32]
    timestamp: float
    continues: bool
    targets: tuple[NDArray, NDArray, list[NDArray], list[NDArray], list[NDArray], list[NDArray], list[NDArray]]
    token: str


def make_example(
    frame: Frame,
    truth: FrameTruth,
    draw: Draw,
    variant: Variant,
    *,
    origin: Origin | None = None,
    continues: bool = False,
    all_views: bool = True,
) -> Example:
    """The frame as drawn.

    3D boxes: valid ones, of the variant's classes, whose centre lies within its range seen from above before they
    are turned and scaled. Outlines: of every box of the classes, as published, or of valid ones only where
    `all_views` is False; those that nearer ones cover are dropped.

    Raises:
        ImageError: when an image does not fit its camera; FrameError on poses that are not finite.
    """
    size, origin = variant.input_size, origin or Origin()
    labels = _labels_of(variant)[truth.labels]
    images = torch.zeros(len(frame.rig), *size, 3)
    intrinsics = np.empty((len(frame.rig), 3, 3))
    views: list[View] = []
    for i, (camera, image) in enumerate(zip(frame.rig.cameras, frame.images, strict=True)):
        plan = draw.plan(camera.width, camera.height, size)
        intrinsics[i] = draw.network_from_image(plan) @ camera.intrinsics
        view = truth.views[i]
        if image is None:
            views.append(view[:0])
            continue
        check_image(image, camera)
        pixels = draw.image(undistort(image, camera), plan)
        images[i] = normalize(pixels, variant.channel_order).permute(1, 2, 0)
        wanted = labels[view.rows] >= 0
        if not all_views:
            wanted &= truth.valid[view.rows]
        views.append(drop_hidden(draw.view(view[wanted], plan), size))
    image_from_model = project(intrinsics, camera_from_model(frame.rig, ego_motion(frame, frame.present)))
    map_from_model = frame.map_from_ego @ frame.rig.ego_from_model
    map_from_model[:3, 3] -= origin.position
    rotation = map_from_model[:3, :3].T
    model_from_map = np.eye(4)
    model_from_map[:3] = np.column_stack([rotation, -rotation @ map_from_model[:3, 3]])
    undrawn = draw.model_from_augmented()
    keep = truth.valid & (labels >= 0) & _in_range(truth.boxes, variant.pc_range)
    boxes = draw.boxes(truth.boxes).astype(np.float32)
    targets = (
        boxes[keep],
        labels[keep],
        [view.boxes for view in views],
        [labels[view.rows] for view in views],
        [view.centers for view in views],
        [view.depths for view in views],
        [boxes[view.rows, 3:9] for view in views],
    )
    return Example(
        images=images,
        present=frame.present,
        image_from_model=(image_from_model @ undrawn).astype(np.float32),
        intrinsics=intrinsics.astype(np.float32),
        model_from_world=(draw.augmented_from_model() @ model_from_map).astype(np.float32),
        world_from_model=(map_from_model @ undrawn).astype(np.float32),
        timestamp=(frame.stamp_ns - origin.stamp_ns) * 1e-9,
        continues=continues,
        targets=targets,
        token=frame.sample_token,
    )


def _labels_of(variant: Variant) -> NDArray[np.int64]:
    """(10,) the variant's class of each nuScenes class, -1 where it has none."""
    names = variant.class_names
    return np.array([names.index(name) if name in names else -1 for name in NUSCENES_CLASSES], dtype=np.int64)


def _in_range(boxes: NDArray, pc_range: Sequence[float]) -> NDArray[np.bool_]:
    x, y = boxes[:, 0], boxes[:, 1]
    return (x > pc_range[0]) & (y > pc_range[1]) & (x < pc_range[3]) & (y < pc_range[4])


def collate(examples: Sequence[Example], slots: int, pin_memory: bool = False) -> tuple[Batch, ...]:
    """One batch for each frame of a training step, from its examples frame after frame and slot after slot.

    Images are channels last in memory; `pin_memory` puts them into page-locked memory.

    Raises:
        ValueError: when the examples differ in the number of cameras.
    """
    counts = {len(example.images) for example in examples}
    if len(counts) > 1:
        raise ValueError(f"frames of {' and '.join(map(str, sorted(counts)))} cameras cannot share a batch")
    starts = range(0, len(examples), slots)
    return tuple(_batch(examples[i : i + slots], pin_memory) for i in starts)


def _batch(examples: Sequence[Example], pin_memory: bool) -> Batch:
    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(example, name) for example in examples]))

    images = torch.empty((len(examples), *examples[0].images.shape), pin_memory=pin_memory)
    torch.stack([example.images for example in examples], out=images)
    present = stacked("present")
    geometry = FrameGeometry(
        image_from_model=stacked("image_from_model"),
        intrinsics=stacked("intrinsics"),
        model_from_world=stacked("model_from_world"),
        world_from_model=stacked("world_from_model"),
        timestamp=torch.tensor([example.timestamp for example in examples], dtype=torch.float64),
        present=None if bool(present.all()) else present,
        continues=torch.tensor([float(example.continues) for example in examples]),
    )
    return Batch(
        images.permute(0, 1, 4, 2, 3),
        geometry,
        tuple(_targets(example) for example in examples),
        tuple(example.token for example in examples),
    )


def _targets(example: Example) -> Targets:
    boxes, labels, *views = example.targets
    per_camera = (tuple(torch.from_numpy(array) for array in arrays) for arrays in views)
    return Targets(torch.from_numpy(boxes), torch.from_numpy(labels), *per_camera)
