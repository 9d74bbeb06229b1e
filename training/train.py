"""A run from its configuration: folder, data, trainer, and going on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from streampetr_core.console import atomic_output, check_writable
from training import checkpointing
from training.config import ConfigError, RunConfig, as_dict, differences
from training.distributed import processes
from training.loop import Trainer
from training.schedule import base_rate
from training.sources import open_frames

_MAY_DIFFER = ("out:", "resume:")


def train(config: RunConfig, say: Callable[[str], None] = lambda text: print(text, flush=True)) -> Trainer:
    """Train as configured, or go on with it; returns the trainer at the end.

    Raises:
        ConfigError, FrameIndexError, NuScenesError, SamplerError, PretrainedError: for what is wrong, before the
            first step.
        ResumeError, TrainingError: see `Trainer`.
    """
    out = config.out
    config.check_complete()
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    state = checkpointing.read(out) if config.resume else None
    if state is None and checkpointing.checkpoints(out):
        raise ConfigError(f"{out} holds checkpoints of a run; go on with --resume, or choose another --out")
    with processes(config.train.device) as here:
        config.train.precision_on(here.device.type)  # refuse before looking for data
        if here.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all images are of one size
        frames = open_frames(config, here)
        trainer = Trainer(config, frames.source, frames.steps, here, say)
        if here.first:
            check_writable(out)
            _describe(config, trainer, frames.note, say)
        if state is not None:
            trainer.restore(state)
            if here.first:
                say(f"resuming after step {trainer.step}")
        trainer.run()
    return trainer


def _describe(config: RunConfig, trainer: Trainer, note: str, say: Callable[[str], None]) -> None:
    """Write the resolved configuration, say what begins, and what changed since the run began."""
    path = config.out / "config.json"
    known = as_dict(config)
    if config.resume and path.is_file():
        changes = differences(json.loads(path.read_text())["config"], known)
        for change in changes:
            if not change.startswith(_MAY_DIFFER):
                say(f"changed since the run began: {change}")
    resolved = {
        "steps": trainer.steps,
        "slots": trainer.total,
        "processes": trainer.processes.count,
        "rate": base_rate(config.optimizer, trainer.total),
        "device": str(trainer.device),
        "precision": config.train.precision_on(trainer.device.type),
        "torch": torch.__version__,
        "variant": as_dict(config.variant),
    }
    with atomic_output(path, overwrite=True) as temporary:
        Path(temporary).write_text(json.dumps({"config": known, "resolved": resolved}, indent=1) + "\n")
    learning = sum(p.numel() for p in trainer.learning)
    say(f"{config.model} on {trainer.device}: {note}; {learning / 1e6:.1f} M parameters learn; {config.out}")
