"""Where an image cell looks in 3D: points along its ray, and what the network makes of them.

Depends on the calibration alone, so a detector computes it once and keeps it while the calibration stays.
Legend: `B` batch, `N` cameras, `H W` feature height and width, `T` = N H W tokens (camera-major, then row, then
column), `D` depths, `C` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streampetr_core.model.layers import inverse_sigmoid


@dataclass(frozen=True)
class FrameGeometry:
    """What a frame's images and memory mean in space and time.

    The memory is kept in some fixed "world" frame: the map, a shifted map, or the model frame of the previous
    frame; the two transforms say how to go in and out of it. They are inverse to each other where the world does
    not change from frame to frame.

    Attributes:
        image_from_model: (B, N, 4, 4) pixel (u d, v d, d, 1) of the network's image from a model-frame point.
        intrinsics: (B, N, 3, 3) or (B, N, 4, 4) of the network's images.
        model_from_world: (B, 4, 4) takes the memory into this frame's model frame.
        world_from_model: (B, 4, 4) takes the new memory out of it.
        timestamp: (B,) float64 seconds added to the memory's (negative) times to get ages; also subtracted
            again unless `timestamp_after` is given.
        timestamp_after: (B,) float64 seconds subtracted at the end; None = `timestamp`.
        present: (B, N) bool, False where a camera gave no image; None = all present.
        continues: (B,) 1.0 where the memory belongs to the same drive, 0.0 where it must be forgotten; None = 1.
    """

    image_from_model: Tensor
    intrinsics: Tensor
    model_from_world: Tensor
    world_from_model: Tensor
    timestamp: Tensor
    timestamp_after: Tensor | None = None
    present: Tensor | None = None
    continues: Tensor | None = None


@dataclass(frozen=True)
class PositionEncoding:
    """The calibration's share of the tokens.

    Attributes:
        position: (B, T, C) position embedding before the feature gate.
        gamma, beta: (B, T, C) spatial alignment of the token content.
    """

    position: Tensor
    gamma: Tensor
    beta: Tensor


def depth_bins(depth_start: float, depth_end: float, count: int) -> Tensor:
    """(D,) metres, linearly increasing steps: depth_start + b i (i + 1)."""
    index = torch.arange(count, dtype=torch.float32)
    step = (depth_end - depth_start) / (count * (1 + count))
    return depth_start + step * index * (index + 1)


def ray_points(
    image_from_model: Tensor, depths: Tensor, position_range: Tensor, height: int, width: int, stride: int
) -> Tensor:
    """(B, T, D, 3) points along the rays of all cells, as fractions of `position_range`, not clipped.

    A cell's ray goes through the pixel (stride w + stride / 2, stride h + stride / 2).
    """
    batch, cameras = image_from_model.shape[:2]
    u = torch.arange(width, device=depths.device, dtype=torch.float32) * stride + stride / 2
    v = torch.arange(height, device=depths.device, dtype=torch.float32) * stride + stride / 2
    v, u = torch.meshgrid(v, u, indexing="ij")
    d = depths.expand(height * width, -1)
    floored = d.clamp(min=1e-5)
    u, v = u.reshape(-1, 1), v.reshape(-1, 1)
    pixels = torch.stack((u * floored, v * floored, d, torch.ones_like(d)), dim=-1)
    # inv_ex does not wait for the device to look for singular matrices
    model_from_image = torch.linalg.inv_ex(image_from_model).inverse[..., :3, :]
    points = pixels.reshape(-1, 4) @ model_from_image.transpose(-1, -2)
    low, high = position_range[:3], position_range[3:]
    return ((points - low) / (high - low)).reshape(batch, cameras * height * width, -1, 3)


def ray_cone(points: Tensor, intrinsics: Tensor) -> Tensor:
    """(B, T, 8): focal lengths / 1000, the last of the points (B, T, D, 3) and the one 30 before it.

    The published networks give token k the focal lengths of camera k mod N instead of its own camera's; the
    weights have learned with that, so it stays.
    """
    batch, tokens = points.shape[:2]
    focal = torch.stack((intrinsics[..., 0, 0], intrinsics[..., 1, 1]), dim=-1).abs() / 1000.0
    cameras = focal.shape[1]
    focal = focal.repeat(1, tokens // cameras, 1)
    middle = points.shape[2] - 30
    return torch.cat((focal, points[:, :, -1], points[:, :, middle].reshape(batch, tokens, 3)), dim=-1)


def ray_features(points: Tensor) -> Tensor:
    """(B, T, D, 3) fractions -> (B, T, 3 D) logits, depth-major."""
    return inverse_sigmoid(points.flatten(2))
