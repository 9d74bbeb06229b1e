"""Queries that begin where an image shows something, beside the learned ones that begin anywhere.

A map of stride 8 says for every image cell whether the projected centre of an object lies in it, of which class,
where in the cell, how deep, how large, how turned and how fast. The best cells of all cameras become queries:
their reference point is the cell's point in space, their content its feature with classes, size, yaw and velocity.
Heat maps are CenterNet's (Zhou et al. 2019, arXiv:1904.07850); that 2D evidence placed in space makes good queries
of a StreamPETR is Far3D's finding (Jiang et al. 2023, arXiv:2308.09616).

Legend: `B` batch, `N` cameras, `H W` height and width of the map, `T` = N H W cells (camera-major, then row, then
column), `K` proposals, `C` channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from streampetr_core.model.box_state import facing_way, turned
from streampetr_core.model.memory import transform_points
from streampetr_core.model.position_embedding import FrameGeometry

STRIDE = 8
"""Pixels of the network's image a cell: half of the tokens'."""
_USUAL_HALF_HEIGHT = math.log(8.0)
"""Log of the pixels from an object's centre to the ground below it where the network says 0."""
_GROUND = -1.84
"""Metres, model frame: the ground below a lidar on the roof (nuScenes). Where it lies elsewhere, or is not flat,
the network's own correction of the depth has more to learn."""
_FARTHEST = 80.0
_DEPTHS = (math.log(0.1), math.log(1000.0))
"""Untrained networks say anything; infinity would not come back from the range's border."""
_RAY_FEATURES = 5
_NUMBERS = 13
"""A cell's outputs beside the heat: shift 2, half height, size 3, axis 2, heading 2, trust and correction of the
depth, speed."""
_USUAL_SPEED = 4.0
"""Metres per second where the network says 1."""


@dataclass(frozen=True)
class ProposalMaps:
    """What every cell says.

    Attributes:
        heat: (B, T, classes) logits: the projected centre of an object of the class lies here.
        shift: (B, T, 2) from the cell's centre to the projected centre, cells, x and y.
        log_half: (B, T) logarithm of half the object's height over its depth: the slope between the rays to its
            centre and to the ground below it.
        log_depth: (B, T) logarithm of the depth, in metres, divided by the camera's focal length in pixels.
        log_size: (B, T, 3) logarithms of length, width, height.
        axis: (B, T, 2) sine and cosine of twice the yaw as seen along the cell's ray (yaw minus the ray's
            azimuth): the same for both ways that an object can face along its axis.
        heading: (B, T, 2) sine and cosine of that yaw itself, short where front and back are hard to tell.
        speed: (B, T) metres per second, the way that the object faces.
        size: H and W.
    """

    heat: Tensor
    shift: Tensor
    log_half: Tensor
    log_depth: Tensor
    log_size: Tensor
    axis: Tensor
    heading: Tensor
    speed: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Proposals:
    """The chosen cells, best first.

    Attributes:
        reference: (B, K, 3) fractions of pc_range, clipped to it; without gradient.
        content: (B, K, C).
        logits: (B, K, classes) heat of the cells.
        shape: (B, K, 7) log length, width, height, sine and cosine of the yaw, vx and vy in the model frame;
            without gradient.
        axis, heading: (B, K, 2) sine and cosine of twice the yaw and of the yaw, short where they are not known;
            model frame, without gradient.
        speed: (B, K, 1) metres per second, without gradient.
        maps: of all cells.
    """

    reference: Tensor
    content: Tensor
    logits: Tensor
    shape: Tensor
    axis: Tensor
    heading: Tensor
    speed: Tensor
    maps: ProposalMaps


class ProposalTrunk(nn.Module):
    """The map of stride 8 and what its cells say before geometry: the part that may compute in half precision."""

    def __init__(self, fine_dims: int, coarse_dims: int, dims: int, num_classes: int) -> None:
        super().__init__()
        inner = dims // 2
        self.fine = nn.Conv2d(fine_dims, inner, 1)
        self.coarse = nn.Conv2d(coarse_dims, inner, 1)
        self.mix = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1), nn.GroupNorm(8, inner), nn.ReLU())
        self.shared = nn.Sequential(nn.Conv2d(inner, dims, 3, padding=1), nn.ReLU())
        self.heat = nn.Conv2d(dims, num_classes, 1)
        assert self.heat.bias is not None
        nn.init.constant_(self.heat.bias, -math.log(99.0))
        self.ray = nn.Conv2d(_RAY_FEATURES, dims, 1, bias=False)
        self.hidden = nn.Conv2d(dims, dims, 1)
        self.place = nn.Conv2d(dims, _NUMBERS, 1)

    def forward(self, fine: Tensor, coarse: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (I, C1, H, W), (I, C2, H / 2, W / 2), (I, 5, H, W) -> features (I, C, H, W), heat, place."""
        above = functional.interpolate(self.coarse(coarse), size=fine.shape[-2:], mode="nearest")
        shared = self.shared(self.mix(functional.relu(self.fine(fine) + above)))
        return shared, self.heat(shared), self.place(functional.relu(self.hidden(shared) + self.ray(rays)))


class ProposalHead(nn.Module):
    """The map of stride 8, what its cells say, and the content of the queries that begin there.

    Depth comes from how far below an object's centre the ground is seen. Where the ground is flat that gives it
    outright; the object's own height gives it again; the network weighs the two and corrects the result.

    Args:
        fine_dims, coarse_dims: channels of the backbone's map of stride 8 and of the tokens' map of stride 16.
        dims: of the queries.
        num_classes: of the 3D head.
        count: K.
    """

    def __init__(self, fine_dims: int, coarse_dims: int, dims: int, num_classes: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.trunk = ProposalTrunk(fine_dims, coarse_dims, dims, num_classes)
        self.content = nn.Linear(dims + num_classes + 7, dims)

    def forward(self, fine: Tensor, coarse: Tensor, geometry: FrameGeometry, pc_range: Tensor) -> Proposals:
        """Maps (B, N, C1, H, W) and (B, N, C2, H / 2, W / 2) -> proposals."""
        size = (fine.shape[-2], fine.shape[-1])
        batch, cells = fine.shape[0], size[0] * size[1]
        model_from_image = invert(geometry.image_from_model)
        rays = ray_features(model_from_image, geometry.intrinsics, size)
        shared, heat, place = self.trunk(fine.flatten(0, 1), coarse.flatten(0, 1), rays.flatten(0, 1))
        maps = read_maps(
            _by_cell(heat, batch), _by_cell(place, batch), model_from_image, geometry.intrinsics, size
        )
        with torch.no_grad():
            index = best_cells(maps, geometry.present, self.count)
            low, high = pc_range[:3], pc_range[3:]
            points = place_cells(maps, index, model_from_image, geometry.intrinsics)
            reference = ((points - low) / (high - low)).clamp(0.0, 1.0)
            shape, axis, heading, speed = shape_cells(maps, index, ray_azimuths(model_from_image, size))
        logits = maps.heat.gather(1, index[..., None].expand(-1, -1, maps.heat.shape[-1]))
        image = torch.div(index, cells, rounding_mode="floor")
        image = image + torch.arange(batch, device=index.device)[:, None] * fine.shape[1]
        chosen = shared.flatten(2)[image, :, index % cells]
        content = self.content(torch.cat((chosen, logits.detach(), shape), dim=-1))
        return Proposals(reference, content, logits, shape, axis, heading, speed, maps)


def read_maps(
    heat: Tensor, place: Tensor, model_from_image: Tensor, intrinsics: Tensor, size: tuple[int, int]
) -> ProposalMaps:
    """The network's numbers (B, T, classes) and (B, T, 13) as quantities."""
    cells = size[0] * size[1]
    log_focal = focal_lengths(intrinsics).log().repeat_interleave(cells, dim=1)
    upward = model_from_image[..., 2, :].repeat_interleave(cells, dim=1)
    slope = ray_directions(model_from_image, size)[:, :, 2].reshape(upward.shape[:2])
    slope = slope + STRIDE * (place[..., :2] * upward[..., :2]).sum(-1)  # of the ray to the object's centre
    above_ground = (upward[..., 3] - _GROUND).clamp(min=0.1)
    log_half = place[..., 2] + _USUAL_HALF_HEIGHT - log_focal
    # the ray to the ground below the object falls that much steeper than the ray to its centre
    half = log_half.clamp(max=3.0).exp()
    by_ground = -((half - slope) / above_ground).clamp(min=1.0 / _FARTHEST).log()
    by_height = place[..., 5] - math.log(2.0) - log_half
    trust = (place[..., 10] - 2.0).sigmoid()
    log_depth = by_ground + trust * (by_height - by_ground) + place[..., 11]
    return ProposalMaps(
        heat,
        place[..., :2],
        log_half,
        log_depth - log_focal,
        place[..., 3:6],
        place[..., 6:8],
        place[..., 8:10],
        place[..., 12] * _USUAL_SPEED,
        size,
    )


def ray_directions(model_from_image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, N, 3, H, W) where the rays of the cells' centres go, model frame: metres for a metre of depth."""
    height, width = size
    u = (torch.arange(width, device=model_from_image.device, dtype=torch.float32) + 0.5) * STRIDE
    v = (torch.arange(height, device=model_from_image.device, dtype=torch.float32) + 0.5) * STRIDE
    columns = model_from_image[..., :3, :, None, None]
    return columns[:, :, :, 0] * u + columns[:, :, :, 1] * v[:, None] + columns[:, :, :, 2]


def ray_features(model_from_image: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, N, 5, H, W) what a ray says of depth: its slope, the camera's height and focal length, and where it
    comes down to half a car's height above the ground, as depth's logarithm and inverse."""
    slope = ray_directions(model_from_image, size)[:, :, 2]  # metres up for a metre of depth
    camera_height = model_from_image[..., 2, 3, None, None].expand_as(slope)
    drop = (_GROUND + 0.84 - camera_height).clamp(max=-0.1)
    inverse = (slope / drop).clamp(1.0 / _FARTHEST, 1.0)
    focal = focal_lengths(intrinsics).log()[..., None, None].expand_as(slope)
    usual = math.log(20.0 / 330.0)  # depth over focal length
    features = (4.0 * slope, camera_height, focal + usual, -inverse.log() - focal - usual, 4.0 * inverse)
    return torch.stack(features, dim=2)


def ray_azimuths(model_from_image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, T) radians, model frame: where the rays of the cells' centres go, seen from above."""
    way = ray_directions(model_from_image, size)
    return torch.atan2(way[:, :, 1], way[:, :, 0]).flatten(1)


def shape_cells(maps: ProposalMaps, index: Tensor, azimuths: Tensor) -> tuple[Tensor, ...]:
    """`shape`, `axis`, `heading` and `speed` of cells, see `Proposals`; the velocity is the mean of what the two
    ways to face would make of the speed."""
    sizes = maps.log_size.gather(1, index[..., None].expand(-1, -1, 3))
    axis, heading = (x.gather(1, index[..., None].expand(-1, -1, 2)) for x in (maps.axis, maps.heading))
    azimuth = azimuths.gather(1, index)
    ray = torch.stack((azimuth.sin(), azimuth.cos()), dim=-1)
    axis, heading = turned(axis, turned(ray, ray)), turned(heading, ray)
    yaw, certainty = facing_way(axis, heading)
    way = torch.stack((yaw.sin(), yaw.cos()), dim=-1)
    speed = maps.speed.gather(1, index)[..., None]
    velocity = speed * certainty[..., None] * way.flip(-1)
    return torch.cat((sizes, way, velocity), dim=-1), axis, heading, speed


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


def _by_cell(maps: Tensor, batch: int) -> Tensor:
    """(B N, C, H, W) -> (B, N H W, C)."""
    return maps.unflatten(0, (batch, -1)).permute(0, 1, 3, 4, 2).flatten(1, 3)
