"""From what the pixels see to what they look like: materials, sun and sky, shadows on the ground, fog, film.

Works on the pixels that need it only: the parts' pixels, the ground's and the sky's are gathered, shaded as flat
lists and put back. Colours are linear light until `develop`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bag_tools.rendered.raycaster import FIRST_PART, GROUND, ROUND_FACE, SKY, Hits, Parts, Views
from bag_tools.rendered.solids import Material
from bag_tools.rendered.weather import Weather

# Per Material: mirror (how much sky it reflects at grazing angles), gloss (sun highlight), noise contrast, glow.
_CONSTANTS = {
    Material.PAINT: (0.55, 0.9, 0.04, 0.0),
    Material.GLASS: (1.0, 1.0, 0.03, 0.0),
    Material.RUBBER: (0.05, 0.0, 0.10, 0.0),
    Material.METAL: (0.25, 0.3, 0.10, 0.0),
    Material.LAMP: (0.30, 0.5, 0.02, 0.75),
    Material.CLOTH: (0.0, 0.0, 0.16, 0.0),
    Material.LEAVES: (0.0, 0.0, 0.75, 0.0),
    Material.FACADE: (0.0, 0.0, 0.22, 0.0),
    Material.CONCRETE: (0.0, 0.0, 0.22, 0.0),
    Material.STRIPES: (0.10, 0.1, 0.08, 0.0),
}


@dataclass
class Ground:
    """The street painted flat: a mip chain of RGBA texels in one array.

    Attributes:
        texels: (M,) int32: red, green, blue as sRGB bytes and the shadow of the fixed scenery as the fourth.
        levels: (L, 3) int64: offset into `texels`, columns, rows of each level.
        origin: (x, y) of the world at texel (0, 0)'s corner, metres.
        resolution: metres a texel of level 0.
    """

    texels: Tensor
    levels: Tensor
    origin: tuple[float, float]
    resolution: float


@dataclass
class Surfaces:
    """(P,) rows beside `raycaster.Parts`: linear reflectance (P, 3), `solids.Material` (P,) and a seed (P,)."""

    color: Tensor
    material: Tensor
    seed: Tensor


def shade(
    hits: Hits,
    parts: Parts,
    surfaces: Surfaces,
    views: Views,
    ground: Ground,
    weather: Weather,
    noise: Tensor,
    shadow: Tensor,
) -> Tensor:
    """Linear radiance (V, H, W, 3).

    `noise` (S, S, 2): fine and coarse periodic noise in [-1, 1]; `shadow` (V, H, W): cover of the ground.
    """
    device = hits.surface.device
    flat = hits.surface.flatten()
    image = torch.zeros((flat.numel(), 3), device=device)
    world_from_camera = views.camera_from_world[:, :3, :3].transpose(1, 2)
    eye = -(world_from_camera @ views.camera_from_world[:, :3, 3:])[..., 0]
    ray_matrix = (world_from_camera @ torch.linalg.inv(views.intrinsics)).float()
    pixels = views.width * views.height

    def directions(index: Tensor, view: Tensor) -> Tensor:
        within = index % pixels
        v = torch.div(within, views.width, rounding_mode="floor").float()
        u = (within % views.width).float()
        matrix = ray_matrix[view]
        return matrix[..., 0] * u[:, None] + matrix[..., 1] * v[:, None] + matrix[..., 2]

    tables = _PairTables.of(hits, parts, surfaces, views)
    inverse_depth, face, cover = hits.inverse_depth.flatten(), hits.face.flatten(), shadow.flatten()
    eye_xy, focal = eye.float()[:, :2], views.intrinsics[0, 0, 0].float()
    haze = torch.tensor(weather.horizon_color, device=device) * 0.95
    for kind in ("sky", "ground", "parts"):
        chosen = {"sky": flat == SKY, "ground": flat == GROUND, "parts": flat >= FIRST_PART}[kind]
        # What a CPU's cache holds; all at once on a GPU.
        for index in torch.nonzero(chosen)[:, 0].split(1 << (16 if device.type == "cpu" else 26)):
            view = torch.div(index, pixels, rounding_mode="floor")
            direction = directions(index, view)
            unit = functional.normalize(direction, dim=1)
            if kind == "sky":
                image[index] = sky(unit, weather, noise)
                continue
            depth = 1.0 / inverse_depth[index]
            offset = direction * depth[:, None]
            if kind == "ground":
                where = offset[:, :2] + eye_xy[view]
                color = _ground_color(where, depth / focal, depth, ground, weather, noise, cover[index])
            else:
                color = _part_color(flat[index] - FIRST_PART, face[index], offset, unit, tables, weather, noise)
            if weather.fog > 0:
                clear = torch.exp(-weather.fog * offset.norm(dim=1))[:, None]
                color = color * clear + haze * (1 - clear)
            image[index] = color
    return image.view(*hits.surface.shape, 3)


@dataclass
class _PairTables:
    """What shading needs to know of each (view, part) pair, in float32: K rows, 8 K for the faces' normals."""

    world_from_part: Tensor
    eye_in_part: Tensor
    face_normal: Tensor
    quadric: Tensor
    half: Tensor
    color: Tensor
    material: Tensor
    seed: Tensor

    @classmethod
    def of(cls, hits: Hits, parts: Parts, surfaces: Surfaces, views: Views) -> _PairTables:
        """The tables of all pairs that may be seen; `quadric` holds the diagonal and the z-1 term of each."""
        camera_from_part = hits.camera_from_part[..., :3]
        turn = views.camera_from_world[hits.view][:, :3, :3].transpose(1, 2) @ camera_from_part
        eye = -(camera_from_part.transpose(1, 2) @ hits.camera_from_part[..., 3:])[..., 0]
        normal = functional.pad(parts.planes[hits.part][..., :3] @ turn.transpose(1, 2), (0, 0, 0, 2))
        form = parts.quadric[hits.part]
        terms = torch.cat([torch.diagonal(form, dim1=1, dim2=2)[:, :3], form[:, 2:3, 3]], dim=1)
        return cls(
            turn.float(),
            eye.float(),
            normal.reshape(-1, 3).float(),
            terms.float(),
            parts.half[hits.part].float(),
            surfaces.color[hits.part].float(),
            surfaces.material[hits.part],
            surfaces.seed[hits.part].float(),
        )


def sample_noise(noise: Tensor, x: Tensor, y: Tensor, channel: int) -> Tensor:
    """Noise at (x, y) in texels, wrapped."""
    size = noise.shape[0]
    i, j = x.floor().long() % size, y.floor().long() % size
    return noise.reshape(-1, 2)[i * size + j, channel]


def sky(unit: Tensor, weather: Weather, noise: Tensor | None) -> Tensor:
    """Radiance (n, 3) of the sky in unit directions (n, 3); without noise also below the horizon (reflections)."""
    device = unit.device
    up = unit[:, 2]
    zenith = torch.tensor(weather.sky_color, device=device)
    horizon = torch.tensor(weather.horizon_color, device=device)
    blend = up.clamp(min=0).sqrt()[:, None]
    color = horizon + (zenith - horizon) * blend
    if noise is None:
        street = torch.tensor([0.16, 0.155, 0.15], device=device)
        return torch.where(up[:, None] > -0.02, color, street)
    if weather.clouds > 0:
        scale = 130.0 / (up + 0.12)
        x, y = unit[:, 0] * scale, unit[:, 1] * scale
        puff = 0.65 * sample_noise(noise, x * 0.35, y * 0.35, 1) + 0.35 * sample_noise(noise, x, y, 1)
        cover = ((puff + weather.clouds * 1.4 - 0.9) * 2.2).clamp(0, 1) * (up * 6).clamp(0, 1)
        white = torch.tensor([0.95, 0.95, 0.97], device=device) * (0.9 + 0.12 * puff[:, None])
        color = color + (white - color) * cover[:, None] * 0.85
    glow = (unit @ torch.tensor(weather.sun, device=device)).clamp(min=0)
    sun = torch.tensor(weather.sun_color, device=device)
    return color + sun * (0.18 * glow**24 + 3.0 * glow**900)[:, None] * (1 - 0.6 * weather.clouds)


def _ground_color(
    where: Tensor,
    footprint: Tensor,
    depth: Tensor,
    ground: Ground,
    weather: Weather,
    noise: Tensor,
    shadow: Tensor,
) -> Tensor:
    device = where.device
    # Between the footprint across (z/f) and along the view (z^2/(f h)), h = 1.5 m.
    texel = footprint * (depth / 1.5).clamp(min=1).sqrt() / ground.resolution
    level = texel.clamp(min=1).log2().round().long().clamp(max=len(ground.levels) - 1)
    scale = ground.resolution * torch.exp2(level.float())
    rows = ground.levels[level]
    x = (where[:, 0] - ground.origin[0]) / scale - 0.5
    y = (where[:, 1] - ground.origin[1]) / scale - 0.5
    x0, y0 = x.floor(), y.floor()
    fx, fy = x - x0, y - y0
    color = torch.zeros((len(where), 4), device=device)
    for dx, dy, weight in (
        (0, 0, (1 - fx) * (1 - fy)),
        (1, 0, fx * (1 - fy)),
        (0, 1, (1 - fx) * fy),
        (1, 1, fx * fy),
    ):
        column = (x0.long() + dx).clamp(min=0).minimum(rows[:, 1] - 1)
        line = (y0.long() + dy).clamp(min=0).minimum(rows[:, 2] - 1)
        packed = ground.texels[rows[:, 0] + line * rows[:, 1] + column]
        for channel in range(4):
            color[:, channel] += weight * ((packed >> (8 * channel)) & 255).float()
    albedo = (color[:, :3] / 255) ** 2.2
    # Grain fades where a texel of it is smaller than a pixel.
    fine = sample_noise(noise, where[:, 0] * 40, where[:, 1] * 40, 0) * (1 - footprint * 20).clamp(0, 1)
    middle = sample_noise(noise, where[:, 0] * 9, where[:, 1] * 9, 1) * (1 - footprint * 3).clamp(0, 1)
    wide = sample_noise(noise, where[:, 0] * 1.6, where[:, 1] * 1.6, 1)
    albedo = albedo * (1 + 0.20 * fine + 0.16 * middle + 0.14 * wide)[:, None]
    lit = (1 - torch.maximum(color[:, 3] / 255, shadow)).clamp(0, 1)[:, None]
    sun = torch.tensor(weather.sun_color, device=device) * weather.sun[2]
    ambient = 0.5 * (
        torch.tensor(weather.sky_color, device=device) + torch.tensor(weather.horizon_color, device=device)
    )
    return albedo * (sun * lit + 0.85 * ambient)


def _part_color(
    row: Tensor,
    face: Tensor,
    offset: Tensor,
    unit: Tensor,
    tables: _PairTables,
    weather: Weather,
    noise: Tensor,
) -> Tensor:
    device = row.device
    turn = tables.world_from_part[row]
    half = tables.half[row]
    local = (turn * offset[:, :, None]).sum(1) + tables.eye_in_part[row]
    # Normals of flat faces come from a table in the world frame; round ones from the quadric's gradient.
    normal = tables.face_normal[row * 8 + face]
    curved = torch.nonzero(face == ROUND_FACE)[:, 0]
    if len(curved):
        terms = tables.quadric[row[curved]]
        gradient = terms[:, :3] * local[curved]
        gradient[:, 2] += terms[:, 3]
        normal[curved] = functional.normalize((turn[curved] * gradient[:, None]).sum(2), dim=1)
    material = tables.material[row]
    constants = torch.tensor([_CONSTANTS[m] for m in Material], device=device)
    mirror, gloss, contrast, glow = constants[material].unbind(1)
    color, seed = tables.color[row], tables.seed[row]
    # Coordinates on the surface: the two local axes that the face does not look along.
    along_x, along_z = face < 2, (face == 4) | (face == 5)
    # Round parts are cut into three caps by their steepest axis, so that no texture is drawn out along the view.
    steep = (local / half).abs()
    around = face == ROUND_FACE
    along_x = along_x | (around & (steep[:, 0] > steep[:, 1]) & (steep[:, 0] > steep[:, 2]))
    along_z = along_z | (around & (steep[:, 2] >= steep[:, 1]) & (steep[:, 2] >= steep[:, 0]))
    s = torch.where(along_x, local[:, 1], local[:, 0])
    t = torch.where(along_z, local[:, 1], local[:, 2])
    shift = seed * 97.0
    fine = sample_noise(noise, s * 60 + shift, t * 60 + shift * 0.7, 0)
    coarse = sample_noise(noise, s * 12 + shift, t * 12 + shift * 1.3, 1)
    leafy = material == Material.LEAVES
    # Foliage is lumpy at a hand's breadth; other surfaces have grain and stains.
    lumps = sample_noise(noise, s * 26 + shift, t * 26 + shift * 0.3, 1)
    coarse = torch.where(leafy, 0.4 * coarse + 0.9 * lumps, coarse)
    color = color * (1 + contrast * (0.6 * fine + 0.8 * coarse))[:, None].clamp(min=0.12)
    color = _patterns(color, material, face, s, t, shift, half, noise)
    is_pane = (material == Material.GLASS) | (color[:, 0] < 0)
    color = torch.where((color[:, :1] < 0) & is_pane[:, None], -color, color)
    mirror = torch.where(is_pane, 1.0, mirror)

    sun_vector = torch.tensor(weather.sun, device=device)
    sun = torch.tensor(weather.sun_color, device=device)
    zenith, horizon = (torch.tensor(c, device=device) for c in (weather.sky_color, weather.horizon_color))
    lambert = normal @ sun_vector
    lambert = torch.where(leafy, 0.48 * lambert + 0.18 + 0.25 * coarse, lambert).clamp(min=0)
    up = normal[:, 2:]
    ambient = 0.40 * (zenith + horizon) * (0.72 + 0.28 * up) + 0.05 * (1 - up)
    facing = -(normal * unit).sum(1)
    light = sun * lambert[:, None] + ambient
    shaded = color * light
    bounce = unit + 2 * facing[:, None] * normal
    reflected = sky(bounce, weather, None)
    fresnel = 0.06 + 0.94 * (1 - facing.clamp(0, 1)) ** 5
    fresnel = torch.where(is_pane, 0.10 + 0.90 * fresnel, fresnel) * mirror
    highlight = (bounce @ sun_vector).clamp(min=0) ** 60 * gloss * (lambert > 0)
    shaded = shaded * (1 - fresnel[:, None]) + reflected * fresnel[:, None] + sun * (0.35 * highlight)[:, None]
    return shaded + color * glow[:, None]


def _patterns(
    color: Tensor, material: Tensor, face: Tensor, s: Tensor, t: Tensor, shift: Tensor, half: Tensor, noise: Tensor
) -> Tensor:
    """Stripes, and windows on facades; a negative colour marks a pane of glass to the caller."""
    striped = material == Material.STRIPES
    is_round = face == ROUND_FACE
    band = torch.where(is_round, (t / half[:, 2].clamp(min=0.01) * 2.0 + 0.5), (s + t) * 2.2)
    white = striped & (band - band.floor() < 0.5)
    color = torch.where(white[:, None], torch.full_like(color, 0.80), color)
    facade = (material == Material.FACADE) & (face < 4)
    height = t + half[:, 2]
    pitch_s = 2.2 + 0.25 * (shift % 7)
    column, storey = s / pitch_s, (height - 0.4) / 3.1
    in_s, in_t = column - column.floor(), storey - storey.floor()
    ground_floor = storey < 1
    window = facade & (storey > 0)
    window &= torch.where(ground_floor, (in_s > 0.10) & (in_s < 0.90), (in_s > 0.25) & (in_s < 0.72))
    window &= torch.where(ground_floor, (in_t > 0.15) & (in_t < 0.80), (in_t > 0.22) & (in_t < 0.80))
    window &= height < 2 * half[:, 2] - 0.6
    frame = window & ((in_s - 0.485).abs() < 0.018)
    chance = sample_noise(noise, column.floor() * 37 + shift, storey.floor() * 53 + shift, 0)
    tint = 0.02 + 0.22 * (chance - 0.15).clamp(min=0)
    pane = torch.stack([tint, tint * 1.05, tint * 1.15], dim=1)
    color = torch.where(window[:, None], -pane, color)
    # Rows of brick, faint.
    course = facade & ~window & ((height * 5).frac() < 0.12)
    color = torch.where(course[:, None], color * 0.88, color)
    return torch.where(frame[:, None], torch.full_like(color, 0.55), color)


def develop(
    radiance: Tensor, surface: Tensor, weather: Weather, noise: Tensor, rolls: Tensor, smooth: bool = True
) -> Tensor:
    """uint8 (V, H, W, 3) sRGB images: soft edges, exposure, film curve, vignette and sensor grain.

    `rolls` (V, 2) int64 shifts the grain of each image. Radiance across an edge between two surfaces is averaged
    over 3x3 pixels, which takes the worst of the staircase at a fraction of the cost of more rays.
    """
    views, height, width, _ = radiance.shape
    device = radiance.device
    v = torch.linspace(-1, 1, height, device=device)[:, None]
    u = torch.linspace(-1, 1, width, device=device)
    vignette = 1 - 0.13 * (u**2 + v**2)
    size = noise.shape[0]
    rows, columns = torch.arange(height, device=device) * 5, torch.arange(width, device=device) * 7
    result = torch.empty((views, height, width, 3), dtype=torch.uint8, device=device)
    for i in range(views):
        light = (radiance[i] * (weather.exposure * vignette)[..., None]).clamp(min=0)
        # Narkowicz's fit of the ACES film curve: deep shadows, soft highlights.
        light = (light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)).clamp(0, 1)
        picture = light ** (1 / 2.2)
        if smooth:
            padded = functional.pad(picture.permute(2, 0, 1)[None], (1, 1, 1, 1), mode="replicate")
            blurred = functional.avg_pool2d(padded, 3, stride=1)[0].permute(1, 2, 0)
            edge = torch.zeros((height, width), dtype=torch.bool, device=device)
            for axis in (0, 1):
                differs = surface[i].diff(dim=axis) != 0
                edge.narrow(axis, 0, differs.shape[axis]).logical_or_(differs)
                edge.narrow(axis, 1, differs.shape[axis]).logical_or_(differs)
            picture = torch.where(edge[..., None], 0.5 * (picture + blurred), picture)
        r, c = (rows + rolls[i, 0]) % size, (columns + rolls[i, 1]) % size
        grain = noise[r[:, None], c[None], 0]
        picture = picture * 255 + grain[..., None] * 2.5 + 0.5
        result[i] = picture.clamp(0, 255).to(torch.uint8)
    return result


def periodic_noise(seed: int, device: torch.device, size: int = 512) -> torch.Tensor:
    """(size, size, 2) float32 in [-1, 1]: fine and coarse noise that repeats without a seam."""
    white = np.random.default_rng([seed, 77]).normal(size=(2, size, size)).astype(np.float32)
    layers = []
    for picture, widths in zip(white, ((0.8, 1.6), (5.0, 16.0)), strict=True):
        layer = np.zeros_like(picture)
        for sigma in widths:
            blurred = cv2.GaussianBlur(np.tile(picture, (3, 3)), (0, 0), sigma)[size : 2 * size, size : 2 * size]
            layer += blurred / blurred.std()
        layers.append((layer / layer.std() / 2).clip(-1, 1))
    return torch.from_numpy(np.stack(layers, axis=-1)).to(device)
