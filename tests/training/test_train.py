"""The whole of `streampetr train`: from a command line to scores, weights and pictures; and that it can learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import streampetr_cli
from streampetr_core.detector import Detector
from training.config import RunConfig


def arguments(out: Path, root: Path, *more: str) -> list[str]:
    fixed = "--model toy --data.version v1.0-mini --data.split mini_val --data.workers 1 --train.device cpu"
    sizes = "--train.batch 2 --train.log-every 2 --train.threads 1 --checkpoint.every 2"
    return ["train", "tiny", "--out", str(out), "--data.source", "tables", "--data.root", str(root),
            *fixed.split(), *sizes.split(), *more]  # fmt: skip


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
    assert stored["resolved"]["rate"] == pytest.approx(4e-4 * 2 / 16)

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
