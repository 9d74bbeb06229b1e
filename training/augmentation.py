"""Random views of a frame: images zoomed, cut and mirrored; the world around the robot turned and scaled.

Every number that belongs to a frame follows: intrinsics, projections, poses, boxes, and their outlines in the
images. The published rules, drawn anew for every frame and the same for all its cameras.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import wrap_angle
from streampetr_core.preprocessing import ImagePlan, image_plan, resize_and_crop
from training.boxes_2d import View

Array = NDArray[np.float64]

ZOOM_704 = (0.38 / 0.44, 0.55 / 0.44)
"""Published resize limits for 704x256, relative to the scale of the evaluation."""
ZOOM_800 = (0.94, 1.25)
"""Likewise for 800x320."""
SMALLEST_SIDE = 2.0
"""Pixels of the network's image; thinner outlines are dropped."""


class AugmentationError(StreamPETRError):
    """Limits that leave nothing to draw from."""


@dataclass(frozen=True)
class Draw:
    """What was drawn for one frame; the default leaves it as the evaluation sees it.

    Attributes:
        zoom: of the image, relative to the evaluation's scale.
        column: share of the spare width that is cut off at the left.
        flip: mirrored left to right.
        rotation: radians; the world is turned about the model frame's z by minus this.
        scale: of the world.
    """

    zoom: float = 1.0
    column: float = 0.5
    flip: bool = False
    rotation: float = 0.0
    scale: float = 1.0

    def plan(self, width: int, height: int, size: tuple[int, int]) -> ImagePlan:
        """How images of `width` x `height` become the network's of `size` = (height, width): the bottom is kept.

        Where the zoomed image is too small the network's is black.
        """
        plain = image_plan(width, height, size)
        scale = plain.scale * self.zoom
        # truncated as in the evaluation's plan, which this is for the default draw
        resized = (int(width * scale + 1e-6), int(height * scale + 1e-6))
        left = int(self.column * max(0, resized[0] - size[1]))
        return ImagePlan(scale, resized, left, resized[1] - size[0], size)

    def image(self, image: NDArray[np.uint8], plan: ImagePlan) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) -> uint8 (h, w, 3); not zoomed, the evaluation's pixels."""
        pixels = resize_and_crop(image, plan) if self.zoom == 1 else _resampled_window(image, plan)
        return np.ascontiguousarray(pixels[:, ::-1]) if self.flip else pixels

    def network_from_image(self, plan: ImagePlan) -> Array:
        """(3, 3) float64 pixel transform. Mirrored, a pixel x becomes w - x, as published."""
        matrix = plan.network_from_image().astype(np.float64)
        if self.flip:
            matrix[0, :2] *= -1
            matrix[0, 2] = plan.size[1] - matrix[0, 2]
        return matrix

    def view(self, view: View, plan: ImagePlan) -> View:
        """Outlines and centres in the network's image, cut at its border, without those that become too thin."""
        height, width = plan.size
        shift = np.array([plan.left, plan.top], dtype=np.float32)
        most = np.array([width, height], dtype=np.float32)
        boxes = np.clip(view.boxes * np.float32(plan.scale) - np.tile(shift, 2), 0, np.tile(most, 2))
        centers = np.clip(view.centers * np.float32(plan.scale) - shift, 0, most)
        keep = ((boxes[:, 2:] - boxes[:, :2]) >= SMALLEST_SIDE).all(axis=1)
        if self.flip:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            centers[:, 0] = width - centers[:, 0]
        return View(view.rows, boxes, centers, view.depths)[keep]

    def augmented_from_model(self) -> Array:
        """(4, 4) float64, a rotation times a scale: not rigid."""
        cosine, sine = self.scale * np.cos(self.rotation), self.scale * np.sin(self.rotation)
        matrix = np.eye(4)
        matrix[:2, :2] = [[cosine, sine], [-sine, cosine]]
        matrix[2, 2] = self.scale
        return matrix

    def model_from_augmented(self) -> Array:
        """(4, 4) float64, the inverse of `augmented_from_model`."""
        cosine, sine = np.cos(self.rotation) / self.scale, np.sin(self.rotation) / self.scale
        matrix = np.eye(4)
        matrix[:2, :2] = [[cosine, -sine], [sine, cosine]]
        matrix[2, 2] = 1 / self.scale
        return matrix

    def boxes(self, boxes: Array) -> Array:
        """Boxes (G, 9) x, y, z, length, width, height, yaw, vx, vy after the turn and the scale."""
        matrix = self.augmented_from_model()
        result = np.array(boxes, dtype=np.float64)
        result[:, :3] = result[:, :3] @ matrix[:3, :3].T
        result[:, 3:6] *= self.scale
        result[:, 6] = wrap_angle(result[:, 6] - self.rotation)
        result[:, 7:] = result[:, 7:] @ matrix[:2, :2].T
        return result


def _resampled_window(image: NDArray[np.uint8], plan: ImagePlan) -> NDArray[np.uint8]:
    """What `resize_and_crop` gives, from the part of the image that is needed: a third faster for sizes without a
    common divisor, and here and there (2 pixels of 10,000) a grey level off."""
    height, width = plan.size
    left, top = max(0, plan.left), max(0, plan.top)
    right, bottom = min(plan.resized[0], plan.left + width), min(plan.resized[1], plan.top + height)
    across, down = image.shape[1] / plan.resized[0], image.shape[0] / plan.resized[1]
    box = (left * across, top * down, right * across, bottom * down)
    part = Image.fromarray(image).resize((right - left, bottom - top), Image.Resampling.BICUBIC, box=box)
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[top - plan.top : bottom - plan.top, left - plan.left : right - plan.left] = np.asarray(part)
    return pixels


@dataclass(frozen=True)
class Augmentation:
    """Limits of what is drawn; the defaults are the published ones for 704x256.

    Attributes:
        zoom: smallest and largest, relative to the evaluation's scale.
        shift: whether the image is cut off at a random column, else in the middle.
        flip: probability.
        rotation: largest turn either way, radians.
        scale: smallest and largest.
        grid_mask: probability that squares of a batch's images are blanked (done by the training step).

    Raises:
        AugmentationError: naming the limit that cannot be.
    """

    zoom: tuple[float, float] = ZOOM_704
    shift: bool = True
    flip: float = 0.5
    rotation: float = 0.3925
    scale: tuple[float, float] = (0.95, 1.05)
    grid_mask: float = 0.7

    def __post_init__(self) -> None:
        for name in ("zoom", "scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise AugmentationError(f"{name} limits {low} and {high}; needs 0 < first <= second")
        for name in ("flip", "grid_mask"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise AugmentationError(f"{name} {value} is no probability; choose 0 to 1")
        if not 0 <= self.rotation <= np.pi:
            raise AugmentationError(f"rotation {self.rotation}; choose 0 to pi radians")

    def draw(self, seed: tuple[int, ...]) -> Draw:
        """The draw of a seed; the same on every machine."""
        rng = np.random.default_rng(seed)
        zoom, column, flip, rotation, scale = rng.random(5).tolist()
        return Draw(
            zoom=self.zoom[0] + zoom * (self.zoom[1] - self.zoom[0]),
            column=column if self.shift else 0.5,
            flip=flip < self.flip,
            rotation=(2 * rotation - 1) * self.rotation,
            scale=self.scale[0] + scale * (self.scale[1] - self.scale[0]),
        )


NO_AUGMENTATION = Augmentation((1.0, 1.0), False, 0.0, 0.0, (1.0, 1.0), 0.0)
"""Frames as the evaluation sees them."""
