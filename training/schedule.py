"""The learning rate as a function of the step's number alone: nothing to save, nothing to go wrong on resuming."""

from __future__ import annotations

import math

from training.config import OptimizerConfig


def rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Factor on the learning rate of step `step` (from 0) of `steps`.

    A cosine from 1 to `final`, in steps where there are `plateaus`; over the first `warm_up` steps times a line
    from `warm_up_start` to 1.
    """
    done = min(step / max(steps, 1), 1.0)
    if config.plateaus:
        done = math.floor(done * config.plateaus) / config.plateaus
    factor = config.final + (1.0 - config.final) * (1.0 + math.cos(math.pi * done)) / 2.0
    if step < config.warm_up:
        factor *= config.warm_up_start + (1.0 - config.warm_up_start) * step / config.warm_up
    return factor


def base_rate(config: OptimizerConfig, batch: int) -> float:
    """The learning rate for a global batch of `batch` frames: in proportion to the reference batch."""
    return config.rate * (batch / config.reference_batch if config.reference_batch else 1.0)
