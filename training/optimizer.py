"""AdamW with a learning rate of its own for each part of the network."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW

from training.config import ConfigError, OptimizerConfig

_BACKBONE = "img_backbone."
_BLOCK = re.compile(r"\bblocks\.(\d+)\.")
_FIRST = re.compile(r"\b(patch_embed|pos_embed|cls_token)\b")


def make_optimizer(network: nn.Module, config: OptimizerConfig, rate: float) -> AdamW:
    """AdamW over everything in `network` that learns; each group keeps its full rate as `base_rate`.

    Raises:
        ConfigError: when a multiplier fits no parameter, or nothing learns.
    """
    groups = parameter_groups(network.named_parameters(), config, rate)
    if not groups:
        raise ConfigError("nothing learns: network.frozen covers every parameter")
    return AdamW(groups, lr=rate, betas=config.betas)


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, rate: float
) -> list[dict[str, Any]]:
    """Learning parameters by equal rate and weight decay, as torch's optimisers take them."""
    named = list(parameters)
    for prefix, _ in config.multipliers:
        if not any(_covers(prefix, name) for name, _ in named):
            raise ConfigError(f"optimizer.multipliers: no parameter's name begins with '{prefix}'")
    blocks = 1 + max((int(found[1]) for name, _ in named if (found := _block(name))), default=-1)
    groups: defaultdict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        factor = multiplier(name, config.multipliers)
        factor *= config.layer_decay ** layers_above(name, blocks)
        decays = config.decay_vectors or parameter.dim() > 1
        groups[rate * factor, config.weight_decay if decays else 0.0].append(parameter)
    return [
        {"params": group, "lr": lr, "base_rate": lr, "weight_decay": decay}
        for (lr, decay), group in groups.items()
    ]


def multiplier(name: str, multipliers: Iterable[tuple[str, float]]) -> float:
    """The factor of the longest prefix that covers the parameter; 1 where none does."""
    covering = [(len(prefix), factor) for prefix, factor in multipliers if _covers(prefix, name)]
    return max(covering)[1] if covering else 1.0


def layers_above(name: str, blocks: int) -> int:
    """How many blocks of a ViT backbone come after the parameter: 0 for its last layers and all other parts.

    Block i of n is named `blocks.i.`; the patch embedding comes before block 0. Without blocks all are 0.
    """
    if not name.startswith(_BACKBONE) or not blocks:
        return 0
    if _FIRST.search(name):
        return blocks + 1
    found = _block(name)
    return blocks - int(found[1]) if found else 0


def set_rates(optimizer: AdamW, factor: float) -> None:
    """Every group's rate as `factor` times its full one."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor


def _block(name: str) -> re.Match[str] | None:
    return _BLOCK.search(name) if name.startswith(_BACKBONE) else None


def _covers(prefix: str, name: str) -> bool:
    """Whole names between dots: layer1 does not cover layer10."""
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")
