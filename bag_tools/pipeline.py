"""The offline chain: frames -> detector -> tracker -> rows of a submission; the nodes take the same two steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bag_tools import layout, messages
from bag_tools.bag_file import BagFile
from bag_tools.nuscenes_source import LIDAR, NuScenesSource
from bag_tools.nuscenes_tables import NuScenesTables, nanoseconds
from streampetr_core.boxes import Boxes3D
from streampetr_core.errors import StreamPETRError
from streampetr_core.frame import Frame
from tracking.nuscenes_format import (
    CAMERA_ONLY,
    Row,
    Submission,
    boxes_from_rows,
    detection_rows,
    tracking_rows,
    write_submission,
)
from tracking.tracker import Tracker

if TYPE_CHECKING:
    from bag_tools.bag_reader import BagReader
    from streampetr_core.detector import Detector

BOXES_TOPIC = "/perception_node/boxes"
MOST_WARNINGS = 5


class PipelineError(StreamPETRError):
    """A source from which no results can be made."""


@dataclass(frozen=True)
class Detected:
    """What the detector said of one instant.

    Attributes:
        stamp_ns: the reference instant.
        boxes: in base_link or in the map; None where no camera gave an image, so nobody looked.
        map_from_ego: (4, 4) at that instant.
        scene: changes when a new drive begins.
        sample_token: the nuScenes sample, "" where there is none.
        is_key_frame: True where results are scored.
        warnings: what was wrong with the frame.
        reset_reason: why the detector's memory began anew here, "" where it went on.
        missing: cameras that gave no image.
    """

    stamp_ns: int
    boxes: Boxes3D | None
    map_from_ego: NDArray[np.float64]
    scene: str = ""
    sample_token: str = ""
    is_key_frame: bool = True
    warnings: tuple[str, ...] = ()
    reset_reason: str = ""
    missing: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What its rows are filed under: the sample token, else the stamp."""
        return self.sample_token or str(self.stamp_ns)

    def in_map(self) -> Boxes3D:
        """The boxes in the map frame; none where nobody looked."""
        if self.boxes is None:
            return Boxes3D.empty("map", self.stamp_ns)
        return self.boxes if self.boxes.frame_id == "map" else self.boxes.transformed(self.map_from_ego, "map")


@dataclass
class Results:
    """Rows gathered over a run, and what happened on the way.

    Attributes:
        detections, tracks: sample token -> rows; an empty list where nobody looked.
        counts: frames, key frames, those without images, boxes, warnings, memory resets.
        warnings: the first few, with the instant they are of.
    """

    detections: dict[str, list[Row]] = field(default_factory=dict)
    tracks: dict[str, list[Row]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def add(self, item: Detected, tracks: Boxes3D | None = None) -> None:
        """File the rows of one instant; instants between key frames are only counted."""
        self.counts["frames"] += 1
        self.counts["warnings"] += len(item.warnings)
        room = MOST_WARNINGS - len(self.warnings)
        self.warnings += [f"{item.key}: {warning}" for warning in item.warnings[:room]]
        self.counts["memory resets"] += item.reset_reason not in ("", "first frame", "first_frame")
        if not item.is_key_frame:
            return
        self.counts["key frames"] += 1
        self.counts["key frames without images"] += item.boxes is None
        rows: list[Row] = []
        if item.boxes is not None and item.boxes.frame_id == "base_link":
            rows = detection_rows(item.boxes, item.map_from_ego, item.key)
        self.detections[item.key] = rows
        self.tracks[item.key] = [] if tracks is None else tracking_rows(tracks, item.key)
        self.counts["boxes"] += len(rows)
        self.counts["track boxes"] += len(self.tracks[item.key])

    def write_detections(self, folder: Path | str) -> Path:
        """Write `detections.json`; the file is whole or absent."""
        path = Path(folder) / "detections.json"
        write_submission(path, Submission("detection", self.detections, dict(CAMERA_ONLY)))
        return path

    def write_tracks(self, folder: Path | str) -> Path:
        """Write `tracks.json`; the file is whole or absent."""
        path = Path(folder) / "tracks.json"
        write_submission(path, Submission("tracking", self.tracks, dict(CAMERA_ONLY)))
        return path


def detect_source(frames: Iterable[Frame], detector: Detector, *, remember: bool = True) -> Iterator[Detected]:
    """The detector's boxes (base_link) for every frame; frames without any image pass by it.

    Without `remember` its memory is emptied before every frame, to see what the memory is worth.
    """
    for frame in frames:
        if not remember:
            detector.reset("not to remember")
        boxes = detector.step(frame) if frame.present.any() else None
        yield Detected(
            frame.stamp_ns,
            boxes,
            frame.map_from_ego,
            frame.scene,
            frame.sample_token,
            frame.is_key_frame,
            frame.warnings,
            "" if boxes is None else detector.last_reset_reason,
            tuple(name for name, here in zip(frame.rig.names, frame.present, strict=True) if not here),
        )


def track_detected(items: Iterable[Detected], tracker: Tracker) -> Iterator[tuple[Detected, Boxes3D | None]]:
    """Each item with its tracks (map frame); None where nobody looked. A new scene begins with new tracks."""
    for item in items:
        if item.boxes is None:
            yield item, None
        else:
            observed = tracker.config.observed(item.missing)
            yield item, tracker.step(item.in_map(), item.map_from_ego, item.scene, observed)


def run(items: Iterable[Detected], tracker: Tracker | None = None) -> Results:
    """All rows of a run, with tracks where there is a tracker."""
    results = Results()
    if tracker is None:
        for item in items:
            results.add(item)
    else:
        for item, tracks in track_detected(items, tracker):
            results.add(item, tracks)
    return results


def open_source(
    paths: list[Path] | tuple[Path, ...],
    version: str = "v1.0-mini",
    split: str | None = None,
    scenes: tuple[str, ...] | None = None,
) -> list[NuScenesSource | BagReader]:
    """Frames of bags (a bag, or a folder of bags) and nuScenes-format roots, in the order given.

    Raises:
        PipelineError: when a path is neither, or scenes are asked of a bag.
        NuScenesError, BagError: for what a source lacks.
    """
    from bag_tools.bag_reader import BagReader  # costs the import of torch

    sources: list[NuScenesSource | BagReader] = []
    for path in paths:
        if not path.exists():
            raise PipelineError(f"{path}: no such file or folder; give a bag or a nuScenes-format root")
        if any(path.glob("*/sample.json")):
            sources.append(NuScenesSource(path, version, split, scenes))
            continue
        bags = find_bags(path)
        if not bags:
            raise PipelineError(f"{path}: neither a bag, a folder of bags nor a nuScenes-format root")
        if split is not None or scenes is not None:
            wanted = f"split '{split}'" if split is not None else f"scenes {', '.join(scenes or ())}"
            raise PipelineError(f"{path} is a bag; {wanted} can only be chosen in a nuScenes-format root")
        sources += [BagReader(bag) for bag in bags]
    return sources


def find_bags(path: Path) -> list[Path]:
    """The bag that `path` is, or the bags in it by name."""
    if path.is_file():
        return [path] if path.suffix in (".mcap", ".db3") else []
    if (path / "metadata.yaml").is_file() or any(path.glob("*.mcap")):
        return [path]
    return sorted(child for child in path.iterdir() if child.is_dir() and (child / "metadata.yaml").is_file())


def detections_of_split(submission: Submission, tables: NuScenesTables) -> Iterator[Detected]:
    """The boxes of a detection submission in time order, scene by scene, with stamps and poses from the tables.

    An empty list is taken as a key frame that nobody looked at, as `detect` writes it where there are no images.

    Raises:
        PipelineError: when the submission lacks a sample of the tables, or a sample has no lidar record.
    """
    samples = [(scene, row) for scene in tables.scenes for row in tables.samples(scene)]
    missing = [row["token"] for _, row in samples if row["token"] not in submission.results]
    if missing:
        raise PipelineError(
            f"{len(missing)} of {len(samples)} samples of the data set are not in the detections (first: "
            f"{missing[0]}); are --dataroot, --version and --split those they were made with? "
            "'streampetr detect' with the same three writes every sample of a split"
        )
    for scene, row in samples:
        data = tables.sample_data(row)
        if LIDAR not in data:
            raise PipelineError(f"{tables.root}: sample {row['token']} has no {LIDAR} record, so no ego pose")
        stamp = nanoseconds(row["timestamp"])
        rows = submission.results[row["token"]]
        boxes = boxes_from_rows(rows, stamp) if rows else None
        yield Detected(stamp, boxes, tables.ego_pose(data[LIDAR]), scene["token"], row["token"])


def on_samples(items: Iterable[Detected], tables: NuScenesTables) -> Iterator[Detected]:
    """The items with the tokens of the samples that have their stamps; all others lie between key frames."""
    found = {
        nanoseconds(row["timestamp"]): (row["token"], scene["token"])
        for scene in tables.scenes
        for row in tables.samples(scene)
    }
    for item in items:
        token, scene = found.get(item.stamp_ns, ("", item.scene))
        yield replace(item, sample_token=token, scene=scene or item.scene, is_key_frame=bool(token))


def fill(results: Results, tables: NuScenesTables) -> int:
    """An empty list for each sample of the tables that has no rows; returns how many there were.

    The official format wants every sample of a split, whether somebody looked or not.
    """
    wanted = [row["token"] for scene in tables.scenes for row in tables.samples(scene)]
    missing = [token for token in wanted if token not in results.detections]
    results.detections |= {token: [] for token in missing}
    results.tracks |= {token: [] for token in missing}
    return len(missing)


def recorded_boxes(path: Path | str, topic: str = BOXES_TOPIC) -> Iterator[Detected]:
    """The boxes that a node published, from a recorded bag, in their order.

    Sample tokens come from `/streampetr/sample` where it was recorded too.

    Raises:
        PipelineError: when the bag has no such topic, or boxes in another frame than base_link or map.
        BagError: when the bag cannot be read.
    """
    with BagFile(path) as bag:
        if topic not in bag.topics:
            raise PipelineError(f"{path}: no boxes on {topic}; topics: {', '.join(sorted(bag.topics)) or 'none'}")
        samples = {}
        for message in bag.messages({layout.SAMPLE_TOPIC}):
            sample = bag.decode(message)
            samples[messages.stamp_to_ns(sample.header.stamp)] = sample
        for message in bag.messages({topic}):
            content = bag.decode(message)
            boxes = messages.boxes_from_message(content)
            if boxes.frame_id not in ("base_link", "map"):
                raise PipelineError(f"{path}: boxes on {topic} are in '{boxes.frame_id}', not base_link or map")
            pose = messages.pose_matrix(content.map_from_base)
            sample = samples.get(boxes.stamp_ns)
            yield Detected(
                boxes.stamp_ns,
                boxes,
                pose,
                content.scene,
                sample.sample_token if sample is not None else "",
                sample is None or bool(sample.is_key_frame),
                reset_reason=content.reset_reason,
                missing=tuple(content.missing_cameras),
            )
