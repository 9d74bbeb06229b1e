"""A drive through the rendered world: streets, traffic and cameras at any instant, as frames with ground truth."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bag_tools.nuscenes_writer import make_token
from bag_tools.rendered import raycaster, shading
from bag_tools.rendered.ground import paint_ground
from bag_tools.rendered.rig import EGO_CENTER_X, EGO_SIZE, make_rig, stagger_ns
from bag_tools.rendered.roads import make_layout
from bag_tools.rendered.scenery import make_scenery, shadow_outlines
from bag_tools.rendered.shadows import ground_shadows
from bag_tools.rendered.solids import Solid, join, swung
from bag_tools.rendered.traffic import GRID, MARGIN_SECONDS, Population, ego_track, time_grid
from bag_tools.rendered.weather import make_weather
from streampetr_core.boxes import NUSCENES_CLASSES, Boxes3D
from streampetr_core.cameras import CameraModel, CameraRig
from streampetr_core.errors import StreamPETRError
from streampetr_core.frame import Frame
from streampetr_core.geometry import inverse, quaternion_from_yaw, transform

Array = NDArray[np.float64]

KEY_FRAME_HZ = 2
SWEEP_HZ = 12
ANNOTATED_METRES = 60.0
_REFERENCE_FOCAL = 316.0
"""Visible pixels are counted as a camera with this focal length would see them, whatever the images' size."""
_LIDAR_POINTS_A_PIXEL = 0.06
"""A car's flank 10 m away covers some 7000 such pixels and takes about 400 points of a 32-beam lidar."""
_STANDSTILL = 0.2


class RenderError(StreamPETRError):
    """A drive that cannot be made as asked."""


@dataclass(frozen=True)
class Truth:
    """What there is at one instant.

    Attributes:
        boxes: all objects within range in base_link; `track_id` = actor number, score 1.
        points: (N,) lidar points that each would take, from what the cameras see of it; 0 = hidden.
        visibility: (N,) share of the object that is not hidden, in [0, 1], roughly.
    """

    boxes: Boxes3D
    points: NDArray[np.int64]
    visibility: Array


class RenderedDrive:
    """A seeded world of its own with a drive of `seconds` through it.

    Iterating yields one `Frame` for each key frame (2 Hz), or for each sweep (12 Hz) with `sweeps`; every image is
    rendered at its camera's own instant. The same arguments give the same frames on the same machine and device.

    Args:
        seed: of the world, the traffic, the weather and the grain.
        seconds: length; the first key frame is at 0, the last one before `seconds`.
        size: (width, height) of the images.
        device: where rays are cast: "cpu", "cuda", "auto" or a torch device.
        fog: extinction per metre; None draws the weather from the seed.
        sweeps: also the frames between the key frames.
        scene: name that the frames carry.
        start_ns: stamp of the first reference instant, a whole number of microseconds.
        rig: other cameras than the nuScenes ones of `size`.

    Raises:
        RenderError: on a length or size that leaves nothing to render.
    """

    def __init__(
        self,
        seed: int = 0,
        seconds: float = 10.0,
        size: tuple[int, int] = (704, 396),
        *,
        device: str | torch.device = "auto",
        fog: float | None = None,
        sweeps: bool = False,
        scene: str = "",
        start_ns: int | None = None,
        rig: CameraRig | None = None,
    ) -> None:
        if not 0.5 <= seconds <= 600:
            raise RenderError(f"a drive of {seconds} seconds; choose 0.5 to 600")
        if min(size) < 16 or max(size) > 8192:
            raise RenderError(f"images of {size[0]}x{size[1]} pixels; choose 16 to 8192 a side")
        self.seed, self.seconds, self.sweeps = seed, seconds, sweeps
        self.scene = scene or f"rendered-{seed}"
        self.rig = rig if rig is not None else make_rig(*size)
        self.device = _device(device)
        rng = np.random.default_rng([seed, 20260])
        # Every drive has a day and a place of its own, like the logs of a data set.
        day_ns = 1_530_000_000_000_000_000 + int(rng.integers(0, 200)) * 86_400_000_000_000
        self.start_ns = day_ns + int(rng.integers(0, 30_000_000)) * 1000 if start_ns is None else start_ns
        yaw = float(rng.uniform(-np.pi, np.pi))
        self.map_from_world = transform((*rng.uniform(300, 1800, 2), 0.0), quaternion_from_yaw(yaw))
        self.weather = make_weather(rng, fog)
        speed = float(rng.uniform(5.5, 9.5))
        self.layout = make_layout(rng, speed * seconds)
        self._ego = ego_track(self.layout, seconds, speed)
        self.actors = Population(rng, self.layout, self._ego, seconds).populate()
        self._tracks = np.stack([actor.track for actor in self.actors])
        self._grid = time_grid(seconds)
        route = self._ego[:, :2]
        scenery = make_scenery(rng, self.layout, route)
        outlines = shadow_outlines(scenery, np.array(self.weather.sun))
        self._ground = paint_ground(rng, self.layout, route, outlines, self.device)
        self._noise = shading.periodic_noise(seed, self.device)
        self._stage(scenery, rng)

    def _stage(self, scenery: Solid, rng: np.random.Generator) -> None:
        """Tables of all parts on the device: the actors' first, then the scenery's."""
        solids = [actor.solid for actor in self.actors]
        self._owner = np.repeat(np.arange(len(solids)), [len(solid) for solid in solids])
        self._moving = join(solids)
        self._scenery = scenery
        everything = join([self._moving, scenery])
        self._parts = len(everything)
        to = self._to_device
        self._half, self._planes, self._quadric = (
            to(everything.half),
            to(everything.planes),
            to(everything.quadric),
        )
        owner_seed = rng.random(len(self.actors))[self._owner]
        seeds = np.concatenate([owner_seed, rng.random(len(scenery))])
        self._surfaces = shading.Surfaces(
            to(everything.color), torch.from_numpy(everything.material).to(self.device), to(seeds)
        )
        self._owner_or_none = torch.from_numpy(
            np.concatenate([self._owner, np.full(len(scenery), -1)]).astype(np.int64)
        ).to(self.device)
        # The larger parts of each actor throw the shadow; what is small and near the ground would not show.
        volume = np.prod(self._moving.half, axis=1)
        thick = (
            volume
            > 0.08 * np.maximum.reduceat(volume, np.searchsorted(self._owner, np.arange(len(solids))))[self._owner]
        )
        self._casters = np.nonzero(thick)[0]

    def _to_device(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(self.device)

    # ---- time -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Frames of the drive."""
        rate = SWEEP_HZ if self.sweeps else KEY_FRAME_HZ
        return max(1, int(np.ceil(self.seconds * rate - 1e-6)))

    def stamp_ns(self, index: int) -> int:
        """The reference instant of a frame; nuScenes counts whole microseconds."""
        rate = SWEEP_HZ if self.sweeps else KEY_FRAME_HZ
        return self.start_ns + round(index * 1_000_000 / rate) * 1000

    def is_key_frame(self, index: int) -> bool:
        """Whether a frame is one of the 2 Hz."""
        return not self.sweeps or index % (SWEEP_HZ // KEY_FRAME_HZ) == 0

    def _at(self, table: Array, stamps_ns: NDArray[np.int64]) -> Array:
        """Rows of a table (..., T, 4) at instants (S,): (S, ..., 4)."""
        where = ((stamps_ns - self.start_ns) * 1e-9 + MARGIN_SECONDS) / GRID
        k = np.clip(np.floor(where).astype(int), 0, table.shape[-2] - 2)
        fraction = (where - k).reshape(-1, *[1] * (table.ndim - 1))
        low, high = np.moveaxis(table[..., k, :], -2, 0), np.moveaxis(table[..., k + 1, :], -2, 0)
        return low + fraction * (high - low)

    # ---- state ------------------------------------------------------------------------------------------------

    def world_from_ego(self, stamps_ns: NDArray[np.int64]) -> Array:
        """(S, 4, 4) pose of base_link in the drive's world; z = 0."""
        poses = self._at(self._ego, np.asarray(stamps_ns))
        return np.stack([transform((x, y, 0.0), quaternion_from_yaw(yaw)) for x, y, yaw, _ in poses])

    def map_from_ego(self, stamps_ns: NDArray[np.int64]) -> Array:
        """(S, 4, 4) pose of base_link in the map."""
        return self.map_from_world @ self.world_from_ego(stamps_ns)

    def boxes(self, stamp_ns: int) -> Boxes3D:
        """All actors in the world frame at one instant; velocities are central differences over 0.1 s."""
        around = np.array([stamp_ns - 50_000_000, stamp_ns, stamp_ns + 50_000_000])
        before, now, after = self._at(self._tracks, around)
        velocity = (after - before)[:, :2] / 0.1
        sizes = np.stack([actor.size for actor in self.actors])
        speed = np.linalg.norm(velocity, axis=1)
        return Boxes3D(
            np.column_stack([now[:, :2], sizes[:, 2] / 2]),
            sizes,
            (now[:, 2] + np.pi) % (2 * np.pi) - np.pi,
            velocity,
            label=np.array([NUSCENES_CLASSES.index(actor.name) for actor in self.actors]),
            track_id=np.arange(len(self.actors)),
            attribute=np.array(
                [_attribute(a.kind, a.parked, float(v)) for a, v in zip(self.actors, speed, strict=True)]
            ),
            frame_id="world",
            stamp_ns=int(stamp_ns),
        )

    # ---- pictures ---------------------------------------------------------------------------------------------

    def cast(
        self, stamps_ns: NDArray[np.int64], cameras: Sequence[int]
    ) -> tuple[raycaster.Hits, raycaster.Parts, raycaster.Views]:
        """Rays of V views: camera `cameras[v]` of the rig at `stamps_ns[v]`."""
        world_from_ego = self.world_from_ego(stamps_ns)
        models = [self.rig.cameras[c] for c in cameras]
        camera_from_world = inverse(world_from_ego @ np.stack([model.ego_from_camera for model in models]))
        if len({(model.width, model.height) for model in models}) != 1:
            raise RenderError("the cameras of a rendered rig must share one image size")
        views = raycaster.Views(
            self._to_device(camera_from_world),
            self._to_device(np.stack([model.intrinsics for model in models])),
            models[0].width,
            models[0].height,
        )
        rotation, center = self._poses(stamps_ns)
        parts = raycaster.Parts(rotation, center, self._half, self._planes, self._quadric)
        return raycaster.cast(parts, views), parts, views

    def _poses(self, stamps_ns: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """world_from_part of all parts at each instant: (S, P, 3, 3) and (S, P, 3)."""
        state = self._at(self._tracks, np.asarray(stamps_ns))[:, self._owner]
        local_rotation, local_center = swung(self._moving, state[..., 3])
        c, s = np.cos(state[..., 2]), np.sin(state[..., 2])
        zero, one = np.zeros_like(c), np.ones_like(c)
        turn = np.stack(
            [np.stack([c, -s, zero], -1), np.stack([s, c, zero], -1), np.stack([zero, zero, one], -1)], -2
        )
        center = (turn @ local_center[..., None])[..., 0]
        center[..., :2] += state[..., :2]
        rotation = turn @ local_rotation
        views = len(state)
        rotation = np.concatenate(
            [rotation, np.broadcast_to(self._scenery.rotation, (views, *self._scenery.rotation.shape))], 1
        )
        center = np.concatenate(
            [center, np.broadcast_to(self._scenery.center, (views, *self._scenery.center.shape))], 1
        )
        return self._to_device(rotation), self._to_device(center)

    def _shadows(
        self, parts: raycaster.Parts, views: raycaster.Views, stamps_ns: NDArray[np.int64]
    ) -> torch.Tensor:
        rows = torch.from_numpy(self._casters).to(self.device)
        axes = parts.rotation[:, rows] * parts.half[rows][:, None, :]
        center = parts.center[:, rows]
        state = self._at(self._tracks, np.asarray(stamps_ns))
        # Under every actor, and the ego car, the sky is dark as well: a soft blot below the whole box.
        sizes = np.stack([actor.size for actor in self.actors])
        ego = self._at(self._ego, np.asarray(stamps_ns))[:, None]
        ego = ego + np.stack(
            [
                EGO_CENTER_X * np.cos(ego[..., 2]),
                EGO_CENTER_X * np.sin(ego[..., 2]),
                0 * ego[..., 0],
                0 * ego[..., 0],
            ],
            -1,
        )
        state, sizes = np.concatenate([state, ego], 1), np.concatenate([sizes, [EGO_SIZE]])
        c, s, zero = np.cos(state[..., 2]), np.sin(state[..., 2]), np.zeros_like(state[..., 2])
        turn = np.stack(
            [np.stack([c, -s, zero], -1), np.stack([s, c, zero], -1), np.stack([zero, zero, zero + 1], -1)], -2
        )
        blot_axes = turn * (sizes / 2)[None, :, None, :]
        blot_center = np.concatenate(
            [state[..., :2], np.broadcast_to(sizes[:, 2:] / 2, (*state.shape[:2], 1))], -1
        )
        count, blots = len(rows), len(sizes)
        sun = torch.tensor(self.weather.sun, dtype=torch.float64, device=self.device)
        # The ego car itself is not drawn, but its shadow falls on the street around it.
        center = torch.cat([center, self._to_device(blot_center), self._to_device(blot_center[:, -1:])], 1)
        axes = torch.cat([axes, self._to_device(blot_axes), self._to_device(blot_axes[:, -1:])], 1)
        up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=self.device)
        towards = torch.cat([sun.expand(count, 3), up.expand(blots, 3), sun.expand(1, 3)])
        softness = torch.tensor([0.10] * count + [0.45] * blots + [0.1], dtype=torch.float64, device=self.device)
        dark = 0.9 * min(1.0, self.weather.sun_color[0] / 1.5)
        strength = torch.tensor([dark] * count + [0.75] * blots + [dark], dtype=torch.float64, device=self.device)
        return ground_shadows(center, axes, towards, softness, strength, views)

    def render(self, stamps_ns: NDArray[np.int64], cameras: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and who is in them.

        Returns:
            uint8 (V, H, W, 3) RGB and int64 (V, H, W) actor number of every pixel (-1: no actor), on the device.
        """
        stamps_ns = np.asarray(stamps_ns, dtype=np.int64)
        with torch.inference_mode():
            hits, parts, views = self.cast(stamps_ns, cameras)
            shadow = self._shadows(parts, views, stamps_ns)
            radiance = shading.shade(
                hits, parts, self._surfaces, views, self._ground, self.weather, self._noise, shadow
            )
            rolls = torch.tensor([_hash(self.seed, int(t), c) for t, c in zip(stamps_ns, cameras, strict=True)])
            images = shading.develop(radiance, hits.surface, self.weather, self._noise, rolls.to(self.device))
        return images, self._actor_of_pixel(hits)

    def _actor_of_pixel(self, hits: raycaster.Hits) -> torch.Tensor:
        part = hits.part_of_pixel()
        return torch.where(part >= 0, self._owner_or_none[part.clamp(min=0)], -1)

    # ---- frames -----------------------------------------------------------------------------------------------

    def truth(self, stamp_ns: int, actor: torch.Tensor) -> Truth:
        """Ground truth at a reference instant, given who is in the pixels (N, H, W) of the rig's images."""
        boxes = self.boxes(stamp_ns).transformed(
            inverse(self.world_from_ego(np.array([stamp_ns]))[0]), "base_link"
        )
        seen = np.zeros(len(boxes))
        expected = np.zeros(len(boxes))
        count = len(self.actors)
        for i, camera in enumerate(self.rig.cameras):
            scale = (_REFERENCE_FOCAL / camera.intrinsics[0, 0]) ** 2
            tally = torch.bincount(actor[i].flatten() + 1, minlength=count + 1)[1:]
            seen += tally.cpu().numpy() * scale
            expected += _projected_area(boxes, camera) * scale
        points = np.round(seen * _LIDAR_POINTS_A_PIXEL).astype(np.int64)
        points = np.where((points == 0) & (seen >= 2.0), 1, points)
        # A box's outline is filled to about 80 % by the object in it.
        visibility = np.clip(seen / np.maximum(0.8 * expected, 1.0), 0.0, 1.0)
        near = np.linalg.norm(boxes.center[:, :2], axis=1) <= ANNOTATED_METRES
        return Truth(boxes[near], points[near], visibility[near])

    def truth_at(self, index: int) -> Truth:
        """Ground truth of frame `index` without its images; all cameras look at its reference instant."""
        stamp = self.stamp_ns(index)
        hits, _, _ = self.cast(np.full(len(self.rig), stamp), range(len(self.rig)))
        return self.truth(stamp, self._actor_of_pixel(hits))

    def frame_with_truth(self, index: int) -> tuple[Frame, Truth]:
        """Frame `index` with everything that is known about its objects, the hidden ones too.

        Raises:
            IndexError: outside the drive.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a drive of {len(self)}")
        stamp = self.stamp_ns(index)
        stamps = stamp + stagger_ns(self.rig)
        images, actor = self.render(stamps, range(len(self.rig)))
        truth = self.truth(stamp, actor)
        pixels = images.cpu().numpy()
        frame = Frame(
            stamp_ns=stamp,
            images=tuple(pixels),
            image_stamps_ns=stamps,
            rig=self.rig,
            map_from_ego=self.map_from_ego(np.array([stamp]))[0],
            map_from_ego_at_camera=self.map_from_ego(stamps),
            scene=self.scene,
            sample_token=make_token("sample", self.scene, stamp) if self.is_key_frame(index) else "",
            is_key_frame=self.is_key_frame(index),
            ground_truth=truth.boxes[truth.points > 0],
        )
        return frame, truth

    def frame(self, index: int) -> Frame:
        """Frame `index`: images, poses, and as ground truth the boxes of which something is visible."""
        return self.frame_with_truth(index)[0]

    def __getitem__(self, index: int) -> Frame:
        return self.frame(index)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self)):
            yield self.frame(index)


def _device(name: str | torch.device) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RenderError(f"device '{name}' cannot be used ({reason}); choose cpu, cuda or auto") from error
    return device


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "1600x900".

    Raises:
        RenderError: when it is nothing of the kind.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise RenderError(f"size '{text}' is not WIDTHxHEIGHT; write for example 1600x900")
    return int(match[1]), int(match[2])


def _attribute(kind: str, parked: bool, speed: float) -> str:
    moving = speed > _STANDSTILL
    return {
        "vehicle": "vehicle.moving" if moving else ("vehicle.parked" if parked else "vehicle.stopped"),
        "rider": "cycle.with_rider",
        "cycle": "cycle.without_rider",
        "pedestrian": "pedestrian.moving" if moving else "pedestrian.standing",
        "": "",
    }[kind]


def _projected_area(boxes: Boxes3D, camera: CameraModel) -> Array:
    """(N,) pixels of each box's outline within an image; 0 where it reaches behind the camera."""
    corners = boxes.corners()
    camera_from_ego = inverse(camera.ego_from_camera)
    points = corners @ camera_from_ego[:3, :3].T + camera_from_ego[:3, 3]
    area = np.zeros(len(boxes))
    frame = np.array([[0, 0], [camera.width, 0], [camera.width, camera.height], [0, camera.height]], np.float32)
    for i in np.nonzero((points[..., 2] > 0.3).all(1))[0]:
        projected = points[i] @ camera.intrinsics.T
        outline = cv2.convexHull((projected[:, :2] / projected[:, 2:]).clip(-1e5, 1e5).astype(np.float32))
        area[i] = cv2.intersectConvexConvex(outline, frame)[0]
    return area


def _hash(seed: int, stamp: int, camera: int) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{seed}/{stamp}/{camera}".encode(), digest_size=4).digest()
    return digest[0] * 2 + (digest[2] & 1), digest[1] * 2 + (digest[3] & 1)
