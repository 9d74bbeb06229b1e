"""From frames to boxes: the network with its temporal memory, fed one frame at a time.

Between frames the memory lies in the model frame of the last one and its times are ages, so that neither the map's
coordinates nor the clock's seconds cost digits: the origin of both moves along with the robot.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streampetr_core.boxes import Boxes3D
from streampetr_core.cameras import CameraModel, CameraRig
from streampetr_core.checkpoint import (
    SHIPPED,
    UNTRAINED,
    CheckpointError,
    checkpoint_metadata,
    load_checkpoint,
    shipped_checkpoint,
)
from streampetr_core.errors import StreamPETRError
from streampetr_core.frame import Frame
from streampetr_core.frame_geometry import CameraMatrices, frame_matrices, rig_matrices
from streampetr_core.geometry import inverse
from streampetr_core.model import (
    Detections,
    FrameGeometry,
    Memory,
    PositionEncoding,
    StreamPETR,
    build_model,
    decode,
)
from streampetr_core.model.folding import fold_batch_norm
from streampetr_core.preprocessing import prepare
from streampetr_core.recipe import recipe_state_dict

BACKENDS = ("auto", "torch")


class DetectorError(StreamPETRError):
    """A setting or a frame that the detector cannot work with."""


@dataclass(frozen=True)
class Continuity:
    """When the memory of the frame before may be used.

    Attributes:
        max_gap: seconds between frames.
        max_speed: metres per second, and `jump` metres on top, that a robot may have moved.
        max_turn_rate: radians per second, and `jump_angle` radians on top.
    """

    max_gap: float = 2.0
    max_speed: float = 60.0
    jump: float = 2.0
    max_turn_rate: float = 3.0
    jump_angle: float = 0.35


@dataclass(frozen=True)
class DetectorState:
    """Everything that `Detector.restore` needs to go on as if nothing had happened since `snapshot`.

    `lineage` numbers the memory's newest entries, see `Boxes3D.lineage`.
    """

    memory: Memory | None
    stamp_ns: int
    map_from_model: NDArray[np.float64]
    scene: str
    pending_reset: tuple[str, str]
    lineage: NDArray[np.int64] | None = None


class Detector:
    """Boxes from frames; owns the temporal memory.

    Attributes:
        model_name, weights_name, class_names: what runs.
        device: where it runs.
        last_reset_reason: why the memory was forgotten before the last step; "" where it continued.
        last_reset_kind: the same in one word, one of those of `reset_counts`.
        reset_counts: how often, by kind: first_frame, request, scene_change, time_back, gap, ego_jump.
        last_queries: (N,) the query behind each box of the last step.
    """

    def __init__(
        self,
        model: StreamPETR,
        *,
        weights_name: str = "",
        device: str = "auto",
        continuity: Continuity | None = None,
        rig: CameraRig | None = None,
    ) -> None:
        self.device = _device(device)
        self.variant = model.variant
        self.model_name = model.variant.name
        self.class_names = model.variant.class_names
        self.weights_name = weights_name
        self.continuity = continuity or Continuity()
        self._model = _for_inference(model).to(self.device)
        self._kept_range = model.pts_bbox_head.position_range.to(self.device)
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="prepare")
        self._images: Tensor | None = None
        self._matrices: CameraMatrices | None = None
        self._position: PositionEncoding
        self._static: FrameGeometry
        self.reset_counts: Counter[str] = Counter()
        self.last_reset_reason = self.last_reset_kind = ""
        self.last_queries: NDArray[np.int64] = np.zeros(0, np.int64)
        self._newest: Tensor | None = None
        self._next_lineage = 1  # 0 = unknown
        self._lock = threading.Lock()
        self._state = _fresh("first_frame", "first frame")
        if rig is not None:
            self._encode(rig_matrices(rig, self.input_size))

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        rig: CameraRig | None = None,
        *,
        model: str = "auto",
        backend: str = "auto",
        device: str = "auto",
        continuity: Continuity | None = None,
    ) -> Detector:
        """A detector with weights from a file.

        Args:
            path: a .safetensors or .pth file; "shipped" for the weights that come with this program; "recipe" for
                those of the reference vectors; "random" for an untrained network, the same at every call.
            rig: to have the position embedding ready before the first frame; each frame brings its own rig.
            model: name of the variant; "auto" = what the file says of itself, else r50_704_428q.
            backend: "torch", which "auto" chooses.
            device: "cpu", "cuda", "cuda:1", ... or "auto".
            continuity: limits beyond which the memory is forgotten.

        Raises:
            CheckpointError, UnknownVariantError, DetectorError: with what to do about it.
        """
        if backend not in BACKENDS:
            raise DetectorError(f"backend '{backend}' is not available; choose one of {', '.join(BACKENDS)}")
        name = str(path)
        if name in UNTRAINED:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = build_model("r50_704_428q" if model == "auto" else model)
            if name == "recipe":
                network.load_state_dict(recipe_state_dict(network), strict=True)
        else:
            path = shipped_checkpoint() if name == SHIPPED else path
            says = checkpoint_metadata(path).get("model", "")
            if model == "auto":
                model = says or "r50_704_428q"
            network = build_model(model)
            if says and says != model:
                raise CheckpointError(f"checkpoint {path} is of model '{says}', not '{model}'; choose that model")
            load_checkpoint(network, path)
        weights = name if name in UNTRAINED else Path(path).name
        return cls(network, weights_name=weights, device=device, continuity=continuity, rig=rig)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's images."""
        return self.variant.input_size

    @property
    def last_memory_queries(self) -> NDArray[np.int64]:
        """(K,) the query behind each of the K newest memory entries after the last step; empty without memory.

        Query `num_fresh + i` of the variant stands for entry i of the memory before that step.
        """
        return np.zeros(0, np.int64) if self._newest is None else self._newest[0].cpu().numpy()

    def prepare(self, image_rgb: NDArray[np.uint8], camera: CameraModel) -> Tensor:
        """A full image, uint8 (H, W, 3) RGB, as the network wants it: float32 (3, h, w). Safe from any thread.

        Raises:
            ImageError: when the image does not fit the camera.
        """
        return prepare(image_rgb, camera, self.input_size, self.variant.channel_order)

    def step(
        self,
        frame: Frame,
        prepared: Sequence[Tensor | None] | None = None,
        *,
        mark: Callable[[str], None] = lambda stage: None,
    ) -> Boxes3D:
        """The boxes of a frame, in base_link, by falling score; the memory moves on.

        Args:
            frame: the images and poses.
            prepared: what `prepare` gave for each camera, None where absent; made from `frame.images` where
                not given.
            mark: called with a stage's name when the stage has been given to the device: prepare, geometry,
                backbone, head, boxes (for benchmarks).

        Raises:
            DetectorError: when no camera gave an image; FrameError on poses that are not finite; ImageError. The
                memory is then as before.
        """
        images = self._prepared(frame) if prepared is None else tuple(prepared)
        mark("prepare")
        present = np.array([image is not None for image in images], dtype=bool)
        if len(images) != len(frame.rig) or not present.any():
            raise DetectorError(
                f"frame {frame.stamp_ns}: {int(present.sum())} images for {len(frame.rig)} cameras; "
                "at least one camera must give an image"
            )
        matrices = frame_matrices(frame, self.input_size, present)
        map_from_model = frame.map_from_ego @ frame.rig.ego_from_model
        state = self._state
        kind, reason = self._discontinuity(state, frame, map_from_model)
        with torch.inference_mode():
            self._encode(matrices)
            geometry = self._geometry(None if kind else state, frame.stamp_ns, map_from_model, present)
            mark("geometry")
            features = self._model.extract_features(self._stack(images))
            mark("backbone")
            outputs = self._model.pts_bbox_head(
                features, geometry, None if kind else state.memory, self._position, last_only=True
            )
            mark("head")
            found = decode(outputs.logits[-1], outputs.boxes[-1], self._kept_range, self.variant.max_boxes)
            boxes, self.last_queries = self._boxes(found, outputs.covariance, frame)
        mark("boxes")
        self._newest = outputs.memory_queries
        lineage = self._lineage(outputs.origins, None if kind else state.lineage)
        if lineage is not None:
            boxes = replace(boxes, lineage=lineage[self.last_queries])
            lineage = lineage[self.last_memory_queries]
        self.last_reset_kind, self.last_reset_reason = kind, reason
        if kind:
            self.reset_counts[kind] += 1
        with self._lock:
            if self._state is state:  # else reset or restored by another thread while this frame ran
                self._state = DetectorState(
                    outputs.memory, frame.stamp_ns, map_from_model, frame.scene, ("", ""), lineage
                )
        return boxes

    def reset(self, reason: str = "request", kind: str = "request") -> None:
        """Forget the past; counted as `kind` when the next frame comes. Safe from any thread."""
        with self._lock:
            self._state = _fresh(kind, reason or kind)

    def snapshot(self) -> DetectorState:
        """The memory and what it belongs to; later steps do not change it."""
        # a step makes new tensors and never writes to old ones, so they can be shared
        return self._state

    def restore(self, state: DetectorState) -> None:
        """Go on from a snapshot: the same frames then give the same boxes, bit for bit."""
        memory = state.memory
        if memory is not None:
            memory = memory.map(lambda x: x.to(self.device))
            if memory.embedding.shape[-1] != self.variant.embed_dims:
                raise DetectorError(
                    f"snapshot has a memory of {memory.embedding.shape[-1]} channels, model '{self.model_name}' "
                    f"needs {self.variant.embed_dims}; restore it into the model it came from"
                )
        with self._lock:
            self._state = replace(state, memory=memory)

    def _prepared(self, frame: Frame) -> tuple[Tensor | None, ...]:
        def one(image: NDArray[np.uint8] | None, camera: CameraModel) -> Tensor | None:
            return None if image is None else self.prepare(image, camera)

        return tuple(self._pool.map(one, frame.images, frame.rig.cameras))

    def _stack(self, images: Sequence[Tensor | None]) -> Tensor:
        """(1, N, 3, h, w) on the device, channels last, in a buffer that is kept; absent cameras are black."""
        height, width = self.input_size
        if self._images is None or len(self._images) != len(images):
            pin = self.device.type == "cuda"
            buffer = torch.empty(len(images), height, width, 3, pin_memory=pin)
            self._images = buffer.permute(0, 3, 1, 2)
        for slot, image in zip(self._images, images, strict=True):
            if image is None:
                slot.zero_()
            elif image.shape != slot.shape:
                raise DetectorError(
                    f"prepared image has shape {tuple(image.shape)}; model '{self.model_name}' needs "
                    f"{tuple(slot.shape)}: prepare it with this detector"
                )
            else:
                slot.copy_(image)
        return self._images.to(self.device, non_blocking=True)[None]

    def _discontinuity(
        self, state: DetectorState, frame: Frame, map_from_model: NDArray[np.float64]
    ) -> tuple[str, str]:
        """Kind and reason for which the memory cannot be used; two empty strings where it can."""
        limits = self.continuity
        if state.pending_reset[0]:
            return state.pending_reset
        if frame.scene != state.scene:
            return "scene_change", f"scene changed from '{state.scene}' to '{frame.scene}'"
        elapsed = (frame.stamp_ns - state.stamp_ns) * 1e-9
        if elapsed < 0:
            return "time_back", f"time went back by {-elapsed:.3f} s"
        if elapsed > limits.max_gap:
            return "gap", f"gap of {elapsed:.2f} s is longer than max_gap {limits.max_gap:g} s"
        moved = inverse(state.map_from_model) @ map_from_model
        distance = float(np.linalg.norm(moved[:3, 3]))
        angle = float(np.arccos(np.clip((np.trace(moved[:3, :3]) - 1) / 2, -1, 1)))
        if distance > limits.max_speed * elapsed + limits.jump:
            return "ego_jump", f"ego pose jumped {distance:.1f} m in {elapsed:.2f} s"
        if angle > limits.max_turn_rate * elapsed + limits.jump_angle:
            return "ego_jump", f"ego pose turned {np.degrees(angle):.0f} degrees in {elapsed:.2f} s"
        return "", ""

    def _encode(self, matrices: CameraMatrices) -> None:
        """Have the position embedding of these cameras: kept until a number of the calibration changes."""
        if matrices.same_as(self._matrices):
            return
        with torch.inference_mode():
            self._static = _standing(matrices, self.device)
            self._position = self._model.encode_position(self._static, self.input_size)
        self._matrices = matrices

    def _geometry(
        self,
        past: DetectorState | None,
        stamp_ns: int,
        map_from_model: NDArray[np.float64],
        present: NDArray[np.bool_],
    ) -> FrameGeometry:
        """The cameras' geometry with the motion since `past`; its "world" is the model frame of the last frame."""
        mask = None if present.all() else torch.from_numpy(present)[None].to(self.device)
        if past is None:
            return replace(self._static, present=mask)
        elapsed = (stamp_ns - past.stamp_ns) * 1e-9
        moved = (inverse(map_from_model) @ past.map_from_model).astype(np.float32)
        return replace(
            self._static,
            model_from_world=torch.from_numpy(moved)[None].to(self.device),
            timestamp=torch.tensor([elapsed], dtype=torch.float64, device=self.device),
            timestamp_after=self._static.timestamp,
            present=mask,
        )

    def _lineage(self, origins: Tensor | None, carried: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
        """(Q,) a number for every query: that of the memory entry that it continues, or a new one."""
        if origins is None:
            return None
        entries = origins[0].cpu().numpy()
        numbers = self._next_lineage + np.arange(len(entries))
        self._next_lineage += len(entries)
        return numbers if carried is None else np.where(entries >= 0, carried[entries], numbers)

    def _boxes(
        self, found: Detections, covariance: Tensor | None, frame: Frame
    ) -> tuple[Boxes3D, NDArray[np.int64]]:
        """Boxes in base_link and their queries; everything leaves the device in one copy."""
        columns = (found.scores, found.labels, found.queries, found.inside)
        parts = [found.boxes.double(), *(column[..., None].double() for column in columns)]
        if covariance is not None:
            parts.append(covariance[0, found.queries[0]].flatten(-2).double()[None])
        rows = torch.cat(parts, dim=-1)[0].cpu().numpy()
        rows = rows[rows[:, 12] > 0]
        planar = rows[:, 13:].reshape(-1, 4, 4)
        boxes = Boxes3D(
            center=rows[:, :3],
            size=rows[:, 3:6],
            yaw=rows[:, 6],
            velocity=rows[:, 7:9],
            score=rows[:, 9],
            label=rows[:, 10].astype(np.int64),
            position_covariance=None if covariance is None else _solid(planar[:, :2, :2]),
            velocity_covariance=None if covariance is None else planar[:, 2:, 2:],
            frame_id="model",
            stamp_ns=frame.stamp_ns,
            class_names=self.class_names,
        ).transformed(frame.rig.ego_from_model, "base_link")
        return boxes, rows[:, 11].astype(np.int64)


def _solid(planar: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 2, 2) covariances of x and y -> (N, 3, 3): an image tells the height as well as what is across a ray."""
    covariance = np.zeros((len(planar), 3, 3))
    covariance[:, :2, :2], covariance[:, 2, 2] = planar, np.linalg.eigvalsh(planar)[:, 0]
    return covariance


def _fresh(kind: str, reason: str) -> DetectorState:
    return DetectorState(None, 0, np.eye(4), "", (kind, reason))


def _standing(matrices: CameraMatrices, device: torch.device) -> FrameGeometry:
    """The geometry of a frame without a past."""
    identity = torch.eye(4, device=device)[None]
    return FrameGeometry(
        torch.from_numpy(matrices.image_from_model)[None].to(device),
        torch.from_numpy(matrices.intrinsics)[None].to(device),
        identity,
        identity,
        torch.zeros(1, dtype=torch.float64, device=device),
    )


def _for_inference(model: StreamPETR) -> StreamPETR:
    """The model with folded batch norm and channels-last convolutions; its weights are no longer loadable."""
    model.eval().requires_grad_(False)
    model.img_backbone = fold_batch_norm(model.img_backbone)  # type: ignore[assignment]
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DetectorError(f"device '{name}' is not known; use cpu, cuda or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DetectorError(f"device '{name}': no CUDA device here; use cpu or auto")
    return device
