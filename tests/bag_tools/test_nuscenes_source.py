"""The nuScenes source agrees with the devkit, and says at once what a root lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bag_tools import NuScenesSource
from bag_tools.nuscenes_tables import NuScenesError, NuScenesTables, split_scenes


def test_boxes_and_velocities_are_the_devkits(shared: Path) -> None:
    from nuscenes import NuScenes
    from nuscenes.eval.detection.utils import category_to_detection_name

    root = shared / "data" / "nuscenes_mini_val"
    devkit = NuScenes("v1.0-mini", str(root), verbose=False)
    source = NuScenesSource(root, split="mini_val")
    assert len(source) == 81
    assert sum(sample.has_images for sample in source.samples) == 4
    for sample in source.samples[::9]:
        frame = source.frame(sample, decode=False)
        rows = [devkit.get("sample_annotation", t) for t in devkit.get("sample", sample.token)["anns"]]
        rows = [row for row in rows if category_to_detection_name(row["category_name"])]
        boxes = frame.ground_truth
        assert boxes is not None
        assert list(boxes.names()) == [category_to_detection_name(row["category_name"]) for row in rows]
        in_map = boxes.transformed(frame.map_from_ego, "map")
        np.testing.assert_allclose(in_map.center, [row["translation"] for row in rows], atol=1e-9)
        velocity = np.array([devkit.box_velocity(row["token"]) for row in rows])
        mine = [source.tables.velocity(source.tables.get("sample_annotation", row["token"])) for row in rows]
        np.testing.assert_array_equal(mine, velocity)
        velocity = velocity[:, :2]
        assert np.array_equal(np.isnan(in_map.velocity), np.isnan(velocity))
        np.testing.assert_allclose(in_map.velocity, velocity, atol=1e-9)
        np.testing.assert_array_equal(boxes.score > 0, [r["num_lidar_pts"] + r["num_radar_pts"] > 0 for r in rows])


def test_class_mapping_and_mini_splits_are_the_devkits() -> None:
    from nuscenes.eval.detection.utils import category_to_detection_name
    from nuscenes.utils.splits import mini_train, mini_val

    from bag_tools.nuscenes_tables import DETECTION_NAMES

    for category, name in DETECTION_NAMES.items():
        assert category_to_detection_name(category) == name
    for category in ("animal", "human.pedestrian.stroller", "vehicle.emergency.police"):
        assert category not in DETECTION_NAMES
        assert category_to_detection_name(category) is None
    assert list(split_scenes(Path(), "", "mini_val")) == mini_val
    assert sorted(split_scenes(Path(), "", "mini_train")) == sorted(mini_train)


def test_frames_of_a_tiny_root(tiny_root: Any) -> None:
    source = NuScenesSource(tiny_root.path)
    frames = list(source)
    assert [frame.stamp_ns for frame in frames] == [1_600_000_000_000_000_000 + n * 500_000_000 for n in range(4)]
    assert frames[0].rig.names == ("CAM_FRONT", "CAM_BACK")
    assert frames[1].rig is frames[0].rig
    assert list(frames[0].image_stamps_ns - frames[0].stamp_ns) == [-35_000_000, -10_000_000]
    # The robot drives at 5 m/s, so 35 ms before the lidar it was 0.175 m behind.
    assert frames[0].map_from_ego_at_camera[0, 0, 3] - frames[0].map_from_ego[0, 3] == pytest.approx(-0.175)
    truth = frames[1].ground_truth
    assert truth is not None
    assert len(truth) == 1  # the animal is not one of the ten classes
    assert truth.names()[0] == "car"
    assert truth.score[0] == 0.0  # no lidar point on the second key frame
    assert frames[2].ground_truth is not None
    assert frames[2].ground_truth.score[0] == 1.0
    np.testing.assert_allclose(truth.size, [[4.5, 1.9, 1.7]])
    np.testing.assert_allclose(np.linalg.norm(truth.velocity), 3.0, atol=1e-9)
    assert truth.attribute[0] == "vehicle.moving"


def test_absent_and_corrupt_images_are_none(tiny_root: Any) -> None:
    files = sorted((tiny_root.path / "samples" / "CAM_FRONT").iterdir())
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:200])
    source = NuScenesSource(tiny_root.path)
    first, second = source[0], source[1]
    assert list(first.present) == [False, True]
    assert not first.warnings
    assert first.image_stamps_ns[0] == first.stamp_ns
    assert list(second.present) == [False, True]
    assert "CAM_FRONT" in second.warnings[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"version": "v1.0-trainval"}, ["v1.0-trainval", "v1.0-mini", "--version"]),
        ({"scenes": ["scene-0104"]}, ["scene-0104", "scene-0103"]),
        ({"split": "mini_vall"}, ["mini_vall", "mini_val"]),
        ({"split": "mini_train"}, ["mini_train", "scene-0061", "scene-0103"]),
        ({"split": "mini_val", "scenes": ["scene-0103"]}, ["either"]),
    ],
)
def test_errors_name_what_is_missing(tiny_root: Any, arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(NuScenesError) as error:
        NuScenesSource(tiny_root.path, **arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_errors_of_the_root(tiny_root: Any, tmp_path: Path) -> None:
    with pytest.raises(NuScenesError, match="no such folder"):
        NuScenesSource(tmp_path / "nowhere")
    folder = tiny_root.path / "v1.0-mini"
    (folder / "ego_pose.json").unlink()
    (folder / "log.json").unlink()
    with pytest.raises(NuScenesError, match=r"ego_pose\.json, log\.json"):
        NuScenesSource(tiny_root.path)
    (folder / "log.json").write_text("[]")
    (folder / "ego_pose.json").write_text("[{")
    with pytest.raises(NuScenesError, match=r"ego_pose\.json cannot be read"):
        NuScenesSource(tiny_root.path)[0]


def test_a_row_that_lacks_a_field_is_named(tiny_root: Any) -> None:
    path = tiny_root.path / "v1.0-mini" / "ego_pose.json"
    rows = json.loads(path.read_text())
    for row in rows:
        del row["rotation"]
    path.write_text(json.dumps(rows))
    with pytest.raises(NuScenesError, match=r"ego_pose\.json: row '.+' has no field 'rotation'"):
        NuScenesSource(tiny_root.path)[0]


def test_own_splits_are_read_but_do_not_replace_official_ones(tiny_root: Any) -> None:
    own = {"night": ["scene-0103"], "mini_val": ["scene-9999"]}
    (tiny_root.path / "v1.0-mini" / "splits.json").write_text(json.dumps(own))
    assert [row["name"] for row in NuScenesTables(tiny_root.path, split="night").scenes] == ["scene-0103"]
    assert [row["name"] for row in NuScenesTables(tiny_root.path, split="mini_val").scenes] == ["scene-0103"]
