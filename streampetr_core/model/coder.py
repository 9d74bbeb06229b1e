"""From ten numbers a query to boxes: the code of the published heads and its decoding.

Code: x, y, z (metres, model frame, geometric centre), log length, log width, log height, sin yaw, cos yaw, vx, vy.
Legend: `B` batch, `Q` queries, `K` kept boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from streampetr_core.model.layers import inverse_sigmoid


@dataclass(frozen=True)
class Detections:
    """The best (query, class) pairs of a frame, by falling score; the same query may come with several classes.

    Attributes:
        boxes: (B, K, 9) x, y, z of the geometric centre, length, width, height, yaw, vx, vy; model frame.
        scores: (B, K).
        labels: (B, K) class index.
        queries: (B, K) index of the query.
        inside: (B, K) bool, True where the centre lies in the range that results are kept in.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    queries: Tensor
    inside: Tensor


def place_boxes(raw: Tensor, reference: Tensor, pc_range: Tensor) -> Tensor:
    """Regression output (..., 10) and reference points (..., 3) in fractions -> box code with metric centre."""
    low, high = pc_range[:3], pc_range[3:]
    center = (raw[..., :3] + inverse_sigmoid(reference)).sigmoid()
    return torch.cat((center * (high - low) + low, raw[..., 3:]), dim=-1)


def decode_code(code: Tensor) -> Tensor:
    """Box code (..., 10) -> (..., 9) x, y, z, length, width, height, yaw, vx, vy."""
    yaw = torch.atan2(code[..., 6:7], code[..., 7:8])
    return torch.cat((code[..., :3], code[..., 3:6].exp(), yaw, code[..., 8:10]), dim=-1)


def decode(logits: Tensor, boxes: Tensor, kept_range: Tensor, count: int) -> Detections:
    """The `count` best of all (query, class) scores, without suppression (NMS-free coder).

    `logits` (B, Q, classes) and `boxes` (B, Q, 10) are the last decoder layer's; `kept_range` (6,) metres.
    """
    classes = logits.shape[-1]
    scores, flat = logits.sigmoid().flatten(1).topk(min(count, logits.shape[1] * classes), dim=1)
    queries = torch.div(flat, classes, rounding_mode="floor")
    chosen = decode_code(boxes.gather(1, queries[..., None].expand(-1, -1, boxes.shape[-1])))
    center = chosen[..., :3]
    inside = ((center >= kept_range[:3]) & (center <= kept_range[3:])).all(-1)
    return Detections(chosen, scores, flat % classes, queries, inside)
