"""Training steps of a data set in order, prepared ahead of time, and the position to resume from.

Every random number hangs on the step's number and the slot, so the number of threads changes only the speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from training.dataset import Dataset
from training.example import Example
from training.prefetch import StepBatches, ahead_of_time
from training.sampler import Sampler, saved_step


class Loader:
    """Endless training steps of a data set.

    Iterating begins at the position that was loaded, or goes on where the last iteration was left; steps that were
    prepared ahead but not yet handed out are made again.

    Args:
        dataset: of frames.
        sampler: which of them, in what order.
        workers: threads that decode and augment, a frame at a time; 0 = all in the calling thread.
        pin_memory: images in page-locked memory, from where a copy to a CUDA device need not wait.
        ahead: steps prepared in advance.
    """

    def __init__(
        self, dataset: Dataset, sampler: Sampler, workers: int = 4, *, pin_memory: bool = False, ahead: int = 2
    ) -> None:
        self.dataset, self.sampler = dataset, sampler
        self.workers, self.pin_memory, self.ahead = workers, pin_memory, ahead
        self.position = 0

    def __iter__(self) -> Iterator[StepBatches]:
        for batches in self._prepared() if self.workers else self._inline():
            self.position += 1
            yield batches

    def _inline(self) -> Iterator[StepBatches]:
        return (self.dataset.step(step) for step in self.sampler.steps(self.position))

    def _prepared(self) -> Iterator[StepBatches]:
        steps = self.sampler.steps(self.position)
        pool = ThreadPoolExecutor(self.workers, "decode")

        def next_step() -> list[Future[Example]]:
            return [pool.submit(self.dataset.__getitem__, turn) for frame in next(steps) for turn in frame]

        return ahead_of_time(pool, next_step, len(self.sampler.own), self.ahead, self.pin_memory)

    def state_dict(self) -> dict[str, Any]:
        """The position after the steps that were handed out, and what it is a position in."""
        return {"step": self.position, **self.sampler.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position; the steps are those that would have come.

        Raises:
            SamplerError: when it is of other data, another mode, seed or batch size.
        """
        self.position = saved_step(state, self.sampler.identity())
