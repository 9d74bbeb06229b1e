"""A pyramid made of one map: maps of twice and four times the resolution, of the same, and of half of it.

After Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (arXiv:2203.16527). Names are
those of the published detectors. Legend: `B` images, `C` channels, `H W` height and width of the one map.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormedConv(nn.Conv2d):
    """A convolution without bias and the norm of its output, which is named within it."""

    def __init__(self, in_channels: int, out_channels: int, size: int) -> None:
        super().__init__(in_channels, out_channels, size, padding=size // 2, bias=False)
        self.norm = ChannelNorm(out_channels)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_channels, H, W)."""
        return self.norm(functional.conv2d(input, self.weight, padding=self.padding))


class SimplePyramid(nn.Module):
    """Maps of stride 4, 8, 16 and 32 from one of stride 16."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half, quarter = in_channels // 2, in_channels // 4
        self.simfp_2 = nn.Sequential(
            nn.ConvTranspose2d(in_channels, half, 2, 2),
            ChannelNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
            *_last(quarter, out_channels),
        )
        self.simfp_3 = nn.Sequential(nn.ConvTranspose2d(in_channels, half, 2, 2), *_last(half, out_channels))
        self.simfp_4 = nn.Sequential(*_last(in_channels, out_channels))
        self.simfp_5 = nn.Sequential(nn.Conv2d(in_channels, in_channels, 2, 2), *_last(in_channels, out_channels))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> (B, out_channels, 4H, 4W), (.., 2H, 2W), (.., H, W), (.., H/2, W/2)."""
        return self.simfp_2(x), self.simfp_3(x), self.simfp_4(x), self.simfp_5(x)


def _last(in_channels: int, out_channels: int) -> tuple[NormedConv, NormedConv]:
    return NormedConv(in_channels, out_channels, 1), NormedConv(out_channels, out_channels, 3)
