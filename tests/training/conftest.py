"""A small rendered data set for the tests of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bag_tools.rendered.dataset_writer import write_dataset
from streampetr_core.model import VARIANTS, FrameGeometry
from streampetr_core.model.variants import TINY
from training.batch import Batch, Targets
from training.config import OptimizerConfig, RunConfig, TrainConfig
from training.distributed import Processes
from training.sampler import saved_step


@pytest.fixture(scope="session")
def rendered_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives of six key frames (scene-0103 and scene-0916 of mini_val), 416x234; only to be read."""
    root = tmp_path_factory.mktemp("rendered") / "data"
    write_dataset(root, 2, 3.0, seed=5, size=(416, 234), device="cpu")
    return root


TOY = replace(
    TINY,
    name="toy",
    input_size=(64, 96),
    backbone_width=16,
    embed_dims=64,
    num_heads=2,
    num_layers=2,
    feedforward_dims=64,
    num_queries=20,
    num_proposals=0,
    refines_boxes=False,
    num_propagated=8,
    memory_length=16,
    dropout=0.1,
    has_auxiliary_head=True,
)
"""A network small enough for dozens of training steps a second."""


class ToySource:
    """Made-up frames in the place of a `Loader`: what a slot shows depends on the step and the slot alone.

    Every slot begins a new drive at every fourth step. All frames have as many boxes, because the published
    denoising queries see how many boxes the fullest sample of their batch has.
    """

    def __init__(self, slots: range, total: int | None = None, window: int = 1) -> None:
        self.slots, self.total, self.window, self.position = slots, total or len(slots), window, 0

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        while True:
            first = self.position * self.window
            step = tuple(self.batch(frame, frame == first) for frame in range(first, first + self.window))
            self.position += 1
            yield step

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.position, "slots": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = saved_step(state, {"slots": self.total})

    def batch(self, number: int, first: bool = False) -> Batch:
        frames = [self.frame(number, slot) for slot in self.slots]
        size = len(frames)
        pose = torch.eye(4).repeat(size, 1, 1)
        pose[:, 1, 3] = 3.0 * number
        image_from_model = torch.tensor([[60.0, 48, 0, 0], [0, 32, -60, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        behind = image_from_model @ torch.diag(torch.tensor([-1.0, -1, 1, 1]))
        intrinsics = torch.tensor([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]]).expand(size, 2, 3, 3)
        continues = [
            0.0 if (number + slot) % 4 == 0 or (first and self.window > 1) else 1.0 for slot in self.slots
        ]
        geometry = FrameGeometry(
            torch.stack((image_from_model, behind)).expand(size, 2, 4, 4),
            intrinsics,
            torch.linalg.inv(pose),
            pose,
            torch.full((size,), 0.5 * number, dtype=torch.float64),
            continues=torch.tensor(continues),
        )
        images, targets = zip(*frames, strict=True)
        return Batch(torch.stack(images), geometry, targets, tuple(f"f{number}s{slot}" for slot in self.slots))

    def frame(self, number: int, slot: int) -> tuple[torch.Tensor, Targets]:
        rng = np.random.default_rng((number, slot))
        height, width = TOY.input_size
        images = torch.from_numpy(rng.standard_normal((2, 3, height, width), np.float32))
        boxes = rng.uniform(-30, 30, (3, 9)).astype(np.float32)
        boxes[:, 2], boxes[:, 3:6], boxes[:, 7:] = 0, rng.uniform(1, 4, (3, 3)), rng.uniform(-3, 3, (3, 2))
        corner = rng.uniform(0, 30, (2, 2)).astype(np.float32)
        outlines = torch.from_numpy(
            np.concatenate((corner, corner + rng.uniform(8, 30, (2, 2))), 1).astype(np.float32)
        )
        labels = torch.from_numpy(rng.integers(0, 10, 3))
        of_cameras = (outlines,) * 2, (labels[:2],) * 2, ((outlines[:, :2] + outlines[:, 2:]) / 2,) * 2
        return images, Targets(torch.from_numpy(boxes), labels, *of_cameras, (torch.ones(2),) * 2)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A run of the toy network with four slots."""
    monkeypatch.setitem(VARIANTS, "toy", TOY)
    torch.set_num_threads(1)
    return RunConfig(
        model="toy",
        out=tmp_path / "run",
        train=TrainConfig(batch=4, iterations=8, precision="float32", log_every=1, device="cpu"),
        optimizer=OptimizerConfig(rate=1e-3, reference_batch=0, warm_up=2),
    )


@pytest.fixture
def toy_source() -> type[ToySource]:
    return ToySource


@pytest.fixture
def one_process() -> Processes:
    return Processes(0, 1, torch.device("cpu"))
