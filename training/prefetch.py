"""Work done ahead of the training step, in threads, and handed out in order.

Decoding and resampling images let go of the GIL, so threads run side by side; unlike processes they need no copies
of the index, no shared memory, and cannot inherit a lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from training.batch import Batch
from training.example import Example, collate

StepBatches = tuple[Batch, ...]
"""One batch for each frame of a training step, in the order in which they are played."""


class StepSource(Protocol):
    """Endless training steps that can be continued: a `Loader` or a `RenderedSource`.

    Attributes:
        position: steps handed out so far, over all sessions of a run.
    """

    position: int

    def __iter__(self) -> Iterator[StepBatches]:
        """Steps from `position` on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The position and what it is a position in, for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position; SamplerError when it is one in something else."""
        ...


def ahead_of_time(
    pool: ThreadPoolExecutor,
    next_step: Callable[[], Sequence[Future[Example]]],
    slots: int,
    steps: int,
    pin_memory: bool = False,
) -> Iterator[StepBatches]:
    """Endless steps, of which `steps` are under way beyond the one handed out.

    Args:
        pool: that the futures are worked on in; shut down when the iteration ends.
        next_step: submits the examples of one more step, frame after frame and slot after slot.
        slots, pin_memory: see `collate`, which runs in a thread too.
    """
    assembler = ThreadPoolExecutor(1, "assemble")
    coming: deque[Future[StepBatches]] = deque()
    try:
        while True:
            while len(coming) <= steps:
                coming.append(assembler.submit(_assemble, next_step(), slots, pin_memory))
            yield coming.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        assembler.shutdown(wait=True, cancel_futures=True)
        pool.shutdown(wait=True)


def _assemble(examples: Sequence[Future[Example]], slots: int, pin_memory: bool) -> StepBatches:
    return collate([example.result() for example in examples], slots, pin_memory)
