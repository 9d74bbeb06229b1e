"""The transformer decoder: self-attention over queries and memory, cross-attention to the images, feed-forward.

Parameter names are those of the published checkpoints. Legend: `B` batch, `Q` queries, `M` memory keys, `T` image
tokens, `C` channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Projections(nn.Module):
    """The weights of a multi-head attention, named as torch names them."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dims, dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dims))
        self.out_proj = nn.Linear(dims, dims)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)


class Attention(nn.Module):
    """Multi-head attention with the residual around it; positions are added to queries and keys, not to values."""

    def __init__(self, dims: int, heads: int, attention_dropout: float, dropout: float) -> None:
        super().__init__()
        self.attn = _Projections(dims)
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """x and position (B, Q, C), key and value (B, T, C) -> (B, Q, C).

        `allowed` is a bool mask that broadcasts to (B, heads, Q, T), True = may be seen.
        """
        return self.attend(x, position, self.project(key, 1), self.project(value, 2), allowed)

    def project(self, x: Tensor, part: int) -> Tensor:
        """(B, T, C) -> (B, heads, T, C / heads) with the weights of query (0), key (1) or value (2)."""
        dims = x.shape[-1]
        rows = slice(part * dims, (part + 1) * dims)
        y = functional.linear(x, self.attn.in_proj_weight[rows], self.attn.in_proj_bias[rows])
        return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, x: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
        """As `forward`, with key and value already projected."""
        dropout = self.attention_dropout if self.training else 0.0
        query = self.project(x + position, 0)
        y = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
        return x + self.dropout(self.attn.out_proj(y.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """Linear, ReLU, linear with the residual around it."""

    def __init__(self, dims: int, hidden_dims: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(dims, hidden_dims), nn.ReLU(inplace=True), nn.Dropout(dropout)),
            nn.Linear(hidden_dims, dims),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, C)."""
        return x + self.layers(x)


class DecoderLayer(nn.Module):
    """Self-attention, norm, cross-attention, norm, feed-forward, norm."""

    def __init__(self, dims: int, heads: int, hidden_dims: int, dropout: float) -> None:
        super().__init__()
        # the published cross-attention drops no weights: its dropout was passed where "bias" is expected
        self.attentions = nn.ModuleList(
            [Attention(dims, heads, dropout, dropout), Attention(dims, heads, 0.0, dropout)]
        )
        self.ffns = nn.ModuleList([FeedForward(dims, hidden_dims, dropout)])
        self.norms = nn.ModuleList([nn.LayerNorm(dims) for _ in range(3)])

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        image: Tensor,
        image_key: Tensor,
        past: Tensor | None,
        past_position: Tensor | None,
        self_allowed: Tensor | None = None,
        image_allowed: Tensor | None = None,
    ) -> Tensor:
        """One layer; arguments as in `Decoder.forward`, `image_key` being image + image_position."""
        value = x if past is None else torch.cat((x, past), dim=1)
        where = position if past_position is None else torch.cat((position, past_position), dim=1)
        x = self.norms[0](self.attentions[0](x, position, value + where, value, self_allowed))
        x = self.norms[1](self.attentions[1](x, position, image_key, image, image_allowed))
        return self.norms[2](self.ffns[0](x))


class Decoder(nn.Module):
    """The layers and the norm that all of their outputs pass on their way to the heads."""

    def __init__(self, dims: int, heads: int, hidden_dims: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DecoderLayer(dims, heads, hidden_dims, dropout) for _ in range(num_layers)])
        self.post_norm = nn.LayerNorm(dims)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        image: Tensor,
        image_position: Tensor,
        past: Tensor | None = None,
        past_position: Tensor | None = None,
        self_allowed: Tensor | None = None,
        image_allowed: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Decoded queries (layers, B, Q, C), or (1, B, Q, C) with `last_only`.

        Args:
            x, position: (B, Q, C) content and position of the queries.
            image, image_position: (B, T, C) tokens.
            past, past_position: (B, M, C) memory entries that are keys of the self-attention only.
            self_allowed: bool, broadcasts to (B, heads, Q, Q + M); True = may be seen.
            image_allowed: bool, broadcasts to (B, heads, Q, T).
        """
        image_key = image + image_position
        outputs = []
        for index, layer in enumerate(self.layers):
            x = layer(x, position, image, image_key, past, past_position, self_allowed, image_allowed)
            if not last_only or index == len(self.layers) - 1:
                outputs.append(self.post_norm(x))
        return torch.nan_to_num(torch.stack(outputs))


class Transformer(nn.Module):
    """One level of names in the checkpoints."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
