"""Shadows that boxes throw on the street, by the sun or by covering the sky above it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bag_tools.rendered.raycaster import TILE, Views, ground_rows, rectangles, shift_affine, tile_chunks, untile


def ground_shadows(
    center: Tensor, axes: Tensor, towards: Tensor, softness: Tensor, strength: Tensor, views: Views
) -> Tensor:
    """Shadow cover (V, H, W) in [0, 1] that boxes throw on the plane z = 0.

    Args:
        center: (V, S, 3) world centres of S boxes at each view's instant.
        axes: (V, S, 3, 3) half axes as columns, metres.
        towards: (S, 3) direction to the light, z > 0.
        softness: (S,) width of the edge, metres.
        strength: (S,) darkness inside.
    The shadow of a box is a zonogon: three pairs of parallel edges, each affine in the pixel.
    """
    device = center.device
    slope = towards[:, :2] / towards[:, 2:]
    middle = center[..., :2] - center[..., 2:] * slope
    flat_axes = axes[..., :2, :] - axes[..., 2:3, :] * slope[:, :, None]
    edge = functional.normalize(torch.stack([-flat_axes[..., 1, :], flat_axes[..., 0, :]], dim=-2), dim=-2)
    reach = (edge.transpose(-1, -2) @ flat_axes).abs().sum(-1)
    signs = torch.tensor(
        [[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)],
        dtype=torch.float64,
        device=device,
    )
    corners = middle[..., None, :] + (flat_axes @ signs.T).transpose(-1, -2)
    corners = corners + functional.normalize(corners - middle[..., None, :], dim=-1) * softness[:, None, None]
    corners = functional.pad(corners, (0, 1))
    rotation, translation = views.camera_from_world[:, :3, :3], views.camera_from_world[:, :3, 3]
    corners = corners @ rotation[:, None].transpose(-1, -2) + translation[:, None, None]
    view, box = torch.nonzero((corners[..., 2] > 0.1).any(-1) & (corners[..., 2].amin(-1) < 70), as_tuple=True)
    rectangle, visible = rectangles(corners[view, box], view, views)
    view, box, rectangle = view[visible], box[visible], rectangle[visible]
    inverse_intrinsics = torch.linalg.inv(views.intrinsics)
    world_from_camera = rotation.transpose(1, 2)
    eye = -(world_from_camera @ translation[..., None])[..., 0]
    rays = (world_from_camera @ inverse_intrinsics)[view, :2]
    row = ground_rows(views, inverse_intrinsics)[view]
    normal = torch.cat([edge[view, box].transpose(1, 2), -edge[view, box].transpose(1, 2)], dim=1)
    # Metres inside an edge times w: n.(eye + ray/w - middle) + reach.
    constant = (normal @ (eye[view, :2] - middle[view, box])[..., None])[..., 0] + reach[view, box].repeat(1, 2)
    inside = torch.cat([normal @ rays + constant[..., None] * row[:, None], row[:, None]], dim=1)
    cover = torch.zeros(len(views) * views.tiles_x * views.tiles_y * TILE * TILE, device=device)
    lanes = torch.arange(TILE * TILE, device=device)
    basis = torch.stack(
        [lanes % TILE, torch.div(lanes, TILE, rounding_mode="floor"), torch.ones_like(lanes)]
    ).float()
    for pair, u0, v0, tile in tile_chunks(torch.arange(len(view), device=device), rectangle, view, views):
        rows = shift_affine(inside[pair], u0[:, None], v0[:, None]).float()
        value = (rows.reshape(-1, 3) @ basis).view(len(pair), 7, TILE * TILE)
        w = value[:, 6].clamp(min=1e-5)
        soft = softness[box[pair]].float()[:, None]
        dark = (value[:, :6].amin(1) / w / soft + 0.5).clamp(0, 1) * strength[box[pair]].float()[:, None]
        dark = dark * (value[:, 6] > 1e-3)
        lane = torch.nonzero(dark.flatten() > 0)[:, 0]
        target = tile[torch.div(lane, TILE * TILE, rounding_mode="floor")] * TILE * TILE + lane % (TILE * TILE)
        cover.scatter_reduce_(0, target, dark.flatten()[lane], "amax")
    return untile(cover, views)
