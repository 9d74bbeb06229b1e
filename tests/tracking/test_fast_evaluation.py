"""Our evaluation and the official one, unmodified, give the same numbers: on real tracks and on spoilt ones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streampetr_cli
from tracking.devkit import EvaluationError
from tracking.evaluation import Evaluation, evaluate_tracking
from tracking.nuscenes_format import TRACKING_CLASSES, Row, Submission, read_submission, write_submission

Results = dict[str, list[Row]]
EQUAL = 1e-6
FRAMES = 9
"""Key frames a scene of the small data set: the official code takes its time."""


@pytest.fixture(scope="module")
def real(shared: Path) -> Path:
    return shared / "data" / "nuscenes_mini_val"


@pytest.fixture(scope="module")
def tracks(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What our tracker makes of the real detections."""
    out = tmp_path_factory.mktemp("tracks")
    where = ["--dataroot", str(real), "--split", "mini_val", "--out", str(out)]
    assert streampetr_cli.main(["track", str(real / "detections_cc3dt.json"), *where]) == 0
    return out / "tracks.json"


@pytest.fixture(scope="module")
def small(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real data set with the first key frames of its scenes only, and a bicycle rack over some cycles."""
    root, version = tmp_path_factory.mktemp("small"), "v1.0-mini"
    (root / version).mkdir()
    (root / "maps").symlink_to(real / "maps")
    table = {path.stem: json.loads(path.read_text()) for path in (real / version).glob("*.json")}
    samples = {row["token"]: row for row in table["sample"]}
    kept: set[str] = set()
    for scene in table["scene"]:
        token = scene["first_sample_token"]
        for _ in range(FRAMES):
            kept.add(token)
            scene["last_sample_token"], token = token, samples[token]["next"]
    table["sample"] = [row for row in table["sample"] if row["token"] in kept]
    for name in ("sample_data", "sample_annotation"):
        table[name] = [row for row in table[name] if row["sample_token"] in kept]
    tokens = {row["token"] for row in table["sample_annotation"]}
    for row in table["sample_annotation"]:
        row["next"] = row["next"] if row["next"] in tokens else ""
    _add_racks(table)
    for name, rows in table.items():
        (root / version / f"{name}.json").write_text(json.dumps(rows))
    return root


def _add_racks(table: dict[str, list[dict[str, Any]]]) -> None:
    """A rack, large and turned, over one motorcycle or bicycle of every third key frame."""
    names = {row["token"]: row["name"] for row in table["category"]}
    of_instance = {row["token"]: names[row["category_token"]] for row in table["instance"]}
    table["category"].append({"token": "rack", "name": "static_object.bicycle_rack", "description": ""})
    table["instance"].append(table["instance"][0] | {"token": "rack", "category_token": "rack"})
    cycles: dict[str, dict[str, Any]] = {}
    for row in table["sample_annotation"]:
        if of_instance[row["instance_token"]].endswith("cycle"):
            cycles.setdefault(row["sample_token"], row)
    assert len(cycles) > 6
    for i, row in enumerate(list(cycles.values())[::3]):
        place = {"size": [3.0, 5.0, 2.0], "rotation": [0.8, 0.0, 0.0, 0.6], "prev": "", "next": ""}
        table["sample_annotation"].append(row | {"token": f"rack{i}", "instance_token": "rack", **place})


def spoilt(results: Results, truth: list[Row], seed: int) -> Results:
    """A copy of the tracks with all that real submissions may contain; every seed another mixture."""
    random = np.random.default_rng(seed)
    scores = seed % 3
    keep = 0.12 if seed % 4 == 3 else 0.8  # few boxes: most recall levels are out of reach
    spoilt_results: Results = {}
    ids = [row["tracking_id"] for rows in results.values() for row in rows]
    swap = dict(zip(random.choice(ids, 60), random.choice(ids, 60), strict=True))
    absent = set(random.choice(TRACKING_CLASSES, 2)) if seed % 2 else set()
    for token, rows in results.items():
        swapping, gone = random.random() < 0.3, random.random() < 0.15
        new: dict[str, Row] = {}
        for row in [] if gone else rows:
            if random.random() > keep or row["tracking_name"] in absent:
                continue
            moved = np.array(row["translation"]) + random.normal(0, 0.7, 3) * (random.random() < 0.5)
            name = random.choice(TRACKING_CLASSES) if random.random() < 0.05 else row["tracking_name"]
            score = [row["tracking_score"], round(row["tracking_score"], 1), 0.5][scores]
            track = swap.get(row["tracking_id"], row["tracking_id"]) if swapping else row["tracking_id"]
            box = {"tracking_name": str(name), "tracking_score": float(score), "tracking_id": track}
            new.setdefault(track, row | box | {"translation": moved.tolist()})
        for row in truth:  # met exactly; twins at one place
            if row["sample_token"] == token and random.random() < 0.1:
                exact = {"translation": row["translation"], "tracking_score": 0.5, "tracking_name": "car"}
                for twin in range(random.integers(1, 4)):
                    new[f"{row['token'][:6]}{twin}"] = (
                        rows[0] | exact | {"tracking_id": f"{row['token'][:6]}{twin}"}
                    )
        spoilt_results[token] = list(new.values())
    return spoilt_results


def numbers(evaluation: Evaluation) -> Iterator[tuple[str, np.ndarray]]:
    """Every number of an evaluation with its name."""
    for metric, of_class in evaluation.summary["label_metrics"].items():
        yield f"{metric} of all", np.array(evaluation.summary[metric], dtype=float)
        for name in TRACKING_CLASSES:
            yield f"{metric} of {name}", np.array(of_class.get(name, np.nan), dtype=float)
    for name, curves in evaluation.details.items():
        for metric, curve in curves.items():
            yield f"curve of {metric} of {name}", np.array(curve, dtype=float)


def assert_same(fast: Evaluation, official: Evaluation) -> None:
    expected = dict(numbers(official))
    found = dict(numbers(fast))
    assert found.keys() == expected.keys()
    assert fast.summary.keys() == official.summary.keys()
    assert fast.summary["cfg"] == official.summary["cfg"]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=EQUAL, err_msg=name)


@pytest.mark.slow
def test_real_tracks_score_the_same_many_times_faster(real: Path, tracks: Path) -> None:
    begun = time.process_time()
    official = evaluate_tracking(tracks, real)
    middle = time.process_time()
    fast = evaluate_tracking(tracks, real, fast=True)
    ratio = (middle - begun) / (time.process_time() - middle)
    assert_same(fast, official)
    assert official.summary["amota"] > 0.3
    print(f"official evaluation / fast evaluation, CPU seconds of this process: {ratio:.0f}")
    assert ratio >= 20
    assert official.summary["eval_time"] / fast.summary["eval_time"] >= 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_spoilt_tracks_score_the_same(small: Path, tracks: Path, tmp_path: Path, seed: int) -> None:
    samples = [row["token"] for row in json.loads((small / "v1.0-mini/sample.json").read_text())]
    truth = json.loads((small / "v1.0-mini/sample_annotation.json").read_text())
    all_results = read_submission(tracks).results
    results = spoilt({token: all_results[token] for token in samples}, truth, seed)
    path = tmp_path / "tracks.json"
    write_submission(path, Submission("tracking", results))
    official, fast = evaluate_tracking(path, small), evaluate_tracking(path, small, fast=True)
    assert_same(fast, official)
    assert official.summary["tp"] > 0


def test_finding_nothing_scores_the_same(small: Path, tmp_path: Path) -> None:
    samples = [row["token"] for row in json.loads((small / "v1.0-mini/sample.json").read_text())]
    path = tmp_path / "empty.json"
    write_submission(path, Submission("tracking", {token: [] for token in samples}))
    official, fast = evaluate_tracking(path, small), evaluate_tracking(path, small, fast=True)
    assert_same(fast, official)
    assert fast.summary["amotp"] == 2


def test_a_split_without_annotations_is_said(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "bare"
    (root / "v1.0-mini").mkdir(parents=True)
    (root / "maps").symlink_to(small / "maps")
    for path in (small / "v1.0-mini").glob("*.json"):
        text = "[]" if path.stem == "sample_annotation" else path.read_text()
        (root / "v1.0-mini" / path.name).write_text(text)
    samples = [row["token"] for row in json.loads((small / "v1.0-mini/sample.json").read_text())]
    path = tmp_path / "empty.json"
    write_submission(path, Submission("tracking", {token: [] for token in samples}))
    with pytest.raises(EvaluationError, match="annotated box"):
        evaluate_tracking(path, root, fast=True)
