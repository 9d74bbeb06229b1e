"""The 3D head: image tokens and memory in, class logits, boxes and the next memory out.

Parameter names are those of the published checkpoints. Legend: `B` batch, `N` cameras, `T` image tokens, `P`
queries prepended by training, `L` fresh queries (learned ones, then proposals), `K` propagated queries,
`Q` = L + K, `M` memory entries, `C` channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from streampetr_core.model.box_filter import BoxFilter, Followed
from streampetr_core.model.box_state import BoxState, turned
from streampetr_core.model.coder import place_boxes
from streampetr_core.model.decoder import Decoder, Transformer
from streampetr_core.model.layers import ConditionalNorm, FeatureGate, mlp, modulate
from streampetr_core.model.memory import (
    Memory,
    box_states,
    empty_memory,
    enter_frame,
    fill_pseudo_points,
    leave_frame,
)
from streampetr_core.model.position_embedding import (
    FrameGeometry,
    PositionEncoding,
    depth_bins,
    ray_cone,
    ray_features,
    ray_points,
)
from streampetr_core.model.proposals import ProposalHead, Proposals
from streampetr_core.model.queries import age_embedding, motion_embedding, reference_embedding, rest_embedding
from streampetr_core.model.variants import UnknownVariantError, Variant

_BOX = 7
"""Numbers of a box that a query begins with, beside its place."""


@dataclass(frozen=True)
class ImageFeatures:
    """What the images' part of the network gives to the head.

    Attributes:
        tokens: (B, N, C, H, W) of stride 16.
        fine: (B, N, C', 2 H, 2 W) of stride 8, in networks with proposals.
    """

    tokens: Tensor
    fine: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> ImageFeatures:
        """The features with `function` applied to every tensor."""
        return ImageFeatures(function(self.tokens), None if self.fine is None else function(self.fine))


@dataclass(frozen=True)
class PrependedQueries:
    """Extra queries that training puts in front (denoising).

    Attributes:
        reference: (B, P, 3) fractions of pc_range.
        allowed: (P + Q, P + Q + M - K) bool self-attention mask, True = the row may see the column.
    """

    reference: Tensor
    allowed: Tensor


@dataclass(frozen=True)
class FrameOutputs:
    """What the network says of one frame.

    Attributes:
        logits: (layers, B, Q, classes); one layer where only the last was asked for.
        boxes: (layers, B, Q, 10) box code, see `coder`.
        memory: for the next frame (K + M entries, world frame); None in networks without memory.
        memory_queries: (B, K) the queries that went into the memory, best first; None likewise. Fresh queries
            come first, then the K propagated ones: query L + i stands for memory entry i of this frame's input.
        prepended_logits, prepended_boxes: (layers, B, P, ...) of the prepended queries, None without.
        features: (B, N, C, H, W) image features, for the 2D head.
        proposals: where the image's own queries began; None in networks without.
        followed: the boxes that queries began with; None in networks that correct none.
        covariance: (B, Q, 4, 4) of x, y, vx, vy in the model frame, as the filter knows them; None likewise.
    """

    logits: Tensor
    boxes: Tensor
    memory: Memory | None
    memory_queries: Tensor | None
    prepended_logits: Tensor | None
    prepended_boxes: Tensor | None
    features: Tensor
    proposals: Proposals | None = None
    followed: Followed | None = None
    covariance: Tensor | None = None

    @property
    def origins(self) -> Tensor | None:
        """(B, Q) the entry of this frame's memory that a query continues, -1 = none; None in networks without
        memory. Propagated queries do, and image cells that show the object of one."""
        if self.memory_queries is None:
            return None
        batch, count = self.memory_queries.shape
        entries = torch.arange(count, device=self.memory_queries.device).expand(batch, -1)
        cells = entries[:, :0] if self.followed is None else self.followed.partner
        learned = self.logits.shape[2] - cells.shape[1] - count
        return torch.cat((functional.pad(cells, (learned, 0), value=-1), entries), dim=1)


@dataclass(frozen=True)
class _Queries:
    """content, position (B, Q, C) and reference (B, Q, 3) in fractions."""

    content: Tensor
    position: Tensor
    reference: Tensor

    def and_then(self, other: _Queries) -> _Queries:
        return _Queries(
            torch.cat((self.content, other.content), dim=1),
            torch.cat((self.position, other.position), dim=1),
            torch.cat((self.reference, other.reference), dim=1),
        )


class Head(nn.Module):
    """StreamPETR's head; without a memory it is PETR's. `in_dims`, `fine_dims`: channels of the features."""

    code_weights: Tensor
    match_costs: Tensor
    pc_range: Tensor
    position_range: Tensor
    coords_d: Tensor

    def __init__(self, variant: Variant, in_dims: int, fine_dims: int = 0) -> None:
        super().__init__()
        self.variant = variant
        dims, classes = variant.embed_dims, len(variant.class_names)
        for name, values in (
            ("code_weights", variant.code_weights),
            ("match_costs", variant.code_weights),
            ("pc_range", variant.pc_range),
            ("position_range", variant.position_range),
        ):
            self.register_buffer(name, torch.tensor(values))
        depths = depth_bins(variant.depth_start, variant.position_range[3], variant.num_depths)
        self.register_buffer("coords_d", depths)
        # one module under several names: the layers share their heads
        cls_branch, reg_branch = _class_branch(dims, classes), _box_branch(dims, variant.refines_boxes)
        self.cls_branches = nn.ModuleList([cls_branch] * variant.num_layers)
        self.reg_branches = nn.ModuleList([reg_branch] * variant.num_layers)
        self.position_encoder = mlp(3 * variant.num_depths, 4 * dims, dims)
        self.memory_embed = mlp(in_dims, dims, dims)
        self.featurized_pe = FeatureGate(dims)
        self.spatial_alignment = ConditionalNorm(8, dims)
        self.reference_points = nn.Embedding(variant.num_queries, 3)
        nn.init.uniform_(self.reference_points.weight)
        self.query_embedding = mlp(dims * 3 // 2, dims, dims)
        if variant.num_proposals:
            self.proposals = ProposalHead(fine_dims, in_dims, dims, classes, variant.num_proposals)
        if variant.temporal:
            self.pseudo_reference_points = nn.Embedding(variant.num_propagated, 3)
            nn.init.uniform_(self.pseudo_reference_points.weight)
            self.pseudo_reference_points.weight.requires_grad_(False)
            self.time_embedding = nn.Sequential(nn.Linear(dims, dims), nn.LayerNorm(dims))
            self.ego_pose_pe = ConditionalNorm(180, dims)
            self.ego_pose_memory = ConditionalNorm(180, dims)
        if variant.refines_boxes:
            if not variant.num_proposals:
                raise UnknownVariantError(f"model '{variant.name}' refines boxes, but no image cell proposes any")
            self.box_filter = BoxFilter(dims, variant.class_names)
            if variant.temporal:
                self.carried_box = nn.Linear(_BOX + classes, dims)
        decoder = Decoder(dims, variant.num_heads, variant.feedforward_dims, variant.num_layers, variant.dropout)
        self.transformer = Transformer(decoder)

    def encode_position(self, geometry: FrameGeometry, height: int, width: int) -> PositionEncoding:
        """What the calibration says of the tokens of maps of `height` x `width`; can be kept while it stays."""
        points = ray_points(
            geometry.image_from_model, self.coords_d, self.position_range, height, width, self.variant.stride
        )
        gamma, beta = self.spatial_alignment.modulation(ray_cone(points, geometry.intrinsics))
        return PositionEncoding(self.position_encoder(ray_features(points)), gamma, beta)

    def propose(self, features: ImageFeatures, geometry: FrameGeometry) -> Proposals:
        """Where the image's own queries begin, in networks with proposals."""
        assert features.fine is not None
        return self.proposals(features.fine, features.tokens, geometry, self.pc_range)

    def forward(
        self,
        features: ImageFeatures,
        geometry: FrameGeometry,
        memory: Memory | None,
        position: PositionEncoding | None = None,
        prepended: PrependedQueries | None = None,
        last_only: bool = False,
    ) -> FrameOutputs:
        """Image features and the memory of the frame before -> this frame's outputs."""
        height, width = features.tokens.shape[-2:]
        if position is None:
            position = self.encode_position(geometry, height, width)
        tokens = features.tokens.permute(0, 1, 3, 4, 2).flatten(1, 3)
        tokens = modulate(self.memory_embed(tokens), position.gamma, position.beta)
        token_position = self.featurized_pe(position.position, tokens)

        batch = tokens.shape[0]
        reference = self.reference_points.weight.expand(batch, -1, -1)
        num_prepended = 0
        if prepended is not None:
            num_prepended = prepended.reference.shape[1]
            reference = torch.cat((prepended.reference, reference), dim=1)
        plain = reference.shape[1]
        content = reference.new_zeros(batch, plain, self.variant.embed_dims)
        proposals = followed = entered = past = past_position = None
        if self.variant.temporal:
            entered = self._enter(memory, geometry, tokens)
        if features.fine is not None:
            proposals = self.propose(features, geometry)
            seen, told = proposals.reference, proposals.content
            if self.variant.refines_boxes:
                followed = self._follow(proposals, entered)
                count = seen.shape[1]
                seen = self._fractions(followed.state.place[:, :count])
                told = told + followed.content[:, :count]
            reference, content = torch.cat((reference, seen), dim=1), torch.cat((content, told), dim=1)
        queries = _Queries(content, self._place(reference), reference)
        if entered is not None:
            queries, past, past_position = self._align(entered, queries, followed)
        decoded = self.transformer.decoder(
            queries.content,
            queries.position,
            tokens,
            token_position,
            past,
            past_position,
            None if prepended is None else prepended.allowed,
            None if geometry.present is None else _token_mask(geometry.present, height * width),
            last_only,
        )
        logits = self.cls_branches[0](decoded)
        boxes = place_boxes(self.reg_branches[0](decoded), queries.reference, self.pc_range)
        if followed is not None:
            boxes = boxes + functional.pad(followed.box, (3, 0, plain, 0))
        own = slice(num_prepended, None)
        next_memory = kept = states = None
        if followed is not None:
            states = self._states(followed, boxes[-1][:, own], logits[-1][:, own])
        if entered is not None:
            after = geometry.timestamp if geometry.timestamp_after is None else geometry.timestamp_after
            next_memory, kept = leave_frame(
                entered,
                decoded[-1][:, own],
                logits[-1][:, own],
                boxes[-1][:, own],
                states,
                self.variant.num_propagated,
                geometry.world_from_model,
                after,
            )
        return FrameOutputs(
            logits[:, :, own],
            boxes[:, :, own],
            next_memory,
            kept,
            logits[:, :, :num_prepended] if num_prepended else None,
            boxes[:, :, :num_prepended] if num_prepended else None,
            features.tokens,
            proposals,
            followed,
            None if states is None else self.box_filter.covariance(states.spread),
        )

    def _place(self, reference: Tensor) -> Tensor:
        return self.query_embedding(reference_embedding(reference, self.variant.embed_dims))

    def _enter(self, memory: Memory | None, geometry: FrameGeometry, like: Tensor) -> Memory:
        """The memory in this frame, filled with the pseudo points where it starts."""
        batch, length = like.shape[0], self.variant.memory_length
        if memory is None:
            classes = len(self.variant.class_names)
            memory = empty_memory(batch, length, self.variant.embed_dims, classes, like.device)
            starts = like.new_ones(batch)
        else:
            memory = enter_frame(memory, length, geometry.model_from_world, geometry.timestamp, geometry.continues)
            if geometry.continues is None:
                return memory
            starts = 1.0 - geometry.continues
        low, high = self.pc_range[:3], self.pc_range[3:]
        return fill_pseudo_points(memory, self.pseudo_reference_points.weight * (high - low) + low, starts)

    def _follow(self, proposals: Proposals, memory: Memory | None) -> Followed:
        """The boxes of the image cells and of the first K memory entries."""
        low, high = self.pc_range[:3], self.pc_range[3:]
        scores = proposals.logits.detach().sigmoid()
        fresh = self.box_filter.begin(
            proposals.reference * (high - low) + low,
            proposals.shape[..., :3],
            proposals.axis,
            proposals.heading,
            proposals.speed,
            scores,
        )
        if memory is None:
            return self.box_filter.alone(fresh, scores)
        first = memory.map(lambda x: x[:, : self.variant.num_propagated])
        age = first.timestamp.float()
        past = self.box_filter.carry(box_states(first), first.pose[..., :2, :2], age, first.scores)
        return self.box_filter(fresh, scores, past, first.scores, age)

    def _states(self, followed: Followed, boxes: Tensor, logits: Tensor) -> BoxState:
        """What to remember of all own queries; those without a box begin with the decoder's."""
        way = functional.normalize(boxes[..., 6:8], dim=-1)
        begun = self.box_filter.begin(
            boxes[..., :3],
            boxes[..., 3:6],
            turned(way, way),
            0.5 * way,
            boxes[..., 8:].norm(dim=-1, keepdim=True),
            logits.sigmoid(),
        )
        missing = boxes.shape[1] - followed.box.shape[1]
        known = followed.state.map(lambda x: functional.pad(x, (0, 0) * (x.dim() - 2) + (missing, 0)))
        there = known.frames > 0

        def choose(mine: Tensor, other: Tensor) -> Tensor:
            return torch.where(there if mine.dim() == 3 else there[..., None], mine, other)

        return known.join(begun, choose)

    def _fractions(self, metres: Tensor) -> Tensor:
        low, high = self.pc_range[:3], self.pc_range[3:]
        return ((metres - low) / (high - low)).clamp(0.0, 1.0)

    def _align(
        self, memory: Memory, fresh: _Queries, followed: Followed | None
    ) -> tuple[_Queries, Tensor, Tensor]:
        """Give queries and memory their motion and age; the first K memory entries become queries.

        Returns all queries, and content and position (B, M - K, C) of the rest of the memory.
        """
        dims, count = self.variant.embed_dims, self.variant.num_propagated
        low, high = self.pc_range[:3], self.pc_range[3:]
        past_reference = (memory.reference - low) / (high - low)
        if followed is not None:
            carried = self._fractions(followed.state.place[:, -count:])
            past_reference = torch.cat((carried, past_reference[:, count:]), dim=1)
        motion = motion_embedding(memory.velocity, memory.timestamp, memory.pose)
        rest = rest_embedding(fresh.content)
        age = self.time_embedding(age_embedding(memory.timestamp, dims))
        no_age = self.time_embedding(age_embedding(memory.timestamp.new_zeros(1, 1, 1), dims))
        fresh = _Queries(
            self.ego_pose_memory(fresh.content, rest),
            self.ego_pose_pe(fresh.position, rest) + no_age,
            fresh.reference,
        )
        past_position = self.ego_pose_pe(self._place(past_reference), motion) + age
        past = self.ego_pose_memory(memory.embedding, motion)
        first = past[:, :count]
        if followed is not None:
            box = torch.cat((followed.box[:, -count:], memory.scores[:, :count]), dim=-1)
            first = first + self.carried_box(box) + followed.content[:, -count:]
        propagated = _Queries(first, past_position[:, :count], past_reference[:, :count])
        return fresh.and_then(propagated), past[:, count:], past_position[:, count:]


def _token_mask(present: Tensor, tokens_per_camera: int) -> Tensor:
    """(B, N) -> (B, 1, 1, T), True where a token's camera gave an image."""
    return present.repeat_interleave(tokens_per_camera, dim=1)[:, None, None]


def _class_branch(dims: int, classes: int) -> nn.Sequential:
    last = nn.Linear(dims, classes)
    nn.init.constant_(last.bias, -math.log(99.0))
    return nn.Sequential(
        nn.Linear(dims, dims),
        nn.LayerNorm(dims),
        nn.ReLU(),
        nn.Linear(dims, dims),
        nn.LayerNorm(dims),
        nn.ReLU(),
        last,
    )


def _box_branch(dims: int, corrects: bool) -> nn.Sequential:
    last = nn.Linear(dims, 10)
    if corrects:  # nothing, until it has learned better
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(dims, dims), nn.ReLU(), nn.Linear(dims, dims), nn.ReLU(), last)
