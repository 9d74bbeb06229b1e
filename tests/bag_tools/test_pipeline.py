"""The offline chain: what goes in comes out as rows of the right samples, whatever the source."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import streampetr_cli
from bag_tools.nuscenes_source import NuScenesSource
from bag_tools.nuscenes_tables import NuScenesTables
from bag_tools.pipeline import (
    Detected,
    PipelineError,
    detect_source,
    detections_of_split,
    fill,
    find_bags,
    on_samples,
    open_source,
    run,
    track_detected,
)
from streampetr_core.boxes import Boxes3D
from streampetr_core.frame import Frame
from tracking import Tracker
from tracking.nuscenes_format import detection_rows, read_submission


class TruthDetector:
    """Stands in for the network: says the frame's ground truth."""

    last_reset_reason = ""

    def step(self, frame: Frame) -> Boxes3D:
        assert frame.present.any()
        assert frame.ground_truth is not None
        return frame.ground_truth


@pytest.fixture(scope="module")
def real(shared: Path) -> Path:
    return shared / "data" / "nuscenes_mini_val"


@pytest.fixture(scope="module")
def source(real: Path) -> NuScenesSource:
    return NuScenesSource(real, "v1.0-mini", "mini_val")


@pytest.fixture(scope="module")
def detected(source: NuScenesSource) -> list[Detected]:
    return list(detect_source(source, TruthDetector()))  # type: ignore[arg-type]


def truth(source: NuScenesSource) -> Iterable[Detected]:
    """The ground truth of every key frame, as if all images were there."""
    for sample in source.samples:
        boxes, pose = source.ground_truth(sample), source.map_from_ego(sample)
        yield Detected(sample.stamp_ns, boxes, pose, sample.scene, sample.token)


def test_key_frames_without_images_get_an_empty_list_and_are_counted(detected: list[Detected]) -> None:
    results = run(detected, Tracker())
    assert len(results.detections) == len(results.tracks) == 81
    assert sum(bool(rows) for rows in results.detections.values()) == 4
    assert results.counts["key frames without images"] == 77
    assert results.counts["boxes"] == sum(map(len, results.detections.values())) > 50


def test_rows_lie_where_the_annotations_are(real: Path, detected: list[Detected]) -> None:
    tables = NuScenesTables(real, "v1.0-mini", "mini_val")
    first = detected[0]
    places = np.array([row["translation"] for row in tables.annotations(tables.get("sample", first.sample_token))])
    rows = detection_rows(first.boxes, first.map_from_ego, first.sample_token)  # type: ignore[arg-type]
    for row in rows:
        assert np.abs(places - row["translation"]).max(axis=1).min() < 1e-6


def test_two_scenes_in_a_row_share_no_track(source: NuScenesSource) -> None:
    ids: dict[str, set[int]] = {}
    for item, tracks in track_detected(truth(source), Tracker()):
        assert tracks is not None
        ids.setdefault(item.scene, set()).update(tracks.track_id.tolist())
    one, two = ids.values()
    assert one
    assert two
    assert one.isdisjoint(two)


def test_one_pass_and_two_passes_give_the_same_tracks(real: Path, source: NuScenesSource, tmp_path: Path) -> None:
    together = run(truth(source), Tracker())
    path = together.write_detections(tmp_path)
    submission = read_submission(path, "detection")
    apart = run(detections_of_split(submission, NuScenesTables(real, "v1.0-mini", "mini_val")), Tracker())
    assert together.tracks.keys() == apart.tracks.keys()
    for token, rows in together.tracks.items():
        others = apart.tracks[token]
        assert [row["tracking_id"] for row in rows] == [row["tracking_id"] for row in others]
        for row, other in zip(rows, others, strict=True):
            for name in ("translation", "size", "rotation", "velocity", "tracking_score"):
                np.testing.assert_allclose(row[name], other[name], atol=1e-6)


def test_frames_between_key_frames_are_tracked_but_not_filed() -> None:
    def item(k: int) -> Detected:
        box = Boxes3D(np.array([[5.0 + k, 3, 1]]), np.ones((1, 3)), np.zeros(1), stamp_ns=k * 100_000_000)
        return Detected(box.stamp_ns, box, np.eye(4), "a", f"sample{k}" if k % 5 == 0 else "", k % 5 == 0)

    results = run(map(item, range(11)), Tracker())
    assert list(results.detections) == ["sample0", "sample5", "sample10"]
    assert results.counts["frames"] == 11
    assert len({row["tracking_id"] for rows in results.tracks.values() for row in rows}) == 1


def test_boxes_without_a_sample_token_are_filed_by_stamp() -> None:
    box = Boxes3D(np.array([[5.0, 3, 1]]), np.ones((1, 3)), np.zeros(1), stamp_ns=1234)
    assert list(run([Detected(1234, box, np.eye(4))]).detections) == ["1234"]


def test_recorded_boxes_find_their_samples_by_stamp(real: Path, source: NuScenesSource) -> None:
    tables = NuScenesTables(real, "v1.0-mini", "mini_val")
    nameless = [Detected(item.stamp_ns, item.boxes, item.map_from_ego, "bag") for item in truth(source)][3:20]
    between = Detected(nameless[0].stamp_ns + 1000, nameless[0].boxes, nameless[0].map_from_ego, "bag")
    results = run(on_samples([nameless[0], between, *nameless[1:]], tables))
    assert list(results.detections) == [sample.token for sample in source.samples[3:20]]
    assert fill(results, tables) == 81 - 17
    assert set(results.detections) == {sample.token for sample in source.samples}


def test_nothing_is_written_when_the_detector_fails(source: NuScenesSource, tmp_path: Path) -> None:
    class Failing(TruthDetector):
        def step(self, frame: Frame) -> Boxes3D:
            if frame.stamp_ns != source.samples[0].stamp_ns:
                raise KeyboardInterrupt
            return super().step(frame)

    with pytest.raises(KeyboardInterrupt):
        run(detect_source(source, Failing())).write_detections(tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_sources_are_told_apart(real: Path, tmp_path: Path) -> None:
    (opened,) = open_source([real], split="mini_val")
    assert isinstance(opened, NuScenesSource)
    with pytest.raises(PipelineError, match="no such file"):
        open_source([tmp_path / "none"])
    with pytest.raises(PipelineError, match="neither a bag"):
        open_source([tmp_path])
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.yaml").touch()
    assert [path.name for path in find_bags(tmp_path)] == ["a", "b"]
    assert find_bags(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(PipelineError, match="is a bag; split 'mini_val'"):
        open_source([tmp_path / "a"], split="mini_val")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["track", "none.json", "--out", "o"], "--dataroot"),
        (["track", "none.mcap", "--out", "o"], "none.mcap"),
        (["detect", "none", "--weights", "random", "--out", "o"], "no such file"),
        (["detect", "none", "--weights", "random", "--out", "/proc/o"], "no such file"),
        (["track", "none.json", "--dataroot", "none", "--out", "/proc/o"], "none"),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path, monkeypatch, capsys, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert streampetr_cli.main(arguments) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_detection_file_of_another_split_is_refused(shared: Path, real: Path, tmp_path: Path, capsys) -> None:
    other = shared / "tracking" / "dev" / "detections.json"
    command = ["track", str(other), "--dataroot", str(real), "--split", "mini_val", "--out", str(tmp_path)]
    assert streampetr_cli.main(command) == 2
    assert "81 of 81 samples" in capsys.readouterr().err
    assert not (tmp_path / "tracks.json").exists()


@pytest.mark.slow
def test_the_verbs_give_the_same_rows_from_the_data_set_and_from_its_bag(real: Path, tmp_path: Path) -> None:
    bags, split = str(tmp_path / "bags"), ["--version", "v1.0-mini", "--split", "mini_val"]
    assert streampetr_cli.main(["convert", str(real), bags, "--scenes", "scene-0103"]) == 0
    common = ["--model", "r50_704_428q", "--weights", "recipe", "--track"]
    for source, out, more in ((str(real), "root", split), (bags, "bag", [*split, "--dataroot", str(real)])):
        assert streampetr_cli.main(["detect", source, *common, *more, "--out", str(tmp_path / out)]) == 0
    for name in ("detections", "tracks"):
        one, two = (
            json.loads((tmp_path / out / f"{name}.json").read_text())["results"] for out in ("root", "bag")
        )
        assert one.keys() == two.keys()
        assert len(one) == 81
        assert sum(map(len, one.values())) > 50
        for token, rows in one.items():
            assert len(rows) == len(two[token])
            for row, other in zip(rows, two[token], strict=True):
                for key in ("translation", "size", "rotation", "velocity"):
                    np.testing.assert_allclose(row[key], other[key], atol=1e-4)
    again = ["track", str(tmp_path / "bag" / "detections.json"), "--dataroot", str(real), *split]
    assert streampetr_cli.main([*again, "--out", str(tmp_path / "apart")]) == 0
    one, two = (json.loads((tmp_path / out / "tracks.json").read_text())["results"] for out in ("bag", "apart"))
    for token, rows in one.items():
        assert [row["tracking_id"] for row in rows] == [row["tracking_id"] for row in two[token]]


def test_what_a_source_lacks_is_said(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bag that was cut off is used as far as it goes, and the command says so."""
    assert streampetr_cli.main(["convert", str(real), str(tmp_path / "bags"), "--scenes", "scene-0103"]) == 0
    (bag,) = (tmp_path / "bags").rglob("*.mcap")
    content = bag.read_bytes()
    bag.write_bytes(content[: len(content) // 2])
    command = ["detect", str(bag.parent), "--model", "tiny", "--weights", "random", "--out", str(tmp_path / "out")]
    assert streampetr_cli.main(command) == 0
    assert "was cut off" in capsys.readouterr().out


def test_the_first_warnings_are_kept_by_name(source: NuScenesSource) -> None:
    (item,) = detect_source([replace(source[0], warnings=("CAM_BACK: corrupt",) * 9)], TruthDetector())  # type: ignore[arg-type]
    results = run([item])
    assert results.counts["warnings"] == 9
    assert results.warnings == [f"{item.sample_token}: CAM_BACK: corrupt"] * 5
