"""Child processes that are never lost: named output, bounded waits, and an end for all of them within seconds.

with Processes() as processes:
    node = processes.start("perception_node", [sys.executable, "-m", "streampetr.perception_node"], env)
    if not node.wait_for_line("ready", 30.0):
        raise ...
    processes.check()            # raises, with the last lines, when a child has died
# here every child has ended: SIGINT first, SIGTERM and SIGKILL for those that do not listen
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TextIO

from streampetr_core.errors import StreamPETRError

STOP_SECONDS = 5.0
"""Within this time every child ends: SIGINT at once, SIGTERM after 60 % of it, SIGKILL after 85 %."""

_KEPT_LINES = 200
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PRINT_LOCK = threading.Lock()


class ProcessError(StreamPETRError):
    """A child process that could not be started or has ended when it should not."""


def _prepare_child() -> None:
    """Runs in the child before exec: Ctrl-C is heard again, and the child ends should its parent be killed.

    A shell starts background jobs with SIGINT ignored, which children inherit.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """A running program whose output is read all the time, line by line.

    The program gets its own process group, so that a Ctrl-C in the terminal reaches it once (through `interrupt`)
    and a kill takes its children along. Start children from the main thread: the kernel ends them when the
    thread that started them goes.

    Attributes:
        name: stands before each line it prints.
        argv: the command line.
        lines: the last 200 lines of its output (standard output and error together).
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        cwd: Path | str | None = None,
        echo: TextIO | None = None,
        log: Path | str | None = None,
    ) -> None:
        """Start `argv`; its lines go to `echo` (a text stream) with the name before them, and to the file `log`.

        Raises:
            ProcessError: when the program cannot be started.
        """
        self.name = name
        self.argv = tuple(str(part) for part in argv)
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._echo = echo
        self._log = Path(log) if log is not None else None
        self._changed = threading.Condition()
        environment = dict(os.environ if env is None else env)
        environment["PYTHONUNBUFFERED"] = "1"  # a pipe is block-buffered: lines would come late or never
        try:
            self.process = subprocess.Popen(
                self.argv,
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ProcessError(f"{name}: cannot start '{self.argv[0]}': {error}") from error
        self._reader = threading.Thread(target=self._read, name=f"output of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is also the process group's."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative = ended by that signal; None while it runs."""
        return self.process.poll()

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return self.process.poll() is None

    def wait(self, timeout: float) -> int | None:
        """Exit status within `timeout` seconds, None where it still runs then. All its output has been read."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(0.3)  # a grandchild may hold the pipe open
        return self.process.returncode

    def wait_for_line(self, text: str, timeout: float) -> bool:
        """True once a line of its output (the last 200 count) contains `text`; False when it ends or after
        `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                if any(text in line for line in self.lines):
                    return True
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._reader.is_alive():
                    return False
                self._changed.wait(min(remaining, 0.2))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program and its children; nothing happens where it has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def stop(self, timeout: float = STOP_SECONDS) -> int:
        """End it within `timeout` seconds, kindly first; its exit status."""
        _stop_all([self], timeout)
        status = self.returncode
        return -int(signal.SIGKILL) if status is None else status

    def tail(self, count: int = 12) -> str:
        """Its last `count` lines, indented, for an error message."""
        with self._changed:
            kept = list(self.lines)[-count:]
        return "\n".join(f"    {line}" for line in kept) or "    (no output)"

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        log = self._log.open("a", encoding="utf-8") if self._log is not None else None
        try:
            for raw in iter(stream.readline, b""):
                line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
                with self._changed:
                    self.lines.append(line)
                    self._changed.notify_all()
                if log is not None:
                    log.write(line + "\n")
                    log.flush()
                if self._echo is not None:
                    with _PRINT_LOCK, contextlib.suppress(ValueError, OSError):  # the terminal has gone
                        print(f"[{self.name}] {line}", file=self._echo, flush=True)
        finally:
            stream.close()
            if log is not None:
                log.close()
            with self._changed:
                self._changed.notify_all()


class Processes:
    """Children that end together; a context manager."""

    def __init__(self, echo: TextIO | None = sys.stdout) -> None:
        """Lines of every child go to `echo`; None keeps them quiet (they stay in `Child.lines`)."""
        self.echo = echo
        self.children: list[Child] = []

    def start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        *,
        cwd: Path | str | None = None,
        log: Path | str | None = None,
        quiet: bool = False,
    ) -> Child:
        """Start a child; see `Child`. A child of the same name that has ended is replaced."""
        child = Child(name, argv, env, cwd=cwd, echo=None if quiet else self.echo, log=log)
        self.children = [old for old in self.children if old.running or old.name != name]
        self.children.append(child)
        return child

    def ended(self) -> list[Child]:
        """The children that do not run any more."""
        return [child for child in self.children if not child.running]

    def check(self) -> None:
        """Raise ProcessError, with its last lines, when a child has failed (exit status other than 0)."""
        for child in self.ended():
            if child.returncode != 0:
                child.wait(1.0)
                raise ProcessError(
                    f"{child.name} {describe_status(child.returncode)}; its last lines:\n{child.tail()}"
                )

    def wait(self, child: Child, timeout: float, stop: threading.Event | None = None) -> int:
        """Exit status of `child`; gives up early when another child fails.

        Raises:
            ProcessError: when `timeout` seconds pass, `stop` is set, or another child fails before.
        """
        deadline = time.monotonic() + timeout
        while (status := child.wait(0.1)) is None:
            self.check()
            if stop is not None and stop.is_set():
                raise ProcessError(f"{child.name}: stopped on request")
            if time.monotonic() > deadline:
                raise ProcessError(f"{child.name}: not done after {timeout:g} s; its last lines:\n{child.tail()}")
        return status

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """End all children within `timeout` seconds."""
        _stop_all(self.children, timeout)

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def describe_status(status: int | None) -> str:
    """An exit status in words: "ended with status 3", "was ended by SIGKILL"."""
    if status is None:
        return "is running"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _stop_all(children: Sequence[Child], timeout: float) -> None:
    begin = time.monotonic()
    steps = ((signal.SIGINT, 0.6), (signal.SIGTERM, 0.85), (signal.SIGKILL, 1.0))
    for number, share in steps:
        waiting = [child for child in children if child.running]
        for child in waiting:
            child.send(number)
        for child in waiting:
            child.wait(max(0.0, begin + share * timeout - time.monotonic()))
    for child in children:
        child.wait(0.0)


@contextlib.contextmanager
def stop_on_signals(on_stop: Callable[[], None] | None = None) -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set; a second one raises KeyboardInterrupt.

    Loops poll the event and end in order. `on_stop` is called at the first signal. Outside the main thread no
    handler can be installed and the event is only ever set by others.
    """
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if on_stop is not None:
            on_stop()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
