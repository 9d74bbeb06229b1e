"""Samplers: who plays what, when the memory is forgotten, and going on from anywhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from training.modes import MODES, ModeError, training_mode
from training.sampler import (
    SamplerError,
    Shuffle,
    StreamingSampler,
    Turn,
    WindowSampler,
    cut_runs,
    make_sampler,
    saved_step,
    segments,
)

STREAMING, WINDOW = MODES["streaming"], MODES["sliding_window"]
LENGTHS = (40, 41, 39, 7, 1, 40, 12)
"""Key frames of seven scenes."""


def starts_of(lengths: tuple[int, ...]) -> np.ndarray:
    starts = np.zeros(sum(lengths), dtype=bool)
    starts[np.cumsum((0, *lengths[:-1]))] = True
    return starts


def take(sampler: StreamingSampler | WindowSampler, count: int, start: int = 0) -> list[list[list[Turn]]]:
    return list(itertools.islice(sampler.steps(start), count))


def test_scenes_are_cut_in_two() -> None:
    runs = cut_runs(segments(starts_of(LENGTHS)), 2)
    assert [len(run) for run in runs] == [20, 20, 21, 20, 20, 19, 4, 3, 1, 20, 20, 6, 6]
    assert list(itertools.chain(*runs)) == list(range(sum(LENGTHS)))


def test_frames_left_out_end_a_run() -> None:
    keep = np.ones(10, dtype=bool)
    keep[[3, 4, 9]] = False
    assert segments(starts_of((6, 4)), keep) == [range(0, 3), range(5, 6), range(6, 9)]
    assert segments(starts_of((6, 4)), np.zeros(10, dtype=bool)) == []


def test_every_slot_plays_runs_in_order() -> None:
    runs = cut_runs(segments(starts_of(LENGTHS)), 2)
    by_start = {run.start: run for run in runs}
    steps = take(StreamingSampler(runs, 3, seed=4), 400)
    for slot in range(3):
        turns = [step[0][slot] for step in steps]
        begun = [i for i, turn in enumerate(turns) if not turn.continues]
        assert begun[0] == 0
        for first, following in itertools.pairwise(begun):
            frames = [turn.frame for turn in turns[first:following]]
            assert frames == list(by_start[frames[0]])  # a whole run, frame by frame
        assert len({turn.draw for turn in turns}) == len(turns)


def test_ranks_are_disjoint_and_all_together_play_everything() -> None:
    """Dealt out in turn, the runs of all slots of all processes are the shuffled stream, each run once a round."""
    runs = cut_runs(segments(starts_of(LENGTHS)), 2)
    first_frames: dict[int, list[int]] = {}
    for rank in range(2):
        steps = take(StreamingSampler(runs, 2, rank, 2, seed=9), 600)
        for local in range(2):
            turns = [step[0][local] for step in steps]
            first_frames[rank * 2 + local] = [turn.frame for turn in turns if not turn.continues]
    dealt = min(len(frames) for frames in first_frames.values())
    stream = [first_frames[slot][turn] for turn in range(dealt) for slot in range(4)]
    assert stream == [runs[Shuffle(len(runs), 9)[i]].start for i in range(len(stream))]
    rounds = len(stream) // len(runs)
    assert rounds >= 2
    for number in range(rounds):
        assert sorted(stream[number * len(runs) : (number + 1) * len(runs)]) == [run.start for run in runs]


@pytest.mark.parametrize("mode", [STREAMING, WINDOW], ids=["streaming", "sliding_window"])
def test_two_processes_are_one_with_twice_the_slots(mode) -> None:
    starts = starts_of(LENGTHS)
    whole = take(make_sampler(starts, mode, 4, seed=3), 60)
    halves = [take(make_sampler(starts, mode, 2, rank, 2, seed=3), 60) for rank in range(2)]
    for step, (first, second) in zip(whole, zip(*halves, strict=True), strict=True):
        assert step == [a + b for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("mode", [STREAMING, WINDOW], ids=["streaming", "sliding_window"])
def test_going_on_is_as_if_never_stopped(mode) -> None:
    starts = starts_of(LENGTHS)
    steps = take(make_sampler(starts, mode, 3, seed=1), 130)
    for position in (0, 1, 19, 20, 21, 67, 111):
        assert take(make_sampler(starts, mode, 3, seed=1), 12, position) == steps[position : position + 12]
    assert take(make_sampler(starts, mode, 3, seed=2), 130) != steps


def test_a_position_of_something_else_is_refused() -> None:
    starts = starts_of(LENGTHS)
    sampler = make_sampler(starts, STREAMING, 3, seed=1)
    state = {"step": 5, **sampler.identity()}
    assert saved_step(state, sampler.identity()) == 5
    keep = np.arange(len(starts)) != 50
    others = {
        "slots": make_sampler(starts, STREAMING, 2, seed=1),
        "seed": make_sampler(starts, STREAMING, 3, seed=2),
        "mode": make_sampler(starts, WINDOW, 3, seed=1),
        "frames": make_sampler(starts, STREAMING, 3, seed=1, keep=keep),
    }
    for what, other in others.items():
        with pytest.raises(SamplerError, match=rf"{what} was"):
            saved_step(state, other.identity())


def test_window_rules() -> None:
    """Seven of the eight frames before, in order, then the last one; forgotten first and where scenes change."""
    starts = starts_of(LENGTHS)
    scene = np.cumsum(starts) - 1
    sampler = make_sampler(starts, WINDOW, 2, seed=5)
    ends, left_out = [], set()
    for step in take(sampler, 300):
        assert len(step) == 8
        for slot in range(2):
            turns = [frame[slot] for frame in step]
            frames = [turn.frame for turn in turns]
            end = frames[-1]
            ends.append(end)
            before = [max(0, f) for f in range(end - 8, end)]
            missing = list(before)
            for frame in frames[:-1]:
                missing.remove(frame)
            assert len(missing) == 1
            left_out.add(end - missing[0])
            assert frames == sorted(frames)
            same = [False, *(scene[a] == scene[b] for a, b in itertools.pairwise(frames))]
            assert [turn.continues for turn in turns] == same
    assert left_out >= set(range(1, 9))
    assert sorted(ends[: len(starts)]) == list(range(len(starts)))  # an epoch: every frame is the last one once


def test_a_window_is_a_piece_of_the_stream_played_cold() -> None:
    """With no frame left out, a window ending with a run's eighth frame is that run's beginning as a stream."""
    starts = starts_of(LENGTHS)
    mode = training_mode("sliding_window", skipped=0)
    windows = {}
    for step in take(make_sampler(starts, mode, 1), len(starts)):
        turns = [frame[0] for frame in step]
        windows[turns[-1].frame] = [(turn.frame, turn.continues) for turn in turns]
    compared = 0
    stream = [step[0][0] for step in take(make_sampler(starts, STREAMING, 1), len(starts))]
    for i, turn in enumerate(stream):
        played = stream[i : i + 8]
        if not turn.continues and len(played) == 8 and all(t.continues for t in played[1:]):
            assert windows[played[-1].frame] == [(t.frame, t.continues) for t in played] or turn.frame == 0
            compared += turn.frame != 0
    assert compared >= 7


def test_too_many_slots_are_refused() -> None:
    runs = cut_runs(segments(starts_of((4, 4))), 2)
    with pytest.raises(SamplerError, match="4 runs for 6 slots"):
        StreamingSampler(runs, 3, 0, 2)
    with pytest.raises(SamplerError, match="no frame to play"):
        make_sampler(starts_of((3,)), WINDOW, 1, keep=np.zeros(3, dtype=bool))


def test_modes_decide_everything_together() -> None:
    assert (STREAMING.window, STREAMING.gradient_frames, STREAMING.carries_memory) == (1, 1, True)
    assert (WINDOW.window, WINDOW.gradient_frames, WINDOW.skipped, WINDOW.carries_memory) == (8, 2, 1, False)
    assert training_mode("sliding_window", window=4, gradient_frames=1).window == 4
    with pytest.raises(ModeError, match="window 8 contradicts"):
        training_mode("streaming", window=8)
    with pytest.raises(ModeError, match="gradient_frames 9"):
        training_mode("sliding_window", gradient_frames=9)
    with pytest.raises(ModeError, match="did you mean 'streaming'"):
        training_mode("stream")
