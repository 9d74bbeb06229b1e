"""Frames of the rendered world made while training: endless seeded drives, no disk.

Every batch slot drives through worlds of its own, one drive after the other, so each is a video as the streaming
mode wants it. What a drive shows depends on its number alone: a position is enough to go on from.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bag_tools.rendered.drive import RenderedDrive, Truth
from streampetr_core.boxes import Boxes3D
from streampetr_core.errors import StreamPETRError
from streampetr_core.frame import Frame
from streampetr_core.geometry import inverse
from streampetr_core.model.variants import Variant
from training.augmentation import Augmentation
from training.boxes_2d import project_boxes
from training.example import Example, FrameTruth, Origin, make_example
from training.prefetch import StepBatches, ahead_of_time
from training.sampler import saved_step

_DRIVES = 10_000_000


class RenderedSourceError(StreamPETRError):
    """A rendered source that cannot run as asked."""


@dataclass(frozen=True)
class RenderedWorld:
    """What is driven through.

    Attributes:
        seed: of all drives; drive k of it has the world seed (seed + 1) * 10,000,000 + k, which rendered data sets
            of seeds below 10,000 never use, so that those can judge.
        seconds: of a drive; the memory starts anew in the next one. 10 s are 20 frames, as long as a run of a
            nuScenes scene cut in two.
        size: width, height of the rendered images.
        min_visibility: share of an object that must be visible for it to count, beside taking a lidar point.
    """

    seed: int = 0
    seconds: float = 10.0
    size: tuple[int, int] = (704, 396)
    min_visibility: float = 0.0


class RenderedSource:
    """Endless training steps, one frame of every slot each; takes the place of a `Loader`.

    Args:
        world: what is driven through.
        variant, augmentation: see `Dataset`.
        slots: of this process; rank, ranks: this process, and how many there are.
        device: where rays are cast, best the device that trains.
        threads: slots that are rendered at the same time, ahead of the training step.
        ahead, pin_memory: see `Loader`.

    Raises:
        RenderedSourceError: on numbers that cannot be.
        RenderError: on a length or size of drives that cannot be rendered, when the first one is made.
    """

    def __init__(
        self,
        world: RenderedWorld,
        variant: Variant,
        augmentation: Augmentation,
        slots: int,
        rank: int = 0,
        ranks: int = 1,
        *,
        device: str | torch.device = "auto",
        threads: int = 2,
        ahead: int = 2,
        pin_memory: bool = False,
    ) -> None:
        if slots < 1 or not 0 <= rank < ranks or threads < 1 or ahead < 0:
            raise RenderedSourceError(
                f"{slots} slots for process {rank} of {ranks} by {threads} threads, {ahead} steps ahead; needs at "
                "least one slot and thread, ranks from 0"
            )
        self.world, self.variant, self.augmentation = world, variant, augmentation
        self.total = slots * ranks
        self.slots = range(rank * slots, (rank + 1) * slots)
        self.device, self.threads, self.ahead, self.pin_memory = device, threads, ahead, pin_memory
        self.position = 0

    def __iter__(self) -> Iterator[StepBatches]:
        videos = [_Video(self, slot, self.position) for slot in self.slots]
        pool = ThreadPoolExecutor(self.threads, "render", initializer=_render_thread, initargs=(self.device,))
        waiting_for: list[Future[Example] | None] = [None] * len(videos)

        def next_step() -> list[Future[Example]]:
            # a slot's frames are made in order: one waits for the one before
            futures = [pool.submit(video.next, before) for video, before in zip(videos, waiting_for, strict=True)]
            waiting_for[:] = futures
            return futures

        for batches in ahead_of_time(pool, next_step, len(videos), self.ahead, self.pin_memory):
            self.position += 1
            yield batches

    def state_dict(self) -> dict[str, Any]:
        """The position after the steps that were given out, and what it is a position in."""
        return {"step": self.position, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
            SamplerError: when it is of another world or batch size.
        """
        self.position = saved_step(state, self.identity())

    def identity(self) -> dict[str, Any]:
        """What must be equal for a position to mean the same."""
        world = self.world
        size = f"{world.size[0]}x{world.size[1]}"
        return {
            "mode": "rendered",
            "seed": world.seed,
            "slots": self.total,
            "seconds": world.seconds,
            "size": size,
        }


@dataclass
class _Video:
    """What one slot plays."""

    source: RenderedSource
    slot: int
    position: int
    drive: RenderedDrive | None = field(default=None, init=False)
    number: int = field(default=-1, init=False)

    def next(self, before: Future[Example] | None) -> Example:
        """The slot's next frame, once the one before it is made."""
        if before is not None:
            before.result()
        source, world = self.source, self.source.world
        frames = max(1, int(np.ceil(world.seconds * 2 - 1e-6)))
        # slots begin their first drives at different frames, so that not all memories start anew at once
        number, index = divmod(self.position + self.slot * frames // source.total, frames)
        if self.drive is None or number != self.number:
            seed = (world.seed + 1) * _DRIVES + number * source.total + self.slot
            self.drive = RenderedDrive(seed, world.seconds, world.size, device=source.device)
            self.number = number
        frame, truth = self.drive.frame_with_truth(index)
        example = make_example(
            frame,
            rendered_truth(frame, truth, world.min_visibility),
            source.augmentation.draw((world.seed, self.position, self.slot)),
            source.variant,
            origin=Origin(self.drive.map_from_ego(np.array([self.drive.start_ns]))[0, :3, 3], self.drive.start_ns),
            continues=index > 0 and self.position > 0,
            all_views=False,
        )
        self.position += 1
        return example


def rendered_truth(frame: Frame, truth: Truth, min_visibility: float = 0.0) -> FrameTruth:
    """The truth of a rendered frame; valid is what would take a lidar point and of which enough is visible."""
    model_from_ego = inverse(frame.rig.ego_from_model)
    boxes = truth.boxes
    in_model: Boxes3D = boxes.transformed(model_from_ego, "model")
    velocity = np.nan_to_num(in_model.velocity)
    columns = (in_model.center, in_model.size, in_model.yaw[:, None], velocity)
    corners = boxes.corners()
    views = tuple(
        project_boxes(corners, boxes.center, camera_from_ego, camera)
        for camera_from_ego, camera in zip(frame.camera_from_ego(), frame.rig.cameras, strict=True)
    )
    valid = (truth.points > 0) & (truth.visibility >= min_visibility)
    return FrameTruth(np.concatenate(columns, axis=1), boxes.label, valid, views)


def _render_thread(device: str | torch.device) -> None:
    """One core a frame, which beats all cores on one frame; on a CUDA device a stream beside the training's.

    A frame ends with a copy to the host, so another thread may go on with the drive in its own stream.
    """
    torch.set_num_threads(1)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else str(device)
    if name.startswith("cuda"):
        torch.cuda.set_stream(torch.cuda.Stream(name))
