"""The ways to play a data set, each one name: it decides sampler, number of frames and memory together."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from streampetr_core.errors import StreamPETRError


class ModeError(StreamPETRError):
    """A training mode that does not exist, or values that contradict it."""


@dataclass(frozen=True)
class Mode:
    """How frames reach the network.

    Attributes:
        name: as in the configuration.
        window: frames of a training step, played in order.
        gradient_frames: the last ones, which have a loss and gradients; those before only fill the memory.
        skipped: a window is drawn from `window + skipped` consecutive frames, this many of which are left out.
        carries_memory: True where the memory lives on from step to step: every batch slot is a video of its own.
        splits: runs that a scene is cut into.
    """

    name: str
    window: int = 1
    gradient_frames: int = 1
    skipped: int = 0
    carries_memory: bool = False
    splits: int = 1


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("streaming", carries_memory=True, splits=2),
        Mode("sliding_window", window=8, gradient_frames=2, skipped=1),
        Mode("single_frame"),
    )
}


def training_mode(
    name: str, window: int | None = None, gradient_frames: int | None = None, skipped: int | None = None
) -> Mode:
    """The mode of that name; numbers that are not None replace those of a sliding window.

    Raises:
        ModeError: on an unknown name, and on numbers that the mode has no room for.
    """
    if name not in MODES:
        near = difflib.get_close_matches(name, MODES, n=1, cutoff=0.3)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ModeError(f"unknown training mode '{name}'; {hint}known: {', '.join(MODES)}")
    mode = MODES[name]
    asked = {"window": window, "gradient_frames": gradient_frames, "skipped": skipped}
    changed = {k: v for k, v in asked.items() if v is not None and v != getattr(mode, k)}
    if not changed:
        return mode
    if name != "sliding_window":
        key, value = next(iter(changed.items()))
        raise ModeError(
            f"mode '{name}' plays one frame a step: {key} {value} contradicts it; choose sliding_window or leave "
            f"{key} unset"
        )
    mode = Mode(**{**mode.__dict__, **changed})
    if mode.window < 1 or not 1 <= mode.gradient_frames <= mode.window or mode.skipped < 0:
        raise ModeError(
            f"sliding_window with window {mode.window}, gradient_frames {mode.gradient_frames} and skipped "
            f"{mode.skipped}; needs 1 <= gradient_frames <= window and skipped >= 0"
        )
    return mode
