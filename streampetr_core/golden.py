"""Reference vectors: which network a file belongs to, and its inputs and outputs as tensors.

Arrays are prefixed `f{i}_` for frame i and have no batch dimension. Legend: `N` cameras, `H W` image size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streampetr_core.boxes import NUSCENES_CLASSES
from streampetr_core.errors import StreamPETRError
from streampetr_core.model import VARIANTS, FrameGeometry, Memory, PrependedQueries
from streampetr_core.model.memory import empty_memory

_MODELS = {
    "stream_petr_r50_428q": "r50_704_428q",
    "stream_petr_r50_900q": "r50_704_900q",
    "stream_petr_r50_24e": "r50_704_900q",
    "stream_petr_r50_90e": "r50_704_900q",
    "stream_petr_vov_900q": "v299_800_900q",
    "stream_petr_vov_24e": "v299_800_900q",
    "petrv1_r50": "petr_r50_704",
    "focal_petrv1_r50": "focal_petr_r50_704",
}
_BACKBONES = ("eva02_vitl",)
_NOT_YET = ("repdetr3d",)
_KINDS = ("stream", "single", "train")
_MEMORY_KEYS = ("embedding", "reference_point", "timestamp", "egopose", "velo")
_SHIFT = 8
"""Pixels by which a stream frame's images are rolled to the right, times the frame number."""


class GoldenError(StreamPETRError):
    """A reference file that is absent, damaged or of a network that is not built here."""


@dataclass(frozen=True)
class Golden:
    """One reference file.

    Attributes:
        path: of the file.
        kind: "stream", "single", "train", or "backbone" for the maps of a backbone alone.
        model: name of the variant, or of the backbone.
        input_path: the file with the images of the frames that bring none; it may be absent where all do.
    """

    path: Path
    kind: str
    model: str
    input_path: Path

    @cached_property
    def arrays(self) -> dict[str, NDArray]:
        """Everything in the file."""
        return load_arrays(self.path)

    @property
    def frames(self) -> list[int]:
        """Numbers of the frames with outputs; a backbone's file has one.

        Raises:
            GoldenError: when there is none: nothing compared is nothing proved.
        """
        if self.kind == "backbone":
            return [0]
        numbers = {int(found[1]) for key in self.arrays if (found := re.fullmatch(r"f(\d+)_cls_last", key))}
        if not numbers:
            raise GoldenError(f"{self.path} has no frame (no array 'f0_cls_last'); it is no reference file")
        return sorted(numbers)

    @cached_property
    def _base_images(self) -> Tensor:
        if not self.input_path.is_file():
            raise GoldenError(f"{self.path}: its input file {self.input_path.name} is not beside it")
        arrays = load_arrays(self.input_path)
        if "img_fp16" not in arrays:
            raise GoldenError(f"{self.input_path} has no array 'img_fp16'; it is no input file")
        return torch.from_numpy(arrays["img_fp16"]).float()

    def has(self, frame: int, key: str) -> bool:
        """True where the file has this array of this frame."""
        return f"f{frame}_{key}" in self.arrays

    def get(self, frame: int, key: str) -> Tensor:
        """One array of a frame, with a batch dimension in front.

        Raises:
            GoldenError: when the file does not have it.
        """
        name = f"f{frame}_{key}"
        if name not in self.arrays:
            raise GoldenError(f"{self.path} has no array '{name}'; it is not complete")
        return torch.from_numpy(np.asarray(self.arrays[name]))[None]

    def images(self, frame: int) -> Tensor:
        """(1, N, 3, H, W) normalised float32."""
        if self.has(frame, "img_fp16"):
            return self.get(frame, "img_fp16").float()
        return torch.roll(self._base_images, _SHIFT * frame, dims=-1)[None]

    def geometry(self, frame: int) -> FrameGeometry:
        """Poses and time as the published code gets them: the world is the map, times are absolute."""
        return FrameGeometry(
            self.get(frame, "lidar2img"),
            self.get(frame, "intrinsics"),
            self.get(frame, "ego_pose_inv"),
            self.get(frame, "ego_pose"),
            self.get(frame, "timestamp").double(),
        )

    def starts(self, frame: int) -> bool:
        """True where the memory is fresh."""
        return float(self.get(frame, "prev_exists")) == 0.0

    def memory(self, frame: int) -> Memory | None:
        """The stored state right after a frame; None where the file has none."""
        if not all(self.has(frame, f"memory_{key}") for key in _MEMORY_KEYS):
            return None
        embedding, reference, timestamp, pose, velocity = (
            self.get(frame, f"memory_{key}") for key in _MEMORY_KEYS
        )
        batch, length, dims = embedding.shape
        return replace(
            empty_memory(batch, length, dims, len(NUSCENES_CLASSES), embedding.device),
            embedding=embedding,
            reference=reference,
            timestamp=timestamp.double(),
            pose=pose,
            velocity=velocity,
        )

    def denoising(self, frame: int) -> PrependedQueries | None:
        """The denoising queries of a training frame; None in other kinds.

        Centres are moved by up to half the box along the axes (not rotated by yaw), as the stored random numbers
        say.
        """
        if not self.has(frame, "dn_rand_0"):
            return None
        size = int(self.get(frame, "dn_pad_size"))
        boxes = self.get(frame, "dn_known_bboxes")[0]
        noise = self.get(frame, "dn_rand_0")[0] * 2.0 - 1.0
        low, high = (torch.tensor(VARIANTS[self.model].pc_range)[part] for part in (slice(3), slice(3, None)))
        center = boxes[:, :3] + noise * boxes[:, 3:6] / 2.0
        reference = torch.zeros(1, size, 3)
        slots = self.get(frame, "dn_map_known_indice")[0]
        reference[0, slots] = ((center - low) / (high - low)).clamp(0.0, 1.0)
        shape = tuple(self.arrays[f"f{frame}_attn_mask_shape"])
        bits = np.unpackbits(self.arrays[f"f{frame}_attn_mask_packbits"], count=int(np.prod(shape)))
        return PrependedQueries(reference, torch.from_numpy(bits.reshape(shape) == 0))


def open_golden(path: str | Path) -> Golden:
    """The reference file at `path`: the name begins with the network's, the input file is looked up beside it.

    Raises:
        GoldenError: when a file is absent or the network is not one that this program builds.
    """
    path = Path(path)
    parts = path.stem.split("_", 2)
    if len(parts) != 3 or parts[0] != "golden":
        raise GoldenError(f"{path}: the name says no configuration; expected golden_<kind>_<configuration>.npz")
    kind, config = parts[1], parts[2]
    model = next((_MODELS[known] for known in _MODELS if f"{config}_".startswith(f"{known}_")), "")
    backbone = next((known for known in _BACKBONES if f"{config}_".startswith(f"{known}_")), "")
    if kind == "backbone" and backbone:
        if not path.is_file():
            raise GoldenError(f"{path} does not exist")
        return Golden(path, kind, backbone, path)
    if any(word in config for word in _NOT_YET):
        raise GoldenError(f"{path}: configuration '{config}' is not supported yet; known: {', '.join(_MODELS)}")
    if kind not in _KINDS or not model:
        known = f"golden_{{{','.join(_KINDS)}}}_{{{','.join(_MODELS)}}}.npz"
        raise GoldenError(
            f"{path}: '{kind}_{config}' is not known; expected {known} or golden_backbone_{_BACKBONES[0]}.npz"
        )
    if not path.is_file():
        raise GoldenError(f"{path} does not exist")
    height, width = VARIANTS[model].input_size
    inputs = "vov" if VARIANTS[model].channel_order == "BGR" else "r50"
    golden = Golden(path, kind, model, path.with_name(f"input_{inputs}_{width}x{height}.npz"))
    if not all(golden.has(frame, "img_fp16") for frame in golden.frames) and not golden.input_path.is_file():
        raise GoldenError(f"{path}: its input file {golden.input_path.name} is not beside it")
    return golden


def load_arrays(path: Path) -> dict[str, NDArray]:
    """Every array of an .npz file.

    Raises:
        GoldenError: when it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except Exception as error:  # a damaged archive raises whatever its reader stumbled on
        raise GoldenError(f"{path} cannot be read ({error}); it is damaged or no .npz file") from error
