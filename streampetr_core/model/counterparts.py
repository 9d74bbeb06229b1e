"""What a query is told of its counterpart: an image cell's of the memory's box nearby, a memory's of the cell's.

Attention over positions finds such pairs, but hands on contents and no places. Here the difference of the two
boxes itself becomes content: how far an object is from where its velocity has carried it says how to correct both.

Legend: `B` batch, `Q` queries, `C` channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_NUMBERS = 11
"""Differences of place 3 and box 7, and how sure it is that there is a counterpart; its scores follow."""
_LEAST = 1e-4
_METRES = 2.0
"""Differences count in these."""


class Counterparts(nn.Module):
    """Soft association between the queries of this frame and those of the memory.

    Queries without a box (learned ones, an empty memory's) neither have nor are counterparts.
    """

    def __init__(self, dims: int, num_classes: int) -> None:
        super().__init__()
        self.similar = nn.Linear(dims, dims // 4)
        self.liking = nn.Parameter(torch.zeros(1))
        """What similar contents count for."""
        self.width = nn.Parameter(torch.tensor((1.0, 0.05)).log())
        """Logarithms of the distance that is nothing unusual: metres, and metres a metre of range."""
        self.none = nn.Parameter(torch.tensor([-2.0]))
        self.told = nn.Linear(_NUMBERS + num_classes, dims)

    def forward(self, content: Tensor, place: Tensor, box: Tensor, scores: Tensor, fresh: int) -> Tensor:
        """(B, Q, C), (B, Q, 3) metres, (B, Q, 7), (B, Q, classes) -> (B, Q, C) to add to the content; the first
        `fresh` queries are of this frame, the others of the memory."""
        real = box[..., 3:5].square().sum(-1) > 0.5  # sine and cosine of a yaw
        of_memory = torch.arange(content.shape[1], device=content.device) >= fresh
        possible = real[:, :, None] & real[:, None] & (of_memory[:, None] != of_memory)
        constant, slope = self.width.exp()
        usual = constant + slope * place[..., :2].norm(dim=-1)
        far = torch.cdist(place[..., :2], place[..., :2]).square() / usual[..., None].square()
        like = functional.normalize(self.similar(content), dim=-1)
        # how much the other's scores say of what this one seems to be
        seems = scores / scores.sum(dim=-1, keepdim=True).clamp(min=_LEAST)
        agreement = (seems @ scores.transpose(1, 2)).clamp(min=_LEAST).log()
        logits = self.liking * (like @ like.transpose(1, 2)) + agreement - 0.5 * far
        logits = logits.masked_fill(~possible, -math.inf)
        share = torch.cat((logits, self.none.expand(*logits.shape[:2], 1)), dim=-1).softmax(dim=-1)[..., :-1]
        sure = share.sum(dim=-1, keepdim=True)
        numbers = torch.cat((place / _METRES, box), dim=-1)
        difference = share @ numbers - sure * numbers
        return self.told(torch.cat((difference, sure, share @ scores), dim=-1)) * real[..., None]
