"""One HTML file that shows everything known of an evaluated run; needs no network and no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from streampetr_core.console import atomic_output
from tracking.analysis import ALL, Analysis, number
from tracking.charts import Series, birds_eye, line_chart
from tracking.comparison import MEASURES, Comparison, Difference
from tracking.evaluation import Evaluation
from tracking.events import Event, worst_first
from tracking.hota import ALPHAS
from tracking.nuscenes_format import TRACKING_CLASSES
from tracking.ranges import RangeRow
from tracking.report_style import STYLE

MAPS_SHOWN = 12
EVENTS_SHOWN = 500
_Column = tuple[str, str, int]

_OFFICIAL: tuple[_Column, ...] = (
    ("amota", "AMOTA", 3),
    ("amotp", "AMOTP m", 3),
    ("recall", "recall", 3),
    ("mota", "MOTA", 3),
    ("motp", "MOTP m", 3),
    ("ids", "IDS", 0),
    ("frag", "FRAG", 0),
    ("tp", "TP", 0),
    ("fp", "FP", 0),
    ("fn", "FN", 0),
    ("mt", "MT", 0),
    ("ml", "ML", 0),
    ("tid", "TID s", 2),
    ("lgd", "LGD s", 2),
)
_OWN: tuple[_Column, ...] = (
    ("threshold", "score ≥", 3),
    ("hota", "HOTA", 3),
    ("deta", "DetA", 3),
    ("assa", "AssA", 3),
    ("loca", "LocA", 3),
    ("idf1", "IDF1", 3),
    ("idp", "IDP", 3),
    ("idr", "IDR", 3),
    ("mota", "MOTA", 3),
    ("precision", "precision", 3),
    ("recall", "recall", 3),
)
_SHADED = {"amota", "recall", "mota", "hota", "deta", "assa", "loca", "idf1", "idp", "idr", "precision"}


def write_report(
    folder: Path | str, run: tuple[str, Evaluation, Analysis], comparison: Comparison | None = None
) -> Path:
    """Write `report.html`; returns its path."""
    path = Path(folder) / "report.html"
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_text(report_html(run, comparison), encoding="utf-8")
    return path


def report_html(run: tuple[str, Evaluation, Analysis], comparison: Comparison | None = None) -> str:
    """The page: headline, tables by class and distance, curves, maps, events and, where given, a comparison."""
    name, evaluation, analysis = run
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in evaluation.notes)
    sections = [
        f"<header><h1>Tracking report</h1><p><code>{escape(name)}</code> on {escape(evaluation.split)}, "
        f"{evaluation.by} evaluation</p>{notes}</header>",
        _cards(evaluation, analysis),
        _comparison(comparison) if comparison else "",
        _section("By class", _official_table(evaluation) + _own_table(analysis), _OFFICIAL_NOTE),
        _section("By distance from the robot", _range_table(analysis.ranges)),
        _section("Curves", _curves(evaluation, analysis)),
        _section("Where it happened", _maps(analysis), _MAP_NOTE),
        _section("Identity switches and fragmentations", _event_table(analysis.events), _EVENT_NOTE, "long"),
    ]
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>Tracking report: {escape(name)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>"
    )


_OFFICIAL_NOTE = (
    "Above: the nuScenes tracking metrics. AMOTA and AMOTP are averages over recall; all else is taken at the "
    "score threshold where the class has its best MOTA. Below, at the same thresholds: HOTA (similarity 1 at the "
    "same centre, 0 at 2 m), CLEAR and identity scores."
)
_MAP_NOTE = (
    "Paths of the annotated objects: solid where a track followed them, faint where they were missed. Discs are "
    "identity switches, rings fragmentations. Rest the pointer on anything for its name."
)
_EVENT_NOTE = (
    "Nearest to the robot first, switches before fragmentations. events.json holds all of them in time order."
)


def _section(title: str, content: str, note: str = "", kind: str = "") -> str:
    said = f"<p class='note'>{note}</p>" if note else ""
    return f"<section class='{kind}'><h2>{title}</h2>{said}{content}</section>"


def _cards(evaluation: Evaluation, analysis: Analysis) -> str:
    summary, together = evaluation.summary, analysis.classes[ALL]
    cards = [(title, number(summary[key], digits)) for key, title, digits in _OFFICIAL[:4]]
    cards += [("HOTA", number(together["hota"], 3)), ("IDF1", number(together["idf1"], 3))]
    cards += [(title, number(summary[key], 0)) for key, title, _ in _OFFICIAL[5:10]]
    return "<div class='cards'>" + "".join(f"<div><b>{v}</b><span>{t}</span></div>" for t, v in cards) + "</div>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: float, digits: int, shaded: bool = False) -> str:
    share = f"{min(max(value, 0), 1):.3f}" if shaded and math.isfinite(value) else ""
    return f"<td{share and f' class=bar style=--share:{share}'}>{number(value, digits)}</td>"


def _name(text: str) -> str:
    colour = TRACKING_CLASSES.index(text) if text in TRACKING_CLASSES else None
    dot = f"<i class='s{colour}'></i>" if colour is not None else ""
    return f"<td class='name'>{dot}{escape(text.replace('_', ' '))}</td>"


def _official_table(evaluation: Evaluation) -> str:
    labels = evaluation.summary["label_metrics"]
    rows = [[_name(ALL), *(_cell(evaluation.summary[key], d, key in _SHADED) for key, _, d in _OFFICIAL)]]
    for name in TRACKING_CLASSES:
        values = {key: labels[key].get(name, math.nan) for key, _, _ in _OFFICIAL}
        if not all(math.isnan(value) for value in values.values()):
            rows.append([_name(name), *(_cell(values[key], d, key in _SHADED) for key, _, d in _OFFICIAL)])
    return _table(["class", *(title for _, title, _ in _OFFICIAL)], rows)


def _own_table(analysis: Analysis) -> str:
    rows = [
        [_name(name), *(_cell(values.get(key, math.nan), digits, key in _SHADED) for key, _, digits in _OWN)]
        for name, values in analysis.classes.items()
    ]
    return _table(["class", *(title for _, title, _ in _OWN)], rows)


def _range_table(ranges: Sequence[RangeRow]) -> str:
    rows = [
        [
            _name(row.class_name) if i == 0 or ranges[i - 1].class_name != row.class_name else "<td></td>",
            f"<td>{row.near:.0f}–{row.far:.0f} m</td>",
            _cell(row.objects, 0),
            *(_cell(value, 3, True) for value in (row.recall, row.precision, row.mota)),
            _cell(row.error_m, 2),
            *(_cell(value, 0) for value in (row.ids, row.fp, row.fn)),
        ]
        for i, row in enumerate(ranges)
    ]
    head = ["class", "distance", "objects", "recall", "precision", "MOTA", "error m", "IDS", "FP", "FN"]
    return _table(head, rows)


def _curves(evaluation: Evaluation, analysis: Analysis) -> str:
    names = [outcome.name for outcome in analysis.outcomes]
    legend = "".join(f"<span><i class='s{TRACKING_CLASSES.index(name)}'></i>{name}</span>" for name in names)
    charts = []
    for key, title, limit in (
        ("motar", "MOTAR", 1.0),
        ("mota", "MOTA", 1.0),
        ("motp", "distance of matches, m", None),
        ("confidence", "score threshold", None),
        ("ids", "identity switches", None),
        ("fp", "false positives", None),
    ):
        series = [
            _series(name, evaluation.details[name]["recall"], evaluation.details[name][key]) for name in names
        ]
        charts.append(line_chart(series, "recall", title, y_limit=limit))
    series = [_series(name, ALPHAS, analysis.hota_curves[name]) for name in names]
    charts.append(line_chart(series, "similarity threshold", "HOTA", y_limit=1.0))
    rings = {name: [row for row in analysis.ranges if row.class_name == name] for name in names}
    series = [
        _series(n, [(r.near + r.far) / 2 for r in rows], [r.recall for r in rows]) for n, rows in rings.items()
    ]
    charts.append(line_chart(series, "distance, m", "recall", x_limit=50, y_limit=1.0))
    return f"<div class='legend'>{legend}</div><div class='charts'>{''.join(charts)}</div>"


def _series(name: str, x: Sequence[float] | np.ndarray, y: Sequence[float]) -> Series:
    return Series(name, x, y, TRACKING_CLASSES.index(name))


def _maps(analysis: Analysis) -> str:
    if not analysis.outcomes:
        return ""
    frames = analysis.outcomes[0].frames
    most = sorted(frames.scenes, key=lambda name: -sum(event.scene == name for event in analysis.events))
    shown = sorted(most[:MAPS_SHOWN])
    return (
        "<div class='maps'>"
        + "".join(_map(analysis, name, frames.scenes.index(name)) for name in shown)
        + "</div>"
    )


def _map(analysis: Analysis, name: str, scene: int) -> str:
    frames = analysis.outcomes[0].frames
    tracks = []
    for outcome in analysis.outcomes:
        truth = outcome.truth
        rows = np.flatnonzero(frames.scene[truth.frame] == scene)
        rows = rows[np.lexsort((truth.frame[rows], truth.track[rows]))]
        for part in np.split(rows, np.flatnonzero(np.diff(truth.track[rows])) + 1):
            if len(part):
                title = f"{outcome.name} {truth.ids[truth.track[part[0]]][:8]}"
                tracks.append((title, truth.xy[part], outcome.partner[part] >= 0))
    events = [event for event in analysis.events if event.scene == name]
    marks = [(event.kind, str(event), event.x, event.y) for event in events]
    switches = sum(event.kind == "switch" for event in events)
    said = f"{escape(name)}: {switches} switches, {len(events) - switches} fragmentations"
    ego = frames.ego[frames.scene == scene, :2]
    return f"<figure>{birds_eye(tracks, ego, marks)}<figcaption>{said}</figcaption></figure>"


def _event_table(events: Sequence[Event]) -> str:
    if not events:
        return "<p>None.</p>"
    rows = [
        [
            f"<td><i class='mark {event.kind}'></i>{event.kind}</td>",
            f"<td>{escape(event.scene)}</td>",
            f"<td>+{event.time_s:.1f} s</td>",
            _name(event.class_name),
            f"<td><code>{escape(event.object[:8])}</code></td>",
            f"<td>{escape(event.tracks)}</td>",
            _cell(event.unseen_s, 1),
            _cell(event.range_m, 0),
            f"<td>{event.x:.1f}, {event.y:.1f}</td>",
            f"<td><code title='{escape(event.sample)}'>{escape(event.sample[:8])}</code></td>",
        ]
        for event in worst_first(events, EVENTS_SHOWN)
    ]
    head = ["", "scene", "time", "class", "object", "track", "unseen s", "range m", "map x, y", "sample"]
    return _table(head, rows)


def _comparison(comparison: Comparison) -> str:
    rows = [[_name(name), *map(_change, items)] for name, items in comparison.classes().items()]
    table = _table(["class", *(title for title, _, _ in MEASURES.values())], rows)
    counts = f"{len(comparison.new_events)} events only here, {len(comparison.gone_events)} only there."
    lists = "".join(
        f"<details><summary>{title} ({len(events)})</summary><ul>"
        + "".join(f"<li>{escape(str(event))}</li>" for event in worst_first(events, EVENTS_SHOWN))
        + "</ul></details>"
        for title, events in (("only here", comparison.new_events), ("only there", comparison.gone_events))
    )
    title = f"Against <code>{escape(comparison.theirs)}</code>"
    return _section(title, table + lists, f"Our value and its change; green is better. {counts}")


def _change(item: Difference) -> str:
    digits = MEASURES[item.measure][1]
    value = number(item.ours, digits)
    if not math.isfinite(item.change) or abs(item.change) < 0.5 * 10**-digits:
        return f"<td>{value}</td>"
    return f"<td>{value} <em class='{'better' if item.gain > 0 else 'worse'}'>{item.change:+.{digits}f}</em></td>"
