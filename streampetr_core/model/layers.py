"""Small layers and encodings that several parts of the head share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConditionalNorm(nn.Module):
    """Layer norm whose scale and shift come from a condition ("MLN"): gamma(c) * norm(x) + beta(c)."""

    def __init__(self, condition_dims: int, dims: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Linear(condition_dims, dims), nn.ReLU())
        self.gamma = nn.Linear(dims, dims)
        self.beta = nn.Linear(dims, dims)
        nn.init.zeros_(self.gamma.weight)
        nn.init.ones_(self.gamma.bias)
        nn.init.zeros_(self.beta.weight)
        nn.init.zeros_(self.beta.bias)

    def modulation(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """(..., condition_dims) -> gamma and beta, each (..., dims)."""
        c = self.reduce(condition)
        return self.gamma(c), self.beta(c)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(..., dims) and (..., condition_dims) -> (..., dims)."""
        return modulate(x, *self.modulation(condition))


def modulate(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """gamma * norm(x) + beta over the last axis, the norm without weights of its own."""
    return gamma * functional.layer_norm(x, x.shape[-1:], eps=1e-5) + beta


class FeatureGate(nn.Module):
    """Scales a position embedding by a gate made of the image feature ("featurized PE")."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Linear(dims, dims)
        self.conv_expand = nn.Linear(dims, dims)

    def forward(self, position: Tensor, feature: Tensor) -> Tensor:
        """(..., dims), (..., dims) -> (..., dims)."""
        return position * torch.sigmoid(self.conv_expand(functional.relu(self.conv_reduce(feature))))


def mlp(in_dims: int, hidden_dims: int, out_dims: int) -> nn.Sequential:
    """Linear, ReLU, Linear."""
    return nn.Sequential(nn.Linear(in_dims, hidden_dims), nn.ReLU(), nn.Linear(hidden_dims, out_dims))


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """The logit of x clamped to [0, 1], both sides floored at eps."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=eps) / (1.0 - x).clamp(min=eps))


def sine_embedding(values: Tensor, dims: int) -> Tensor:
    """(..., A) values -> (..., A * dims): sine and cosine interleaved, dims an axis, in the axes' order.

    Frequency of feature j is 2 pi / 10000^(2 floor(j/2) / dims).
    """
    index = torch.arange(dims // 2, dtype=torch.float32, device=values.device)
    period = 10000.0 ** (2.0 * index / dims)
    angle = (values * (2.0 * math.pi)).unsqueeze(-1) / period
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-3)


def harmonic_embedding(values: Tensor, num_frequencies: int = 6) -> Tensor:
    """(..., A) -> (..., 2 A num_frequencies): sin of all, cos of all, for frequencies 1, 2, 4, ... (NeRF)."""
    parts = []
    for power in range(num_frequencies):
        scaled = values * float(2**power)
        parts += [scaled.sin(), scaled.cos()]
    return torch.cat(parts, dim=-1)
