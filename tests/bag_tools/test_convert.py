"""Bags hold what the data set holds, `--verify` notices when they do not, and nothing half-made is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader

from bag_tools import NuScenesSource, convert, convert_nuscenes, layout, messages
from bag_tools.bag_file import RawMessage
from bag_tools.convert import ConvertError, twists
from bag_tools.nuscenes_tables import NuScenesError
from bag_tools.verify import verify_bag
from streampetr_cli import main
from streampetr_core.console import OutputError
from streampetr_core.geometry import quaternion_from_yaw, transform

IMAGE_TOPIC = "/sensing/camera/cam_front/image_rect/compressed"


def test_real_keyframes_verify(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(shared / "data" / "nuscenes_mini_val")
    arguments = ["convert", root, str(tmp_path / "bags"), "--version", "v1.0-mini", "--scenes", "scene-0103"]
    assert main([*arguments, "--verify"]) == 0
    said = capsys.readouterr().out
    assert "40 key frames, 24 images, 216 absent images skipped" in said
    assert "FAIL" not in said
    assert said.count("  ok ") == 11
    assert (tmp_path / "bags" / "scene-0103" / "scene-0103.mcap").is_file()
    assert (tmp_path / "bags" / "scene-0103" / "metadata.yaml").is_file()


def test_bags_offer_the_qos_that_nodes_expect(tiny_bag: Path) -> None:
    with Reader(tiny_bag) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}  # type: ignore[union-attr]
    assert offered["/tf_static"].durability == QosDurability.TRANSIENT_LOCAL
    assert offered["/tf_static"].reliability == QosReliability.RELIABLE
    assert offered[IMAGE_TOPIC].reliability == QosReliability.BEST_EFFORT
    assert offered["/streampetr/sample"].durability == QosDurability.TRANSIENT_LOCAL
    assert offered["/tf"].durability == QosDurability.VOLATILE
    assert set(offered) == {
        *(layout.image_topic(camera) for camera in ("CAM_FRONT", "CAM_BACK")),
        *(layout.info_topic(camera) for camera in ("CAM_FRONT", "CAM_BACK")),
        "/tf",
        "/tf_static",
        "/localization/kinematic_state",
        "/streampetr/sample",
        "/streampetr/ground_truth",
        "/streampetr/ground_truth_markers",
    }


def test_sweeps_are_optional(tiny_root: Any, tmp_path: Path) -> None:
    with_sweeps = convert_nuscenes(tiny_root.path, tmp_path / "a")[0]
    without = convert_nuscenes(tiny_root.path, tmp_path / "b", sweeps=False)[0]
    assert (with_sweeps.images, with_sweeps.key_frames, with_sweeps.sweep_sets) == (32, 4, 12)
    assert (without.images, without.key_frames, without.sweep_sets) == (8, 4, 0)
    source = NuScenesSource(tiny_root.path)
    assert without.path is not None
    assert all(check.ok for check in verify_bag(without.path, source, source.tables.scenes[0], sweeps=False))
    assert not all(check.ok for check in verify_bag(without.path, source, source.tables.scenes[0]))


def test_nothing_is_overwritten(tiny_root: Any, tiny_bag: Path) -> None:
    before = (tiny_bag / "scene-0103.mcap").read_bytes()
    with pytest.raises(OutputError, match=r"scene-0103 exists"):
        convert_nuscenes(tiny_root.path, tiny_bag.parent)
    assert (tiny_bag / "scene-0103.mcap").read_bytes() == before


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError("No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(
    tiny_root: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    made: list[int] = []
    original = convert._image

    def fail_at_the_tenth(*arguments: Any) -> Any:
        made.append(1)
        if len(made) == 10:
            raise interruption
        return original(*arguments)

    monkeypatch.setattr(convert, "_image", fail_at_the_tenth)
    with pytest.raises(type(interruption)):
        convert_nuscenes(tiny_root.path, tmp_path / "bags")
    assert list((tmp_path / "bags").iterdir()) == []


def test_absent_images_are_counted_and_scenes_without_any_said(
    tiny_root: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((tiny_root.path / "samples" / "CAM_BACK").iterdir())[1:]:
        path.unlink()
    shutil.rmtree(tiny_root.path / "sweeps")
    report = convert_nuscenes(tiny_root.path, tmp_path / "bags")[0]
    assert (report.images, report.absent_images) == (5, 27)
    assert "27 absent images skipped" in str(report)
    shutil.rmtree(tiny_root.path / "samples")
    with pytest.raises(ConvertError, match="all 32 images"):
        convert_nuscenes(tiny_root.path, tmp_path / "more")
    assert main(["convert", str(tiny_root.path), str(tmp_path / "more"), "--scenes", "scene-0001"]) == 2
    assert "scene-0001" in capsys.readouterr().err
    with pytest.raises(NuScenesError, match="no such folder"):
        convert_nuscenes(tmp_path / "nowhere", tmp_path / "more")


def _flip_a_jpeg_byte(message: RawMessage) -> RawMessage:
    data = bytearray(message.data)
    data[-20] ^= 1
    return RawMessage(message.topic, message.type_name, message.log_ns, bytes(data))


def _change(message: RawMessage, edit: Callable[[Any], None]) -> RawMessage:
    store = messages.typestore()
    content = store.deserialize_cdr(message.data, message.type_name)
    edit(content)
    data = bytes(store.serialize_cdr(content, message.type_name))
    return RawMessage(message.topic, message.type_name, message.log_ns, data)


def _zoom(info: Any) -> None:
    info.k = info.k * 1.0001


def _later(header: Any) -> None:
    header.stamp.nanosec += 1


def _shift(transforms: Any) -> None:
    transforms[0].transform.translation.x += 1e-6


def _raise_box(boxes: Any) -> None:
    boxes[0].center.z += 1e-3


TAMPERINGS: dict[str, tuple[str, Callable[[RawMessage], RawMessage | None], str]] = {
    "one bit of a JPEG": (IMAGE_TOPIC, _flip_a_jpeg_byte, "JPEG bytes"),
    "an image lost": (IMAGE_TOPIC, lambda _: None, "images"),
    "a stamp off by a nanosecond": (
        IMAGE_TOPIC,
        lambda m: _change(m, lambda c: _later(c.header)),
        "stamps",
    ),
    "a focal length": (layout.info_topic("CAM_BACK"), lambda m: _change(m, _zoom), "intrinsics"),
    "a mounting": ("/tf_static", lambda m: _change(m, lambda c: _shift(c.transforms)), "mounting"),
    "an ego pose": ("/tf", lambda m: _change(m, lambda c: _shift(c.transforms)), "/tf"),
    "an odometry message lost": (layout.ODOMETRY_TOPIC, lambda _: None, layout.ODOMETRY_TOPIC),
    "a sample lost": (layout.SAMPLE_TOPIC, lambda _: None, layout.SAMPLE_TOPIC),
    "a box": (layout.GROUND_TRUTH_TOPIC, lambda m: _change(m, lambda c: _raise_box(c.boxes)), "ground truth"),
    "the markers": (layout.GROUND_TRUTH_MARKERS_TOPIC, lambda _: None, "ground truth"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_verify_notices(
    name: str, tiny_root: Any, tiny_bag: Path, tmp_path: Path, rewrite: Callable[..., Path]
) -> None:
    """Change the first message of one topic; exactly the check that watches it fails."""
    topic, tamper, expected = TAMPERINGS[name]
    done: list[str] = []

    def change(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        changed: RawMessage | None = message
        if message.topic == topic and not done:
            done.append(name)
            changed = tamper(message)
        return [(changed.topic, changed.type_name, changed.log_ns, changed.data)] if changed else []

    tampered = rewrite(tiny_bag, tmp_path / "tampered", change)
    source = NuScenesSource(tiny_root.path)
    failed = [check.name for check in verify_bag(tampered, source, source.tables.scenes[0]) if not check.ok]
    assert failed == [expected]


def test_verify_fails_the_command(tiny_root: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = NuScenesSource(tiny_root.path)
    reports = convert_nuscenes(tiny_root.path, tmp_path / "bags")
    path = source.samples[2].images[0]
    assert path is not None
    path.write_bytes(path.read_bytes() + b"\0")
    from bag_tools.verify import verify_reports

    assert not verify_reports(reports, tiny_root.path, "v1.0-mini")
    said = capsys.readouterr().out
    assert f"FAIL JPEG bytes: {IMAGE_TOPIC}" in said
    assert path.name in said


def test_twist_of_a_turning_robot() -> None:
    stamps = np.arange(0, 2_000_000_000, 7_000_000)
    seconds = stamps * 1e-9
    yaw = 0.3 * seconds
    position = np.stack([20 * np.sin(yaw), 20 - 20 * np.cos(yaw), np.zeros_like(yaw)], axis=1)
    poses = np.array([transform(p, quaternion_from_yaw(y)) for p, y in zip(position, yaw, strict=True)])
    linear, angular = twists(stamps, poses)
    inner = slice(20, -20)
    np.testing.assert_allclose(linear[inner], np.broadcast_to([6.0, 0, 0], linear[inner].shape), atol=2e-3)
    np.testing.assert_allclose(angular[inner], np.broadcast_to([0, 0, 0.3], angular[inner].shape), atol=1e-6)
    alone = twists(stamps[:1], poses[:1])
    assert np.array_equal(alone, np.zeros((2, 1, 3)))
