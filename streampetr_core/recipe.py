"""Weights made by a rule from the names of the parameters: the same numbers everywhere, nothing to download.

They are what the reference vectors were computed with: the scales keep activations in range, the detections mean
nothing.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_AS_BUILT = {"code_weights", "match_costs", "pc_range", "position_range", "coords_d", "freqs_cos", "freqs_sin"}


def recipe_weight(key: str, shape: tuple[int, ...]) -> NDArray | None:
    """The array for one state dict key; None where the model keeps what it was built with."""
    last = key.rsplit(".", 1)[-1]
    if last in _AS_BUILT:
        return None
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    # the layers share their heads, so all six names give one set of numbers
    key = re.sub(r"(cls|reg)_branches\.\d+\.", r"\1_branches.0.", key)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    if key.endswith("reference_points.weight"):
        return generator.random(shape, dtype=np.float32)
    noise = generator.standard_normal(shape, dtype=np.float32)
    if last == "running_mean":
        return np.float32(0.05) * noise
    if last == "running_var":
        return 1 + np.float32(0.1) * np.abs(noise)
    if last == "pos_embed":
        return np.float32(0.02) * noise
    if len(shape) <= 1:
        weight = np.float32(0.05) * noise
        if last == "weight" or key.endswith("gamma.bias"):
            weight = 1 + weight
        return weight * np.float32(0.5) if key.endswith("bn3.weight") else weight
    gain = 1.0 if last == "in_proj_weight" else 2.0
    weight = noise * np.float32(np.sqrt(gain / math.prod(shape[1:])))
    if ".ego_pose_" in key and key.endswith(".reduce.0.weight"):
        weight = weight * np.float32(0.2)
    if len(shape) == 4:
        weight = weight - weight.mean((1, 2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    return weight


def recipe_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """A full state dict of `model` by the rule."""
    return recipe_from_shapes(model.state_dict())


def recipe_from_shapes(built: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rule applied to the keys and shapes of a state dict, whose values stay where the rule leaves them."""
    state = {}
    for key, value in built.items():
        weight = recipe_weight(key, tuple(value.shape))
        state[key] = value.clone() if weight is None else torch.from_numpy(weight)
    return state
