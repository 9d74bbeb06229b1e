"""The whole of `streampetr train`: from a command line to scores, weights and pictures; and that it can learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import streampetr_cli
from streampetr_core.detector import Detector
from streampetr_core.model import VARIANTS
from streampetr_core.model.variants import TINY
from training.augmentation import NO_AUGMENTATION
from training.batch import Targets
from training.config import DenoisingSettings, NetworkConfig, OptimizerConfig, RunConfig
from training.distributed import Processes
from training.loop import Trainer
from training.rendered_source import RenderedSource, RenderedWorld


def arguments(out: Path, root: Path, *more: str) -> list[str]:
    fixed = "--model toy --data.version v1.0-mini --data.split mini_val --data.workers 1 --train.device cpu"
    sizes = "--train.batch 2 --train.log-every 2 --train.threads 1 --checkpoint.every 2"
    all_learns = "--network.frozen --train.no-keep-features"
    return ["train", "tiny", "--out", str(out), "--data.source", "tables", "--data.root", str(root),
            *fixed.split(), *sizes.split(), *all_learns.split(), *more]  # fmt: skip


def test_train_evaluate_and_go_on(toy: RunConfig, rendered_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a rendered data set, as on the real one."""
    out = toy.out
    evaluation = ("--evaluate.every", "4", "--evaluate.split", "mini_val", "--evaluate.picture", "3")
    assert streampetr_cli.main(arguments(out, rendered_root, "--train.iterations", "4", *evaluation)) == 0
    text = capsys.readouterr().out
    assert "toy on cpu: 12 key frames of 2 scenes, 4 steps of 2" in text
    assert "mAVE" in text
    stored = json.loads((out / "config.json").read_text())
    assert stored["config"]["train"]["iterations"] == 4
    assert stored["resolved"]["rate"] == pytest.approx(5e-4)

    folder = out / "evaluations" / "step_00000004"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores.keys() == {"mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE"}
    assert len(json.loads((folder / "detections.json").read_text())["results"]) == 12
    assert np.asarray(Image.open(folder / "picture.jpg")).std() > 5
    detector = Detector.from_checkpoint(out / "best.safetensors", model="auto", device="cpu")
    assert detector.model_name == "toy"

    assert streampetr_cli.main(arguments(out, rendered_root, "--train.iterations", "6")) == 2
    assert "go on with --resume" in capsys.readouterr().err
    assert streampetr_cli.main(arguments(out, rendered_root, "--train.iterations", "6", "--resume")) == 0
    text = capsys.readouterr().out
    assert "changed since the run began: train.iterations: 4 -> 6" in text
    assert "resuming after step 4" in text
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 4, 6]


def test_a_data_set_shorter_than_a_step_is_refused(
    toy: RunConfig, rendered_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        streampetr_cli.main(arguments(toy.out, rendered_root, "--train.batch", "8", "--train.iterations", "2"))
        == 2
    )
    assert "4 runs for 8 slots" in capsys.readouterr().err
    assert not list(toy.out.glob("checkpoints/*"))


@pytest.mark.slow
def test_one_rendered_batch_is_learned_by_heart(
    toy: RunConfig, one_process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 steps on one frame: classes, boxes and projected centres go to 0.

    The four nearest standing objects: velocities of metres a second take an L1 loss thousands of steps. Outlines
    of the 2D head stay out of it, too: on this coarse grid they cannot be met, since a cell's box holds the
    cell's centre and most objects are smaller than a cell.
    """
    network = replace(TOY_96, dropout=0.0)
    monkeypatch.setitem(VARIANTS, "toy", network)
    world = RenderedWorld(seed=9, seconds=1.0, size=(208, 117), min_visibility=0.9)
    frames = iter(RenderedSource(world, network, NO_AUGMENTATION, 1, device="cpu", ahead=0))
    (batch,) = next(frames)
    frames.close()  # type: ignore[attr-defined]  # a generator, which ends its threads
    step = (replace(batch, targets=(nearest_standing(batch.targets[0], 4),)),)
    assert len(step[0].targets[0].labels) == 4
    config = replace(
        toy,
        augmentation=NO_AUGMENTATION,
        train=replace(toy.train, mode="single_frame", batch=1),
        network=NetworkConfig(batch_norm="train"),
        denoising=DenoisingSettings(groups=0),  # whose noise could not be learned by heart
        optimizer=OptimizerConfig(1e-3, 0, weight_decay=0.0, multipliers=(), warm_up=20, final=0.02),
    )
    unused = RenderedSource(world, network, NO_AUGMENTATION, 1)
    trainer = Trainer(config, unused, 500, one_process, lambda text: None)
    found = []
    for _ in range(500):
        trainer.advance(step)
        found.append({name: float(loss.detach()) for name, loss in trainer.losses.items()})
    for name in ("loss_cls", "loss_bbox", "centers2d_losses", "centerness_losses"):
        assert found[-1][name] < 0.03 * found[0][name], (name, found[0][name], found[-1][name])


TOY_96 = replace(
    TINY,
    name="toy",
    input_size=(96, 160),
    backbone_width=8,
    embed_dims=64,
    num_layers=1,
    feedforward_dims=128,
    num_queries=40,
    num_proposals=0,
    refines_boxes=False,
    num_propagated=8,
    memory_length=16,
    dropout=0.1,
    has_auxiliary_head=True,
)


def nearest_standing(targets: Targets, count: int) -> Targets:
    distance = targets.boxes[:, :2].norm(dim=1) + 1e3 * targets.boxes[:, 7:].norm(dim=1)
    keep = distance.argsort()[:count]
    return replace(targets, boxes=targets.boxes[keep], labels=targets.labels[keep])
