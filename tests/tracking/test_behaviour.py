"""Settings in a file, and what follows from them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import streampetr_cli
from tracking.config import TrackerConfig, TrackerConfigError
from tracking.config_file import config_content, read_config


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
