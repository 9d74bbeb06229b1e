"""Queries that begin where an image shows something, beside the learned ones that begin anywhere.

A small map says for every image cell whether the projected centre of an object lies in it, of which class, where
in the cell, and how deep. The best cells of all cameras become queries: their reference point is the cell's point
in space, their content the cell's feature. Heat maps are CenterNet's (Zhou et al. 2019, arXiv:1904.07850); that 2D
evidence placed in space makes good queries of a StreamPETR is Far3D's finding (Jiang et al. 2023,
arXiv:2308.09616).

Legend: `B` batch, `N` cameras, `H W` feature height and width, `T` = N H W tokens (camera-major, then row, then
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

_USUAL_DEPTH = math.log(20.0 / 330.0)
"""Log of depth over focal length where the network says 0: 20 m in images of a focal length of 330 pixels."""
_DEPTHS = (math.log(0.1), math.log(1000.0))
"""Untrained networks say anything; infinity would not come back from the range's border."""


@dataclass(frozen=True)
class ProposalMaps:
    """What every cell says.

    Attributes:
        heat: (B, T, classes) logits: the projected centre of an object of the class lies here.
        shift: (B, T, 2) from the cell's centre to the projected centre, cells, x and y.
        log_depth: (B, T) logarithm of the depth, in metres, divided by the camera's focal length in pixels.
    """

    heat: Tensor
    shift: Tensor
    log_depth: Tensor


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
    """Token by token: what and where, and the content of the query that begins there."""

    def __init__(self, dims: int, num_classes: int, count: int, stride: int) -> None:
        super().__init__()
        self.count, self.stride = count, stride
        self.shared = nn.Sequential(nn.Linear(2 * dims, dims), nn.LayerNorm(dims), nn.ReLU())
        self.heat = nn.Linear(dims, num_classes)
        nn.init.constant_(self.heat.bias, -math.log(99.0))
        self.place = nn.Sequential(nn.Linear(dims, dims), nn.ReLU(), nn.Linear(dims, 3))
        self.content = nn.Linear(dims, dims)

    def forward(
        self,
        tokens: Tensor,
        token_position: Tensor,
        geometry: FrameGeometry,
        size: tuple[int, int],
        pc_range: Tensor,
    ) -> Proposals:
        """Tokens and their position embedding (B, T, C) of maps of `size` height, width -> proposals."""
        shared = self.shared(torch.cat((tokens, token_position), dim=-1))
        place = self.place(shared)
        maps = ProposalMaps(self.heat(shared), place[..., :2], place[..., 2] + _USUAL_DEPTH)
        with torch.no_grad():
            index = best_cells(maps.heat, geometry.present, size, self.count)
            low, high = pc_range[:3], pc_range[3:]
            points = place_cells(maps, index, geometry, size, self.stride)
            reference = ((points - low) / (high - low)).clamp(0.0, 1.0)
        chosen = shared.gather(1, index[..., None].expand(-1, -1, shared.shape[-1]))
        return Proposals(reference, self.content(chosen), maps)


def best_cells(heat: Tensor, present: Tensor | None, size: tuple[int, int], count: int) -> Tensor:
    """(B, K) tokens by falling score; those that are no maximum of their 3x3 cells, and absent cameras', last."""
    batch, tokens = heat.shape[:2]
    score = heat.sigmoid().amax(dim=-1)
    images = score.view(-1, 1, *size)
    peak = images == functional.max_pool2d(images, 3, 1, 1)
    score = score - (~peak).view(batch, tokens).to(score)
    if present is not None:
        score = score - 2.0 * (~present).to(score).repeat_interleave(size[0] * size[1], dim=1)
    return score.topk(count, dim=1).indices


def place_cells(
    maps: ProposalMaps, index: Tensor, geometry: FrameGeometry, size: tuple[int, int], stride: int
) -> Tensor:
    """(B, K, 3) metres, model frame: where the maps put the objects of the cells `index` (B, K)."""
    cells = size[0] * size[1]
    camera = torch.div(index, cells, rounding_mode="floor")
    row = torch.div(index % cells, size[1], rounding_mode="floor")
    column = index % size[1]
    shift = maps.shift.gather(1, index[..., None].expand(-1, -1, 2))
    pixel = (torch.stack((column, row), dim=-1) + 0.5 + shift) * stride
    log_depth = maps.log_depth.gather(1, index) + focal_lengths(geometry.intrinsics).log().gather(1, camera)
    depth = log_depth.clamp(*_DEPTHS).exp()
    # inv_ex does not wait for the device to look for singular matrices
    model_from_image = torch.linalg.inv_ex(geometry.image_from_model).inverse
    model_from_image = model_from_image.gather(1, camera[..., None, None].expand(-1, -1, 4, 4))
    image = torch.cat((pixel * depth[..., None], depth[..., None]), dim=-1)
    return transform_points(model_from_image.flatten(0, 1), image.flatten(0, 1)[:, None]).view(*index.shape, 3)


def focal_lengths(intrinsics: Tensor) -> Tensor:
    """(B, N, 3, 3) or (B, N, 4, 4) -> (B, N) pixels; mirrored images have a negative one in x."""
    return (intrinsics[..., 0, 0].abs() + intrinsics[..., 1, 1].abs()) / 2.0
