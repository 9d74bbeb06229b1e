"""One way from a set of images to a `Frame`: the node and the bag reader both come through here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streampetr_core.boxes import Boxes3D
from streampetr_core.cameras import CameraRig
from streampetr_core.frame import Frame, FrameError


class EgoMotion(Protocol):
    """Poses of the robot by time: `EgoMotionBuffer`, or tf composed from several of them."""

    def at(self, stamp_ns: int) -> NDArray[np.float64]:
        """`map_from_ego` (4, 4) at an instant; raises a StreamPETRError where it is not known."""
        ...


def assemble_frame(
    rig: CameraRig,
    images: Mapping[str, NDArray[np.uint8] | None],
    image_stamps_ns: Mapping[str, int],
    ego_motion: EgoMotion,
    *,
    stamp_ns: int,
    scene: str = "",
    sample_token: str = "",
    is_key_frame: bool = True,
    ground_truth: Boxes3D | None = None,
    warnings: Sequence[str] = (),
) -> Frame:
    """The frame of one set of images.

    Args:
        rig: which cameras there are, in what order, where.
        images: camera -> full image, uint8 (H, W, 3) RGB; cameras left out or None are absent.
        image_stamps_ns: camera -> stamp of its image, at least for the cameras present.
        ego_motion: asked at the reference instant and at each present image's stamp.
        stamp_ns: the reference instant.
        scene, sample_token, is_key_frame, ground_truth, warnings: carried over, see `Frame`.

    Raises:
        FrameError: for an image of a camera that is not in the rig, or without a stamp.
        StreamPETRError: what `ego_motion` raises where it has no pose.
    """
    foreign = sorted(images.keys() - set(rig.names))
    if foreign:
        raise FrameError(
            f"frame {stamp_ns}: images of {', '.join(foreign)}, but the rig has {', '.join(rig.names)}"
        )
    map_from_ego = ego_motion.at(stamp_ns)
    stamps, poses = [], []
    for name in rig.names:
        if images.get(name) is None:
            stamps.append(stamp_ns)
            poses.append(map_from_ego)
            continue
        if name not in image_stamps_ns:
            raise FrameError(f"frame {stamp_ns}: the image of {name} has no stamp")
        stamps.append(image_stamps_ns[name])
        poses.append(ego_motion.at(image_stamps_ns[name]))
    return Frame(
        stamp_ns=stamp_ns,
        images=tuple(images.get(name) for name in rig.names),
        image_stamps_ns=np.array(stamps, dtype=np.int64),
        rig=rig,
        map_from_ego=map_from_ego,
        map_from_ego_at_camera=np.stack(poses),
        scene=scene,
        sample_token=sample_token,
        is_key_frame=is_key_frame,
        ground_truth=ground_truth,
        warnings=tuple(warnings),
    )
