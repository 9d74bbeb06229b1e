"""Which part of which solid every pixel sees, for many convex parts in many views at once.

Along the ray of pixel (u, v), a point at depth z = 1/w is `K^-1 (u, v, 1) / w`, so every half space of a part
becomes `w >= e(u, v)` or `w <= e(u, v)` with `e` affine in the pixel: a part is hit where the smallest upper
bound reaches the largest lower one. Image tiles of 8x8 pixels that a part's projected rectangle touches are
listed for all parts of all views, and a few matrix products answer all of them: no loop over objects, the same
code on a CPU and a GPU. The z-buffer is one integer maximum a pixel, so results do not depend on the order.

Legend: `V` views, `P` parts, `K` (view, part) pairs that may be seen, `T` tiles of such pairs, `H W` image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 8
NEAR = 0.15
MAX_DEPTH = 1000.0
SKY, GROUND, FIRST_PART = 0, 1, 2
ROUND_FACE = 6
_BIG = 1e9


@dataclass
class Views:
    """V pinhole cameras of one image size.

    Attributes:
        camera_from_world: (V, 4, 4) float64.
        intrinsics: (V, 3, 3) float64.
    """

    camera_from_world: Tensor
    intrinsics: Tensor
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.intrinsics)

    @property
    def tiles_x(self) -> int:
        """Tiles a row."""
        return -(-self.width // TILE)

    @property
    def tiles_y(self) -> int:
        """Rows of tiles."""
        return -(-self.height // TILE)


@dataclass
class Parts:
    """P convex parts and where each view finds them; see `solids.Solid` for the tables.

    Attributes:
        rotation, center: (V, P, 3, 3), (V, P, 3) world_from_part at each view's own instant, float64.
        half, planes, quadric: (P, 3), (P, 6, 4), (P, 4, 4) float64.
    """

    rotation: Tensor
    center: Tensor
    half: Tensor
    planes: Tensor
    quadric: Tensor


@dataclass
class Hits:
    """What the pixels see.

    Attributes:
        surface: (V, H, W) int64: SKY, GROUND, or FIRST_PART + row of the pair tables below.
        face: (V, H, W) int64: which of the part's planes, or ROUND_FACE.
        inverse_depth: (V, H, W) float32, 0 in the sky.
        view, part: (K,) of each pair.
        camera_from_part: (K, 3, 4) float64.
    """

    surface: Tensor
    face: Tensor
    inverse_depth: Tensor
    view: Tensor
    part: Tensor
    camera_from_part: Tensor

    def part_of_pixel(self) -> Tensor:
        """(V, H, W) index of the part, -1 for ground and sky."""
        if not len(self.part):
            return torch.full_like(self.surface, -1)
        row = (self.surface - FIRST_PART).clamp(min=0)
        return torch.where(self.surface >= FIRST_PART, self.part[row], -1)


def cast(parts: Parts, views: Views) -> Hits:
    """Intersect the rays of all pixels with all parts and the ground plane z = 0."""
    device = views.intrinsics.device
    inverse_intrinsics = torch.linalg.inv(views.intrinsics)
    view, part, camera_from_part, rectangle = _candidates(parts, views)
    upper, lower = _plane_bounds(parts.planes[part], camera_from_part, inverse_intrinsics[view])
    linear, square, inside, is_round = _quadric_bounds(
        parts.quadric[part], camera_from_part, inverse_intrinsics[view]
    )
    buffer = _ground_keys(views, inverse_intrinsics).flatten()
    lanes = torch.arange(TILE * TILE, device=device)
    offset_u, offset_v = (lanes % TILE).double(), torch.div(lanes, TILE, rounding_mode="floor").double()
    plane_basis = torch.stack([offset_u, offset_v, torch.ones_like(offset_u)]).float()
    square_basis = torch.stack(
        [offset_u**2, offset_u * offset_v, offset_v**2, offset_u, offset_v, torch.ones_like(offset_u)]
    ).float()
    bounds = torch.cat([upper, lower], dim=1)
    for round_parts in (False, True):
        rows = torch.nonzero(is_round == round_parts)[:, 0]
        for pair, u0, v0, tile in tile_chunks(rows, rectangle[rows], view[rows], views):
            coefficients = shift_affine(bounds[pair], u0[:, None], v0[:, None]).float()
            reach = (coefficients.reshape(-1, 3) @ plane_basis).view(len(pair), 12, TILE * TILE)
            entry, face = reach[:, :6].min(dim=1)
            leave = reach[:, 6:].amax(dim=1)
            if round_parts:
                middle = shift_affine(linear[pair], u0, v0).float() @ plane_basis
                root = _shift_square(square[pair], u0, v0).float() @ square_basis
                missed = root < 0
                root = root.clamp(min=0).sqrt()
                within = inside[pair][:, None]
                far, near = middle - root, middle + root
                leave = torch.maximum(leave, torch.where(within, near, far))
                near = torch.where(within, torch.full_like(near, _BIG), near)
                face = torch.where(near < entry, ROUND_FACE, face)
                entry = torch.minimum(near, entry).masked_fill(missed, -1.0)
            hit = (entry >= leave) & (entry > 1 / MAX_DEPTH) & (entry < 1 / NEAR)
            lane = torch.nonzero(hit.flatten())[:, 0]
            row = torch.div(lane, TILE * TILE, rounding_mode="floor")
            code = (pair[row] + FIRST_PART) * 8 + face.flatten()[lane]
            key = _pack(entry.flatten()[lane], code)
            buffer.scatter_reduce_(0, tile[row] * TILE * TILE + lane % (TILE * TILE), key, "amax")
    keys = untile(buffer, views)
    code = keys & 0xFFFFFFFF
    return Hits(
        torch.div(code, 8, rounding_mode="floor"),
        code % 8,
        (keys >> 32).to(torch.int32).view(torch.float32),
        view,
        part,
        camera_from_part,
    )


def _pack(inverse_depth: Tensor, code: Tensor) -> Tensor:
    # Positive float32 sort like their bit patterns: nearer surfaces win an integer maximum.
    return (inverse_depth.float().contiguous().view(torch.int32).long() << 32) | code


def _candidates(parts: Parts, views: Views) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs that may be seen: view (K,), part (K,), camera_from_part (K, 3, 4), rectangle (K, 4) in tiles."""
    rotation, translation = views.camera_from_world[:, :3, :3], views.camera_from_world[:, :3, 3]
    center = torch.einsum("vij,vpj->vpi", rotation, parts.center) + translation[:, None]
    radius = parts.half.norm(dim=-1)[None]
    # A sphere around the part against the four sides of the view cone, conservatively by its widest angle.
    spread_u = (views.width / views.intrinsics[:, 0, 0])[:, None]
    spread_v = (views.height / views.intrinsics[:, 1, 1])[:, None]
    depth = center[..., 2].clamp(min=0) + radius
    seen = (center[..., 2] > NEAR - radius) & (center[..., 2] < MAX_DEPTH)
    seen &= center[..., 0].abs() < depth * spread_u + 2 * radius
    seen &= center[..., 1].abs() < depth * spread_v + 2 * radius
    view, part = torch.nonzero(seen, as_tuple=True)
    turn = rotation[view] @ parts.rotation[view, part]
    camera_from_part = torch.cat([turn, center[view, part][..., None]], dim=-1)
    signs = torch.tensor(
        [[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)],
        dtype=torch.float64,
        device=turn.device,
    )
    corners = (signs[None] * parts.half[part][:, None]) @ turn.transpose(1, 2) + camera_from_part[:, None, :, 3]
    rectangle, visible = rectangles(corners, view, views)
    return view[visible], part[visible], camera_from_part[visible], rectangle[visible]


def rectangles(corners: Tensor, view: Tensor, views: Views) -> tuple[Tensor, Tensor]:
    """Tile rectangles (K, 4: first and last column, first and last row) around boxes cut at the near plane.

    `corners` (K, 8, 3) in camera frames, indexed by bits (x, y, z). Also (K,) False where nothing is in the image.
    """
    edges = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]
    a, b = corners[:, [i for i, _ in edges]], corners[:, [j for _, j in edges]]
    crossing = (a[..., 2] > NEAR) != (b[..., 2] > NEAR)
    span = torch.where(crossing, b[..., 2] - a[..., 2], torch.ones_like(a[..., 2]))
    cut = a + (b - a) * ((NEAR - a[..., 2]) / span)[..., None]
    points = torch.cat([corners, cut], dim=1)
    valid = torch.cat([corners[..., 2] > NEAR, crossing], dim=1)
    matrix = views.intrinsics[view]
    depth = points[..., 2].clamp(min=NEAR)
    u = points[..., 0] / depth * matrix[:, 0, 0, None] + matrix[:, 0, 2, None]
    v = points[..., 1] / depth * matrix[:, 1, 1, None] + matrix[:, 1, 2, None]
    far = torch.full_like(u, 1e7)
    low = torch.stack([torch.where(valid, u, far).amin(1), torch.where(valid, v, far).amin(1)], dim=1)
    high = torch.stack([torch.where(valid, u, -far).amax(1), torch.where(valid, v, -far).amax(1)], dim=1)
    last = torch.tensor([views.width - 1.0, views.height - 1.0], dtype=u.dtype, device=u.device)
    visible = valid.any(1) & (high >= 0).all(1) & (low <= last).all(1)
    first_pixel = low.ceil().clamp(min=0).minimum(last)
    last_pixel = high.floor().clamp(min=0).minimum(last)
    # A part between two pixel centres covers none of them.
    visible &= (last_pixel >= first_pixel).all(1)
    tiles = torch.stack([first_pixel[:, 0], last_pixel[:, 0], first_pixel[:, 1], last_pixel[:, 1]], dim=1)
    return torch.div(tiles.long(), TILE, rounding_mode="floor"), visible


def tile_chunks(
    rows: Tensor, rectangle: Tensor, view: Tensor, views: Views
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield (row (T,), first pixel column (T,), first pixel row (T,), tile index (T,)) of all rectangles' tiles.

    Chunks fit a CPU's cache; on a GPU they are large.
    """
    columns = rectangle[:, 1] - rectangle[:, 0] + 1
    count = columns * (rectangle[:, 3] - rectangle[:, 2] + 1)
    index = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), count)
    within = torch.arange(len(index), device=rows.device) - (count.cumsum(0) - count)[index]
    x = rectangle[index, 0] + within % columns[index]
    y = rectangle[index, 2] + torch.div(within, columns[index], rounding_mode="floor")
    tile = (view[index] * views.tiles_y + y) * views.tiles_x + x
    size = 1 << (10 if rows.device.type == "cpu" else 17)
    for start in range(0, len(index), size):
        part = slice(start, start + size)
        yield rows[index[part]], (x[part] * TILE).double(), (y[part] * TILE).double(), tile[part]


def shift_affine(coefficients: Tensor, u0: Tensor, v0: Tensor) -> Tensor:
    """Coefficients (..., 3) of a function affine in (u, v), for pixels counted from (u0, v0)."""
    constant = coefficients[..., 0] * u0 + coefficients[..., 1] * v0 + coefficients[..., 2]
    return torch.cat([coefficients[..., :2], constant[..., None]], dim=-1)


def _shift_square(c: Tensor, u0: Tensor, v0: Tensor) -> Tensor:
    # c holds the factors of u^2, uv, v^2, u, v, 1.
    uu, uv, vv, u, v, one = c.unbind(-1)
    return torch.stack(
        [
            uu,
            uv,
            vv,
            u + 2 * uu * u0 + uv * v0,
            v + 2 * vv * v0 + uv * u0,
            one + u * u0 + v * v0 + uu * u0**2 + uv * u0 * v0 + vv * v0**2,
        ],
        dim=-1,
    )


def _plane_bounds(planes: Tensor, camera_from_part: Tensor, inverse_intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower bounds of w, (K, 6, 3) each, affine in the pixel; bounds that say nothing never bind."""
    normal = planes[..., :3] @ camera_from_part[:, :, :3].transpose(1, 2)
    distance = planes[..., 3] + (normal @ camera_from_part[:, :, 3:])[..., 0]
    faces_camera = distance < 0
    distance = torch.where(distance.abs() < 1e-6, torch.where(faces_camera, -1e-6, 1e-6).to(distance), distance)
    bound = normal @ inverse_intrinsics / distance[..., None]
    nothing = torch.zeros_like(bound)
    nothing[..., 2] = _BIG
    return torch.where(faces_camera[..., None], bound, nothing), torch.where(
        faces_camera[..., None], -nothing, bound
    )


def _quadric_bounds(
    quadric: Tensor, camera_from_part: Tensor, inverse_intrinsics: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Roots of the quadric along the rays: middle (K, 3) affine, squared half width (K, 6) quadratic in the pixel.

    Also (K,) whether the camera is inside the unbounded quadric, and (K,) whether the part has one at all.
    """
    is_round = quadric.abs().sum((1, 2)) > 0
    rotation, translation = camera_from_part[:, :, :3], camera_from_part[:, :, 3]
    origin = -(rotation.transpose(1, 2) @ translation[..., None])[..., 0]
    origin = torch.cat([origin, torch.ones_like(origin[:, :1])], dim=1)
    ray = rotation.transpose(1, 2) @ inverse_intrinsics
    ray = torch.cat([ray, torch.zeros_like(ray[:, :1])], dim=1)
    a = torch.einsum("ki,kij,kj->k", origin, quadric, origin)
    inside = (a < 0) & is_round
    a = torch.where(a.abs() < 1e-9, torch.full_like(a, 1e-9), a)
    b = torch.einsum("ki,kij,kjm->km", origin, quadric, ray) / a[:, None]
    c = ray.transpose(1, 2) @ quadric @ ray / a[:, None, None]
    form = b[:, :, None] * b[:, None, :] - c
    square = torch.stack(
        [
            form[:, 0, 0],
            2 * form[:, 0, 1],
            form[:, 1, 1],
            2 * form[:, 0, 2],
            2 * form[:, 1, 2],
            form[:, 2, 2],
        ],
        dim=1,
    )
    return -b, square, inside, is_round


def ground_rows(views: Views, inverse_intrinsics: Tensor) -> Tensor:
    """(V, 3): w of the ground plane, affine in the pixel; negative above the horizon."""
    world_from_camera = views.camera_from_world[:, :3, :3].transpose(1, 2)
    height = -(world_from_camera @ views.camera_from_world[:, :3, 3:])[:, 2, 0]
    return -(world_from_camera[:, 2:3] @ inverse_intrinsics)[:, 0] / height[:, None]


def _ground_keys(views: Views, inverse_intrinsics: Tensor) -> Tensor:
    """(V, tiles_y * TILE * tiles_x * TILE) z-buffer with ground and sky, in tile order."""
    device = views.intrinsics.device
    u = torch.arange(views.tiles_x * TILE, device=device, dtype=torch.float64)
    v = torch.arange(views.tiles_y * TILE, device=device, dtype=torch.float64)
    row = ground_rows(views, inverse_intrinsics)
    w = row[:, 0, None, None] * u + (row[:, 1, None] * v + row[:, 2, None])[..., None]
    w = w.view(len(views), views.tiles_y, TILE, views.tiles_x, TILE).transpose(2, 3).reshape(len(views), -1)
    w = w.float().contiguous()
    return torch.where(w > 1 / MAX_DEPTH, _pack(w.clamp(min=0), torch.tensor(GROUND * 8, device=device)), 0)


def untile(buffer: Tensor, views: Views) -> Tensor:
    """(V, H, W) image of a flat buffer in tile order."""
    image = buffer.view(len(views), views.tiles_y, views.tiles_x, TILE, TILE).transpose(2, 3)
    image = image.reshape(len(views), views.tiles_y * TILE, views.tiles_x * TILE)
    return image[:, : views.height, : views.width].contiguous()
