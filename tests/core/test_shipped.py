"""The checkpoint that comes with the program: small, loadable by name, with its history beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streampetr_core.checkpoint import CheckpointError, checkpoint_metadata, shipped_checkpoint
from streampetr_core.detector import Detector

FOLDER = shipped_checkpoint().parent


def test_it_loads_by_name_and_says_what_it_is() -> None:
    detector = Detector.from_checkpoint("shipped", device="cpu")
    assert (detector.model_name, detector.weights_name) == ("tiny", "tiny.safetensors")
    with pytest.raises(CheckpointError, match="is of model 'tiny', not 'r50_704_428q'"):
        Detector.from_checkpoint("shipped", model="r50_704_428q")


def test_it_is_small_and_its_history_lies_beside_it() -> None:
    assert shipped_checkpoint().stat().st_size <= 16_000_000
    facts = checkpoint_metadata(shipped_checkpoint())
    config = json.loads((FOLDER / "tiny.config.json").read_text())["config"]
    assert config["model"] == facts["model"] == "tiny"
    assert config["train"]["seed"] == int(facts["seed"])
    log = [json.loads(line) for line in (FOLDER / "tiny.log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if line["kind"] == "train"]
    assert len(losses) > 50
    assert losses[-1] < 0.8 * losses[0]
    card = (FOLDER / "README.md").read_text()
    assert "streampetr bench checkpoint" in card
    scores = json.loads((FOLDER / "tiny.scores.json").read_text())
    assert f"{scores['as it is']['detection']['mean_ap']:.3f}" in card


def test_the_package_brings_it_along() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'streampetr_core = ["weights/*"]' in pyproject
