"""Checkpoints of a run: files that are whole or absent, from which training goes on as if it had never stopped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streampetr_core.checkpoint import save_checkpoint
from streampetr_core.console import atomic_output
from streampetr_core.errors import StreamPETRError
from streampetr_core.model import Memory, StreamPETR, Variant
from training.average import WeightAverage

FORMAT = 3
"""Raised whenever the meaning of a checkpoint's contents changes."""
FOLDER = "checkpoints"
_NAME = re.compile(r"step_(\d+)\.pt")


class ResumeError(StreamPETRError):
    """A run that cannot go on."""


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first."""
    found = [path for path in (out / FOLDER).glob("step_*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step_")))


def write(out: Path, state: Mapping[str, Any], keep: int) -> Path:
    """Save the state of a run under its step's number and remove all but the newest `keep` checkpoints."""
    path = out / FOLDER / f"step_{state['step']:08d}.pt"
    with atomic_output(path, overwrite=True) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)
    for old in checkpoints(out)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def read(out: Path) -> dict[str, Any]:
    """The newest checkpoint of a run folder, on the CPU; nothing in it is executed.

    Raises:
        ResumeError: when there is none or it cannot be used.
    """
    found = checkpoints(out)
    if not found:
        raise ResumeError(f"{out} holds no checkpoint to resume from; leave --resume out, or name another --out")
    try:
        state = torch.load(found[-1], map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has its own way to say that a file is broken
        raise ResumeError(
            f"{found[-1]} cannot be read ({type(error).__name__}); remove it to resume from the one before"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ResumeError(f"{found[-1]} is no checkpoint of this version; start anew with --network.weights")
    return state


def memory_state(memories: list[dict[str, Tensor] | None]) -> dict[str, Tensor] | None:
    """The memories of all processes, in their order, as one over all slots."""
    parts = [memory for memory in memories if memory is not None]
    if not parts or len(parts) != len(memories):
        return None
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def memory_of(state: dict[str, Tensor] | None, slots: range, device: torch.device) -> Memory | None:
    """The memory of some slots out of that of all."""
    if state is None:
        return None
    return Memory(**{name: value[slots.start : slots.stop].to(device) for name, value in state.items()})


def on_cpu(memory: Memory | None) -> dict[str, Tensor] | None:
    """The memory as tensors by name, for `memory_state`."""
    return None if memory is None else {name: value.cpu() for name, value in vars(memory).items()}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Where torch's random numbers are; all others hang on step numbers."""
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state["device"] = torch.get_device_module(device).get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Go on from there; a device's numbers only where they were saved."""
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device).set_rng_state(state["device"], device)


def exportable(variant: Variant, state: Mapping[str, Tensor], average: WeightAverage | None) -> StreamPETR:
    """A plain network with a run's weights, on the CPU: the averaged ones where there are some."""
    with torch.random.fork_rng(devices=[]):  # first weights that nobody sees must not move the run's numbers
        network = StreamPETR(variant).eval()
    network.load_state_dict(dict(state))
    if average is not None:
        with torch.no_grad():
            for name, value in (*network.named_parameters(), *network.named_buffers()):
                if name in average.weights:
                    value.copy_(average.weights[name])
    return network


def export(network: StreamPETR, path: Path, half: bool, facts: Mapping[str, Any]) -> None:
    """Write weights for `Detector.from_checkpoint`, with facts about their making."""
    save_checkpoint(network, path, half=half, overwrite=True, metadata=facts)
