"""Frames from a bag are those of the data set, whatever the bag lacks is said, and damage is survived."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from bag_tools import BagReader, NuScenesSource, layout, messages
from bag_tools.bag_file import BagError, BagFile, RawMessage
from bag_tools.bag_reader import BagTopics, describe
from streampetr_core.geometry import inverse, transform

Rewrite = Callable[..., Path]


def kept(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
    return [(message.topic, message.type_name, message.log_ns, message.data)]


def without(*topics: str) -> Callable[[RawMessage], list[tuple[str, str, int, bytes]]]:
    return lambda message: [] if message.topic in topics else kept(message)


def test_real_frames_are_those_of_the_data_set(
    shared: Path, real_bag: Path, same_frames: Callable[..., None]
) -> None:
    root = shared / "data" / "nuscenes_mini_val"
    for path in (real_bag, real_bag / "scene-0103.mcap"):
        reader = BagReader(path)
        assert len(reader) == 40
        for one, other in zip(reader, NuScenesSource(root, scenes=["scene-0103"]), strict=True):
            same_frames(one, other)
        assert not reader.counts


def test_sweeps_lie_between_key_frames(tiny_root: Any, tiny_bag: Path, same_frames: Callable[..., None]) -> None:
    frames = list(BagReader(tiny_bag))
    assert len(frames) == len(BagReader(tiny_bag)) == 16
    assert [frame.is_key_frame for frame in frames[:6]] == [True, False, False, False, False, True]
    assert all(np.diff([frame.stamp_ns for frame in frames]) > 0)
    assert all(frame.present.all() for frame in frames)
    assert all((frame.ground_truth is not None) == frame.is_key_frame for frame in frames)
    key_frames = list(BagReader(tiny_bag, key_frames_only=True))
    for one, other in zip(key_frames, NuScenesSource(tiny_root.path), strict=True):
        same_frames(one, other)


def test_without_samples_the_synchroniser_makes_the_sets(tiny_bag: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    bare = rewrite(tiny_bag, tmp_path / "bare", without(layout.SAMPLE_TOPIC, layout.GROUND_TRUTH_TOPIC))
    named, timed = list(BagReader(tiny_bag)), list(BagReader(bare))
    assert len(timed) == len(named)
    for one, other in zip(timed, named, strict=True):
        np.testing.assert_array_equal(one.image_stamps_ns, other.image_stamps_ns)
        assert one.stamp_ns == one.image_stamps_ns[0]  # the anchor camera's stamp
        for left, right in zip(one.images, other.images, strict=True):
            assert left is not None
            assert right is not None
            np.testing.assert_array_equal(left, right)
        np.testing.assert_allclose(one.map_from_ego_at_camera, other.map_from_ego_at_camera, atol=1e-9)
        assert one.scene == "bare"
        assert one.ground_truth is None


def test_raw_images_and_odometry(tiny_bag: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    """The same pixels arrive when a driver sends bgr8 and localisation sends Odometry."""
    store = messages.typestore()

    def change(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        if message.topic == "/tf":
            return []
        if message.type_name != messages.COMPRESSED_IMAGE:
            return kept(message)
        compressed: Any = store.deserialize_cdr(message.data, message.type_name)
        image = messages.new_message(messages.IMAGE)
        image.header = compressed.header
        bgr = cv2.imdecode(compressed.data, cv2.IMREAD_COLOR)
        assert bgr is not None
        image.height, image.width, image.encoding, image.step = 64, 96, "bgr8", 96 * 3
        image.data = bgr.reshape(-1)
        topic = message.topic.replace("/compressed", "")
        return [(topic, messages.IMAGE, message.log_ns, bytes(store.serialize_cdr(image, messages.IMAGE)))]

    raw = BagReader(rewrite(tiny_bag, tmp_path / "raw", change))
    assert raw.plan.motion == layout.ODOMETRY_TOPIC
    for one, other in zip(raw, BagReader(tiny_bag), strict=True):
        for left, right in zip(one.images, other.images, strict=True):
            assert left is not None
            assert right is not None
            np.testing.assert_array_equal(left, right)
        np.testing.assert_allclose(one.map_from_ego_at_camera, other.map_from_ego_at_camera, atol=1e-9)


def test_odometry_between_map_and_robot(tiny_bag: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    """The usual chain map -> odom -> base_link, the first link slow, gives the same poses as one transform."""
    store = messages.typestore()
    map_from_odom = transform([580.0, 1590.0, 0.5], [0.9, 0.02, 0.01, 0.3])
    count: list[int] = []

    def split(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        if message.topic == layout.ODOMETRY_TOPIC:
            return []
        if message.topic != "/tf":
            return kept(message)
        content: Any = store.deserialize_cdr(message.data, message.type_name)
        stamp = messages.stamp_to_ns(content.transforms[0].header.stamp)
        odom_from_base = inverse(map_from_odom) @ messages.transform_matrix(content.transforms[0])
        content.transforms = [messages.transform_message("odom", "base_link", odom_from_base, stamp)]
        count.append(1)
        if len(count) % 10 == 1:
            content.transforms.append(messages.transform_message("map", "odom", map_from_odom, stamp))
        return [(*kept(message)[0][:3], bytes(store.serialize_cdr(content, message.type_name)))]

    chained = list(BagReader(rewrite(tiny_bag, tmp_path / "chained", split)))
    assert len(chained) == 16
    for one, other in zip(chained, BagReader(tiny_bag), strict=True):
        np.testing.assert_allclose(one.map_from_ego_at_camera, other.map_from_ego_at_camera, atol=1e-8)


def test_other_names_and_a_choice_of_cameras(tiny_bag: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    def rename(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        topic = message.topic.replace("/sensing/camera/", "/robot/").replace("image_rect/compressed", "jpeg")
        return [] if topic == layout.SAMPLE_TOPIC else [(topic, *kept(message)[0][1:])]

    renamed = rewrite(tiny_bag, tmp_path / "renamed", rename)
    with pytest.raises(BagError, match=r"no camera images.*/robot/cam_back/jpeg"):
        BagReader(renamed)
    names = BagTopics(image="/robot/{camera}/jpeg", info="/robot/{camera}/camera_info", cameras=("CAM_BACK",))
    frames = list(BagReader(renamed, names))
    assert len(frames) == 16
    assert frames[0].rig.names == ("CAM_BACK",)


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ((layout.info_topic("CAM_BACK"),), ["CAM_BACK", layout.info_topic("CAM_BACK")]),
        (("/tf", layout.ODOMETRY_TOPIC), ["no ego motion", "map -> base_link", "/tf"]),
        (("/tf_static",), ["/tf_static", "cam_", "base_link"]),
        ((layout.image_topic("CAM_BACK"), layout.image_topic("CAM_FRONT")), ["no camera images", "image"]),
    ],
)
def test_errors_name_what_is_missing(
    lost: tuple[str, ...], words: list[str], tiny_bag: Path, tmp_path: Path, rewrite: Rewrite
) -> None:
    bag = rewrite(tiny_bag, tmp_path / "lacking", without(*lost))
    with pytest.raises(BagError) as error:
        BagReader(bag)
    assert all(word in str(error.value) for word in ["lacking", *words]), str(error.value)
    description = describe(bag)
    assert not description.runnable
    assert description.problems == (str(error.value),)


def test_no_bag_empty_bag_and_no_bag_at_all(tmp_path: Path, tiny_bag: Path, rewrite: Rewrite) -> None:
    with pytest.raises(BagError, match="no such bag"):
        BagReader(tmp_path / "nothing")
    (tmp_path / "text.mcap").write_text("this is no bag, but long enough to look into")
    with pytest.raises(BagError, match=r"text\.mcap.*cannot be opened"):
        BagReader(tmp_path / "text.mcap")
    with pytest.raises(BagError, match="holds no messages"):
        BagReader(rewrite(tiny_bag, tmp_path / "empty", lambda _: []))
    (tmp_path / "folder").mkdir()
    with pytest.raises(BagError, match=r"metadata\.yaml"):
        BagReader(tmp_path / "folder")


def test_a_folder_of_bags_names_them(tiny_bag: Path) -> None:
    with (
        pytest.raises(BagError, match=f"a folder of bags; give one of .*{tiny_bag.name}"),
        BagFile(tiny_bag.parent),
    ):
        pass


def test_the_wrong_type_on_a_topic(tiny_bag: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    def swap(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        return [] if message.topic == "/tf" else kept(message)

    bag = rewrite(tiny_bag, tmp_path / "typed", swap)
    with pytest.raises(BagError, match=r"kinematic_state is nav_msgs/msg/Odometry, not tf2_msgs/msg/TFMessage"):
        BagReader(bag, BagTopics(tf=layout.ODOMETRY_TOPIC))


@pytest.mark.parametrize("share", [0.4, 0.95])
def test_a_cut_off_bag_is_read_as_far_as_it_goes(
    share: float, shared: Path, real_bag: Path, tmp_path: Path, same_frames: Callable[..., None]
) -> None:
    data = (real_bag / "scene-0103.mcap").read_bytes()
    cut = tmp_path / "scene-0103"
    cut.mkdir()
    (cut / "metadata.yaml").write_bytes((real_bag / "metadata.yaml").read_bytes())
    (cut / "scene-0103.mcap").write_bytes(data[: int(len(data) * share)])
    whole = NuScenesSource(shared / "data" / "nuscenes_mini_val", scenes=["scene-0103"])
    reader = BagReader(cut)
    assert reader.lost_bytes > 0
    frames = list(reader)
    assert 0 < len(frames) <= 40
    same_frames(frames[0], whole[0])
    assert {frame.sample_token for frame in frames} <= {sample.token for sample in whole.samples}
    assert any("cut off" in problem for problem in describe(cut / "scene-0103.mcap").problems)


def test_a_bag_cut_off_before_its_first_message(tiny_bag: Path) -> None:
    storage = tiny_bag / "scene-0103.mcap"
    storage.write_bytes(storage.read_bytes()[:300])
    with pytest.raises(BagError, match="cannot be opened"):
        BagReader(tiny_bag)


def test_a_corrupt_jpeg_costs_one_image(tiny_bag: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    done: list[int] = []

    def spoil(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        if message.topic != layout.image_topic("CAM_BACK") or done:
            return kept(message)
        done.append(1)
        store = messages.typestore()
        image: Any = store.deserialize_cdr(message.data, message.type_name)
        image.data = image.data[:300]
        return [(*kept(message)[0][:3], bytes(store.serialize_cdr(image, message.type_name)))]

    reader = BagReader(rewrite(tiny_bag, tmp_path / "spoilt", spoil))
    frames = list(reader)
    assert len(frames) == 16
    assert list(frames[0].present) == [True, False]
    assert "CAM_BACK" in frames[0].warnings[0]
    assert reader.counts == {"corrupt images": 1}


def test_a_lost_image_is_a_warning(tiny_bag: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    count: list[int] = []

    def lose_the_fourth(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        if message.topic == layout.image_topic("CAM_FRONT"):
            count.append(1)
            if len(count) == 4:
                return []
        return kept(message)

    reader = BagReader(rewrite(tiny_bag, tmp_path / "lossy", lose_the_fourth))
    frames = list(reader)
    assert len(frames) == 16
    assert list(frames[3].present) == [False, True]
    assert "not in the bag" in frames[3].warnings[0]
    assert reader.counts == {"missing images": 1}


def test_poses_that_end_early_cost_the_sets_after_them(tiny_bag: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    with BagFile(tiny_bag) as bag:
        middle = sum(bag.span_ns) // 2

    def stop(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        return [] if message.topic == "/tf" and message.log_ns > middle else kept(message)

    reader = BagReader(rewrite(tiny_bag, tmp_path / "stopped", stop))
    frames = list(reader)
    assert 6 <= len(frames) <= 10
    assert reader.counts["sets without an ego pose"] == 16 - len(frames)

    def nothing_in_time(message: RawMessage) -> list[tuple[str, str, int, bytes]]:
        return [] if message.topic == "/tf" and message.log_ns < middle + 10**9 // 2 else kept(message)

    late = BagReader(rewrite(tiny_bag, tmp_path / "late", nothing_in_time))
    assert len(list(late)) < 8


def test_stamps_of_another_time_than_the_log(tiny_bag: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    """A bag recorded during a replay: log times are of today, stamps of years ago."""
    years = 5 * 365 * 86_400 * 10**9
    shifted = rewrite(tiny_bag, tmp_path / "shifted", lambda m: [(m.topic, m.type_name, m.log_ns + years, m.data)])
    reader = BagReader(shifted)
    frames = list(reader)
    assert [frame.stamp_ns for frame in frames] == [frame.stamp_ns for frame in BagReader(tiny_bag)]
    assert all(frame.present.all() for frame in frames)
    assert [frame.ground_truth is not None for frame in frames] == [frame.is_key_frame for frame in frames]
    assert not reader.counts


def test_a_drive_recorded_twice_in_a_row(tiny_bag: Path, tmp_path: Path) -> None:
    """Stamps go back in the middle: the second pass gives the same frames again."""
    with BagFile(tiny_bag) as bag:
        once = list(bag.messages())
        start, end = bag.span_ns
    with Writer(tmp_path / "loop", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for later in (0, end - start + 5_000_000_000):
            for message in once:
                if message.topic not in connections:
                    connections[message.topic] = writer.add_connection(
                        message.topic, message.type_name, typestore=messages.typestore()
                    )
                writer.write(connections[message.topic], message.log_ns + later, message.data)
    reader = BagReader(tmp_path / "loop")
    stamps = [frame.stamp_ns for frame in reader]
    assert len(stamps) == 32
    assert stamps[:16] == stamps[16:]
    assert not reader.counts


def test_describe(tiny_bag: Path) -> None:
    found = describe(tiny_bag)
    assert found.runnable
    assert not found.problems
    assert [(c.name, c.width, c.height, c.images) for c in found.cameras] == [
        ("CAM_FRONT", 96, 64, 16),
        ("CAM_BACK", 96, 64, 16),
    ]
    assert (found.sets, found.ego_motion, found.has_samples, found.has_ground_truth) == (16, "/tf", True, True)
    assert found.seconds == pytest.approx(1.535, abs=0.02)
