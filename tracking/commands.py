"""The `evaluate` verb."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streampetr_core.console import check_writable, parse
from streampetr_core.errors import StreamPETRError

if TYPE_CHECKING:
    from rich.console import Console

    from tracking.analysis import Analysis
    from tracking.evaluation import Evaluation
    from tracking.fast_tracks import TrackSet

ReadBags = Callable[[Sequence[Path], "Path | None", str, bool], "tuple[TrackSet, tuple[str, ...]]"]
"""Bags, a submission or recording to take the tracks from instead, topic of the tracks, recorded frames only."""

_EVENTS_SHOWN = 10


@dataclass
class EvaluateArguments:
    """Score boxes or tracks with the official nuScenes code, unmodified; tracks also in every other usual way.

    Writes OUT/metrics.json and metrics_details.json (official); for tracks also analysis.json (HOTA, CLEAR and
    identity scores, by class and by distance), events.json (every identity switch and fragmentation), report.html.
    """

    out: Path
    """Folder for the results."""
    dataroot: Path | None = None
    """Root of the nuScenes-format data set (the images need not be there)."""
    detections: Path | None = None
    """Detection submission; give this, --tracks or --bags."""
    tracks: Path | None = None
    """Tracking submission."""
    bags: tuple[Path, ...] = ()
    """Bags with ground truth and tracks, in one or in two; no data set needed, --tracks may replace the latter."""
    against: Path | None = None
    """Another tracking submission on the same frames, or a bag with tracks of the same drive, to compare with."""
    version: str = "v1.0-mini"
    """Folder of tables below the root."""
    split: str = "mini_val"
    """Official split, or one of VERSION/splits.json."""
    topic: str = "/tracker_node/tracks"
    """Topic of the tracks in a bag."""
    recorded_only: bool = False
    """Bags: score only the time that was recorded; otherwise what was not recorded was missed."""
    plots: bool = False
    """Also draw the official curves to OUT/plots."""
    fast: bool = False
    """Tracks only: the same numbers from our own code, many times faster, instead of from the official code."""


def evaluate(argv: list[str], read_bags: ReadBags | None = None) -> int:
    """`streampetr evaluate`: official detection or tracking metrics, and all else of tracks.

    Args:
        read_bags: reads bags, which this package cannot.
    """
    example = "streampetr evaluate --tracks out/tracks.json --dataroot /data/nuscenes --out out"
    arguments = parse(EvaluateArguments, "evaluate", argv, example)
    _check(arguments, read_bags)
    check_writable(arguments.out)
    from rich.console import Console

    console = Console()
    if arguments.detections is not None:
        from tracking.evaluation import evaluate_detection

        plots = arguments.out / "plots" if arguments.plots else None
        with console.status("official evaluation …"):
            place = (arguments.dataroot or "", arguments.version, arguments.split)
            evaluation = evaluate_detection(arguments.detections, *place, plots=plots)
        _print_official(console, evaluation, arguments.out)
        return 0
    with console.status("evaluation …" if arguments.fast or arguments.bags else "official evaluation …"):
        ours = _score(arguments, read_bags, arguments.tracks, arguments.plots)
        theirs = None
        if arguments.against is not None:
            theirs = _score(arguments, read_bags, arguments.against)
    _print_official(console, ours[1], arguments.out)
    _print_analysis(console, ours, theirs, arguments.out)
    return 0


def _check(arguments: EvaluateArguments, read_bags: ReadBags | None) -> None:
    given = [arguments.detections, arguments.tracks, arguments.bags or None]
    if arguments.bags and arguments.detections is None:
        if read_bags is None:
            raise StreamPETRError("bags are read by `streampetr evaluate --bags`, not from here")
        if arguments.plots:
            raise StreamPETRError("--plots are the official curves of a data set; report.html has those of bags")
    elif sum(item is not None for item in given) != 1:
        raise StreamPETRError("give one of --detections FILE, --tracks FILE and --bags BAG …")
    elif arguments.dataroot is None:
        raise StreamPETRError("--dataroot names the data set that the submission is for")
    if arguments.detections is not None and (arguments.fast or arguments.against):
        raise StreamPETRError(
            "--fast and --against are for tracks; the official detection evaluation is quick enough"
        )


_Run = tuple[str, "Evaluation", "Analysis"]


def _score(
    arguments: EvaluateArguments, read_bags: ReadBags | None, tracks: Path | None, plots: bool = False
) -> _Run:
    """One run with its name: of a submission, or of bags where these are given."""
    from tracking.analysis import analyse
    from tracking.evaluation import Evaluation, evaluate_tracking, load_track_set

    if arguments.bags and read_bags is not None:
        from tracking.devkit import official_config
        from tracking.fast_evaluation import fast_tracking_metrics

        boxes, notes = read_bags(arguments.bags, tracks, arguments.topic, arguments.recorded_only)
        summary, details = fast_tracking_metrics(boxes, official_config())
        split = ", ".join(boxes.frames.scenes)
        evaluation = Evaluation("tracking", split, summary | {"meta": {}}, details, notes, boxes, "fast")
    else:
        where = (arguments.dataroot or "", arguments.version, arguments.split)
        folder = arguments.out / "plots" if plots else None
        evaluation = evaluate_tracking(tracks or "", *where, plots=folder, fast=arguments.fast)
        boxes = evaluation.tracks or load_track_set(tracks or "", *where)
    name = str(tracks or ", ".join(map(str, arguments.bags)))
    return name, evaluation, analyse(boxes, evaluation.details)


def _print_official(console: Console, evaluation: Evaluation, out: Path) -> None:
    path = evaluation.write(out)
    console.print(evaluation.table())
    for note in evaluation.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"wrote {path}", highlight=False)


def _print_analysis(console: Console, ours: _Run, theirs: _Run | None, out: Path) -> None:
    from tracking.comparison import compare
    from tracking.events import worst_first
    from tracking.report import write_report

    _, _, analysis = ours
    console.print(analysis.class_table())
    console.print(analysis.range_table())
    worst = worst_first(analysis.events, _EVENTS_SHOWN)
    if worst:
        counts = analysis.event_counts()
        said = f"{counts['switch']} identity switches, {counts['fragmentation']} fragmentations"
        console.print(f"{said}; nearest first:", highlight=False)
        for event in worst:
            console.print(f"  {event}", highlight=False, soft_wrap=True)
    comparison = None
    paths = list(analysis.write(out))
    if theirs is not None:
        comparison = compare(ours, theirs)
        console.print(comparison.table())
        new, gone = len(comparison.new_events), len(comparison.gone_events)
        console.print(f"events that only ours has: {new}; only theirs: {gone}", highlight=False)
        paths.append(comparison.write(out))
    paths.append(write_report(out, ours, comparison))
    console.print(f"wrote {', '.join(map(str, paths))}", highlight=False, soft_wrap=True)
