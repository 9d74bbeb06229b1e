"""Settings in a file, covariances through transforms and messages, and the cost of a frame."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streampetr_cli
from bag_tools.messages import boxes_from_message, boxes_to_message
from streampetr_core.boxes import Boxes3D, concatenate
from streampetr_core.geometry import transform
from tracking.bench import crowd, measure
from tracking.config import TrackerConfig, TrackerConfigError
from tracking.config_file import config_content, read_config
from tracking.visibility import View, in_view


def written(folder: Path, content: object) -> Path:
    path = folder / "tracker.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_all_settings_go_through_a_file(tmp_path: Path) -> None:
    config = TrackerConfig()
    again = read_config(written(tmp_path, config_content(config)))
    assert config_content(again) == config_content(config)
    assert again.of("car") == config.of("car")
    assert again.groups == config.groups


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    changes = {"max_age": 3, "classes": {"car": {"speed": 6}, "forklift": {"lateral": [0.1, 0.0]}}}
    config, base = read_config(written(tmp_path, changes)), TrackerConfig()
    assert config.max_age == 3.0
    assert config.of("car").speed == 6.0
    assert config.of("car").gate == base.of("car").gate
    assert config.of("forklift").lateral == (0.1, 0.0)
    assert config.of("pedestrian") == base.of("pedestrian")


def test_the_views_of_missing_cameras_are_left_out(tmp_path: Path) -> None:
    config = TrackerConfig()
    assert config.observed([]) is None
    assert config.observed(["CAM_ROOF"]) is None
    left = config.observed(["CAM_BACK", "CAM_FRONT_LEFT"])
    assert left is not None
    place = np.array([[10.0, 0, 0], [-10, 0.1, 0], [-10, -0.1, 0], [5, 8, 0], [0, -10, 0]])
    assert in_view(place, left).tolist() == [True, False, False, False, True]
    own = read_config(written(tmp_path, {"views": {"left_eye": [10, 60], "right_eye": [-10, 60]}}))
    assert own.observed(["left_eye"]) == (View(-10.0, 60.0),)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ([], "JSON object, not list"),
        ({"max_agee": 1}, "did you mean 'max_age'"),
        ({"classes": {"car": {"sped": 1}}}, "did you mean 'classes.car.speed'"),
        ({"classes": {"car": {"lateral": 1}}}, "classes.car.lateral is 1; it must be 2 numbers"),
        ({"max_age": "long"}, "max_age is 'long'; it must be a number"),
        ({"max_age": -1}, "max_age is -1"),
        ({"groups": "car"}, "lists of class names"),
        ({"views": {"front": 3}}, "views.front is 3; it must be 2 numbers"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, content: object, says: str) -> None:
    with pytest.raises(TrackerConfigError, match=says):
        read_config(written(tmp_path, content))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(TrackerConfigError, match=r"nowhere\.json"):
        read_config("nowhere.json")


def test_the_module_prints_a_file_that_can_be_read(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tracking.config_file"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert config_content(read_config(written(tmp_path, printed))) == config_content(TrackerConfig())


def test_the_track_verb_takes_the_file(tmp_path: Path, shared: Path, capsys) -> None:
    root = shared / "data" / "nuscenes_mini_val"
    source = [str(root / "detections_cc3dt.json"), "--dataroot", str(root), "--split", "mini_val"]
    config = written(tmp_path, {"classes": {"car": {"max_range": 20}}, "coast_time": 0})
    assert streampetr_cli.main(["track", *source, "--out", str(tmp_path / "a")]) == 0
    assert streampetr_cli.main(["track", *source, "--out", str(tmp_path / "b"), "--config", str(config)]) == 0
    sizes = [(tmp_path / name / "tracks.json").stat().st_size for name in "ab"]
    assert sizes[1] < 0.8 * sizes[0]
    config.write_text('{"coast": 1}')
    assert streampetr_cli.main(["track", *source, "--out", str(tmp_path / "c"), "--config", str(config)]) == 2
    assert "'coast_time'" in capsys.readouterr().err


def sure_box() -> Boxes3D:
    place, speed = np.diag([4.0, 1.0, 0.25])[None], np.diag([0.5, 0.1])[None]
    none = np.zeros((1, 3))
    return Boxes3D(
        none, none + 1, np.zeros(1), np.zeros((1, 2)), position_covariance=place, velocity_covariance=speed
    )


def test_covariances_turn_with_the_frame() -> None:
    quarter = transform([1, 2, 3], [np.sqrt(0.5), 0, 0, np.sqrt(0.5)])  # 90 degrees about z
    turned = sure_box().transformed(quarter, "map")
    assert turned.position_covariance is not None
    assert turned.velocity_covariance is not None
    np.testing.assert_allclose(turned.position_covariance[0], np.diag([1.0, 4.0, 0.25]), atol=1e-12)
    np.testing.assert_allclose(turned.velocity_covariance[0], np.diag([0.1, 0.5]), atol=1e-12)


def test_covariances_go_through_messages() -> None:
    boxes = sure_box()
    again = boxes_from_message(boxes_to_message(boxes))
    assert again.position_covariance is not None
    assert again.velocity_covariance is not None
    np.testing.assert_array_equal(again.position_covariance, boxes.position_covariance)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.velocity_covariance, boxes.velocity_covariance)  # type: ignore[arg-type]
    unknown = Boxes3D(boxes.center, boxes.size, boxes.yaw)
    assert boxes_from_message(boxes_to_message(unknown)).position_covariance is None
    assert concatenate([boxes, unknown]).position_covariance is None
    assert concatenate([boxes, boxes[[0]]]).position_covariance.shape == (2, 3, 3)  # type: ignore[union-attr]


def test_the_bench_counts_its_boxes() -> None:
    load = measure(crowd(40, 8))
    assert load.boxes == 40
    assert 20 < load.tracks < 200
    assert 0 < load.p50 <= load.p90
