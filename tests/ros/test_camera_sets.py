"""The camera synchroniser among message filters, backfill or distribution: sets out of plain filters' messages."""

from __future__ import annotations

from typing import Any

import pytest

from streampetr_core.synchronizer import CameraSet, CameraSynchronizer, Rewind

pytestmark = pytest.mark.ros

MS = 1_000_000
CAMERAS = ("CAM_FRONT", "CAM_BACK")


class Sets:
    """A `CameraSetFilter` of two cameras, fed through filters, and what it has put out."""

    def __init__(self, max_wait_ns: int = 60_000 * MS, **options: Any) -> None:
        message_filters = pytest.importorskip("message_filters")
        from streampetr.camera_sets import CameraSetFilter

        self.images = {name: message_filters.SimpleFilter() for name in CAMERAS}
        self.samples = message_filters.SimpleFilter()
        use_reference = options.pop("use_reference", False)
        synchronizer = CameraSynchronizer(CAMERAS, max_wait_ns=max_wait_ns, use_reference=use_reference)
        self.filter = CameraSetFilter(
            synchronizer, self.images, self.samples if use_reference else None, **options
        )
        assert isinstance(self.filter, message_filters.SimpleFilter)
        self.events: list[CameraSet | Rewind] = []
        self.filter.registerCallback(lambda event, now, name: self.events.append(event), "with an argument")

    def shoot(self, camera: str, stamp_ns: int) -> Any:
        from sensor_msgs.msg import CompressedImage

        message = CompressedImage()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1000 * MS)
        self.images[camera].signalMessage(message)
        return message


def test_a_set_carries_the_messages_of_its_filters() -> None:
    sets = Sets()
    for k in range(1, 4):
        sent = {name: sets.shoot(name, k * 500 * MS + i * 9 * MS) for i, name in enumerate(CAMERAS)}
    sets.filter.poll()
    last = sets.events[-1]
    assert isinstance(last, CameraSet)
    assert last.payloads == sent
    assert last.stamp_ns == 1500 * MS


def test_time_passing_puts_out_a_set_without_its_absent_camera() -> None:
    sets = Sets(max_wait_ns=0)
    sets.shoot("CAM_FRONT", 500 * MS)
    sets.filter.poll()
    (event,) = sets.events
    assert isinstance(event, CameraSet)
    assert event.missing == ("CAM_BACK",)


def test_time_going_back_is_an_event() -> None:
    sets = Sets(max_wait_ns=0)
    for stamp in (9_000 * MS, 9_500 * MS, 1_000 * MS):
        for name in CAMERAS:
            sets.shoot(name, stamp)
    sets.filter.poll()
    (rewind,) = [event for event in sets.events if isinstance(event, Rewind)]
    assert (rewind.from_ns, rewind.to_ns) == (9_500 * MS, 1_000 * MS)
    assert sets.events.index(rewind) < len(sets.events) - 1


def test_what_payload_refuses_is_in_no_set() -> None:
    sets = Sets(0, payload=lambda camera, message, now: None if camera == "CAM_BACK" else camera)
    for name in CAMERAS:
        sets.shoot(name, 500 * MS)
    sets.filter.poll()
    (event,) = sets.events
    assert isinstance(event, CameraSet)
    assert event.payloads == {"CAM_FRONT": "CAM_FRONT"}
    assert sets.filter.synchronizer.counts["CAM_BACK"].received == 0


def test_a_sample_names_the_images_that_belong_to_it() -> None:
    from streampetr_msgs.msg import SampleInfo

    sets = Sets(use_reference=True)
    for name, stamp in zip(CAMERAS, (470 * MS, 900 * MS), strict=True):  # farther apart than any skew
        sets.shoot(name, stamp)
    sample = SampleInfo(camera_names=["cam_front", "cam_back"], image_stamps_ns=[470 * MS, 900 * MS])
    sample.header.stamp.nanosec = 500 * MS
    sets.samples.signalMessage(sample)
    (event,) = sets.events
    assert isinstance(event, CameraSet)
    assert (event.stamp_ns, event.missing, event.reference) == (500 * MS, (), sample)
