"""A root made from a bag is the root that the bag was made from, and the devkit loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bag_tools import BagReader, NuScenesSource, convert_bag, convert_nuscenes, layout
from bag_tools.bag_file import BagError, RawMessage
from streampetr_core.console import OutputError


def test_there_and_back(tiny_root: Any, tiny_bag: Path, tmp_path: Path, same_frames: Callable[..., None]) -> None:
    result = convert_bag(tiny_bag, tmp_path / "again")
    assert (result.scenes, result.key_frames, result.images, result.copied, result.boxes) == (1, 4, 32, 32, 4)
    first, again = NuScenesSource(tiny_root.path), NuScenesSource(tmp_path / "again", split="mini_val")
    for one, other, sample, copy in zip(first, again, first.samples, again.samples, strict=True):
        assert [p.read_bytes() for p in copy.images if p] == [p.read_bytes() for p in sample.images if p]
        assert one.ground_truth is not None
        assert other.ground_truth is not None
        for name in ("center", "size", "yaw", "velocity", "score", "label", "track_id"):
            left, right = getattr(one.ground_truth, name), getattr(other.ground_truth, name)
            np.testing.assert_allclose(left, right, atol=1e-6, err_msg=name)
        assert list(one.ground_truth.attribute) == list(other.ground_truth.attribute)
    bag = convert_nuscenes(tmp_path / "again", tmp_path / "bags")[0].path
    assert bag is not None
    for one, other in zip(BagReader(bag), BagReader(tiny_bag), strict=True):
        np.testing.assert_array_equal(one.image_stamps_ns, other.image_stamps_ns)
        assert (one.stamp_ns, one.scene, one.is_key_frame) == (other.stamp_ns, other.scene, other.is_key_frame)
        np.testing.assert_allclose(one.map_from_ego_at_camera, other.map_from_ego_at_camera, atol=1e-9)


def test_the_devkit_loads_it(shared: Path, real_bag: Path, tmp_path: Path) -> None:
    from nuscenes import NuScenes

    root = shared / "data" / "nuscenes_mini_val"
    convert_bag(real_bag, tmp_path / "root")
    original = NuScenes("v1.0-mini", str(root), verbose=False)
    copy = NuScenes("v1.0-mini", str(tmp_path / "root"), verbose=False)
    assert len(copy.sample) == 40
    for sample in copy.sample[:4]:
        twin = original.get("sample", sample["token"])
        assert (sample["timestamp"], sample["prev"], sample["next"]) == (
            twin["timestamp"],
            twin["prev"],
            twin["next"],
        )
        for camera in ("CAM_FRONT", "CAM_BACK_RIGHT"):
            path, boxes, intrinsics = copy.get_sample_data(sample["data"][camera])
            twin_path, twin_boxes, twin_intrinsics = original.get_sample_data(twin["data"][camera])
            assert Path(path).read_bytes() == Path(twin_path).read_bytes()
            np.testing.assert_allclose(intrinsics, twin_intrinsics)
            twin_boxes = [box for box in twin_boxes if "animal" not in box.name]
            assert len(boxes) == len(twin_boxes)
            for box, other in zip(boxes, twin_boxes, strict=True):
                np.testing.assert_allclose(box.center, other.center, atol=1e-6)
                np.testing.assert_allclose(box.wlh, other.wlh)


def test_a_bag_without_samples_gets_key_frames_by_time(
    tiny_bag: Path, tmp_path: Path, rewrite: Callable[..., Path]
) -> None:
    def bare(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        if message.topic in (layout.SAMPLE_TOPIC, layout.GROUND_TRUTH_TOPIC):
            return []
        return [(message.topic, message.type_name, message.log_ns, message.data)]

    result = convert_bag(rewrite(tiny_bag, tmp_path / "scene-0916", bare), tmp_path / "root")
    assert (result.key_frames, result.images, result.boxes) == (4, 32, 0)
    source = NuScenesSource(tmp_path / "root", split="mini_val")
    stamps = np.array([sample.stamp_ns for sample in source.samples])
    assert list(np.diff(stamps)) == [500_000_000] * 3
    assert {sample.scene_name for sample in source.samples} == {"scene-0916"}
    assert all(frame.present.all() for frame in source)


def test_refusals(tiny_bag: Path, tmp_path: Path) -> None:
    convert_bag(tiny_bag, tmp_path / "root")
    with pytest.raises(OutputError, match="exists"):
        convert_bag(tiny_bag, tmp_path / "root")
    with pytest.raises(BagError, match="scene-0103 is in an earlier bag"):
        convert_bag([tiny_bag, tiny_bag], tmp_path / "twice")
    assert not (tmp_path / "twice").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "tiny_bags", "tiny_root"]
