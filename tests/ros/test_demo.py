"""The demo as a newcomer runs it, only shorter: every step, and the files it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def demo(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streampetr_cli", "demo", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_drive_to_scores_and_pictures(tmp_path: Path) -> None:
    out = tmp_path / "a demo"
    done = demo("--out", out, "--seconds", "1.5", "--size", "320x180")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "untrained" not in done.stdout

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    report = json.loads((out / "report.json").read_text(), parse_constant=no_constant)
    assert report["counts"]["key frames"] == 6
    assert report["counts"]["key frames without images"] == 0
    assert (report["model"], report["weights"], report["trained"]) == ("tiny", "tiny.safetensors", True)
    assert report["counts"]["boxes"] > 100
    assert report["detection"]["mean_dist_aps"]["car"] > 0.1
    assert report["tracking"]["amota"] >= 0.0
    for kind, value in (("detection", "mean_ap"), ("detection", "nd_score"), ("tracking", "amota")):
        assert report[f"offline_{kind}"][value] == pytest.approx(report[kind][value], abs=1e-3), value
    pictures = sorted(path.name for path in out.glob("frame_*.png"))
    assert pictures == report["pictures"] == [f"frame_{number:03d}.png" for number in range(6)]
    assert cv2.imread(str(out / pictures[0])).std() > 20
    video = cv2.VideoCapture(str(out / report["video"]))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    doctor = subprocess.run(
        [sys.executable, "-m", "streampetr_cli", "doctor", str(out / "recording")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert doctor.returncode == 0
    assert "streampetr track" in doctor.stdout
    said = " ".join(doctor.stdout.split())
    for topic in ("/perception_node/boxes", "/tracker_node/tracks"):
        assert f"{topic} streampetr_msgs/msg/Box3DArray, 6 messages" in said
    assert "/streampetr/sample streampetr_msgs/msg/SampleInfo, 6 messages" in said


@pytest.mark.parametrize(("option", "value"), [("--checkpoint", "/nowhere.safetensors"), ("--model", "tyni")])
def test_what_cannot_be_loaded_is_named_before_anything_is_rendered(
    option: str, value: str, tmp_path: Path
) -> None:
    done = demo("--out", tmp_path / "demo", option, value)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert value in done.stderr
    assert "-->" not in done.stdout
