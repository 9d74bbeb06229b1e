"""The feature pyramid of which only the finest level is used.

Parameter names are those of the published CPFPN. Legend: `B` images, `C` channels, `H W` feature height and width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class _Conv(nn.Module):
    """A convolution one name deeper, as the checkpoints have it."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, size, padding=size // 2)
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class CPFPN(nn.Module):
    """1x1 laterals, the coarse one added to the fine one, a 3x3 on the sum."""

    def __init__(self, in_channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList([_Conv(c, out_channels, 1) for c in in_channels])
        self.fpn_convs = nn.ModuleList([_Conv(out_channels, out_channels, 3)])

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Maps of stride 16 (B, C0, H, W) and 32 -> (B, C, H, W) of stride 16."""
        fine = self.lateral_convs[0](features[0])
        coarse = self.lateral_convs[1](features[1])
        return self.fpn_convs[0](fine + functional.interpolate(coarse, size=fine.shape[-2:], mode="nearest"))
