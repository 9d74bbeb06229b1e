"""ResNet as a feature pyramid's bottom: the maps of stride 16 and 32.

Parameter names are those of the published backbones (and of torchvision). Legend: `B` images, `C` channels, `H W`
image height and width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from streampetr_core.model.backbone import Backbone

_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y = y + (x if self.downsample is None else self.downsample(x))
        return functional.relu(y, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut (ResNet-50); the stride sits in the 3x3."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 width, H / stride, W / stride)."""
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y = y + (x if self.downsample is None else self.downsample(x))
        return functional.relu(y, inplace=True)


class ResNet(Backbone):
    """A ResNet of depth 18 or 50 whose stem has `width` channels (64 = standard); `fine`: map of stride 8, too."""

    def __init__(self, depth: int, width: int = 64, fine: bool = False) -> None:
        super().__init__()
        block = Bottleneck if depth >= 50 else BasicBlock
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        counts, out = _BLOCKS[depth], block.expansion
        self.layer1 = _stage(block, counts[0], width, width, 1)
        self.layer2 = _stage(block, counts[1], width * out, 2 * width, 2)
        self.layer3 = _stage(block, counts[2], 2 * width * out, 4 * width, 2)
        self.layer4 = _stage(block, counts[3], 4 * width * out, 8 * width, 2)
        self.fine = fine
        self.out_channels = (2 * width * out, 4 * width * out, 8 * width * out)[not fine :]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) normalised images -> maps (B, C, H/16, W/16) and (B, 2C, H/32, W/32); before them (B, C/2,
        H/8, W/8) with `fine`."""
        x = functional.relu(self.bn1(self.conv1(images)), inplace=True)
        x = functional.max_pool2d(x, 3, 2, 1)
        fine = self.layer2(self.layer1(x))
        middle = self.layer3(fine)
        maps = (middle, self.layer4(middle))
        return (fine, *maps) if self.fine else maps

    def sections(self) -> list[nn.Module]:
        return [block for stage in (self.layer1, self.layer2, self.layer3, self.layer4) for block in stage]


def _stage(
    block: type[BasicBlock] | type[Bottleneck], count: int, in_channels: int, width: int, stride: int
) -> nn.Sequential:
    rest = [block(width * block.expansion, width, 1) for _ in range(count - 1)]
    return nn.Sequential(block(in_channels, width, stride), *rest)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
