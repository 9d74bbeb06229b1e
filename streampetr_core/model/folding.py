"""Batch norm folded into the convolutions before it: the same numbers to rounding, fewer passes over the maps."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy of a backbone for inference in which every batch norm is the identity.

    Finds the pairs by name: `convK` with `bnK`, `X/conv` with `X/norm`, and a convolution followed by its norm in
    a Sequential.
    """
    folded = copy.deepcopy(module).eval()
    for parent in folded.modules():
        children = dict(parent.named_children())
        for name, child in children.items():
            if not isinstance(child, nn.BatchNorm2d):
                continue
            before = _before(name)
            convolution = children[before]
            assert isinstance(convolution, nn.Conv2d)
            setattr(parent, before, fuse_conv_bn_eval(convolution, child))
            setattr(parent, name, nn.Identity())
    return folded


def _before(name: str) -> str:
    """The convolution before a norm."""
    if name.startswith("bn"):
        return name.replace("bn", "conv")
    return name.removesuffix("/norm") + "/conv" if name.endswith("/norm") else str(int(name) - 1)
