"""Weights to start from: a backbone that has seen images before, or whatever fits of a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from streampetr_core.checkpoint import read_weights
from streampetr_core.errors import StreamPETRError
from streampetr_core.model import StreamPETR
from streampetr_core.model.eva import resize_positions

BACKBONE_PREFIXES = ("", "backbone.", "img_backbone.", "backbone.bottom_up.", "backbone.net.")
"""What stands before a backbone's names: nothing in torchvision's and VoVNet's own files, backbone. in
mmdetection's detectors (nuImages), img_backbone. in this program's and the published ones (also in the "remapped"
files of V2-99 and EVA-02), backbone.bottom_up. in detectron2's detectors with a feature pyramid (DD3D),
backbone.net. in its plain ViT detectors (EVA-02). The names behind it are the same in all."""
_AS_BUILT = ("num_batches_tracked", "freqs_cos", "freqs_sin")
"""Never taken: a count that nothing reads, and rotary tables, which follow from this network's image size."""


class PretrainedError(StreamPETRError):
    """A file whose weights do not fit."""


def load_backbone(network: StreamPETR, path: Path) -> str:
    """Fill the backbone from a file, strictly; returns a line about it. Nothing in the file is executed.

    What else the file holds (a classifier, the rest of a detector, a pyramid) is left out. A ViT's learned
    positions are resized where the file has another grid.

    Raises:
        PretrainedError: when no prefix gives all parameters, naming the first that lack or differ.
        CheckpointError: when the file cannot be read.
    """
    state, built = read_weights(path), network.img_backbone.state_dict()
    wanted = {key: value for key, value in built.items() if not key.endswith(_AS_BUILT)}
    found = {prefix: _behind(state, prefix) for prefix in BACKBONE_PREFIXES}
    prefix = max(found, key=lambda p: len(found[p].keys() & wanted.keys()))
    weights = {key: _fitted(key, found[prefix][key], wanted[key]) for key in wanted if key in found[prefix]}
    lacking = [key for key in wanted if key not in weights]
    wrong = [key for key in weights if weights[key].shape != wanted[key].shape]
    if lacking or wrong:
        first = (*lacking, *wrong)[0]
        raise PretrainedError(
            f"{path} is no backbone of '{network.variant.name}': {len(lacking)} weights missing, {len(wrong)} of "
            f"other shapes, first {first}; choose a file of a {network.variant.backbone} of width "
            f"{network.variant.backbone_width}"
        )
    network.img_backbone.load_state_dict({**built, **weights})
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
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _fitted(key: str, value: Tensor, wanted: Tensor) -> Tensor:
    """Learned positions (1, 1 + side * side, C) on the wanted grid; everything else as it is."""
    if key != "pos_embed" or value.shape == wanted.shape or value.dim() != 3:
        return value
    old, new = (math.isqrt(positions.shape[1] - 1) for positions in (value, wanted))
    if 1 + old * old != value.shape[1]:
        return value
    grid = value[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    return torch.cat((value[:, :1], resize_positions(grid, (new, new)).flatten(2).transpose(1, 2)), dim=1)
