"""The frames of a run, from its configuration."""

from __future__ import annotations

from dataclasses import dataclass

from training.config import ConfigError, RunConfig
from training.dataset import Dataset
from training.distributed import Processes
from training.index_builder import open_index
from training.loader import Loader
from training.prefetch import StepSource
from training.rendered_source import RenderedSource


@dataclass(frozen=True)
class Frames:
    """Where a run's steps come from.

    Attributes:
        source: endless steps.
        steps: length of the run.
        note: one line about it.
    """

    source: StepSource
    steps: int
    note: str


def open_frames(config: RunConfig, processes: Processes) -> Frames:
    """The frames of this process and the run's length; fails at once where data are missing.

    Raises:
        ConfigError: where the length cannot be known.
        FrameIndexError, NuScenesError, SamplerError: for what the data set lacks.
    """
    config.check_complete()
    data, train = config.data, config.train
    total = train.batch * processes.count
    pin = processes.device.type == "cuda"
    if data.source == "rendered":
        assert train.iterations is not None
        source = RenderedSource(
            config.world,
            config.variant,
            config.augmentation,
            train.batch,
            processes.rank,
            processes.count,
            device=processes.device,
            threads=max(1, data.workers),
            ahead=data.ahead,
            pin_memory=pin,
        )
        return Frames(source, train.iterations, f"rendered frames, {train.iterations} steps of {total}")
    assert data.root is not None
    if not processes.first:
        processes.wait()  # the first one writes the index
    index = open_index(data.root, data.version, data.split, cache=data.cache)
    if processes.first:
        processes.wait()
    dataset = Dataset(index, config.variant, config.augmentation, data.allow_missing, data.all_views)
    sampler = dataset.sampler(train.playing(), train.batch, processes.rank, processes.count, train.seed)
    frames = int(dataset.keep.sum())
    steps = train.iterations or int((train.epochs or 0) * (frames // total))
    if steps < 1:
        raise ConfigError(
            f"train.epochs {train.epochs} of {frames} frames in steps of {total} is no step; give more"
        )
    source = Loader(dataset, sampler, data.workers, pin_memory=pin, ahead=data.ahead)
    return Frames(source, steps, f"{dataset.note}, {steps} steps of {total}")
