"""The camera synchroniser as a message filter."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from message_filters import SimpleFilter

from bag_tools.messages import stamp_to_ns
from streampetr_core.synchronizer import REFERENCE, CameraSet, CameraSynchronizer, Rewind

Payload = Callable[[str, Any, int], Any]


class CameraSetFilter(SimpleFilter):
    """Puts out `CameraSet`s and `Rewind`s, each with the monotonic time in ns at which it came about.

    The rules are those of `CameraSynchronizer`; this class only connects it. The synchronisers of message_filters
    act when a message arrives; here a set with absent cameras is due when time has passed: call `poll` often.

        images = {name: Subscriber(node, CompressedImage, topic, qos_profile=2) for name, topic in topics.items()}
        sets = CameraSetFilter(CameraSynchronizer(list(images)), images)
        sets.registerCallback(lambda event, now_ns: ...)
        node.create_timer(0.02, sets.poll)

    Args:
        synchronizer: gathers the images; its cameras are the keys of `images`.
        images: camera -> filter of messages with a header, such as a `message_filters.Subscriber`.
        reference: filter of streampetr_msgs/SampleInfo, for a synchroniser with `use_reference`.
        payload: called with camera (or "reference"), message and time of arrival; gives what the set shall carry
            in the message's place, None to refuse it.
    """

    def __init__(
        self,
        synchronizer: CameraSynchronizer,
        images: Mapping[str, SimpleFilter],
        reference: SimpleFilter | None = None,
        payload: Payload = lambda source, message, now_ns: message,
    ) -> None:
        super().__init__()
        self.synchronizer = synchronizer
        self._payload = payload
        for camera, source in images.items():
            source.registerCallback(self.add, camera)
        if reference is not None:
            reference.registerCallback(self.add_reference)

    def add(self, message: Any, camera: str) -> None:
        """Take an image of a camera."""
        now, stamp = time.monotonic_ns(), stamp_to_ns(message.header.stamp)
        payload = self._payload(camera, message, now)
        if payload is not None:
            self._put_out(self.synchronizer.add(camera, stamp, payload, now), now)

    def add_reference(self, message: Any) -> None:
        """Take a SampleInfo: a reference instant, and the stamps of the images that belong to it."""
        now, stamp = time.monotonic_ns(), stamp_to_ns(message.header.stamp)
        payload = self._payload(REFERENCE, message, now)
        named = zip(message.camera_names, message.image_stamps_ns, strict=False)
        stamps = {name.upper(): int(image_stamp) for name, image_stamp in named}
        cameras = self.synchronizer.cameras
        expected = {camera: stamps.get(camera.upper(), -1) for camera in cameras} if stamps else None
        if payload is not None:
            self._put_out(self.synchronizer.add_reference(stamp, payload, now, expected), now)

    def poll(self) -> None:
        """Put out what has become due because time passed."""
        now = time.monotonic_ns()
        self._put_out(self.synchronizer.poll(now), now)

    def _put_out(self, events: list[CameraSet | Rewind], now_ns: int) -> None:
        for event in events:
            self.signalMessage(event, now_ns)
