"""The unmodified devkit loads and scores rendered data sets; unfinished ones leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bag_tools.nuscenes_source import NuScenesSource
from bag_tools.rendered.dataset_writer import drive_seed, scene_names, write_dataset
from bag_tools.rendered.drive import RenderedDrive
from streampetr_cli import main

SIZE = (240, 135)
ARGUMENTS = ["--scenes", "2", "--seconds", "2", "--seed", "5", "--size", "240x135", "--device", "cpu"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "root"
    assert main(["render", str(out), *ARGUMENTS]) == 0
    return out


@pytest.fixture(scope="module")
def nusc(root: Path):
    from nuscenes.nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(root), verbose=False)


def test_devkit_loads_it(nusc, root: Path) -> None:
    assert [scene["name"] for scene in nusc.scene] == ["scene-0103", "scene-0916"]
    assert len(nusc.sample) == 8
    for scene in nusc.scene:
        sample, seen = nusc.get("sample", scene["first_sample_token"]), 1
        while sample["next"]:
            following = nusc.get("sample", sample["next"])
            assert following["timestamp"] - sample["timestamp"] == 500_000
            sample, seen = following, seen + 1
        assert seen == scene["nbr_samples"] == 4
        assert sample["token"] == scene["last_sample_token"]
    for data in nusc.sample_data:
        if data["fileformat"] == "jpg":
            image = cv2.imread(str(root / data["filename"]))
            assert image.shape == (data["height"], data["width"], 3) == (SIZE[1], SIZE[0], 3)
    poses = {data["ego_pose_token"] for data in nusc.sample_data}
    assert len(poses) == len(nusc.sample_data) == 8 * 7
    for instance in nusc.instance:
        annotation, count = nusc.get("sample_annotation", instance["first_annotation_token"]), 1
        while annotation["next"]:
            annotation, count = nusc.get("sample_annotation", annotation["next"]), count + 1
        assert count == instance["nbr_annotations"]
    points = np.array([row["num_lidar_pts"] for row in nusc.sample_annotation])
    assert (points == 0).any()
    assert (points > 20).any()


def test_ground_truth_as_detections_scores_one(nusc, root: Path, tmp_path: Path) -> None:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval
    from nuscenes.eval.detection.utils import category_to_detection_name

    results = {}
    for sample in nusc.sample:
        rows = []
        for token in sample["anns"]:
            row = nusc.get("sample_annotation", token)
            if row["num_lidar_pts"] == 0:
                continue
            attributes = [nusc.get("attribute", a)["name"] for a in row["attribute_tokens"]]
            rows.append(
                {
                    "sample_token": sample["token"],
                    "translation": row["translation"],
                    "size": row["size"],
                    "rotation": row["rotation"],
                    "velocity": np.nan_to_num(nusc.box_velocity(token)[:2]).tolist(),
                    "detection_name": category_to_detection_name(row["category_name"]),
                    "detection_score": 0.9,
                    "attribute_name": attributes[0] if attributes else "",
                }
            )
        results[sample["token"]] = rows
    use = {f"use_{name}": name == "camera" for name in ("camera", "lidar", "radar", "map", "external")}
    path = tmp_path / "detections.json"
    path.write_text(json.dumps({"meta": use, "results": results}))
    config: Any = config_factory("detection_cvpr_2019")
    evaluation = DetectionEval(nusc, config, str(path), "mini_val", str(tmp_path / "out"), verbose=False)
    metrics, _ = evaluation.evaluate()
    present = {box.detection_name for box in evaluation.gt_boxes.all}
    assert {"car", "pedestrian", "barrier"} <= present
    for name in present:
        assert metrics.mean_dist_aps[name] > 0.99, name
        assert metrics.get_label_tp(name, "trans_err") < 1e-6
        assert metrics.get_label_tp(name, "scale_err") < 1e-6


def test_root_and_memory_agree(root: Path) -> None:
    frame = next(iter(NuScenesSource(root, "v1.0-mini", scenes=["scene-0916"])))
    drive = RenderedDrive(drive_seed(5, 1), 2.0, SIZE, device="cpu", scene="scene-0916")
    mine = drive.frame(0)
    assert frame.sample_token == mine.sample_token
    assert np.array_equal(frame.image_stamps_ns, mine.image_stamps_ns)
    np.testing.assert_allclose(frame.map_from_ego_at_camera, mine.map_from_ego_at_camera, atol=1e-9)
    np.testing.assert_allclose(frame.rig.ego_from_model, mine.rig.ego_from_model, atol=1e-9)
    for written, rendered in zip(frame.images, mine.images, strict=True):
        assert written is not None
        assert rendered is not None
        assert np.abs(written.astype(int) - rendered).mean() < 6  # JPEG
    assert frame.ground_truth is not None
    assert mine.ground_truth is not None
    theirs = {tuple(np.round(center, 4)) for center in frame.ground_truth.center}
    assert {tuple(np.round(center, 4)) for center in mine.ground_truth.center} <= theirs


def test_sweeps_lie_between_key_frames(tmp_path: Path) -> None:
    from nuscenes.nuscenes import NuScenes

    written = write_dataset(tmp_path / "root", 1, 1.0, 3, (64, 36), device="cpu", sweeps=True)
    assert (written.key_frames, written.images) == (2, 72)
    nusc = NuScenes("v1.0-mini", str(tmp_path / "root"), verbose=False)
    front = nusc.get("sample_data", nusc.sample[0]["data"]["CAM_FRONT"])
    stamps, keys = [front["timestamp"]], [front["is_key_frame"]]
    while front["next"]:
        front = nusc.get("sample_data", front["next"])
        stamps.append(front["timestamp"])
        keys.append(front["is_key_frame"])
    assert len(stamps) == 12
    assert set(np.diff(stamps)) <= {83_333, 83_334}
    assert [k for k, key in enumerate(keys) if key] == [0, 6]


def test_names_fall_into_official_splits() -> None:
    from nuscenes.utils import splits

    assert scene_names(2) == ("v1.0-mini", tuple(splits.mini_val))
    version, names = scene_names(14)
    assert version == "v1.0-trainval"
    assert len(set(names)) == 14


def test_outputs_are_whole_or_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    assert main(["render", str(taken), *ARGUMENTS]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["render", str(tmp_path / "out"), *ARGUMENTS, "--size", "big"]) == 2
    assert "WIDTHxHEIGHT" in capsys.readouterr().err
    for option, value in (("--quality", "0"), ("--fog", "-1")):
        assert main(["render", str(tmp_path / "out"), *ARGUMENTS, option, value]) == 2
        assert "choose" in capsys.readouterr().err

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RenderedDrive, "frame_with_truth", interrupted)
    assert main(["render", str(tmp_path / "out"), *ARGUMENTS]) == 130
    assert sorted(os.listdir(tmp_path)) == ["taken"]


def test_termination_leaves_nothing_half_made(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streampetr_cli", "render", str(tmp_path / "out"), "--scenes", "9"]
    process = subprocess.Popen([*command, "--size", "320x180", "--seconds", "20"])
    deadline = time.monotonic() + 60.0
    while not any(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [path.name for path in tmp_path.iterdir()] == [f".out.{process.pid}.tmp"]
    process.terminate()
    assert process.wait(30.0) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())
