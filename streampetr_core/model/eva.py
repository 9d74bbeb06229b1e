"""EVA-02 ViT-L/16 as a backbone: one map of stride 16, or a small pyramid made of it.

After Fang et al., "EVA-02" (arXiv:2303.11331): blocks of attention within windows with rotary position embedding
(Su et al., arXiv:2104.09864) and of gated layers (SwiGLU) with a norm inside. Most blocks use windows of 16x16
tokens; every third one uses windows as high as the image, the published answer to images that are not square.
Parameter names are those of the published detectors.

Legend: `B` images, `H W` tokens (image size / 16), `C` channels, `T` tokens of a window, `S` a window's side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from streampetr_core.model.backbone import Backbone
from streampetr_core.model.simple_pyramid import SimplePyramid

PATCH = 16
DEPTH = 24
_HEAD_DIMS = 64
_WINDOW = 16
_PRETRAINED_GRID = 14
"""Side of the grid of learned positions: 224 pixels."""
_EPS = 1e-6


class RotaryEmbedding(nn.Module):
    """Turns pairs of channels by angles proportional to row and column; scores then see only their differences.

    The first half of the channels turns with the row, the second with the column. Windows of another side than
    the pretrained 16 squeeze or stretch their positions to 16.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, dims: int, side: int) -> None:
        super().__init__()
        half = dims // 2
        rate = 1.0 / 10000.0 ** (torch.arange(0, half, 2).float() / half)
        place = torch.arange(side) / side * _WINDOW
        angle = (place[:, None] * rate).repeat_interleave(2, dim=-1)
        rows, columns = angle[:, None].expand(-1, side, -1), angle[None].expand(side, -1, -1)
        both = torch.cat((rows, columns), dim=-1).flatten(0, 1)
        self.register_buffer("freqs_cos", both.cos())
        self.register_buffer("freqs_sin", both.sin())

    def forward(self, x: Tensor) -> Tensor:
        """(..., T, dims) -> the same shape; T = S * S tokens, row by row."""
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack((-odd, even), dim=-1).flatten(-2)
        return x * self.freqs_cos + turned * self.freqs_sin


class Attention(nn.Module):
    """Self-attention among the tokens of a window; keys have no bias."""

    def __init__(self, dims: int, rope: RotaryEmbedding) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dims, dims, bias=False)
        self.k_proj = nn.Linear(dims, dims, bias=False)
        self.v_proj = nn.Linear(dims, dims, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dims))
        self.v_bias = nn.Parameter(torch.zeros(dims))
        self.rope = rope
        self.proj = nn.Linear(dims, dims)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, T, C) -> (windows, T, C)."""

        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (-1, _HEAD_DIMS)).transpose(1, 2)

        value = heads(functional.linear(x, self.v_proj.weight, self.v_bias))
        query = self.rope(heads(functional.linear(x, self.q_proj.weight, self.q_bias))).to(value)
        key = self.rope(heads(self.k_proj(x))).to(value)
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(found.transpose(1, 2).flatten(2))


class GatedLayers(nn.Module):
    """SwiGLU with a norm before its last layer."""

    def __init__(self, dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dims, hidden_dims)
        self.w2 = nn.Linear(dims, hidden_dims)
        self.ffn_ln = nn.LayerNorm(hidden_dims, eps=_EPS)
        self.w3 = nn.Linear(hidden_dims, dims)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.w3(self.ffn_ln(functional.silu(self.w1(x)) * self.w2(x)))


class Block(nn.Module):
    """Attention within windows of `side` x `side` tokens, then gated layers; both beside a shortcut."""

    def __init__(self, dims: int, side: int, rope: RotaryEmbedding, drop_path: float) -> None:
        super().__init__()
        self.side, self.drop_path = side, drop_path
        self.norm1 = nn.LayerNorm(dims, eps=_EPS)
        self.attn = Attention(dims, rope)
        self.norm2 = nn.LayerNorm(dims, eps=_EPS)
        self.mlp = GatedLayers(dims, dims * 8 // 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        windows = windows_from_map(self.norm1(x), self.side)
        x = x + self._kept(map_from_windows(self.attn(windows), self.side, x.shape))
        return x + self._kept(self.mlp(self.norm2(x)))

    def _kept(self, y: Tensor) -> Tensor:
        """Stochastic depth: in training, nothing for some images and more for the others."""
        if not self.training or not self.drop_path:
            return y
        keep = 1.0 - self.drop_path
        return y * (torch.rand(len(y), 1, 1, 1, device=y.device, dtype=y.dtype) < keep).to(y) / keep


class EvaViT(Backbone):
    """EVA-02's ViT-L/16.

    Args:
        height: of the images that it is for, pixels; the windows of every third block are as high.
        width: channels; 1024 = L, a multiple of 64.
        drop_path: largest probability of stochastic depth, reached in the last block.
        pyramid: give maps of stride 4, 8, 16 and 32 with 256 channels instead of the plain one of stride 16.
    """

    def __init__(self, height: int, width: int = 1024, drop_path: float = 0.0, pyramid: bool = False) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + _PRETRAINED_GRID**2, width).normal_(std=0.02))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        sides = [height // PATCH if index % 3 == 2 else _WINDOW for index in range(DEPTH)]
        rates = [drop_path * index / (DEPTH - 1) for index in range(DEPTH)]
        self.rope_win = RotaryEmbedding(_HEAD_DIMS, _WINDOW)
        self.rope_glb = RotaryEmbedding(_HEAD_DIMS, height // PATCH)
        self.blocks = nn.ModuleList(
            [
                Block(width, side, self.rope_glb if index % 3 == 2 else self.rope_win, rate)
                for index, (side, rate) in enumerate(zip(sides, rates, strict=True))
            ]
        )
        self.adapter = SimplePyramid(width, 256) if pyramid else None
        self.out_channels = (256,) * 4 if pyramid else (width,)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) normalised images -> one map (B, C, H/16, W/16), or the pyramid's four."""
        x = self.patch_embed["proj"](images).permute(0, 2, 3, 1)
        x = x + self.positions(x.shape[1], x.shape[2])
        for block in self.blocks:
            x = block(x)
        x = x.permute(0, 3, 1, 2)
        return (x,) if self.adapter is None else self.adapter(x)

    def positions(self, height: int, width: int) -> Tensor:
        """(1, H, W, C) learned positions, resized; the class token's is left out."""
        grid = self.pos_embed[:, 1:].unflatten(1, (_PRETRAINED_GRID, _PRETRAINED_GRID)).permute(0, 3, 1, 2)
        return resize_positions(grid, (height, width)).permute(0, 2, 3, 1)

    def sections(self) -> list[nn.Module]:
        return list(self.blocks)


def resize_positions(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, C, h, w) -> (1, C, *size): bicubic, as published."""
    return functional.interpolate(grid.float(), size=size, mode="bicubic", align_corners=False).to(grid)


def windows_from_map(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> (windows, S * S, C); zeros at the right and the bottom fill windows up, and have a say."""
    height, width = x.shape[1:3]
    x = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    return x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3, 4).flatten(0, 2)


def map_from_windows(windows: Tensor, side: int, shape: torch.Size) -> Tensor:
    """The inverse of `windows_from_map` for a map of `shape` (B, H, W, C)."""
    batch, height, width, _ = shape
    rows, columns = -(-height // side), -(-width // side)
    x = windows.view(batch, rows, columns, side, side, -1).transpose(2, 3)
    return x.reshape(batch, rows * side, columns * side, -1)[:, :height, :width]
