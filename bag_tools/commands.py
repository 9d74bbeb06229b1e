"""The verbs of this package; what is heavy is imported when a verb runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from streampetr_core.console import parse

if TYPE_CHECKING:
    from bag_tools.pipeline import Results


@dataclass
class ConvertArguments:
    """Bags from a nuScenes-format root, one MCAP a scene, original JPEG bytes; or such a root from a bag.

    Where the first argument is a bag, the second becomes a nuScenes-format root made from it.
    """

    source: Positional[Path]
    """Root of a nuScenes-format data set, or a bag (folder or .mcap), or a folder of bags."""
    out: Positional[Path]
    """Folder for the bags, OUT/<scene>/, or the new root. Nothing is overwritten."""
    version: str = "v1.0-mini"
    """Folder of tables below the root."""
    split: str | None = None
    """Official split, or one of VERSION/splits.json; all scenes where not given."""
    scenes: tuple[str, ...] = ()
    """Scene names instead of a split."""
    sweeps: bool = True
    """Also the images between key frames, where the data set has them."""
    verify: bool = False
    """Reread each bag and compare it with the data set; exit status 1 on a difference."""


def convert(argv: list[str]) -> int:
    """`streampetr convert`: nuScenes-format root -> bags, and back."""
    example = "streampetr convert /data/nuscenes out/bags --version v1.0-mini --scenes scene-0103 --verify"
    arguments = parse(ConvertArguments, "convert", argv, example)
    from bag_tools.pipeline import find_bags

    if arguments.source.exists() and (bags := find_bags(arguments.source)):
        from bag_tools.convert_back import convert_bag

        print(convert_bag(bags, arguments.out, version=arguments.version))
        return 0
    from bag_tools.convert import convert_nuscenes

    reports = convert_nuscenes(
        arguments.source,
        arguments.out,
        arguments.version,
        arguments.split,
        list(arguments.scenes) or None,
        arguments.sweeps,
    )
    print(*reports, sep="\n")
    if not arguments.verify:
        return 0
    from bag_tools.verify import verify_reports

    return 0 if verify_reports(reports, arguments.source, arguments.version, arguments.sweeps) else 1


@dataclass
class DetectArguments:
    """Boxes from bags or a nuScenes-format root; writes OUT/detections.json, a nuScenes submission."""

    source: Positional[tuple[Path, ...]]
    """Bags (a rosbag2 folder, an .mcap file, a folder of bags) or a nuScenes-format root; several are one run."""
    weights: str
    """A checkpoint file; "shipped" = the one that comes with this program; "random" and "recipe" are untrained."""
    out: Path
    """Folder for detections.json."""
    model: str = "auto"
    """Model variant; auto = what the file says of itself, else r50_704_428q."""
    version: str = "v1.0-mini"
    """Folder of tables below a nuScenes-format root."""
    split: str | None = None
    """Official split, or one of VERSION/splits.json; all scenes where not given."""
    dataroot: Path | None = None
    """For bags: the data set that they come from; its samples that the bags lack get empty lists."""
    scenes: tuple[str, ...] = ()
    """Scene names instead of a split."""
    track: bool = False
    """Also track in the same pass; writes OUT/tracks.json."""
    tracker_config: Path | None = None
    """Settings of the tracker (JSON); the defaults where not given."""
    device: str = "auto"
    """cpu, cuda or auto."""
    backend: str = "auto"
    """What runs the network."""


def detect(argv: list[str]) -> int:
    """`streampetr detect`: boxes from a bag or a nuScenes-format root."""
    example = "streampetr detect out/bags/scene-0103 --model r50_704_428q --weights model.safetensors --out out"
    arguments = parse(DetectArguments, "detect", argv, example)
    from bag_tools.nuscenes_tables import NuScenesTables
    from bag_tools.pipeline import detect_source, fill, open_source, run
    from streampetr_core.console import check_writable, progress
    from streampetr_core.detector import Detector
    from tracking.config_file import read_config
    from tracking.tracker import Tracker

    config = None if arguments.tracker_config is None else read_config(arguments.tracker_config)
    scenes = arguments.scenes or None
    tables = None
    if arguments.dataroot is not None:
        tables = NuScenesTables(arguments.dataroot, arguments.version, arguments.split, scenes)
    chosen = (None, None) if tables else (arguments.split, scenes)
    sources = open_source(arguments.source, arguments.version, *chosen)
    check_writable(arguments.out)
    detector = Detector.from_checkpoint(
        arguments.weights, model=arguments.model, backend=arguments.backend, device=arguments.device
    )
    frames = (frame for source in sources for frame in source)
    shown = progress(frames, "detecting", sum(map(len, sources)))
    results = run(detect_source(shown, detector), Tracker(config) if arguments.track else None)
    filled = fill(results, tables) if tables else 0
    _report(results.counts, results.write_detections(arguments.out), filled)
    print(*_complaints(results, sources), sep="", end="")
    if arguments.track:
        print(f"wrote {results.write_tracks(arguments.out)} ({results.counts['track boxes']} boxes)")
    return 0


@dataclass
class TrackArguments:
    """Tracks from detections; writes OUT/tracks.json, a nuScenes tracking submission."""

    source: Positional[Path]
    """A nuScenes detection submission (.json), or a bag with the boxes that a node published."""
    out: Path
    """Folder for tracks.json."""
    dataroot: Path | None = None
    """Root of the nuScenes-format data set: stamps and ego poses of a submission, sample tokens of a bag."""
    version: str = "v1.0-mini"
    """Folder of tables below it."""
    split: str | None = None
    """Official split, or one of VERSION/splits.json; all scenes where not given."""
    topic: str = "/perception_node/boxes"
    """Topic of the boxes in a bag."""
    config: Path | None = None
    """Settings of the tracker (JSON), the same file as the node's config_file; the defaults where not given."""


def track(argv: list[str]) -> int:
    """`streampetr track`: tracks from a detection submission or a bag with boxes."""
    example = "streampetr track detections.json --dataroot /data/nuscenes --split mini_val --out out"
    arguments = parse(TrackArguments, "track", argv, example)
    from bag_tools.nuscenes_tables import NuScenesTables
    from bag_tools.pipeline import PipelineError, detections_of_split, fill, on_samples, recorded_boxes, run
    from streampetr_core.console import check_writable, progress
    from tracking.config_file import read_config
    from tracking.nuscenes_format import read_submission
    from tracking.tracker import Tracker

    config = None if arguments.config is None else read_config(arguments.config)
    tables = None
    if arguments.dataroot is not None:
        tables = NuScenesTables(arguments.dataroot, arguments.version, arguments.split)
    check_writable(arguments.out)
    if arguments.source.suffix == ".json":
        if tables is None:
            raise PipelineError("a submission has no stamps and poses; name its data set with --dataroot")
        submission = read_submission(arguments.source, "detection")
        items, total = detections_of_split(submission, tables), len(submission.results)
    else:
        items, total = recorded_boxes(arguments.source, arguments.topic), None
        items = items if tables is None else on_samples(items, tables)
    results = run(progress(items, "tracking", total), Tracker(config))
    filled = fill(results, tables) if tables else 0
    _report(results.counts, results.write_tracks(arguments.out), filled, "track boxes")
    return 0


def evaluate(argv: list[str]) -> int:
    """`streampetr evaluate`: scores of submissions, and of tracks in bags."""
    from bag_tools.bag_tracks import bag_tracks
    from tracking import commands

    return commands.evaluate(argv, bag_tracks)


@dataclass
class BenchCheckpointArguments:
    """Official scores of a checkpoint on rendered drives, with its memory and with the memory emptied each frame.

    Writes OUT/scores.json, the submissions, and the drives, which a second call takes as they are.
    """

    weights: str = "shipped"
    """A checkpoint file; "shipped" = the one that comes with this program."""
    model: str = "auto"
    """Model variant; auto = what the file says of itself."""
    out: Path = Path("out/checkpoint")
    """Folder of the results."""
    scenes: int = 8
    """Drives, each in a world of its own."""
    seconds: float = 20.0
    """Length of each drive."""
    seed: int = 900
    """Of the drives; the shipped checkpoint was trained on those of seed 100."""
    size: str = "704x396"
    """Width and height of the images."""
    lineage: tuple[float, ...] = (0.0,)
    """Other weights of lineage to track with."""
    device: str = "auto"
    """cpu, cuda or auto."""


def bench_checkpoint(argv: list[str]) -> int:
    """`streampetr bench checkpoint`: what a checkpoint is worth on drives that it has not seen."""
    example = "streampetr bench checkpoint --weights out/tiny/latest.safetensors --out out/checkpoint"
    arguments = parse(BenchCheckpointArguments, "bench checkpoint", argv, example)
    from rich.console import Console

    from bag_tools.checkpoint_bench import Drives, class_table, score_checkpoint, score_table
    from bag_tools.rendered.drive import parse_size
    from streampetr_core.console import progress
    from streampetr_core.detector import Detector

    detector = Detector.from_checkpoint(arguments.weights, model=arguments.model, device=arguments.device)
    drives = Drives(arguments.scenes, arguments.seconds, arguments.seed, parse_size(arguments.size))
    scores = score_checkpoint(detector, arguments.out, drives, progress, arguments.lineage)
    title = f"{detector.model_name}, {detector.weights_name}: {drives.scenes} drives of {drives.seconds:g} s"
    console = Console()
    console.print(class_table(scores))
    console.print(score_table(scores, f"{title}, seed {drives.seed}, {arguments.size}"))
    return 0


@dataclass
class BenchTrackingArguments:
    """What the tracker costs a frame, up to thousands of boxes, and how it scores on given data.

    The score is the official one, by our own code (`streampetr evaluate --fast` says how that compares).
    """

    boxes: tuple[int, ...] = (130, 500, 1000, 2000, 5000)
    """Boxes a frame to time; none = no timing."""
    frames: int = 30
    """Frames of each."""
    sets: tuple[tuple[Path, str, str], ...] = ()
    """Data sets to score: root, detection submission (below the root or a path), split; three words each."""
    version: str = "v1.0-mini"
    """Folder of tables below the roots."""
    ablations: bool = False
    """Also score the tracker with each of its ideas switched off."""
    cross_validate: bool = False
    """Also search settings on half of the scenes and score them on the other half, both ways (20 minutes for two
    sets), and say how far scores spread over copies of the data that lack 4 % of the boxes."""
    lineage: bool = False
    """Also measure what lineage is worth as a cue, on simulated detections of ten rendered drives (5 minutes)."""
    lineage_seed: int = 40
    """World seed of the first of these drives."""
    config: Path | None = None
    """Settings of the tracker (JSON); the defaults where not given."""


def bench_tracking(argv: list[str]) -> int:
    """`streampetr bench tracking`: milliseconds of one core a frame; accuracy on data sets, idea by idea."""
    example = "streampetr bench tracking --sets data/nuscenes detections.json mini_val --ablations"
    arguments = parse(BenchTrackingArguments, "bench tracking", argv, example)
    from rich.console import Console

    from bag_tools.tracking_bench import open_set, score, score_table, spread_table, time_table
    from bag_tools.tracking_tuning import Budget, cross_validate, spread
    from streampetr_core.console import progress
    from tracking.ablation import variants
    from tracking.bench import crowd, measure
    from tracking.config import TrackerConfig
    from tracking.config_file import read_config

    config = None if arguments.config is None else read_config(arguments.config)
    sets = [open_set(root, detections, arguments.version, split) for root, detections, split in arguments.sets]
    loads = [measure(crowd(count, arguments.frames), config) for count in progress(arguments.boxes, "timing")]
    console = Console()
    if loads:
        console.print(time_table(loads))
    chosen = variants(config) if arguments.ablations else variants(config)[:1]
    for data in sets:
        rows = [(item.name, score(data, item)) for item in progress(chosen, "scoring")]
        console.print(score_table(data.name, rows))
    if arguments.cross_validate:
        base = config or TrackerConfig()
        for data, held_out in zip(sets, cross_validate(sets, Budget(), base, console.log), strict=True):
            console.print(score_table(f"{data.name}, settings from other scenes", [("cross-validated", held_out)]))
        for data in sets:
            console.print(spread_table(data.name, *spread(data, base)))
    if arguments.lineage:
        from bag_tools.lineage_bench import DRIVES, lineage_table

        seeds = range(arguments.lineage_seed, arguments.lineage_seed + DRIVES)
        console.print(lineage_table(seeds, base=config, shown=lambda runs: progress(runs, "lineage")))
    return 0


def _report(counts: Counter[str], path: Path, filled: int = 0, boxes: str = "boxes") -> None:
    """What a detection or tracking run did, in a few lines."""
    without = counts["key frames without images"]
    gone = f" ({without} without images: empty lists)" if without else ""
    print(f"wrote {path}: {counts['key frames']} key frames{gone}, {counts[boxes]} boxes")
    extras = {"frames between key frames": counts["frames"] - counts["key frames"]}
    extras |= {name: counts[name] for name in ("memory resets", "warnings")}
    extras["samples that the source lacks (empty lists)"] = filled
    said = [f"{count} {name}" for name, count in extras.items() if count]
    if said:
        print("; ".join(said))


def _complaints(results: Results, sources: Iterable[object]) -> Iterator[str]:
    """Lines on what was wrong with the sources and was survived: the first warnings, sets left out, lost ends."""
    for warning in results.warnings:
        yield f"warning: {warning}\n"
    for source in sources:
        path = getattr(source, "path", None)
        if lost := getattr(source, "lost_bytes", 0):
            yield f"warning: {path} was cut off: {lost} bytes at its end are no whole record, the rest was used\n"
        for what, count in getattr(source, "counts", {}).items():
            yield f"warning: {path}: {count} {what}\n"


@dataclass
class RenderArguments:
    """Drives of the rendered world as a data set in the nuScenes format, images, poses and annotations.

    The scenes bear official names: the first two are the split mini_val, the next eight mini_train; all of them
    are the split 'rendered'.
    """

    out: Positional[Path]
    """Root of the new data set. Nothing is overwritten."""
    scenes: int = 2
    """Drives, each in a world of its own."""
    seconds: float = 10.0
    """Length of each drive."""
    seed: int = 0
    """The same seed and options make the same data set."""
    size: str = "1600x900"
    """Width and height of the images."""
    sweeps: bool = False
    """Also the images between key frames: 12 Hz instead of 2 Hz."""
    fog: float | None = None
    """Extinction a metre: 0 = clear, 0.01 = haze, 0.03 = fog; drawn from the seed where not given."""
    quality: int = 90
    """Of the JPEGs, 1 to 100."""
    device: str = "auto"
    """Where the rays are cast: cpu, cuda or auto."""


def render(argv: list[str]) -> int:
    """`streampetr render`: drives of the rendered world in the nuScenes format."""
    example = "streampetr render out/rendered --scenes 2 --seconds 10 --seed 7 --size 1600x900"
    arguments = parse(RenderArguments, "render", argv, example)
    from bag_tools.rendered.dataset_writer import write_dataset
    from bag_tools.rendered.drive import parse_size

    written = write_dataset(
        arguments.out,
        arguments.scenes,
        arguments.seconds,
        arguments.seed,
        parse_size(arguments.size),
        device=arguments.device,
        fog=arguments.fog,
        sweeps=arguments.sweeps,
        quality=arguments.quality,
    )
    print(written)
    return 0
