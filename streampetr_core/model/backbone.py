"""What the rest of the network asks of a backbone, whatever it is made of."""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """Normalised images in, maps out; parameter names are those of the published checkpoints.

    Batch norm always runs on its stored statistics, also in training.

    Attributes:
        out_channels: of the maps, the finest first.
    """

    out_channels: tuple[int, ...]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> maps, the finest first."""
        raise NotImplementedError

    def sections(self) -> list[nn.Module]:
        """The repeated blocks in the order of computation: each takes one tensor and gives one."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Backbone:
        """Training mode for everything but batch norm, which keeps its stored statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self
