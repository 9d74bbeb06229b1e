"""How queries are placed in space and moved through time.

Legend: `B` batch, `Q` queries or memory entries, `C` channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from streampetr_core.model.layers import harmonic_embedding, sine_embedding


def reference_embedding(reference: Tensor, dims: int) -> Tensor:
    """(B, Q, 3) fractions of the range -> (B, Q, 3 dims / 2) sines and cosines, axes in the order y, x, z."""
    y_x_z = torch.cat((reference[..., 1:2], reference[..., 0:1], reference[..., 2:3]), dim=-1)
    return sine_embedding(y_x_z, dims // 2)


def motion_embedding(velocity: Tensor, age: Tensor, model_from_then: Tensor) -> Tensor:
    """Velocity (B, Q, 2), age (B, Q, 1) seconds and pose (B, Q, 4, 4) -> (B, Q, 180), in float32."""
    pose = model_from_then[..., :3, :].flatten(-2)
    return harmonic_embedding(torch.cat((velocity, age.to(velocity.dtype), pose), dim=-1))


def rest_embedding(like: Tensor) -> Tensor:
    """(1, 1, 180) motion embedding of a query of this very frame: no velocity, no age, identity pose."""
    still = like.new_zeros(1, 1, 2)
    return motion_embedding(still, still[..., :1], torch.eye(4, dtype=like.dtype, device=like.device)[None, None])


def age_embedding(age: Tensor, dims: int) -> Tensor:
    """(B, Q, 1) float64 seconds -> (B, Q, dims) float32; computed in float64."""
    return sine_embedding(age.double(), dims).float()
