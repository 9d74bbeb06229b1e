"""Training steps in order, prepared ahead of time, and the position to resume from.

Every random number hangs on the step's number and the slot, so the number of worker processes changes nothing but
the speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from training.batch import Batch
from training.dataset import Dataset
from training.example import Packed
from training.sampler import Sampler, Step, saved_step

StepBatches = tuple[Batch, ...]
"""One batch for each frame of a training step, in the order in which they are played."""


class Loader:
    """Endless training steps of a data set.

    Iterating begins at the position that was loaded, or goes on where the last iteration was left; steps that were
    prepared ahead but not yet given out are made again.

    Args:
        dataset: of frames.
        sampler: which of them, in what order.
        workers: processes that decode and augment; 0 = all in the calling thread.
        pin_memory: images in page-locked memory, from where a copy to a CUDA device need not wait.
        ahead: steps that each worker prepares in advance.
    """

    def __init__(
        self, dataset: Dataset, sampler: Sampler, workers: int = 4, *, pin_memory: bool = False, ahead: int = 2
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.workers, self.pin_memory, self.ahead = workers, pin_memory, ahead
        self.position = 0

    def __iter__(self) -> Iterator[StepBatches]:
        loader: DataLoader[Packed] = DataLoader(
            _Steps(self.dataset),  # type: ignore[arg-type]
            sampler=self.sampler.steps(self.position),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self.workers,
            prefetch_factor=self.ahead if self.workers else None,
            pin_memory=self.pin_memory,
            worker_init_fn=_one_thread,
        )
        for packed in loader:
            self.position += 1
            yield packed.batches()

    def state_dict(self) -> dict[str, Any]:
        """The position after the steps that were given out, and what it is a position in."""
        return {"step": self.position, **self.sampler.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position; the steps are those that would have come.

        Raises:
            SamplerError: when it is of other data, another mode, seed or batch size.
        """
        self.position = saved_step(state, self.sampler.identity())


class _Steps:
    """The data set as torch's loader wants it: indexed by what is to be played."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, step: Step) -> Packed:
        return self.dataset.step(step)


def _one_thread(worker: int) -> None:
    """Processes are the parallelism; threads of theirs would only fight."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
