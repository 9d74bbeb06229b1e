"""One process or many: who this one is, where it computes, and the little they tell each other.

Started by `torchrun`, which sets RANK and its like; without it there is one process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from streampetr_core.errors import StreamPETRError

_PATIENCE = timedelta(hours=2)
"""Longer than an evaluation, which one process does while the others wait."""


class DeviceError(StreamPETRError):
    """A device that is not here."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True in the one that writes files and speaks."""
        return self.rank == 0

    def any(self, value: bool) -> bool:
        """True where it is True in some process."""
        if self.count == 1:
            return value
        flag = torch.tensor(float(value), device=self.device)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes."""
        if self.count == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.count

    def gather(self, thing: Any) -> list[Any]:
        """What each process gives, in their order; in all of them. Tensors should be on the CPU."""
        if self.count == 1:
            return [thing]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, thing)
        return found

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()


@contextlib.contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes of this run for the duration of the block.

    Raises:
        DeviceError: when the device is not here.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type != "cpu":
        torch.accelerator.set_device_index(chosen.index or 0)
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    backend = distributed.get_default_backend_for_device(chosen)
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield Processes(rank, count, chosen)
    finally:
        distributed.destroy_process_group()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name; "auto" is this process's accelerator, whichever kind is here, or the CPU."""
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return torch.device("cpu") if here is None else torch.device(here.type, local_rank)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device '{name}' is not known; use auto, cpu, cuda, cuda:1 ...") from error
    if device.type == "cpu":
        return device
    if here is None or here.type != device.type:
        raise DeviceError(f"device '{name}' is not here ({here or 'no accelerator'}); use auto or cpu")
    return device if device.index is not None else torch.device(device.type, local_rank)
