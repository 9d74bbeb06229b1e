"""Weights in and out of files: own .safetensors, and published .pth files without running code in them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from streampetr_core.console import atomic_output
from streampetr_core.errors import StreamPETRError
from streampetr_core.model import StreamPETR

SHIPPED = "shipped"
"""Name of the weights that come with this program: the variant tiny, trained on rendered drives."""
UNTRAINED = ("recipe", "random")
"""Names of weights that mean nothing: the reference vectors' and random ones."""
_AUXILIARY = "img_roi_head."
_EXACT = ("reference_points.weight", "freqs_cos", "freqs_sin")
_WRAPPERS = ("state_dict", "model", "module")


class CheckpointError(StreamPETRError):
    """A checkpoint that cannot be read or is not this model's."""


def shipped_checkpoint() -> Path:
    """The file behind the name "shipped"; its model card lies beside it."""
    return Path(__file__).parent / "weights" / "tiny.safetensors"


def load_checkpoint(model: StreamPETR, source: str | Path | Mapping[str, Tensor]) -> None:
    """Fill `model` from a file or a state dict, strictly: every parameter, nothing left over, every shape equal.

    Only the 2D head, which inference never runs, may be absent. Published files wrap the weights in `state_dict`
    and may prefix the names with `module.`; both are undone. Nothing in a file is executed.

    Raises:
        CheckpointError: for an unreadable file, or naming the first keys or shapes that differ.
    """
    if isinstance(source, str | Path):
        name, state = str(source), read_weights(source)
    else:
        name, state = "the state dict", _unwrap(source)
    _check(model, state, name)
    missing_head = {k: v for k, v in model.state_dict().items() if k.startswith(_AUXILIARY) and k not in state}
    model.load_state_dict({**missing_head, **state}, strict=True)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or .pth file, on the CPU.

    Raises:
        CheckpointError: when the file is absent, cannot be read safely or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; give a .safetensors or .pth file, or 'shipped'")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():  # of torch, about files that it then refuses
            warnings.simplefilter("ignore")
            return _unwrap(torch.load(path, map_location="cpu", weights_only=True))
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    except Exception as error:  # every reader has its own way to say that a file is broken
        if "Weights only load failed" in str(error):  # torch goes on to advise loading it all the same
            reason = "it is no weights file, or needs code to load, which is refused"
        else:
            reason = f"{type(error).__name__}; it is damaged or no weights file"
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error


def checkpoint_metadata(path: str | Path) -> dict[str, str]:
    """What `save_checkpoint` wrote beside the weights; empty for other files."""
    if Path(path).suffix != ".safetensors" or not Path(path).is_file():
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error}); it is damaged") from error


def save_checkpoint(
    model: StreamPETR,
    path: str | Path,
    *,
    half: bool = False,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the weights as .safetensors with the variant's name in the metadata; shared heads are stored once.

    Args:
        half: the big tensors as float16, half the size.
        metadata: more facts to keep; values that are not strings are stored as JSON.

    Raises:
        OutputError: when the file exists and `overwrite` is False.
    """
    facts = {"format": "pt", "model": model.variant.name, "class_names": json.dumps(model.variant.class_names)}
    facts |= {k: v if isinstance(v, str) else json.dumps(v) for k, v in (metadata or {}).items()}
    # the published names list the shared heads once a layer; a file of ours needs them once
    state = {}
    for key, value in model.state_dict().items():
        if not _is_alias(key):
            value = value.detach().cpu().contiguous()
            state[key] = value.half() if half and _may_be_half(key, value) else value.clone()
    with atomic_output(path, overwrite=overwrite) as temporary:
        safetensors.torch.save_file(state, temporary, metadata=facts)


def _may_be_half(key: str, value: Tensor) -> bool:
    """Matrices and filters; norms, statistics, rotary tables and everything in metres keep their digits."""
    return value.dim() >= 2 and value.is_floating_point() and not key.endswith(_EXACT)


def _is_alias(key: str) -> bool:
    parts = key.split(".")
    return len(parts) > 2 and parts[1] in ("cls_branches", "reg_branches") and parts[2] != "0"


def _canonical(key: str) -> str:
    """The name under which a shared head is stored once."""
    parts = key.split(".")
    return ".".join([*parts[:2], "0", *parts[3:]])


def _unwrap(loaded: Any) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"holds a {type(loaded).__name__}, not weights by name")
    state = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError("holds no tensors")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _check(model: StreamPETR, state: dict[str, Tensor], name: str) -> None:
    """Complete the shared heads in `state`, then compare names and shapes with the model's."""
    wanted = model.state_dict()
    for key in wanted:
        if _is_alias(key) and key not in state and _canonical(key) in state:
            state[key] = state[_canonical(key)]
    without_auxiliary = not any(key.startswith(_AUXILIARY) for key in state)
    missing = [k for k in wanted if k not in state and not (without_auxiliary and k.startswith(_AUXILIARY))]
    if not missing and not any(key.startswith(_AUXILIARY) for key in wanted):
        # a file with a 2D head is no mistake for a model built without one
        for key in [k for k in state if k.startswith(_AUXILIARY)]:
            del state[key]
    unexpected = [key for key in state if key not in wanted]
    if missing or unexpected:
        raise CheckpointError(
            f"{name} is not a checkpoint of '{model.variant.name}': {_some('missing', missing)}; "
            f"{_some('unexpected', unexpected)}; choose the model that it belongs to"
        )
    wrong = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if wrong:
        shapes = ", ".join(f"{k} is {tuple(state[k].shape)}, not {tuple(wanted[k].shape)}" for k in wrong[:3])
        raise CheckpointError(
            f"{name} is not a checkpoint of '{model.variant.name}': {len(wrong)} shapes differ, first {shapes}; "
            "choose the model that it belongs to"
        )
    spoilt = [k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if spoilt:
        raise CheckpointError(f"{name}: NaN or infinity in {len(spoilt)} tensors, first {', '.join(spoilt[:3])}")


def _some(what: str, keys: list[str]) -> str:
    if not keys:
        return f"0 keys {what}"
    return f"{len(keys)} keys {what}, first {', '.join(keys[:3])}"
