"""What the data give and the losses take: a batch of frames with their ground truth.

Legend: `B` frames (one of each video slot), `N` cameras, `H W` image height and width, `G` boxes of a frame, `n`
2D boxes of a camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from streampetr_core.model import FrameGeometry


@dataclass(frozen=True)
class Targets:
    """The ground truth of one frame, after augmentation.

    Attributes:
        boxes: (G, 9) float32 x, y, z of the geometric centre (metres, model frame), length, width, height, yaw,
            vx, vy.
        labels: (G,) int64 class, in the order of the variant's class names.
        boxes_2d: per camera (n, 4) x1, y1, x2, y2 in pixels of the network's image.
        labels_2d: per camera (n,) int64 class, in the order of the variant's class names too.
        centers_2d: per camera (n, 2) projected 3D centre, pixels.
        depths_2d: per camera (n,) metres.
        shapes_2d: per camera (n, 6) length, width, height, yaw, vx, vy of the 3D box, model frame; empty where
            unknown, which networks without proposals do not mind.
    """

    boxes: Tensor
    labels: Tensor
    boxes_2d: tuple[Tensor, ...]
    labels_2d: tuple[Tensor, ...]
    centers_2d: tuple[Tensor, ...]
    depths_2d: tuple[Tensor, ...]
    shapes_2d: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Batch:
    """B frames, one of each video slot.

    Attributes:
        images: (B, N, 3, H, W) normalised.
        geometry: calibration, poses and times; its `continues` (B,) is 0 where the memory starts anew.
        targets: ground truth of each frame; the losses take it to the network's device, padded, in few copies.
        tokens: sample token of each frame.
    """

    images: Tensor
    geometry: FrameGeometry
    targets: tuple[Targets, ...]
    tokens: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `function` applied to the network's inputs; the targets stay as they are."""
        geometry = {f.name: getattr(self.geometry, f.name) for f in fields(self.geometry)}
        geometry = {name: function(tensor) for name, tensor in geometry.items() if tensor is not None}
        return replace(
            self,
            images=function(self.images),
            geometry=FrameGeometry(**geometry),
        )

    def to(self, device: torch.device | str) -> Batch:
        """Images and geometry on `device`; copies from pinned memory do not wait."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The network's inputs in page-locked memory; torch's data loader calls this in its own thread."""
        return self.map(Tensor.pin_memory)
