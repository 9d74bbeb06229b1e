"""What each process of `test_distributed.py` runs: some steps of the toy network, losses to a file."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from streampetr_core.model import VARIANTS
from training import checkpointing
from training.config import LossSettings, OptimizerConfig, RunConfig, TrainConfig
from training.distributed import Processes, processes
from training.loop import Trainer

SLOTS, STEPS = 4, 3


def toys() -> Any:
    spec = importlib.util.spec_from_file_location("toys", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_trainer(out: Path, here: Processes) -> Trainer:
    conftest = toys()
    VARIANTS["toy"] = replace(conftest.TOY, dropout=0.0)
    batch = SLOTS // here.count
    config = RunConfig(
        model="toy",
        out=out,
        train=TrainConfig(batch=batch, iterations=8, precision="float32", device="cpu"),
        optimizer=OptimizerConfig(rate=1e-4, reference_batch=SLOTS, warm_up=0),
        loss=LossSettings(synchronize_all=True),
    )
    source = conftest.ToySource(range(here.rank * batch, (here.rank + 1) * batch), SLOTS)
    return Trainer(config, source, 8, here, say=lambda text: None)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    with processes("cpu") as here:
        trainer = make_trainer(out, here)
        batches, losses = iter(trainer.source), []
        for _ in range(STEPS):
            trainer.advance(next(batches))
            values = here.mean(torch.stack(list(trainer.losses.values())).detach())
            losses.append(dict(zip(trainer.losses, values.tolist(), strict=True)) | {"gradient": trainer.gradient})
        trainer.save()
        if here.first:
            torch.save(losses, out / "losses.pt")
        assert checkpointing.read(out)["step"] == STEPS


if __name__ == "__main__":
    main(Path(sys.argv[1]))
