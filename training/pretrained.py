"""Weights to start from: a backbone that has seen images before, or whatever fits of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from streampetr_core.checkpoint import read_weights
from streampetr_core.errors import StreamPETRError
from streampetr_core.model import StreamPETR

BACKBONE_PREFIXES = ("", "backbone.", "img_backbone.")
"""What stands before a ResNet's names: nothing in torchvision's files, backbone. in 2D detectors' (nuImages),
img_backbone. in this program's and the published ones. The names behind it are the same in all three."""
_CLASSIFIER = "fc."


class PretrainedError(StreamPETRError):
    """A file whose weights do not fit."""


def load_backbone(network: StreamPETR, path: Path) -> str:
    """Fill the backbone from a file, strictly; returns a line about it. Nothing in the file is executed.

    torchvision's classifier, and everything of a detector that is not its backbone, is left out.

    Raises:
        PretrainedError: when no prefix gives all parameters, naming the first that lack or differ.
        CheckpointError: when the file cannot be read.
    """
    state, wanted = read_weights(path), network.img_backbone.state_dict()
    found = {prefix: _behind(state, prefix) for prefix in BACKBONE_PREFIXES}
    prefix = max(found, key=lambda p: sum(key in wanted for key in found[p]))
    weights = found[prefix]
    lacking = [k for k in wanted if k not in weights and not k.endswith("num_batches_tracked")]
    wrong = [k for k in wanted if k in weights and weights[k].shape != wanted[k].shape]
    if lacking or wrong:
        first = (*lacking, *wrong)[0]
        raise PretrainedError(
            f"{path} is no backbone of '{network.variant.name}': {len(lacking)} weights missing, {len(wrong)} of "
            f"other shapes, first {first}; choose a file of a {network.variant.backbone} of "
            f"width {network.variant.backbone_width}"
        )
    network.img_backbone.load_state_dict({**wanted, **{k: v for k, v in weights.items() if k in wanted}})
    return f"backbone: {len(weights)} tensors of {path}" + (f" under '{prefix}'" if prefix else "")


def load_matching(network: StreamPETR, path: Path) -> str:
    """Fill whatever has the same name and shape as in the file; returns a line about the rest.

    For example a streaming network from a single-frame one, which has other queries and no memory.

    Raises:
        PretrainedError: when nothing fits.
    """
    state, wanted = read_weights(path), network.state_dict()
    for key in wanted:  # files of this program hold the shared heads once
        parts = key.split(".")
        if len(parts) > 3 and parts[1] in ("cls_branches", "reg_branches"):
            shared = ".".join((*parts[:2], "0", *parts[3:]))
            if key not in state and shared in state:
                state[key] = state[shared]
    fitting = {k: v for k, v in state.items() if k in wanted and v.shape == wanted[k].shape}
    if not fitting:
        raise PretrainedError(f"{path} has no weight of '{network.variant.name}' by name and shape")
    network.load_state_dict({**wanted, **fitting})
    fresh = [key for key in wanted if key not in fitting]
    names = f": {', '.join(fresh[:4])}{' ...' if len(fresh) > 4 else ''}" if fresh else ""
    return f"weights: {len(fitting)} tensors of {path}; {len(fresh)} stay new{names}"


def _behind(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    rest = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value for key, value in rest.items() if not key.startswith(_CLASSIFIER)}
