"""The filters in use, backfill or distribution, behave as everyone knows them: these cases hold for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytestmark = pytest.mark.ros


@pytest.fixture
def filters() -> Any:
    return pytest.importorskip("message_filters")


def message(milliseconds: float, name: str = "") -> Any:
    from rclpy.time import Time
    from sensor_msgs.msg import CameraInfo

    info = CameraInfo()
    info.header.stamp = Time(nanoseconds=round(milliseconds * 1_000_000)).to_msg()
    info.header.frame_id = name
    return info


def ros_time(milliseconds: float) -> Any:
    from rclpy.time import Time

    return Time.from_msg(message(milliseconds).header.stamp)


class Recorder:
    """Takes sets and remembers their stamps in milliseconds."""

    def __init__(self) -> None:
        self.sets: list[tuple[float, ...]] = []

    def __call__(self, *messages: Any) -> None:
        stamps = (m.header.stamp.sec * 1000 + m.header.stamp.nanosec / 1e6 for m in messages)
        self.sets.append(tuple(round(stamp, 3) for stamp in stamps))


def synchronised(
    filters: Any, arrivals: Sequence[tuple[int, float]], queue_size: int = 10, slop: float | None = None
) -> list[tuple[float, ...]]:
    """The sets of a synchroniser over two or three filters for messages (index of the filter, milliseconds)."""
    sources = [filters.SimpleFilter() for _ in range(max(index for index, _ in arrivals) + 1)]
    if slop is None:
        synchroniser = filters.TimeSynchronizer(sources, queue_size)
    else:
        synchroniser = filters.ApproximateTimeSynchronizer(sources, queue_size, slop)
    recorder = Recorder()
    synchroniser.registerCallback(recorder)
    for index, milliseconds in arrivals:
        sources[index].signalMessage(message(milliseconds))
    return recorder.sets


def test_callbacks_get_the_message_and_their_arguments_in_order(filters: Any) -> None:
    source, calls = filters.SimpleFilter(), []
    source.registerCallback(lambda *arguments: calls.append(arguments))
    source.registerCallback(lambda *arguments: calls.append(arguments), "extra", 2)
    source.signalMessage("message")
    assert calls == [("message",), ("message", "extra", 2)]


def test_equal_stamps_make_a_set_in_any_order(filters: Any) -> None:
    assert synchronised(filters, [(0, 100), (0, 200), (1, 200), (1, 100)]) == [(200, 200), (100, 100)]


def test_a_nanosecond_apart_is_not_equal(filters: Any) -> None:
    assert synchronised(filters, [(0, 100), (1, 100.000001)]) == []


def test_a_full_queue_drops_the_oldest_stamp(filters: Any) -> None:
    arrivals = [(0, 100), (0, 200), (0, 300), (1, 100), (1, 200), (1, 300)]
    assert synchronised(filters, arrivals, queue_size=2) == [(200, 200), (300, 300)]


@pytest.mark.parametrize(
    ("apart", "slop", "expected"),
    [
        (30, 0.05, [(100, 130)]),
        (50, 0.05, []),  # the span must be less than the slop
        (49.999, 0.05, [(100, 149.999)]),
        (0, 0.0, []),  # and so a slop of zero gives nothing
    ],
)
def test_slop(filters: Any, apart: float, slop: float, expected: list[tuple[float, ...]]) -> None:
    assert synchronised(filters, [(0, 100), (1, 100 + apart)], slop=slop) == expected


def test_the_nearest_message_is_taken(filters: Any) -> None:
    assert synchronised(filters, [(0, 80), (0, 120), (1, 110)], slop=0.1) == [(120, 110)]


def test_a_set_spans_less_than_the_slop_as_a_whole(filters: Any) -> None:
    # 60 and 140 are each within 50 ms of 100, but not of one another
    assert synchronised(filters, [(0, 60), (1, 140), (2, 100)], slop=0.05) == []


def test_the_next_best_combination_is_tried(filters: Any) -> None:
    # around 100: (70, 129) spans 59 ms, (70, 80) does not
    assert synchronised(filters, [(0, 70), (1, 129), (1, 65), (2, 100)], slop=0.05) == [(70, 65, 100)]


def test_used_messages_are_not_used_again(filters: Any) -> None:
    assert synchronised(filters, [(0, 100), (1, 110), (1, 112), (0, 113)], slop=0.05) == [(100, 110), (113, 112)]


def test_a_message_without_header_is_ignored_or_stamped_on_arrival(filters: Any) -> None:
    from std_msgs.msg import String

    for allowed, expected in ((False, 0), (True, 1)):
        sources = [filters.SimpleFilter(), filters.SimpleFilter()]
        synchroniser = filters.ApproximateTimeSynchronizer(sources, 5, 5.0, allow_headerless=allowed)
        sets: list[Any] = []
        synchroniser.registerCallback(lambda *messages, sets=sets: sets.append(messages))
        for source in sources:
            source.signalMessage(String(data="x"))
        assert len(sets) == expected


def test_cache_keeps_the_last_ones_and_finds_by_time(filters: Any) -> None:
    source = filters.SimpleFilter()
    cache = filters.Cache(source, 3)
    recorder = Recorder()
    cache.registerCallback(recorder)
    assert cache.getLast() is None
    for milliseconds in (100, 200, 300, 400):
        source.signalMessage(message(milliseconds, str(milliseconds)))
    assert recorder.sets == [(100,), (200,), (300,), (400,)]
    assert [m.header.frame_id for m in cache.getInterval(ros_time(0), ros_time(300))] == ["200", "300"]
    assert cache.getElemAfterTime(ros_time(250)).header.frame_id == "300"
    assert cache.getElemBeforeTime(ros_time(250)).header.frame_id == "200"
    assert cache.getElemBeforeTime(ros_time(150)) is None
    assert cache.getElemAfterTime(ros_time(450)) is None
    assert (cache.getOldestTime(), cache.getLastestTime()) == (ros_time(200), ros_time(400))
    assert cache.getLast().header.frame_id == "400"


def test_subscriber_over_dds(filters: Any) -> None:
    import time

    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CameraInfo

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=71)
    node = rclpy.create_node("filter_test", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        subscriber = filters.Subscriber(node, CameraInfo, "/filter_test/info", qos_profile=qos_profile_sensor_data)
        recorder = Recorder()
        subscriber.registerCallback(recorder)
        publisher = node.create_publisher(CameraInfo, "/filter_test/info", qos_profile_sensor_data)
        assert subscriber.getTopic() == "/filter_test/info"
        end = time.monotonic() + 10
        while not recorder.sets and time.monotonic() < end:
            publisher.publish(message(1234))
            executor.spin_once(timeout_sec=0.1)
        assert recorder.sets[0] == (1234,)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
