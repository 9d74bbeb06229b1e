"""Which frame each batch slot plays next: endless, seeded, and a pure function of the step's number.

Because of the last, a sampler's whole state is that number: resuming gives the very same continuation, and several
processes agree without talking. Legend: a *slot* is one row of the global batch, over all processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streampetr_core.errors import StreamPETRError
from training.modes import Mode


class SamplerError(StreamPETRError):
    """More slots than there is to play, or a state of another sampler."""


class Turn(NamedTuple):
    """One frame to be played.

    Attributes:
        frame: its number in the index.
        continues: False where the memory must be forgotten before it.
        draw: seed of its augmentation.
    """

    frame: int
    continues: bool
    draw: tuple[int, ...]


Step = list[list[Turn]]
"""A training step: frame after frame, the turns of this process's slots."""


class Sampler(Protocol):
    """An endless sequence of steps that can be continued from any of them.

    Attributes:
        own: this process's slots among those of all.
    """

    own: range

    def steps(self, start: int = 0) -> Iterator[Step]:
        """Steps from number `start` on."""
        ...

    def identity(self) -> dict[str, Any]:
        """What must be equal for a step's number to mean the same."""
        ...


def segments(starts: NDArray[np.bool_], keep: NDArray[np.bool_] | None = None) -> list[range]:
    """Unbroken stretches of frames: a new one begins where `starts` says so, and after a frame not kept."""
    kept = np.ones(len(starts), dtype=bool) if keep is None else keep
    result: list[range] = []
    for frame in np.nonzero(kept)[0].tolist():
        if result and frame == result[-1].stop and not starts[frame]:
            result[-1] = range(result[-1].start, frame + 1)
        else:
            result.append(range(frame, frame + 1))
    return result


def cut_runs(stretches: Sequence[range], splits: int) -> list[range]:
    """Each stretch of n frames as up to `splits` runs of ceil(n / splits), the last one shorter."""
    return [
        stretch[i : i + length]
        for stretch in stretches
        for length in [-(-len(stretch) // splits)]
        for i in range(0, len(stretch), length)
    ]


class Shuffle:
    """An endless stream of numbers below `count`: one random permutation after the other."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._permutation = lru_cache(maxsize=4)(self._make)

    def _make(self, number: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, number]).permutation(self.count)

    def __getitem__(self, position: int) -> int:
        return int(self._permutation(position // self.count)[position % self.count])


class _Slots:
    """The slots of one process among those of all."""

    def __init__(self, slots: int, rank: int, ranks: int, seed: int) -> None:
        if slots < 1 or not 0 <= rank < ranks:
            raise SamplerError(f"{slots} slots for process {rank} of {ranks}; at least one slot, ranks from 0")
        self.total = slots * ranks
        self.own = range(rank * slots, (rank + 1) * slots)
        self.seed = seed


class StreamingSampler(_Slots):
    """Every slot is a video: it plays runs one after the other, each frame by frame.

    Slot g takes the runs g, g + G, g + 2 G ... of one shuffled stream that all processes share (G = slots of all
    processes together), as the published streaming sampler does.

    Args:
        runs: frames of each run.
        slots: of this process.
        rank, ranks: this process, and how many there are.
        seed: the same in all processes.

    Raises:
        SamplerError: with fewer runs than slots; two slots would play the same frames.
    """

    def __init__(self, runs: Sequence[range], slots: int, rank: int = 0, ranks: int = 1, seed: int = 0) -> None:
        super().__init__(slots, rank, ranks, seed)
        self.runs = [run for run in runs if len(run)]
        if len(self.runs) < self.total:
            raise SamplerError(
                f"{len(self.runs)} runs for {self.total} slots; give more scenes, or a batch of at most "
                f"{len(self.runs)} over all processes"
            )
        self.order = Shuffle(len(self.runs), seed)

    def steps(self, start: int = 0) -> Iterator[Step]:
        """Steps from number `start` on, one frame each."""
        videos = [self._video(slot, start) for slot in self.own]
        while True:
            yield [[next(video) for video in videos]]

    def _video(self, slot: int, start: int) -> Iterator[Turn]:
        step, skip, turn = start, start, slot
        while True:
            run = self.runs[self.order[turn]]
            for offset in range(min(skip, len(run)), len(run)):
                yield Turn(run[offset], offset > 0, (self.seed, step, slot))
                step += 1
            skip -= min(skip, len(run))
            turn += self.total

    def identity(self) -> dict[str, Any]:
        """See `Sampler`."""
        frames = np.array([(run.start, run.stop) for run in self.runs])
        return {"mode": "streaming", "seed": self.seed, "slots": self.total, "frames": _digest(frames)}


class WindowSampler(_Slots):
    """Windows of frames in random order; each ends at a frame that the shuffle names, and begins without memory.

    Of the `window - 1 + skipped` frames before it, `skipped` are left out at random. As published, numbers before
    the first frame become the first frame, and a window that reaches back over a scene's start keeps those frames
    and forgets the memory at the boundary.

    Args:
        stretches: unbroken stretches of frames, see `segments`.
        mode: its window.
        slots, rank, ranks, seed: see `StreamingSampler`.

    Raises:
        SamplerError: where there is no frame.
    """

    def __init__(
        self, stretches: Sequence[range], mode: Mode, slots: int, rank: int = 0, ranks: int = 1, seed: int = 0
    ) -> None:
        super().__init__(slots, rank, ranks, seed)
        self.mode = mode
        self.frames = [frame for stretch in stretches for frame in stretch]
        self._stretch = [number for number, stretch in enumerate(stretches) for _ in stretch]
        if not self.frames:
            raise SamplerError("no frame to play; check the split and the images")
        self.order = Shuffle(len(self.frames), seed)

    def steps(self, start: int = 0) -> Iterator[Step]:
        """Steps from number `start` on, `mode.window` frames each."""
        step = start
        while True:
            windows = [self._window(step, slot) for slot in self.own]
            yield [list(turns) for turns in zip(*windows, strict=True)]
            step += 1

    def _window(self, step: int, slot: int) -> list[Turn]:
        last = self.order[step * self.total + slot]
        mode = self.mode
        before = np.arange(last - mode.window - mode.skipped + 1, last)
        if mode.skipped:
            rng = np.random.default_rng([self.seed, step, slot, 1])
            before = np.sort(rng.permutation(before)[mode.skipped :])
        positions = [*np.maximum(before, 0).tolist(), last]
        turns = []
        for number, position in enumerate(positions):
            continues = number > 0 and self._stretch[position] == self._stretch[positions[number - 1]]
            turns.append(Turn(self.frames[position], continues, (self.seed, step, slot, number)))
        return turns

    def identity(self) -> dict[str, Any]:
        """See `Sampler`."""
        mode = self.mode
        frames = _digest(np.stack([np.array(self.frames), np.array(self._stretch)]))
        window = f"{mode.window}/{mode.gradient_frames}/{mode.skipped}"
        return {"mode": mode.name, "seed": self.seed, "slots": self.total, "window": window, "frames": frames}


def make_sampler(
    starts: NDArray[np.bool_],
    mode: Mode,
    slots: int,
    rank: int = 0,
    ranks: int = 1,
    seed: int = 0,
    keep: NDArray[np.bool_] | None = None,
) -> StreamingSampler | WindowSampler:
    """The sampler that a mode needs; scenes begin at `starts`, frames not in `keep` are never played."""
    stretches = segments(starts, keep)
    if mode.carries_memory:
        return StreamingSampler(cut_runs(stretches, mode.splits), slots, rank, ranks, seed)
    return WindowSampler(stretches, mode, slots, rank, ranks, seed)


def saved_step(state: dict[str, Any], identity: dict[str, Any]) -> int:
    """The number of the step to go on with, from a saved position.

    Raises:
        SamplerError: when it is of other data, another mode, seed or number of slots than `identity`.
    """
    for key, value in identity.items():
        if state.get(key) != value:
            raise SamplerError(
                f"saved position: {key} was {state.get(key)}, now it is {value}; resume with what the run began "
                "with, or start a new run from its weights"
            )
    return int(state["step"])


def _digest(array: NDArray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()
