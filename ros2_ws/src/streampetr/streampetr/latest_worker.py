"""One thread that always works on the newest job: a job that waits is replaced by a newer one, and counted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

J = TypeVar("J")


class LatestWorker(Generic[J]):
    """Runs `work(job)` in its own thread, one at a time.

    Attributes:
        replaced: how many jobs gave way to a newer one before their turn.
        failure: the exception that ended the thread, None while all is well.

    Args:
        work: called with each job; what it raises ends the worker.
        on_replaced: called with a job that gave way, in the thread that submitted the newer one.
    """

    def __init__(self, work: Callable[[J], None], on_replaced: Callable[[J], None] | None = None) -> None:
        self.replaced = 0
        self.failure: BaseException | None = None
        self._work, self._on_replaced = work, on_replaced
        self._condition = threading.Condition()
        self._next: J | None = None
        self._busy = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="perception", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """True while a job is worked on."""
        return self._busy

    def submit(self, job: J) -> None:
        """Make `job` the next one; never waits."""
        with self._condition:
            old, self._next = self._next, job
            self._condition.notify()
        if old is not None:
            self.replaced += 1
            if self._on_replaced is not None:
                self._on_replaced(old)

    def drop_waiting(self) -> J | None:
        """Take back the job that waits, if there is one."""
        with self._condition:
            old, self._next = self._next, None
        return old

    def stop(self, timeout: float) -> bool:
        """Finish the running job and end; False where it takes longer than `timeout` seconds."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                while self._next is None and not self._stopping:
                    self._condition.wait()
                if self._stopping:
                    return
                job, self._next = self._next, None
                self._busy = True
            try:
                assert job is not None
                self._work(job)
            except BaseException as error:  # handed over to the node, which ends
                self.failure = error
                return
            finally:
                self._busy = False
