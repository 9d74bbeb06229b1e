"""The `evaluate` verb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streampetr_core.console import parse
from streampetr_core.errors import StreamPETRError


@dataclass
class EvaluateArguments:
    """Score a submission with the official nuScenes code, unmodified; prints a table, writes DIR/metrics.json."""

    dataroot: Path
    """Root of the nuScenes-format data set (the images need not be there)."""
    out: Path
    """Folder for metrics.json and metrics_details.json."""
    detections: Path | None = None
    """Detection submission; give this or --tracks."""
    tracks: Path | None = None
    """Tracking submission."""
    version: str = "v1.0-mini"
    """Folder of tables below the root."""
    split: str = "mini_val"
    """Official split, or one of VERSION/splits.json."""
    plots: bool = False
    """Also draw the official curves to OUT/plots."""
    fast: bool = False
    """Tracks only: the same numbers from our own code, many times faster, instead of from the official code."""


def evaluate(argv: list[str]) -> int:
    """`streampetr evaluate`: official detection or tracking metrics."""
    example = "streampetr evaluate --detections out/detections.json --dataroot /data/nuscenes --out out"
    arguments = parse(EvaluateArguments, "evaluate", argv, example)
    if (arguments.detections is None) == (arguments.tracks is None):
        raise StreamPETRError("give either --detections FILE or --tracks FILE")
    if arguments.fast and arguments.tracks is None:
        raise StreamPETRError("--fast is for --tracks; the official detection evaluation is quick enough")
    from rich.console import Console

    from tracking.evaluation import evaluate_detection, evaluate_tracking

    plots = arguments.out / "plots" if arguments.plots else None
    where = (arguments.dataroot, arguments.version, arguments.split)
    console = Console()
    with console.status("evaluation …" if arguments.fast else "official evaluation …"):
        if arguments.detections is not None:
            evaluation = evaluate_detection(arguments.detections, *where, plots=plots)
        else:
            evaluation = evaluate_tracking(arguments.tracks or "", *where, plots=plots, fast=arguments.fast)
    path = evaluation.write(arguments.out)
    console.print(evaluation.table())
    for note in evaluation.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"wrote {path}", highlight=False)
    return 0
