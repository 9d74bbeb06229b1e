"""The network as it is trained: its first weights, what of it learns, and how it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streampetr_core.model import StreamPETR, Variant
from streampetr_core.model.backbone import Backbone
from training.config import ConfigError, NetworkConfig, TrainConfig
from training.pretrained import load_backbone, load_matching

_IN_HALF = (
    "img_backbone",
    "img_neck",
    "img_roi_head",
    "pts_bbox_head.proposals.trunk",
    "pts_bbox_head.transformer.decoder",
)
"""Parts that autocast may compute in half precision. The rest works with metres, seconds and logits of positions,
for which half precision is too coarse: at 50 m its steps are 3 to 25 cm. What the trunk says of a cell are shifts
and logarithms, which become metres outside of it."""
IMAGES_PART = ("img_backbone", "img_neck", "pts_bbox_head.proposals.trunk")
"""What looks at the images alone; it learns without the decoder."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build_network(variant: Variant, config: NetworkConfig) -> tuple[StreamPETR, list[str]]:
    """A network with its first weights, and a line about each file that they come from.

    Raises:
        ConfigError: when the files leave weights random that are not to learn.
    """
    network = StreamPETR(variant)
    random = {k: p.detach().clone() for k, p in network.named_parameters() if k.startswith(config.frozen)}
    notes = []
    if config.weights is not None:
        notes.append(load_matching(network, config.weights))
    if config.backbone is not None:
        notes.append(load_backbone(network, config.backbone))
    # matrices only: biases and norms may well be in a file as they are at first
    left = [k for k, p in network.named_parameters() if k in random and p.dim() > 1 and torch.equal(p, random[k])]
    if notes and left:
        raise ConfigError(
            f"network.frozen keeps {left[0]} as it is ({len(left)} in all), but no file has it, so it would stay "
            "random; give --network.weights of a network that has learned it"
        )
    return network, notes


def prepare_network(
    network: StreamPETR,
    network_config: NetworkConfig,
    config: TrainConfig,
    device: torch.device,
    processes: int = 1,
) -> StreamPETR:
    """Decide what learns, in what precision and with how much memory; the names of the weights stay.

    Raises:
        ConfigError: when a frozen part does not exist.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in network_config.frozen:
        if not any(name.startswith(prefix) for name in names):
            raise ConfigError(f"network.frozen: no parameter's name begins with '{prefix}'")
    for name, parameter in network.named_parameters():
        if any(name.startswith(prefix) for prefix in network_config.frozen):
            parameter.requires_grad_(False)
    if not config.decoder:
        for name, parameter in network.named_parameters():
            if not name.startswith(IMAGES_PART):
                parameter.requires_grad_(False)
    if network_config.batch_norm == "frozen":
        for norm in _batch_norms(network):
            norm.requires_grad_(False)
    # off the CPU, where torch has none, statistics are those of all processes together
    if network_config.batch_norm == "train" and processes > 1 and device.type != "cpu":
        network.img_backbone = cast(Backbone, nn.SyncBatchNorm.convert_sync_batchnorm(network.img_backbone))
    if config.memory == "low":
        for block in _blocks(network):
            _wrap(block, _recomputed)
    precision = config.precision_on(device.type)
    if precision != "float32":
        for name in _IN_HALF:
            part = network.get_submodule(name) if _has(network, name) else None
            if part is not None:
                _wrap(part, partial(_in_half, device.type, _DTYPES[precision]))
    return network.to(device)


def training_mode(network: StreamPETR, on: bool, batch_norm: str) -> None:
    """Dropout and, where it trains, batch norm on or off; parts that do not learn keep their statistics."""
    network.train(on)
    if on and batch_norm == "train":
        for norm in _batch_norms(network):
            norm.train(norm.weight.requires_grad)


def _batch_norms(network: StreamPETR) -> Iterator[Any]:
    kinds = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return (module for module in network.img_backbone.modules() if isinstance(module, kinds))


def _blocks(network: StreamPETR) -> list[nn.Module]:
    """What is computed again as a whole: the backbone's blocks and the decoder's layers."""
    return [*network.img_backbone.sections(), *network.pts_bbox_head.transformer.decoder.layers]


def _wrap(module: nn.Module, wrapper: Callable[..., Any]) -> None:
    """`wrapper(forward, ...)` in the place of the module's forward; the state dict does not notice."""
    module.forward = partial(wrapper, module.forward)


def _recomputed(forward: Callable[..., Any], *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False)


def _in_half(device: str, dtype: torch.dtype, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch.autocast(device, dtype):
        return _float32(forward(*args, **kwargs))


def _float32(outputs: Any) -> Any:
    """Tensors and tuples of them as float32; other things as they are."""
    if isinstance(outputs, tuple):
        return tuple(map(_float32, outputs))
    return outputs.float() if isinstance(outputs, Tensor) else outputs


def _has(network: nn.Module, name: str) -> bool:
    return any(found == name for found, _ in network.named_modules())
