"""The one command that says what a checkpoint is worth, on short drives that the shipped one has never seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streampetr_cli import main

pytestmark = pytest.mark.slow


def test_the_shipped_checkpoint_finds_things(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["bench", "checkpoint", "--out", str(out), "--scenes", "2", "--seconds", "4", "--size", "416x234"]
    assert main([*command, "--seed", "901", "--lineage", "0", "3"]) == 0
    said = capsys.readouterr().out
    assert "emptied" in said
    scores = json.loads((out / "scores.json").read_text())
    kept, emptied = (scores[way]["detection"] for way in ("as it is", "memory emptied each frame"))
    assert kept["mean_ap"] > 0.25
    assert kept["mean_dist_aps"]["car"] > 0.25
    assert kept["mean_ap"] > emptied["mean_ap"] + 0.02
    told, not_told = (scores[way]["tracking"]["amota"] for way in ("as it is", "deviations not told"))
    assert told != not_told  # which is better, so few frames do not tell
    assert kept["tp_errors"]["vel_err"] < 0.8 * emptied["tp_errors"]["vel_err"]
    drives = out / "drives_901_2x4s_416x234"
    before = (drives / "v1.0-mini" / "sample.json").stat().st_mtime_ns
    assert main([*command, "--seed", "901"]) == 0
    assert (drives / "v1.0-mini" / "sample.json").stat().st_mtime_ns == before, "the drives were made again"
    again = json.loads((out / "scores.json").read_text())
    assert scores.keys() - again.keys() == {"lineage 3"}
    for way, found in again.items():
        assert scores[way]["tracking"]["amota"] == found["tracking"]["amota"]
