"""A moving average of the weights (EMA), often a better network than the last step's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The average of a network's parameters and statistics over its steps.

    Args:
        network: whose weights are followed.
        decay: share of the old average that a step keeps; smaller in the beginning, (1 + n) / (10 + n) at step n.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {name: value.detach().clone() for name, value in _floating(network).items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after one more step."""
        keep = min(self.decay, (1.0 + self.updates) / (10.0 + self.updates))
        self.updates += 1
        mix = get_ema_multi_avg_fn(keep)
        mix(list(self.weights.values()), list(_floating(network).values()), self.updates)

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"updates": self.updates, "weights": self.weights}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same network."""
        self.updates = state["updates"]
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])


def _floating(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that can be averaged, shared ones once."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: value.detach() for name, value in named if value.is_floating_point()}
