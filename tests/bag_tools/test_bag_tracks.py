"""Bags with ground truth are evaluated like data sets: recorded tracks, submissions, two runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streampetr_cli
from bag_tools import layout, messages
from bag_tools.bag_file import RawMessage, decode_message
from bag_tools.bag_tracks import TRACKS_TOPIC, bag_tracks
from bag_tools.pipeline import PipelineError
from streampetr_core.boxes import Boxes3D
from tracking.devkit import official_config
from tracking.evaluation import load_track_set
from tracking.fast_evaluation import fast_tracking_metrics
from tracking.fast_tracks import TrackSet

Rewrite = Callable[[Path, Path, Callable[[RawMessage], Any]], Path]
FRAMES = 40


@pytest.fixture
def record(rewrite: Rewrite, real_bag: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a recording whose tracks are the ground truth, changed."""

    def make(name: str, change: Callable[[int, Boxes3D], Boxes3D | None], delay_ns: int = 0) -> Path:
        count = iter(range(FRAMES))

        def rewritten(message: RawMessage) -> Any:
            if message.topic != layout.GROUND_TRUTH_TOPIC:
                return
            content = decode_message(message)
            pose = messages.pose_matrix(content.map_from_base)
            truth = messages.boxes_from_message(content).transformed(pose, "map")
            boxes = change(next(count), truth)
            if boxes is None:
                return
            boxes = replace(boxes, stamp_ns=boxes.stamp_ns + delay_ns)
            tracks = messages.boxes_to_message(boxes, map_from_base=pose, scene=content.scene)
            data = bytes(messages.typestore().serialize_cdr(tracks, messages.BOX_ARRAY))
            yield TRACKS_TOPIC, messages.BOX_ARRAY, message.log_ns, data

        return rewrite(real_bag, tmp_path / name, rewritten)

    return make


def evaluate(out: Path, *arguments: str | Path) -> dict[str, Any]:
    assert streampetr_cli.main(["evaluate", *map(str, arguments), "--out", str(out)]) == 0
    return {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}


def perfect(_: int, boxes: Boxes3D) -> Boxes3D:
    """What is scored: annotations without a lidar point bear the score 0."""
    return boxes[boxes.score > 0]


def half_time(i: int, boxes: Boxes3D) -> Boxes3D:
    """Other ids from the middle of the drive on."""
    boxes = perfect(i, boxes)
    return replace(boxes, track_id=boxes.track_id + 1000 * (i >= FRAMES // 2))


def test_the_ground_truth_as_tracks_is_perfect(
    record: Callable[..., Path], real_bag: Path, tmp_path: Path
) -> None:
    found = evaluate(tmp_path / "out", "--bags", real_bag, record("recording", perfect))
    scores = found["analysis"]["classes"]["all"]
    assert [scores[key] for key in ("mota", "idf1", "hota")] == pytest.approx([1, 1, 1])
    assert scores["objects"] > 500
    assert found["events"] == []
    assert (tmp_path / "out" / "report.html").is_file()


def test_switches_are_found_and_another_recording_is_better(
    record: Callable[..., Path], real_bag: Path, tmp_path: Path
) -> None:
    worse, better = record("worse", half_time), record("better", perfect, delay_ns=20_000_000)
    found = evaluate(tmp_path / "out", "--bags", real_bag, worse, "--against", better)
    switches = [event for event in found["events"] if event["kind"] == "switch"]
    assert found["metrics"]["ids"] == len(switches) > 10
    assert {event["scene"] for event in switches} == {real_bag.stem}
    assert all(int(event["new_track"]) == int(event["old_track"]) + 1000 for event in switches)
    changes = {row["measure"]: row["change"] for row in found["comparison"]["differences"][:10]}
    assert changes["hota"] < -0.05
    assert changes["ids"] == found["metrics"]["ids"]


def test_what_was_not_recorded_was_missed_unless_left_out(
    record: Callable[..., Path], real_bag: Path, tmp_path: Path
) -> None:
    recording = record("recording", lambda i, boxes: boxes if 10 <= i < 30 else None)
    tracks, notes = bag_tracks([real_bag, recording])
    assert len(tracks.frames.number) == FRAMES
    assert notes == ("20 of 40 key frames have no tracks: all that is there was missed",)
    assert set(np.unique(tracks.found.frame)) == set(range(10, 30))
    tracks, notes = bag_tracks([real_bag, recording], recorded_only=True)
    assert len(tracks.frames.number) == 20
    assert notes == ()
    assert set(np.unique(tracks.truth.frame)) == set(range(20))


def test_a_submission_scores_as_from_the_data_set(shared: Path, real_bag: Path, tmp_path: Path) -> None:
    root = shared / "data" / "nuscenes_mini_val"
    where = ["--dataroot", str(root), "--split", "mini_val", "--out", str(tmp_path)]
    assert streampetr_cli.main(["track", str(root / "detections_cc3dt.json"), *where]) == 0
    of_bag = evaluate(tmp_path / "bag", "--bags", real_bag, "--tracks", tmp_path / "tracks.json")["metrics"]
    both = load_track_set(tmp_path / "tracks.json", root)
    truth, found = (boxes[boxes.frame < FRAMES] for boxes in (both.truth, both.found))
    first = TrackSet(truth, found, both.frames)
    of_set, _ = fast_tracking_metrics(first, official_config())
    assert of_set["amota"] > 0.3
    for measure, of_class in of_set["label_metrics"].items():
        assert of_bag[measure] == pytest.approx(of_set[measure], abs=1e-6), measure
        assert of_bag["label_metrics"][measure] == pytest.approx(of_class, abs=1e-6, nan_ok=True), measure


def test_what_lacks_is_said(record: Callable[..., Path], real_bag: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no tracks"):
        bag_tracks([real_bag])
    with pytest.raises(PipelineError, match="neither a bag"):
        bag_tracks([tmp_path])
    with pytest.raises(PipelineError, match="no ground truth"):
        bag_tracks([record("recording", perfect)])
    with pytest.raises(PipelineError, match="no instant in common"):
        bag_tracks([real_bag, record("later", perfect, delay_ns=10**12)])
    with pytest.raises(PipelineError, match="named twice"):
        bag_tracks([real_bag, real_bag, record("again", perfect)])
