"""The official nuScenes detection and tracking evaluation, run unmodified and quietly."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streampetr_core.console import atomic_output
from tracking.devkit import EvaluationError, official_config, read_table, split_scenes
from tracking.nuscenes_format import Kind, Submission, read_submission

if TYPE_CHECKING:
    from rich.table import Table

    from tracking.fast_tracks import TrackSet


@dataclass(frozen=True)
class Evaluation:
    """What the official code says of one submission.

    Attributes:
        kind: "detection" or "tracking".
        split: evaluated split.
        summary: the official metrics summary, its keys unchanged ("mean_ap" ... or "amota" ...).
        details: the official curves per class.
        notes: what the reader should know beside the numbers.
        tracks: the boxes that were scored, where our own code did it.
        by: whose numbers they are, "official" or "fast".
    """

    kind: Kind
    split: str
    summary: dict[str, Any]
    details: dict[str, Any]
    notes: tuple[str, ...] = ()
    tracks: TrackSet | None = None
    by: str = "official"

    def write(self, folder: Path | str) -> Path:
        """Write `metrics.json` (the summary) and `metrics_details.json` (the curves); returns the former."""
        path = Path(folder) / "metrics.json"
        for file, content in ((path.with_name("metrics_details.json"), self.details), (path, self.summary)):
            with atomic_output(file, overwrite=True) as temporary:
                temporary.write_text(json.dumps(content, indent=2))
        return path

    def table(self) -> Table:
        """One table: the overall row and one row a class."""
        from rich import box
        from rich.table import Table

        columns, rows = (_detection_rows if self.kind == "detection" else _tracking_rows)(self.summary)
        title = f"{self.by} nuScenes {self.kind} metrics, {self.split}"
        table = Table(title=title, box=box.SIMPLE, padding=0, pad_edge=False)
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
        for i, row in enumerate(rows):
            table.add_row(*row, end_section=i == 0)
        return table


def evaluate_detection(
    result: Path | str,
    dataroot: Path | str,
    version: str = "v1.0-mini",
    split: str = "mini_val",
    *,
    plots: Path | str | None = None,
) -> Evaluation:
    """Score a detection submission with nuscenes-devkit's DetectionEval (detection_cvpr_2019).

    Args:
        result: the submission file.
        dataroot: root of the data set; `maps/` must be there, the images need not.
        version: folder of tables below it.
        split: an official split, or one of `<version>/splits.json`.
        plots: folder for the official curves as PDFs; None draws none.

    A submission without any box, on which the official code raises, gets the official values of finding nothing
    (mean_ap 0, every error 1) and a note.

    Raises:
        EvaluationError: when the samples of the split and the file differ, or the data set lacks something.
        FormatError: when the file is no detection submission.
    """
    return _evaluate("detection", Path(result), Path(dataroot), version, split, plots)


def evaluate_tracking(
    result: Path | str,
    dataroot: Path | str,
    version: str = "v1.0-mini",
    split: str = "mini_val",
    *,
    plots: Path | str | None = None,
    fast: bool = False,
) -> Evaluation:
    """Score a tracking submission with nuscenes-devkit's TrackingEval (tracking_nips_2019).

    Arguments, errors and the treatment of an empty submission (amota 0, amotp 2) as in `evaluate_detection`.
    With `fast` the same numbers come from `tracking.fast_evaluation`, much sooner.
    """
    return _evaluate("tracking", Path(result), Path(dataroot), version, split, plots, fast)


def _evaluate(
    kind: Kind, file: Path, root: Path, version: str, split: str, plots: Path | str | None, fast: bool = False
) -> Evaluation:
    submission = read_submission(file, kind)
    notes = _check_samples(submission, file, root, version, split)
    tracks = None
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = file
        if len(submission) == 0:
            notes += (f"{file} holds no boxes: the values are those of finding nothing",)
        if len(submission) == 0 and not fast:
            path = Path(scratch) / "empty.json"
            path.write_text(json.dumps(_out_of_range(submission, kind)))
        try:
            out = Path(scratch) / "out"
            if fast:
                tracks = _load(submission, root, version, split)
                summary, details, draw = _fast_tracking(tracks, submission.meta, out)
            else:
                run = _detection_eval if kind == "detection" else _tracking_eval
                summary, details, draw = run(path, root, version, split, out)
        except (AssertionError, ValueError, KeyError, OSError) as error:
            said = str(error) or repr(error)
            raise EvaluationError(f"official {kind} evaluation of {file} on {split}: {said}") from error
        except Exception as error:
            if "Invalid box type" not in str(error):
                raise
            raise EvaluationError(f"{root}: split '{split}' has no annotated box to score against") from error
        if plots is not None:
            draw()
            shutil.copytree(Path(scratch) / "out" / "plots", plots, dirs_exist_ok=True)
    return Evaluation(kind, split, summary, details, notes, tracks, "fast" if fast else "official")


def _detection_eval(path: Path, root: Path, version: str, split: str, out: Path) -> tuple[dict, dict, Any]:
    from nuscenes import NuScenes
    from nuscenes.eval.detection.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    nusc = NuScenes(version=version, dataroot=str(root), verbose=False)
    judge = DetectionEval(nusc, config_factory("detection_cvpr_2019"), str(path), split, str(out), verbose=False)
    metrics, curves = judge.evaluate()
    details = {f"{name}:{distance}": data.serialize() for (name, distance), data in curves.md.items()}
    return metrics.serialize() | {"meta": dict(judge.meta)}, details, lambda: judge.render(metrics, curves)


def _tracking_eval(path: Path, root: Path, version: str, split: str, out: Path) -> tuple[dict, dict, Any]:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.tracking.evaluate import TrackingEval

    config = config_factory("tracking_nips_2019")
    judge = TrackingEval(config, str(path), split, str(out), version, str(root), verbose=False)  # type: ignore[arg-type]
    metrics, curves = judge.evaluate()
    return metrics.serialize() | {"meta": dict(judge.meta)}, curves.serialize(), lambda: judge.render(curves)


def load_track_set(
    result: Path | str, dataroot: Path | str, version: str = "v1.0-mini", split: str = "mini_val"
) -> TrackSet:
    """The boxes of a tracking submission and of the ground truth as they are scored.

    Raises:
        EvaluationError, FormatError: as `evaluate_tracking`.
    """
    submission = read_submission(result, "tracking")
    _check_samples(submission, Path(result), Path(dataroot), version, split)
    return _load(submission, Path(dataroot), version, split)


def _load(submission: Submission, root: Path, version: str, split: str) -> TrackSet:
    from tracking.fast_tracks import load_tracks

    scenes = split_scenes(root / version, split)
    return load_tracks(submission, root / version, scenes, official_config()["class_range"])


def _fast_tracking(tracks: TrackSet, meta: Mapping[str, bool], out: Path) -> tuple[dict, dict, Any]:
    """As `_tracking_eval` by our own code; the curves are drawn by the official one."""
    from tracking.fast_evaluation import fast_tracking_metrics

    summary, details = fast_tracking_metrics(tracks, official_config())

    def draw() -> None:
        from nuscenes.eval.common.config import config_factory
        from nuscenes.eval.tracking.data_classes import TrackingMetricData, TrackingMetricDataList
        from nuscenes.eval.tracking.evaluate import TrackingEval

        judge: Any = TrackingEval.__new__(TrackingEval)  # its constructor would load and filter everything again
        judge.cfg, judge.plot_dir, judge.verbose = config_factory("tracking_nips_2019"), str(out / "plots"), False
        (out / "plots").mkdir(parents=True)
        judge.render(TrackingMetricDataList.deserialize(details, TrackingMetricData))

    return summary | {"meta": dict(meta)}, details, draw


def _check_samples(submission: Submission, file: Path, root: Path, version: str, split: str) -> tuple[str, ...]:
    """Say before the devkit does, and in words, what does not fit together; returns notes."""
    folder = root / version
    scenes, samples = read_table(folder / "scene.json"), read_table(folder / "sample.json")
    names = split_scenes(folder, split)
    tokens = {scene["token"] for scene in scenes if scene["name"] in names}
    if not tokens:
        raise EvaluationError(f"{folder}: none of the scenes of split '{split}' ({', '.join(names[:4])} …)")
    for path in (root / row["filename"] for row in read_table(folder / "map.json")):
        if not path.is_file():
            raise EvaluationError(f"{path} is absent; the devkit needs the maps folder beside samples")
    wanted = {sample["token"] for sample in samples if sample["scene_token"] in tokens}
    missing = wanted - submission.results.keys()
    if missing:
        raise EvaluationError(
            f"{file}: {len(missing)} of {len(wanted)} samples of split '{split}' are missing "
            f"(first: {min(missing)}); the official format wants every sample, with an empty list for no boxes"
        )
    extra = submission.results.keys() - wanted
    if extra and not (folder / "splits.json").is_file():
        raise EvaluationError(
            f"{file}: {len(extra)} samples are not in split '{split}' (first: {min(extra)}); "
            "choose the split they were made for with --split"
        )
    return (f"{len(extra)} samples outside split '{split}' were left out",) if extra else ()


def _out_of_range(submission: Submission, kind: Kind) -> dict[str, Any]:
    """The empty submission with one box so far away that the official range filter drops it.

    The official code cannot tell what kind of boxes it reads when there are none at all.
    """
    token = next(iter(submission.results))
    row: dict[str, Any] = {
        "sample_token": token,
        "translation": [1e7, 1e7, 0.0],
        "size": [1.0, 1.0, 1.0],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.0, 0.0],
        f"{kind}_name": "car",
        f"{kind}_score": 0.0,
    }
    row |= {"tracking_id": "0"} if kind == "tracking" else {"attribute_name": ""}
    return {"meta": dict(submission.meta), "results": {**submission.results, token: [row]}}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow the devkit's prints, progress bars and warnings."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _detection_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    errors = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
    overall = [_number(summary["mean_ap"], 4), _number(summary["nd_score"], 4)]
    rows = [["all", *overall, *(_number(summary["tp_errors"][e]) for e in errors)]]
    for name, value in summary["mean_dist_aps"].items():
        rows.append([name, _number(value), "", *(_number(summary["label_tp_errors"][name][e]) for e in errors)])
    return ["class", "AP", "NDS", "ATE", "ASE", "AOE", "AVE", "AAE"], rows


def _tracking_rows(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    means, counts = ("amota", "amotp", "recall", "mota", "motp"), ("ids", "frag", "tp", "fp", "fn")
    rows = [["all", *(_number(summary[m]) for m in means), *(_number(summary[c], 0) for c in counts)]]
    labels = summary["label_metrics"]
    for name in labels["amota"]:
        cells = [_number(labels[m][name]) for m in means] + [_number(labels[c][name], 0) for c in counts]
        rows.append([name, *cells])
    head = ["class", "AMOTA", "AMOTP", "RECALL", "MOTA", "MOTP", "IDS", "FRAG", "TP", "FP", "FN"]
    return head, rows
