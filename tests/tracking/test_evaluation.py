"""The official numbers come out of the official code, and what does not fit is said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import streampetr_cli
from tracking.devkit import EvaluationError
from tracking.evaluation import evaluate_detection, evaluate_tracking
from tracking.nuscenes_format import FormatError, Submission, read_submission, write_submission


@pytest.fixture(scope="module")
def real(shared: Path) -> Path:
    return shared / "data" / "nuscenes_mini_val"


@pytest.fixture(scope="module")
def detections(real: Path) -> Path:
    return real / "detections_cc3dt.json"


def test_real_detections_get_the_official_map(real: Path, detections: Path, tmp_path: Path, capfd) -> None:
    arguments = ["--detections", str(detections), "--dataroot", str(real), "--version", "v1.0-mini"]
    status = streampetr_cli.main(["evaluate", *arguments, "--split", "mini_val", "--out", str(tmp_path)])
    printed = capfd.readouterr()
    assert status == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert round(metrics["mean_ap"], 4) == 0.2190
    assert round(metrics["nd_score"], 4) == 0.2718
    assert metrics["mean_dist_aps"]["car"] == pytest.approx(0.417, abs=5e-4)
    assert {"tp_errors", "tp_scores", "label_aps", "label_tp_errors", "cfg", "meta"} <= metrics.keys()
    assert "0.2190" in printed.out
    assert "Loading" not in printed.out  # the devkit's chatter
    assert "it/s" not in printed.err


@pytest.mark.slow
def test_the_tracker_beats_the_published_ones_on_real_boxes(real: Path, detections: Path, tmp_path: Path) -> None:
    where = ["--dataroot", str(real), "--version", "v1.0-mini", "--split", "mini_val", "--out", str(tmp_path)]
    assert streampetr_cli.main(["track", str(detections), *where]) == 0
    assert streampetr_cli.main(["evaluate", "--tracks", str(tmp_path / "tracks.json"), *where]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["amota"] >= 0.55  # the best published tracker gets 0.344 here, the reference 0.159
    assert metrics["ids"] <= 60
    assert metrics["label_metrics"]["amota"]["car"] >= 0.5


@pytest.mark.parametrize("evaluate", [evaluate_detection, evaluate_tracking])
def test_finding_nothing_scores_zero_and_is_said(real: Path, detections: Path, tmp_path: Path, evaluate) -> None:
    kind = "detection" if evaluate is evaluate_detection else "tracking"
    path = tmp_path / "empty.json"
    write_submission(path, Submission(kind, {token: [] for token in read_submission(detections).results}))
    evaluation = evaluate(path, real)
    assert "no boxes" in evaluation.notes[0]
    if kind == "detection":
        assert evaluation.summary["mean_ap"] == 0
        assert set(evaluation.summary["tp_errors"].values()) == {1.0}
    else:
        assert evaluation.summary["amota"] == 0
        assert evaluation.summary["amotp"] == 2
        assert evaluation.summary["tp"] == 0
    assert evaluation.table().row_count > 7


def test_a_missing_sample_is_named(real: Path, detections: Path, tmp_path: Path) -> None:
    content = json.loads(detections.read_text())
    gone = next(iter(content["results"]))
    del content["results"][gone]
    path = tmp_path / "short.json"
    path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=f"1 of 81 samples.*{gone}"):
        evaluate_detection(path, real)


def test_samples_of_another_split_are_named(real: Path, detections: Path, tmp_path: Path) -> None:
    content = json.loads(detections.read_text())
    content["results"]["foreign"] = []
    path = tmp_path / "more.json"
    path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=r"not in split 'mini_val'.*foreign"):
        evaluate_detection(path, real)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": "mini_vla"}, "unknown split 'mini_vla'.*mini_val"),
        ({"split": "mini_train"}, "none of the scenes"),
        ({"version": "v1.0-trainval"}, "v1.0-trainval.*--version"),
        ({"dataroot": Path("/nowhere")}, "/nowhere.*--dataroot"),
    ],
)
def test_wrong_places_are_named(real: Path, detections: Path, change: dict, says: str) -> None:
    with pytest.raises(EvaluationError, match=says):
        evaluate_detection(**{"result": detections, "dataroot": real, **change})


def test_the_wrong_kind_is_named(real: Path, detections: Path) -> None:
    with pytest.raises(FormatError, match="detection rows; a tracking submission"):
        evaluate_tracking(detections, real)


def test_the_verb_wants_one_file(tmp_path: Path, capsys) -> None:
    assert streampetr_cli.main(["evaluate", "--dataroot", "x", "--out", str(tmp_path)]) == 2
    assert "--detections" in capsys.readouterr().err


def test_custom_splits_of_the_version_folder_work(shared: Path, tmp_path: Path) -> None:
    root = shared / "tracking" / "dev"
    evaluation = evaluate_detection(root / "detections.json", root, split="syn_val")
    assert evaluation.summary["mean_ap"] > 0.3
    assert "320 samples outside" in evaluation.notes[0]
    path = evaluation.write(tmp_path)
    again = json.loads(path.read_text())
    np.testing.assert_allclose(again["mean_ap"], evaluation.summary["mean_ap"])
