"""The temporal memory: what it holds, how it is brought into a frame and what a frame gives to it.

Legend: `B` batch, `M` entries (newest first), `K` entries a frame adds, `Q` queries, `C` channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from streampetr_core.model.box_state import BoxState

_SHAPE = 9


@dataclass(frozen=True)
class Memory:
    """Queries of past frames: between frames in the world frame, inside a frame in its model frame.

    Attributes:
        embedding: (B, M, C) decoder output.
        reference: (B, M, 3) metres.
        timestamp: (B, M, 1) float64 seconds: the age inside a frame, age minus the frame's time between frames.
        pose: (B, M, 4, 4) model frame of the entry's time to the present frame (inside) or the world (between).
        velocity: (B, M, 2) metres per second, in the axes of the frame that predicted it, on purpose; the filter's
            own in networks with one, as are the places.
        shape: (B, M, 9) log length, width, height, axis, heading, speed and frames of a `BoxState`, in the same
            axes; published networks read neither it nor what follows.
        spread: (B, M, 4, 4) covariance of x, y, vx, vy in the same axes.
        scores: (B, M, classes).
    """

    embedding: Tensor
    reference: Tensor
    timestamp: Tensor
    pose: Tensor
    velocity: Tensor
    shape: Tensor
    spread: Tensor
    scores: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Memory:
        """The memory with `function` applied to every tensor."""
        return Memory(*(function(getattr(self, f.name)) for f in fields(self)))

    def __len__(self) -> int:
        return self.embedding.shape[1]


def empty_memory(batch: int, length: int, dims: int, classes: int, device: torch.device) -> Memory:
    """All zeros, as in training: also the poses."""
    zeros = torch.zeros
    return Memory(
        zeros(batch, length, dims, device=device),
        zeros(batch, length, 3, device=device),
        zeros(batch, length, 1, device=device, dtype=torch.float64),
        zeros(batch, length, 4, 4, device=device),
        zeros(batch, length, 2, device=device),
        zeros(batch, length, _SHAPE, device=device),
        zeros(batch, length, 4, 4, device=device),
        zeros(batch, length, classes, device=device),
    )


def enter_frame(
    memory: Memory, length: int, model_from_world: Tensor, timestamp: Tensor, continues: Tensor | None
) -> Memory:
    """The first `length` entries in the present model frame, with ages; zeroed where `continues` (B,) is 0."""
    memory = memory.map(lambda x: x[:, :length])
    aligned = Memory(
        memory.embedding,
        transform_points(model_from_world, memory.reference),
        memory.timestamp + timestamp[:, None, None],
        model_from_world[:, None] @ memory.pose,
        memory.velocity,
        memory.shape,
        memory.spread,
        memory.scores,
    )
    if continues is None:
        return aligned
    # where, not a product: a forgotten memory may hold anything
    return aligned.map(lambda x: torch.where(continues.reshape(-1, *[1] * (x.dim() - 1)) > 0, x, x.new_zeros(())))


def fill_pseudo_points(memory: Memory, points: Tensor, starts: Tensor) -> Memory:
    """Put fixed points (K, 3) metres and identity poses into the first K entries where `starts` (B,) is 1."""
    count = points.shape[0]
    start = starts.to(points.dtype)[:, None, None]
    identity = torch.eye(4, dtype=points.dtype, device=points.device)
    reference = torch.cat((memory.reference[:, :count] + start * points, memory.reference[:, count:]), dim=1)
    pose = torch.cat((memory.pose[:, :count] + start[..., None] * identity, memory.pose[:, count:]), dim=1)
    return replace(memory, reference=reference, pose=pose)


def box_states(memory: Memory) -> BoxState:
    """The boxes of a memory inside a frame: as they were, but for their places, which are in this frame."""
    return BoxState(memory.reference, memory.velocity, memory.spread, *memory.shape.split((3, 2, 2, 1, 1), dim=-1))


def leave_frame(
    memory: Memory,
    embedding: Tensor,
    logits: Tensor,
    boxes: Tensor,
    states: BoxState | None,
    count: int,
    world_from_model: Tensor,
    timestamp: Tensor,
) -> tuple[Memory, Tensor]:
    """The memory with the `count` best queries in front, in the world frame, detached; and their indices (B, K).

    `embedding` (B, Q, C), `logits` (B, Q, classes) and `boxes` (B, Q, 10) are the last decoder layer's; networks
    with a filter remember its `states` in the place of the boxes. The result has K + M entries; the next frame
    drops the oldest.
    """
    scores = logits.sigmoid()
    index = scores.amax(dim=-1).topk(count, dim=1).indices
    batch = embedding.shape[0]

    def chosen(x: Tensor) -> Tensor:
        return x[torch.arange(batch, device=x.device)[:, None], index]

    if states is None:
        place, velocity = chosen(boxes[..., :3]), chosen(boxes[..., -2:])
        shape, spread = memory.shape.new_zeros(batch, count, _SHAPE), memory.spread.new_zeros(batch, count, 4, 4)
    else:
        kept = states.map(chosen)
        place, velocity, spread = kept.place, kept.velocity, kept.spread
        shape = torch.cat((kept.log_size, kept.axis, kept.heading, kept.speed, kept.frames), dim=-1)
    identity = torch.eye(4, dtype=memory.pose.dtype, device=memory.pose.device).expand(batch, count, 4, 4)
    joined = Memory(
        torch.cat((chosen(embedding), memory.embedding), 1),
        torch.cat((place, memory.reference), 1),
        torch.cat((memory.timestamp.new_zeros(batch, count, 1), memory.timestamp), 1),
        torch.cat((identity, memory.pose), 1),
        torch.cat((velocity, memory.velocity), 1),
        torch.cat((shape, memory.shape), 1),
        torch.cat((spread, memory.spread), 1),
        torch.cat((chosen(scores), memory.scores), 1),
    ).map(Tensor.detach)
    return (
        Memory(
            joined.embedding,
            transform_points(world_from_model, joined.reference),
            joined.timestamp - timestamp[:, None, None],
            world_from_model[:, None] @ joined.pose,
            joined.velocity,
            joined.shape,
            joined.spread,
            joined.scores,
        ),
        index,
    )


def transform_points(a_from_b: Tensor, points: Tensor) -> Tensor:
    """(B, 4, 4) and (B, M, 3) -> (B, M, 3)."""
    return points @ a_from_b[:, :3, :3].transpose(1, 2) + a_from_b[:, None, :3, 3]
