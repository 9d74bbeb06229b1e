"""VoVNet-99 with effective squeeze and excitation: the maps of stride 16 and 32.

After Lee and Park, "CenterMask" (arXiv:1911.06667). A block aggregates once: it concatenates its input and the
outputs of a chain of 3x3 convolutions. Parameter names, with slashes in them, are those of the published
checkpoints (VoVNet's own, DD3D's, PETR's). Legend: `B` images, `C` channels, `H W` height and width.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from streampetr_core.model.backbone import Backbone

_BLOCKS = (1, 3, 9, 3)
_CHAIN = 5


class ChannelGate(nn.Module):
    """Effective squeeze and excitation: every channel times a hard sigmoid of one linear layer of all means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * (functional.relu6(self.fc(x.mean((2, 3), keepdim=True)) + 3.0) / 6.0)


class AggregationBlock(nn.Module):
    """One-shot aggregation: chained 3x3 convolutions, all of them and the input into one 1x1, a gate."""

    def __init__(self, name: str, in_channels: int, width: int, out_channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.layers = nn.ModuleList(
            [_conv(f"{name}_{i}", width if i else in_channels, width, 3) for i in range(_CHAIN)]
        )
        self.concat = _conv(f"{name}_concat", in_channels + _CHAIN * width, out_channels, 1)
        self.ese = ChannelGate(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        found = [x]
        for layer in self.layers:
            found.append(layer(found[-1]))
        y = self.ese(self.concat(torch.cat(found, dim=1)))
        return y + x if self.shortcut else y


class VoVNet(Backbone):
    """V2-99 ("V-99-eSE"); `width` is its first convolution's number of channels (64 = standard)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        stem = [
            _conv("stem_1", 3, width, 3, 2),
            _conv("stem_2", width, width, 3),
            _conv("stem_3", width, 2 * width, 3, 2),
        ]
        self.stem = nn.Sequential(OrderedDict(item for conv in stem for item in conv.named_children()))
        # 128, 160, 192, 224 within the blocks, 256 to 1024 between them, where the width is 64
        inner = [width * k // 2 for k in (4, 5, 6, 7)]
        outer = [2 * width, *(width * k for k in (4, 8, 12, 16))]
        stages = [_stage(i + 2, _BLOCKS[i], outer[i], inner[i], outer[i + 1]) for i in range(4)]
        self.stage2, self.stage3, self.stage4, self.stage5 = stages
        self.out_channels = (outer[3], outer[4])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) normalised images -> maps (B, 768, H/16, W/16) and (B, 1024, H/32, W/32)."""
        fine = self.stage4(self.stage3(self.stage2(self.stem(images))))
        return fine, self.stage5(fine)

    def sections(self) -> list[nn.Module]:
        stages = (self.stage2, self.stage3, self.stage4, self.stage5)
        return [block for stage in stages for block in stage if isinstance(block, AggregationBlock)]


def _stage(number: int, count: int, in_channels: int, width: int, out_channels: int) -> nn.Sequential:
    """Blocks `OSA<number>_1`, ...; all stages but the first (number 2) begin by halving the map."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    if number > 2:
        blocks["Pooling"] = nn.MaxPool2d(3, 2, ceil_mode=True)
    for i in range(count):
        name = f"OSA{number}_{i + 1}"
        before = out_channels if i else in_channels
        blocks[name] = AggregationBlock(name, before, width, out_channels, shortcut=i > 0)
    return nn.Sequential(blocks)


def _conv(name: str, in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)
    parts = {"conv": conv, "norm": nn.BatchNorm2d(out_channels), "relu": nn.ReLU(inplace=True)}
    return nn.Sequential(OrderedDict({f"{name}/{part}": module for part, module in parts.items()}))
