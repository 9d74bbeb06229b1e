"""The whole stack in one command: drive, bag, real nodes over DDS, boxes, tracks, official scores, pictures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from streampetr.demo_pictures import draw_pictures
from streampetr.graph import BOXES_TOPIC, TRACKS_TOPIC, GraphOptions, nodes
from streampetr.processes import Processes
from streampetr_core.boxes import Boxes3D
from streampetr_core.checkpoint import UNTRAINED
from streampetr_core.console import parse
from streampetr_core.errors import StreamPETRError

NODE_START_SECONDS = 60.0
"""Time for the nodes to load the network, on a slow machine."""


class DemoError(StreamPETRError):
    """A step of the demo that did not do its work."""


@dataclass
class DemoArguments:
    """Render a drive (or take real key frames), run the real nodes on it, score and draw the result.

    Writes OUT/report.json, OUT/frame_*.png, OUT/drive.mp4, and everything it was made from.
    """

    out: Path = Path("out/demo")
    """Folder of the results; that of an earlier demo is replaced."""
    data: Path | None = None
    """A nuScenes-format root to use instead of a rendered drive; key frames without images are passed over."""
    version: str = "v1.0-mini"
    """Folder of tables below `data`."""
    split: str = "mini_val"
    """Split of `data` that is converted and scored."""
    checkpoint: str = "shipped"
    """Checkpoint file; "shipped" = this program's; "recipe" and "random" are untrained."""
    model: str = "auto"
    """Network variant; auto = what the checkpoint says of itself."""
    seconds: float = 6.0
    """Length of each of the two rendered drives."""
    size: str = "704x396"
    """Size of the rendered images."""
    seed: int = 7
    """Seed of the rendered world."""


@dataclass
class Report:
    """What the demo did; written as report.json.

    Attributes:
        detection, tracking: official metrics of what the nodes published.
        offline_detection, offline_tracking: likewise of the same chain run on the bags without ROS.
    """

    model: str
    weights: str
    trained: bool
    data: str
    split: str
    stage_seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    detection: dict[str, Any] = field(default_factory=dict)
    tracking: dict[str, Any] = field(default_factory=dict)
    offline_detection: dict[str, Any] = field(default_factory=dict)
    offline_tracking: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    video: str = ""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a step and keep how long it took."""
        print(f"--> {name}", flush=True)
        begin = time.monotonic()
        yield
        self.stage_seconds[name] = round(time.monotonic() - begin, 2)


@dataclass(frozen=True)
class _Boxes:
    """What the nodes published: stamp -> boxes in base_link, stamp -> tracks in the map."""

    detected: dict[int, Boxes3D]
    tracks: dict[int, Boxes3D]


def demo(argv: list[str]) -> int:
    """`streampetr demo`."""
    from streampetr.environment import ensure_ros

    ensure_ros()
    arguments = parse(DemoArguments, "demo", argv, "streampetr demo --out out/demo --checkpoint model.safetensors")
    _prepare_folder(arguments.out)
    run_demo(arguments)
    return 0


def run_demo(arguments: DemoArguments) -> Report:
    """All steps of the demo; the folder `arguments.out` exists and is empty.

    Raises:
        StreamPETRError: by whichever step could not do its work.
    """
    from bag_tools.pipeline import find_bags
    from streampetr_core.detector import Detector
    from tracking.analysis import without_nan

    out = arguments.out
    trained = arguments.checkpoint not in UNTRAINED
    # a wrong one is named now
    detector = Detector.from_checkpoint(arguments.checkpoint, model=arguments.model, device="cpu")
    root = arguments.data or out / "drive"
    report = Report(detector.model_name, detector.weights_name, trained, str(root), arguments.split)
    if arguments.data is None:
        with report.stage("render two drives"):
            options = ["--scenes", "2", "--seconds", f"{arguments.seconds:g}", "--seed", str(arguments.seed)]
            _verb("render", [str(root), *options, "--size", arguments.size])
    with report.stage("convert them to ROS 2 bags"):
        selection = ["--version", arguments.version, "--split", arguments.split]
        _verb("convert", [str(root), str(out / "bags"), *selection, "--verify"])
    bags = find_bags(out / "bags")
    with report.stage("replay through the nodes"):
        recording = _play_through_nodes(arguments, bags)
    with report.stage("run the same chain offline"):
        _detect_offline(arguments, root)
    with report.stage("score both with the official code"):
        boxes = _collect(arguments, root, recording, report)
        report.detection, report.tracking = _score(out, arguments, root)
        report.offline_detection, report.offline_tracking = _score(out / "offline", arguments, root)
    with report.stage("draw"):
        pictures = draw_pictures(bags, boxes.detected, boxes.tracks, out, title=_title(report), trained=trained)
        report.pictures = [str(path.relative_to(out)) for path in pictures]
        report.video = "drive.mp4" if pictures else ""
    (out / "report.json").write_text(json.dumps(without_nan(vars(report)), indent=2, allow_nan=False))
    _print(report, out)
    return report


def _prepare_folder(out: Path) -> None:
    """An empty folder; only what an earlier demo made is removed."""
    if out.exists() and any(out.iterdir()):
        if not (out / "report.json").is_file() and not (out / ".demo").is_file():
            raise DemoError(f"{out} exists and is not an earlier demo's; choose another folder with --out")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".demo").touch()
    except OSError as error:
        raise DemoError(f"{out} cannot be written: {error.strerror}; choose another folder with --out") from error


def _verb(name: str, arguments: list[str]) -> None:
    """Another verb of the command line, in this process."""
    from streampetr_cli import main

    if main([name, *arguments]) != 0:
        raise DemoError(f"streampetr {name} {' '.join(arguments)} failed; its message stands above")


def _play_through_nodes(arguments: DemoArguments, bags: list[Path]) -> Path:
    """Start both nodes and the recorder as processes, replay every bag in lock-step; the recorded bag."""
    from streampetr.environment import ros_environment

    out = arguments.out
    recording = out / "recording"
    environment = ros_environment()
    environment.setdefault("ROS_DOMAIN_ID", str(100 + os.getpid() % 100))  # not to meet another robot's nodes
    weights = arguments.checkpoint
    if Path(weights).exists():
        weights = str(Path(weights).resolve())
    options = GraphOptions(model=arguments.model, weights=weights, replayed=True)
    command = [sys.executable, "-m", "streampetr_cli"]
    with Processes(echo=None) as processes:
        logs = out / "logs"
        logs.mkdir(exist_ok=True)
        for node in nodes(options):
            processes.start(node.name, node.command(), environment, log=logs / f"{node.name}.log")
        recorder = processes.start(
            "record", [*command, "record", str(recording)], environment, log=logs / "record.log"
        )
        for bag in bags:
            if not _has_images(bag):
                print(f"    {bag.name}: no images, nothing to replay")
                continue
            replay = processes.start(
                "replay", [*command, "replay", str(bag), "--lockstep"], environment, log=logs / "replay.log"
            )
            if processes.wait(replay, timeout=600.0) != 0:
                processes.check()
            print(f"    {bag.name}: {replay.lines[-1] if replay.lines else 'replayed'}")
        if recorder.stop() != 0:
            raise DemoError(f"the recorder failed; its last lines:\n{recorder.tail()}")
    if not recording.exists():
        raise DemoError(f"nothing was recorded; see {logs}")
    return recording


def _has_images(bag: Path) -> bool:
    from bag_tools.describe import describe

    return any(camera.images for camera in describe(bag).cameras)


def _collect(arguments: DemoArguments, root: Path, recording: Path, report: Report) -> _Boxes:
    """File what the nodes said under the samples of the data set; writes both submissions."""
    from bag_tools.nuscenes_tables import NuScenesTables, nanoseconds
    from bag_tools.pipeline import Detected, Results, recorded_boxes

    detected = {item.stamp_ns: item for item in recorded_boxes(recording, BOXES_TOPIC)}
    tracks = {item.stamp_ns: item.in_map() for item in recorded_boxes(recording, TRACKS_TOPIC)}
    results = Results()
    tables = NuScenesTables(root, arguments.version, arguments.split)
    for scene in tables.scenes:
        for sample in tables.samples(scene):
            stamp = nanoseconds(sample["timestamp"])
            item = detected.get(stamp) or Detected(stamp, None, np.eye(4))
            row = replace(item, scene=scene["token"], sample_token=sample["token"], is_key_frame=True)
            results.add(row, tracks.get(stamp))
    results.write_detections(arguments.out)
    results.write_tracks(arguments.out)
    report.counts = dict(results.counts)
    boxes = {stamp: item.boxes for stamp, item in detected.items() if item.boxes is not None}
    return _Boxes(boxes, tracks)


def _detect_offline(arguments: DemoArguments, root: Path) -> None:
    """The bags through `streampetr detect --track`, which is the nodes' chain without ROS."""
    weights = ["--weights", arguments.checkpoint, "--model", arguments.model]
    place = ["--dataroot", str(root), "--version", arguments.version, "--split", arguments.split]
    out = arguments.out / "offline"
    _verb("detect", [str(arguments.out / "bags"), *weights, *place, "--track", "--out", str(out)])


def _score(out: Path, arguments: DemoArguments, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Official detection and tracking metrics of the submissions in a folder."""
    from tracking.evaluation import evaluate_detection, evaluate_tracking

    place = (root, arguments.version, arguments.split)
    detection = evaluate_detection(out / "detections.json", *place).summary
    return detection, evaluate_tracking(out / "tracks.json", *place).summary


def _title(report: Report) -> str:
    weights = report.weights if report.trained else "untrained weights: the boxes are noise"
    return f"streampetr, {report.model}, {weights}"


def _print(report: Report, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    both = (report.detection, report.tracking), (report.offline_detection, report.offline_tracking)
    frames, blind = report.counts.get("key frames", 0), report.counts.get("key frames without images", 0)
    without = f", {blind} without images" if blind else ""
    table = Table(title=f"official nuScenes metrics, {frames} key frames{without}")
    for name in ("", "nodes over DDS", "offline"):
        table.add_column(name, justify="right" if name else "left")
    metrics: list[tuple[str, Callable[[dict[str, Any], dict[str, Any]], str]]] = [
        ("mAP", lambda detection, tracking: f"{detection['mean_ap']:.4f}"),
        ("NDS", lambda detection, tracking: f"{detection['nd_score']:.4f}"),
        ("mAVE", lambda detection, tracking: f"{detection['tp_errors']['vel_err']:.3f} m/s"),
        ("AMOTA", lambda detection, tracking: f"{tracking['amota']:.4f}"),
        ("identity switches", lambda detection, tracking: f"{tracking['ids']:.0f}"),
    ]
    for name, value in metrics:
        table.add_row(name, *(value(*scores) for scores in both))
    console = Console()
    console.print(table)
    if not report.trained:
        console.print(
            "These weights are untrained, so boxes and scores mean nothing; without CHECKPOINT the demo takes "
            "trained ones."
        )
    console.print(f"{sum(report.stage_seconds.values()):.0f} s in all")
    console.print(f"pictures: {out}/frame_*.png, video: {out}/drive.mp4, figures: {out}/report.json")
