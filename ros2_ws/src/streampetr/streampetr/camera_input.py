"""One camera as the node sees it: its calibration, its images on their way to the network, what went wrong."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bag_tools import messages
from streampetr_core.cameras import CameraModel
from streampetr_core.errors import StreamPETRError
from streampetr_core.transform_tree import TransformTree

Pixels = NDArray[np.uint8]
Prepare = Callable[[Pixels, CameraModel], Any]
RATE_WINDOW_NS = 5_000_000_000


class Shot:
    """An image that has arrived: bytes first, pixels when a pool has decoded and prepared them."""

    def __init__(self, stamp_ns: int, arrival_ns: int, decode: Callable[[], Pixels]) -> None:
        self.stamp_ns, self.arrival_ns = stamp_ns, arrival_ns
        self._decode = decode
        self._lock = threading.Lock()
        self._future: Future[tuple[Pixels, Any]] | None = None
        self._model: CameraModel | None = None

    def start(self, pool: Executor, prepare: Prepare, model: CameraModel) -> None:
        """Have it decoded and prepared for a camera; does nothing where that is under way already."""
        with self._lock:
            if self._future is not None and self._model is model:
                return
            self._model = model
            self._future = pool.submit(self._run, prepare, model)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        with self._lock:
            if self._future is not None:
                self._future.cancel()

    def result(self, timeout: float) -> tuple[Pixels, Any]:
        """The full image and what `prepare` made of it; `start` has been called.

        Raises:
            ImageError: on corrupt data or a size that is not the camera's.
        """
        assert self._future is not None
        return self._future.result(timeout)

    def _run(self, prepare: Prepare, model: CameraModel) -> tuple[Pixels, Any]:
        image = self._decode()
        return image, prepare(image, model)


@dataclass
class CameraInput:
    """State of one camera.

    Attributes:
        name: as in the rig.
        image_topic, info_topic: for messages to the operator.
        rectified: the images have no distortion left.
        model: the latest good calibration; None before the first.
        problem: why the latest calibration cannot be used; "" where it can.
        image_problem: why the latest image could not be used; "" where it could.
        refused: images that could not be used, for either reason.
    """

    name: str
    image_topic: str
    info_topic: str
    rectified: bool
    model: CameraModel | None = None
    problem: str = ""
    image_problem: str = ""
    refused: int = 0
    first_image_ns: int | None = None
    last_image_ns: int | None = None
    _info: Any = None
    _arrivals: deque[int] = field(default_factory=lambda: deque(maxlen=256))

    def seen(self, now_ns: int) -> None:
        """Note the arrival of an image."""
        self.first_image_ns = now_ns if self.first_image_ns is None else self.first_image_ns
        self.last_image_ns = now_ns
        self._arrivals.append(now_ns)

    def rate(self, now_ns: int) -> float:
        """Images a second over the last five seconds."""
        recent = [arrival for arrival in self._arrivals if now_ns - arrival < RATE_WINDOW_NS]
        if len(recent) < 2:
            return 0.0
        return (len(recent) - 1) * 1e9 / max(recent[-1] - recent[0], 1)

    @property
    def usable(self) -> bool:
        """Whether its images can be used now."""
        return self.model is not None and not self.problem

    def is_new(self, info: Any) -> bool:
        """Whether a CameraInfo says something else than the one before (stamps do not count)."""
        old = self._info
        return old is None or _content(old) != _content(info)

    def calibrate(self, info: Any, mountings: TransformTree, base_frame: str) -> bool:
        """Take over a CameraInfo (None: the latest again, for tf has changed); True where the camera changed."""
        self._info = info = self._info if info is None else info
        if info is None:
            return False
        try:
            ego_from_camera = mountings.lookup(base_frame, info.header.frame_id)
            model = messages.camera_from_info(info, self.name, ego_from_camera, self.rectified)
        except StreamPETRError as error:
            self.problem = f"{error} (topic {self.info_topic})"
            return False
        changed = self.model is None or bool(self.problem) or not _same(self.model, model)
        self.problem = ""
        if changed:
            self.model = model
        return changed

    def missing(self) -> str:
        """What its images wait for; "" where nothing."""
        if self.model is not None or self.problem:
            return self.problem
        return (
            f"camera '{self.name}': no camera_info has come on {self.info_topic}; publish it, or drop the camera"
        )


def _content(info: Any) -> tuple:
    arrays = (tuple(info.k), tuple(info.d), tuple(info.p))
    return (info.width, info.height, info.distortion_model, info.header.frame_id, *map(repr, arrays))


def _same(a: CameraModel, b: CameraModel) -> bool:
    arrays = ("intrinsics", "distortion", "ego_from_camera")
    same = (a.width, a.height, a.distortion_model) == (b.width, b.height, b.distortion_model)
    return same and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
