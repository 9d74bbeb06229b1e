"""The index of a data set: everything about its key frames but the pixels, in one file of plain arrays.

Built once from the tables, found again by what they are; see `index_builder`. Legend: `S` key frames, `N` cameras,
`C` distinct cameras, `M` boxes of all frames, `K` outlines of all images.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streampetr_core.cameras import CameraModel, CameraRig
from streampetr_core.console import atomic_output
from streampetr_core.errors import StreamPETRError
from streampetr_core.frame import Frame
from streampetr_core.preprocessing import ImageError, decode_jpeg
from training.boxes_2d import View
from training.example import FrameTruth, Origin

INDEX_VERSION = 1
"""Raised whenever the meaning of an index's arrays changes."""


class FrameIndexError(StreamPETRError):
    """A data set that cannot be trained on."""


class StaleIndexError(FrameIndexError):
    """A stored index of other tables or of another version of this program."""


@dataclass(frozen=True)
class FrameIndex:
    """S key frames, scene after scene, each in time order.

    Attributes:
        root: of the data set.
        tokens, paths: S sample tokens; S lists of N image files relative to `root`, "" where a record is absent.
        scene_names, scene_tokens: of the scenes.
        camera_names: C names.
        scene: (S,) number of each frame's scene.
        starts: (S,) bool, True where no key frame or sweep comes before in its scene.
        stamps_ns, image_stamps_ns: (S,) and (S, N) int64.
        map_from_ego, map_from_ego_at_camera: (S, 4, 4) at the reference instant, (S, N, 4, 4) at the images'.
        ego_from_model: (S, 4, 4).
        cameras: (S, N) which of the C cameras.
        camera_sizes: (C, 2) width, height.
        camera_intrinsics, ego_from_camera: (C, 3, 3), (C, 4, 4).
        box_ends: (S,) end of each frame's boxes.
        boxes: (M, 9) float32, see `FrameTruth`; labels, valid: (M,).
        view_ends: (S * N,) end of each image's outlines.
        view_rows, view_boxes, view_centers, view_depths: (K,), (K, 4), (K, 2), (K,), see `View`.
    """

    root: Path
    tokens: list[str]
    paths: list[list[str]]
    scene_names: list[str]
    scene_tokens: list[str]
    camera_names: list[str]
    scene: NDArray[np.int64]
    starts: NDArray[np.bool_]
    stamps_ns: NDArray[np.int64]
    image_stamps_ns: NDArray[np.int64]
    map_from_ego: NDArray[np.float64]
    map_from_ego_at_camera: NDArray[np.float64]
    ego_from_model: NDArray[np.float64]
    cameras: NDArray[np.int64]
    camera_sizes: NDArray[np.int64]
    camera_intrinsics: NDArray[np.float64]
    ego_from_camera: NDArray[np.float64]
    box_ends: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    valid: NDArray[np.bool_]
    view_ends: NDArray[np.int64]
    view_rows: NDArray[np.int64]
    view_boxes: NDArray[np.float32]
    view_centers: NDArray[np.float32]
    view_depths: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_cameras(self) -> int:
        """N."""
        return self.cameras.shape[1]

    def rig(self, number: int) -> CameraRig:
        """The cameras of a frame."""
        models = []
        for row in self.cameras[number].tolist():
            width, height = self.camera_sizes[row].tolist()
            models.append(
                CameraModel(
                    self.camera_names[row], width, height, self.camera_intrinsics[row], self.ego_from_camera[row]
                )
            )
        return CameraRig(tuple(models), self.ego_from_model[number])

    def frame(self, number: int, decode: bool = True, tolerant: bool = False) -> Frame:
        """A frame with its images (None with `decode` False), without ground truth; see `truth`.

        Raises:
            FrameIndexError: on an image that cannot be read; `tolerant` makes it None, with a warning.
        """
        images: list[NDArray[np.uint8] | None] = [None] * self.num_cameras
        warnings = []
        for camera, name in enumerate(self.paths[number] if decode else ()):
            path = self.root / name
            try:
                if not name:
                    raise ImageError("image: no record in sample_data.json")
                images[camera] = decode_jpeg(path.read_bytes())
            except (ImageError, OSError) as error:
                if not tolerant:
                    raise FrameIndexError(f"{path}: {error}; replace the file, or allow missing images") from error
                warnings.append(f"{path}: {error}")
        return Frame(
            stamp_ns=int(self.stamps_ns[number]),
            images=tuple(images),
            image_stamps_ns=self.image_stamps_ns[number],
            rig=self.rig(number),
            map_from_ego=self.map_from_ego[number],
            map_from_ego_at_camera=self.map_from_ego_at_camera[number],
            scene=self.scene_tokens[self.scene[number]],
            sample_token=self.tokens[number],
            warnings=tuple(warnings),
        )

    def truth(self, number: int) -> FrameTruth:
        """What there is around a frame."""
        rows = _span(self.box_ends, number)
        first = number * self.num_cameras
        views = []
        for image in range(first, first + self.num_cameras):
            span = _span(self.view_ends, image)
            rows_2d, boxes, centers = self.view_rows[span], self.view_boxes[span], self.view_centers[span]
            views.append(View(rows_2d, boxes, centers, self.view_depths[span]))
        return FrameTruth(self.boxes[rows], self.labels[rows], self.valid[rows], tuple(views))

    def origin(self, number: int) -> Origin:
        """Where and when the scene of a frame begins."""
        first = int(np.searchsorted(self.scene, self.scene[number]))
        return Origin(self.map_from_ego[first, :3, 3], int(self.stamps_ns[first]))

    def missing_images(self) -> tuple[NDArray[np.bool_], list[str]]:
        """(S,) True where a frame lacks an image, and the files' names; looked up now, a folder at a time."""
        present: dict[str, set[str]] = {}
        lacking, names = np.zeros(len(self), dtype=bool), []
        for number, paths in enumerate(self.paths):
            for camera, path in enumerate(paths):
                folder, _, name = path.rpartition("/")
                if folder not in present:
                    present[folder] = _listing(self.root / folder)
                if name not in present[folder]:
                    lacking[number] = True
                    named = path or f"(no {self.camera_names[self.cameras[number, camera]]} record of a frame)"
                    names.append(named)
        return lacking, names

    def save(self, path: Path, fingerprint: str) -> None:
        """Write the index; the file appears when it is whole."""
        texts = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "list[str]" or f.name == "paths"}
        header = json.dumps({"version": INDEX_VERSION, "fingerprint": fingerprint, **texts}).encode()
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in texts and f.name != "root"}
        with atomic_output(path, overwrite=True) as temporary, temporary.open("wb") as file:
            np.savez(file, header=np.frombuffer(header, np.uint8), **arrays)

    @classmethod
    def load(cls, path: Path, root: Path, fingerprint: str) -> FrameIndex:
        """A stored index.

        Raises:
            StaleIndexError: when it is of other tables or of another version, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                header: dict[str, Any] = json.loads(file["header"].tobytes())
                found = (header.pop("version"), header.pop("fingerprint"))
                if found != (INDEX_VERSION, fingerprint):
                    raise StaleIndexError(
                        f"{path}: made by version {found[0]} of tables {found[1]}, not {INDEX_VERSION} of "
                        f"{fingerprint}"
                    )
                arrays = {name: file[name] for name in file.files if name != "header"}
                return cls(root=root, **header, **arrays)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise StaleIndexError(f"{path}: not a whole index ({error})") from error


def _span(ends: NDArray[np.int64], number: int) -> slice:
    return slice(int(ends[number - 1]) if number else 0, int(ends[number]))


def _listing(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()
