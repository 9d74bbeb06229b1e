"""The index: the published converter's numbers from real tables, and a file that is whole, current or rebuilt."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import training.index as index_module
from bag_tools.nuscenes_tables import NuScenesError
from bag_tools.rendered.dataset_writer import drive_seed
from bag_tools.rendered.drive import RenderedDrive
from streampetr_core.boxes import NUSCENES_CLASSES
from training.boxes_2d import clipped_bounds, project_boxes
from training.index import FrameIndex, FrameIndexError, StaleIndexError
from training.index_builder import build_index, open_index, tables_fingerprint
from training.rendered_source import rendered_truth


@pytest.fixture(scope="module")
def real_root(shared: Path) -> Path:
    return shared / "data/nuscenes_mini_val"


@pytest.fixture(scope="module")
def real(real_root: Path) -> FrameIndex:
    return build_index(real_root, "v1.0-mini", "mini_val")


@pytest.fixture
def root(rendered_root: Path, tmp_path: Path) -> Path:
    """A copy of the tables that a test may spoil; the images are shared."""
    copy = tmp_path / "data"
    copy.mkdir()
    shutil.copytree(rendered_root / "v1.0-mini", copy / "v1.0-mini")
    (copy / "samples").symlink_to(rendered_root / "samples")
    return copy


def outline_of_the_devkit(points: list[list[float]]) -> tuple[float, ...] | None:
    devkit = pytest.importorskip("nuscenes.scripts.export_2d_annotations_as_json")
    return devkit.post_process_coords(points)


def test_real_tables_give_what_the_converter_gives(real: FrameIndex, real_root: Path) -> None:
    """Against the devkit's own boxes, velocities and projections, every tenth frame."""
    nuscenes = pytest.importorskip("nuscenes.nuscenes")
    from nuscenes.eval.common.utils import Quaternion
    from nuscenes.eval.detection.utils import category_to_detection_name
    from nuscenes.utils.geometry_utils import BoxVisibility, view_points

    devkit = nuscenes.NuScenes("v1.0-mini", str(real_root), verbose=False)
    assert len(real) == 81
    for number in range(0, 81, 10):
        sample = devkit.get("sample", real.tokens[number])
        lidar = devkit.get("sample_data", sample["data"]["LIDAR_TOP"])
        pose = devkit.get("ego_pose", lidar["ego_pose_token"])
        sensor = devkit.get("calibrated_sensor", lidar["calibrated_sensor_token"])
        truth = real.truth(number)
        _, boxes, _ = devkit.get_sample_data(lidar["token"])
        boxes = [box for box in boxes if category_to_detection_name(box.name) is not None]
        assert len(boxes) == len(truth.boxes) > 10
        to_lidar = (Quaternion(sensor["rotation"]).inverse * Quaternion(pose["rotation"]).inverse).rotation_matrix
        for row, box in enumerate(boxes):
            record = devkit.get("sample_annotation", box.token)
            velocity = to_lidar @ [*devkit.box_velocity(box.token)[:2], 0.0]
            yaw = box.orientation.yaw_pitch_roll[0]
            expected = [*box.center, *box.wlh[[1, 0, 2]], yaw, *np.nan_to_num(velocity[:2])]
            np.testing.assert_allclose(truth.boxes[row], expected, rtol=1e-5, atol=2e-5)
            assert NUSCENES_CLASSES[truth.labels[row]] == category_to_detection_name(box.name)
            assert truth.valid[row] == (record["num_lidar_pts"] + record["num_radar_pts"] > 0)
        for camera, view in zip(real.rig(number).names, truth.views, strict=True):
            _, seen, intrinsics = devkit.get_sample_data(sample["data"][camera], box_vis_level=BoxVisibility.NONE)
            expected_2d = {}
            for box in seen:
                if category_to_detection_name(box.name) is None or box.center[2] <= 0:
                    continue
                corners = box.corners()
                corners = corners[:, corners[2] > 0]
                outline = outline_of_the_devkit(view_points(corners, intrinsics, True).T[:, :2].tolist())
                if outline and outline[2] - outline[0] >= 1 and outline[3] - outline[1] >= 1:
                    center = view_points(box.center[:, None], intrinsics, True)[:2, 0]
                    expected_2d[box.token] = (*outline, *center, box.center[2])
            found = {boxes[row].token: i for i, row in enumerate(view.rows.tolist())}
            assert found.keys() == expected_2d.keys()
            for token, i in found.items():
                values = (*view.boxes[i], *view.centers[i], view.depths[i])
                np.testing.assert_allclose(values, expected_2d[token], rtol=1e-4, atol=5e-3)


def test_outlines_cut_at_the_image_are_the_devkits() -> None:
    rng = np.random.default_rng(0)
    cut = 0
    for _ in range(300):
        points = rng.normal((800, 450), (900, 600), (8, 2)) + rng.uniform(-1200, 1200, 2)
        ours, theirs = clipped_bounds(points, (1600.0, 900.0)), outline_of_the_devkit(points.tolist())
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
            cut += bool(np.any(points < 0) or np.any(points > (1600, 900)))
    assert cut > 150


def test_a_scene_begins_without_sweeps_before(real: FrameIndex) -> None:
    assert np.nonzero(real.starts)[0].tolist() == [0, 40]
    assert real.scene_names == ["scene-0103", "scene-0916"]
    for scene in (0, 1):
        assert (np.diff(real.stamps_ns[real.scene == scene]) > 0).all()
    assert np.array_equal(real.origin(60).position, real.map_from_ego[40, :3, 3])


def test_missing_images_are_named_and_counted(real: FrameIndex) -> None:
    lacking, names = real.missing_images()
    assert (len(names), int(lacking.sum())) == (77 * 6, 77)
    assert not lacking[:4].any()
    assert names[0].startswith("samples/CAM_FRONT/n008-")


def test_tables_and_drives_tell_the_same_truth(rendered_root: Path) -> None:
    """A drive written to disk and read from its tables is the drive made on the fly."""
    index = build_index(rendered_root, "v1.0-mini", scenes=["scene-0916"])
    drive = RenderedDrive(drive_seed(5, 1), 3.0, (416, 234), device="cpu", scene="scene-0916")
    frame, truth = drive.frame_with_truth(2)
    made, read = rendered_truth(frame, truth), index.truth(2)
    stored = index.frame(2)
    np.testing.assert_allclose(stored.map_from_ego, frame.map_from_ego, atol=1e-6)
    np.testing.assert_allclose(stored.camera_from_ego(), frame.camera_from_ego(), atol=1e-6)
    assert stored.stamp_ns == frame.stamp_ns
    np.testing.assert_allclose(read.boxes[:, :6], made.boxes[:, :6], atol=1e-4)
    assert np.abs(np.exp(1j * read.boxes[:, 6]) - np.exp(1j * made.boxes[:, 6])).max() < 1e-5
    # tables hold positions half a second apart, the drive knows the speed now
    assert np.abs(read.boxes[:, 7:] - made.boxes[:, 7:]).mean() < 0.3
    assert np.array_equal(read.labels, made.labels)
    assert np.array_equal(read.valid, made.valid)
    assert 0 < made.valid.sum() < len(made.valid)
    for a, b in zip(read.views, made.views, strict=True):
        assert np.array_equal(a.rows, b.rows)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=0.05)


def test_a_stored_index_is_the_built_one(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    built = open_index(root, "v1.0-mini", "mini_val", cache=cache)
    files = list(cache.iterdir())
    assert len(files) == 1
    written = files[0].stat().st_mtime_ns
    loaded = open_index(root, "v1.0-mini", "mini_val", cache=cache)
    assert files[0].stat().st_mtime_ns == written
    for name, value in vars(built).items():
        other = getattr(loaded, name)
        assert np.array_equal(value, other) if isinstance(value, np.ndarray) else value == other, name
    with np.load(files[0], allow_pickle=False) as arrays:  # opens without running anything
        assert all(arrays[name].dtype != object for name in arrays.files)
    assert len(open_index(root, "v1.0-mini", scenes=["scene-0103"], cache=cache)) == 6
    assert len(list(cache.iterdir())) == 2


def test_a_changed_table_or_version_is_noticed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = open_index(root, "v1.0-mini", "mini_val", cache=cache)
    table = root / "v1.0-mini/sample_annotation.json"
    rows = json.loads(table.read_text())
    for row in rows:
        row["num_lidar_pts"] = 0
    table.write_text(json.dumps(rows))
    second = open_index(root, "v1.0-mini", "mini_val", cache=cache)
    assert first.valid.any()
    assert not second.valid.any()
    fingerprint = tables_fingerprint(root / "v1.0-mini")
    (file,) = cache.iterdir()
    monkeypatch.setattr(index_module, "INDEX_VERSION", index_module.INDEX_VERSION + 1)
    with pytest.raises(StaleIndexError, match="made by version"):
        FrameIndex.load(file, root, fingerprint)
    open_index(root, "v1.0-mini", "mini_val", cache=cache)
    assert len(FrameIndex.load(file, root, fingerprint)) == 12


def test_a_damaged_index_is_made_again_and_never_half_there(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    index = open_index(root, "v1.0-mini", "mini_val", cache=cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert len(open_index(root, "v1.0-mini", "mini_val", cache=cache)) == 12
    file.unlink()

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="no space"):
        index.save(file, "")
    assert list(cache.iterdir()) == []
    # a data set that cannot be written beside is still trained on
    assert len(open_index(root, "v1.0-mini", "mini_val", cache=cache)) == 12


def test_missing_tables_and_scenes_are_named_at_once(root: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(NuScenesError, match="no such folder"):
        open_index(tmp_path / "nothing", "v1.0-mini", "mini_val")
    with pytest.raises(NuScenesError, match=r"no tables of version 'v1\.0-trainval'; it has v1"):
        open_index(root)
    with pytest.raises(NuScenesError, match="no scene scene-1"):
        open_index(root, "v1.0-mini", scenes=["scene-1"])
    (root / "v1.0-mini/ego_pose.json").unlink()
    (root / "v1.0-mini/instance.json").unlink()
    with pytest.raises(NuScenesError, match=r"missing instance\.json, ego_pose\.json"):
        open_index(root, "v1.0-mini", "mini_val", cache=tmp_path)
    assert time.monotonic() - begun < 5


def test_scenes_without_boxes_and_of_other_rigs(root: Path) -> None:
    tables = root / "v1.0-mini"
    (tables / "sample_annotation.json").write_text("[]")
    index = build_index(root, "v1.0-mini", "mini_val")
    assert len(index) == 12
    assert len(index.truth(3).boxes) == 0
    assert all(len(view) == 0 for view in index.truth(3).views)
    scene = next(row for row in json.loads((tables / "scene.json").read_text()) if row["name"] == "scene-0916")
    samples = json.loads((tables / "sample.json").read_text())
    of_scene = {row["token"] for row in samples if row["scene_token"] == scene["token"]}
    rows = json.loads((tables / "sample_data.json").read_text())
    keep = [r for r in rows if not (r["sample_token"] in of_scene and "/CAM_BACK/" in r["filename"])]
    (tables / "sample_data.json").write_text(json.dumps(keep))
    with pytest.raises(FrameIndexError, match="scenes with 5 and 6 cameras"):
        build_index(root, "v1.0-mini", "mini_val")
    # a record that one frame lacks is an image that is missing
    gone = next(r for r in rows if "/CAM_BACK/" in r["filename"])
    (tables / "sample_data.json").write_text(json.dumps([r for r in rows if r is not gone]))
    lacking, names = build_index(root, "v1.0-mini", "mini_val").missing_images()
    assert int(lacking.sum()) == 1
    assert names == ["(no CAM_BACK record of a frame)"]


def test_a_frame_without_sweeps_before_begins_a_scene(root: Path) -> None:
    path = root / "v1.0-mini/sample_data.json"
    rows = json.loads(path.read_text())
    clouds = sorted((r for r in rows if "/LIDAR_TOP/" in r["filename"]), key=lambda r: r["timestamp"])
    third = clouds[2]
    assert third["prev"]
    third["prev"] = ""
    path.write_text(json.dumps(rows))
    index = build_index(root, "v1.0-mini", "mini_val")
    assert np.nonzero(index.starts)[0].tolist() == [0, 2, 6]


def test_a_box_around_the_camera_and_one_behind() -> None:
    from streampetr_core.cameras import CameraModel

    camera = CameraModel("c", 100, 60, np.array([[50.0, 0, 50], [0, 50, 30], [0, 0, 1]]), np.eye(4))
    signs = np.array([[x, y, z] for x in (1, -1) for y in (1, -1) for z in (1, -1)]) / 2
    centers = np.array([[0.0, 0, 0.5], [0, 0, -3], [0, 0, 10], [30, 0, 10]])
    view = project_boxes(signs * 2 + centers[:, None], centers, np.eye(4), camera)
    assert view.rows.tolist() == [0, 2]  # the one behind and the one beside are not seen
    np.testing.assert_allclose(view.boxes[1], [50 - 50 / 9, 30 - 50 / 9, 50 + 50 / 9, 30 + 50 / 9], rtol=1e-5)
    assert view.depths.tolist() == [0.5, 10.0]
