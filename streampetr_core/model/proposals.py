"""Queries that begin where an image shows something, beside the learned ones that begin anywhere.

A map of stride 8 says for every image cell whether the projected centre of an object lies in it, of which class,
where in the cell, how deep, how large and how turned. The best cells of all cameras become queries: their
reference point is the cell's point in space, their content the cell's feature with size and yaw. Heat maps are
CenterNet's (Zhou et al. 2019, arXiv:1904.07850); that 2D evidence placed in space makes good queries of a
StreamPETR is Far3D's finding (Jiang et al. 2023, arXiv:2308.09616).

Legend: `B` batch, `N` cameras, `H W` height and width of the map, `T` = N H W cells (camera-major, then row, then
column), `K` proposals, `C` channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from streampetr_core.model.memory import transform_points
from streampetr_core.model.position_embedding import FrameGeometry

STRIDE = 8
"""Pixels of the network's image a cell: half of the tokens'."""
_USUAL_DEPTH = math.log(20.0 / 330.0)
"""Log of depth over focal length where the network says 0: 20 m in images of a focal length of 330 pixels."""
_DEPTHS = (math.log(0.1), math.log(1000.0))
"""Untrained networks say anything; infinity would not come back from the range's border."""
_CENTER_HEIGHT = -1.0
"""Metres, model frame (a lidar on the roof): about where objects' centres are. The depth at which a cell's ray
gets there is a first guess, which the network is told."""
_FARTHEST = 80.0
_RAY_FEATURES = 5


@dataclass(frozen=True)
class ProposalMaps:
    """What every cell says.

    Attributes:
        heat: (B, T, classes) logits: the projected centre of an object of the class lies here.
        shift: (B, T, 2) from the cell's centre to the projected centre, cells, x and y.
        log_depth: (B, T) logarithm of the depth, in metres, divided by the camera's focal length in pixels.
        log_size: (B, T, 3) logarithms of length, width, height.
        heading: (B, T, 2) sine and cosine of the yaw as seen along the cell's ray: yaw minus the ray's azimuth.
        size: H and W.
    """

    heat: Tensor
    shift: Tensor
    log_depth: Tensor
    log_size: Tensor
    heading: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Proposals:
    """The chosen cells, best first.

    Attributes:
        reference: (B, K, 3) fractions of pc_range, clipped to it; without gradient.
        content: (B, K, C).
        maps: of all cells.
    """

    reference: Tensor
    content: Tensor
    maps: ProposalMaps


class ProposalHead(nn.Module):
    """The map of stride 8, what its cells say, and the content of the queries that begin there.

    Args:
        fine_dims, coarse_dims: channels of the backbone's map of stride 8 and of the tokens' map of stride 16.
        dims: of the queries.
        num_classes: of the 3D head.
        count: K.
    """

    def __init__(self, fine_dims: int, coarse_dims: int, dims: int, num_classes: int, count: int) -> None:
        super().__init__()
        self.count = count
        inner = dims // 2
        self.fine = nn.Conv2d(fine_dims, inner, 1)
        self.coarse = nn.Conv2d(coarse_dims, inner, 1)
        self.mix = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1), nn.GroupNorm(8, inner), nn.ReLU())
        self.ray = nn.Sequential(nn.Linear(_RAY_FEATURES, inner), nn.ReLU())
        self.shared = nn.Sequential(nn.Linear(2 * inner, dims), nn.LayerNorm(dims), nn.ReLU())
        self.heat = nn.Linear(dims, num_classes)
        nn.init.constant_(self.heat.bias, -math.log(99.0))
        self.place = nn.Sequential(nn.Linear(dims, dims), nn.ReLU(), nn.Linear(dims, 8))
        self.content = nn.Linear(dims + 5, dims)

    def forward(self, fine: Tensor, coarse: Tensor, geometry: FrameGeometry, pc_range: Tensor) -> Proposals:
        """Maps (B, N, C1, H, W) and (B, N, C2, H / 2, W / 2) -> proposals."""
        size = (fine.shape[-2], fine.shape[-1])
        model_from_image = invert(geometry.image_from_model)
        above = functional.interpolate(self.coarse(coarse.flatten(0, 1)), size=size, mode="nearest")
        mixed = self.mix(functional.relu(self.fine(fine.flatten(0, 1)) + above))
        cells = mixed.flatten(2).transpose(1, 2).reshape(fine.shape[0], -1, mixed.shape[1])
        rays = self.ray(ray_features(model_from_image, geometry.intrinsics, size))
        shared = self.shared(torch.cat((cells, rays), dim=-1))
        place = self.place(shared)
        maps = ProposalMaps(
            self.heat(shared),
            place[..., :2],
            place[..., 2] + _USUAL_DEPTH,
            place[..., 3:6],
            place[..., 6:],
            size,
        )
        with torch.no_grad():
            index = best_cells(maps, geometry.present, self.count)
            low, high = pc_range[:3], pc_range[3:]
            points = place_cells(maps, index, model_from_image, geometry.intrinsics)
            reference = ((points - low) / (high - low)).clamp(0.0, 1.0)
            shape = shape_cells(maps, index, ray_azimuths(model_from_image, size))
        chosen = shared.gather(1, index[..., None].expand(-1, -1, shared.shape[-1]))
        return Proposals(reference, self.content(torch.cat((chosen, shape), dim=-1)), maps)


def ray_directions(model_from_image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, N, 3, H, W) where the rays of the cells' centres go, model frame: metres for a metre of depth."""
    height, width = size
    u = (torch.arange(width, device=model_from_image.device, dtype=torch.float32) + 0.5) * STRIDE
    v = (torch.arange(height, device=model_from_image.device, dtype=torch.float32) + 0.5) * STRIDE
    columns = model_from_image[..., :3, :, None, None]
    return columns[:, :, :, 0] * u + columns[:, :, :, 1] * v[:, None] + columns[:, :, :, 2]


def ray_features(model_from_image: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, T, 5) what a ray says of depth: its slope, the camera's height and focal length, and where it comes down
    to the height of objects' centres, as depth's logarithm and inverse."""
    slope = ray_directions(model_from_image, size)[:, :, 2]  # metres up for a metre of depth
    camera_height = model_from_image[..., 2, 3, None, None].expand_as(slope)
    drop = (_CENTER_HEIGHT - camera_height).clamp(max=-0.1)
    inverse = (slope / drop).clamp(1.0 / _FARTHEST, 1.0)
    focal = focal_lengths(intrinsics).log()[..., None, None].expand_as(slope)
    features = (4.0 * slope, camera_height, focal + _USUAL_DEPTH, -inverse.log() - focal, 4.0 * inverse)
    return torch.stack(features, dim=-1).flatten(1, 3)


def ray_azimuths(model_from_image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, T) radians, model frame: where the rays of the cells' centres go, seen from above."""
    way = ray_directions(model_from_image, size)
    return torch.atan2(way[:, :, 1], way[:, :, 0]).flatten(1)


def shape_cells(maps: ProposalMaps, index: Tensor, azimuths: Tensor) -> Tensor:
    """(B, K, 5) log length, width, height, sine and cosine of the yaw in the model frame, of the cells `index`."""
    sizes = maps.log_size.gather(1, index[..., None].expand(-1, -1, 3))
    sine, cosine = maps.heading.gather(1, index[..., None].expand(-1, -1, 2)).unbind(-1)
    yaw = torch.atan2(sine, cosine) + azimuths.gather(1, index)
    return torch.cat((sizes, yaw.sin()[..., None], yaw.cos()[..., None]), dim=-1)


def best_cells(maps: ProposalMaps, present: Tensor | None, count: int) -> Tensor:
    """(B, K) cells by falling score; those that are no maximum of their 3x3 cells, and absent cameras', last."""
    batch, cells = maps.log_depth.shape
    score = maps.heat.sigmoid().amax(dim=-1)
    images = score.view(-1, 1, *maps.size)
    peak = images == functional.max_pool2d(images, 3, 1, 1)
    score = score - (~peak).view(batch, cells).to(score)
    if present is not None:
        score = score - 2.0 * (~present).to(score).repeat_interleave(maps.size[0] * maps.size[1], dim=1)
    return score.topk(count, dim=1).indices


def place_cells(maps: ProposalMaps, index: Tensor, model_from_image: Tensor, intrinsics: Tensor) -> Tensor:
    """(B, K, 3) metres, model frame: where the maps put the objects of the cells `index` (B, K)."""
    height, width = maps.size
    camera = torch.div(index, height * width, rounding_mode="floor")
    row = torch.div(index % (height * width), width, rounding_mode="floor")
    shift = maps.shift.gather(1, index[..., None].expand(-1, -1, 2))
    pixel = (torch.stack((index % width, row), dim=-1) + 0.5 + shift) * STRIDE
    log_depth = maps.log_depth.gather(1, index) + focal_lengths(intrinsics).log().gather(1, camera)
    depth = log_depth.clamp(*_DEPTHS).exp()
    chosen = model_from_image.gather(1, camera[..., None, None].expand(-1, -1, 4, 4))
    image = torch.cat((pixel * depth[..., None], depth[..., None]), dim=-1)
    return transform_points(chosen.flatten(0, 1), image.flatten(0, 1)[:, None]).view(*index.shape, 3)


def focal_lengths(intrinsics: Tensor) -> Tensor:
    """(B, N, 3, 3) or (B, N, 4, 4) -> (B, N) pixels; mirrored images have a negative one in x."""
    return (intrinsics[..., 0, 0].abs() + intrinsics[..., 1, 1].abs()) / 2.0


def invert(image_from_model: Tensor) -> Tensor:
    """(B, N, 4, 4) inverses, without waiting for the device to look for singular matrices."""
    return torch.linalg.inv_ex(image_from_model).inverse
