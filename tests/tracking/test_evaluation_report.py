"""What `streampetr evaluate` writes of tracks: files, a comparison of two runs, and a page that stands alone."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import streampetr_cli
from tracking.charts import Series, line_chart
from tracking.comparison import MEASURES
from tracking.nuscenes_format import Submission, read_submission, write_submission


@pytest.fixture(scope="module")
def real(shared: Path) -> Path:
    return shared / "data" / "nuscenes_mini_val"


@pytest.fixture(scope="module")
def tracks(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tracks")
    arguments = [str(real / "detections_cc3dt.json"), "--dataroot", str(real), "--split", "mini_val"]
    assert streampetr_cli.main(["track", *arguments, "--out", str(out)]) == 0
    return out / "tracks.json"


@pytest.fixture(scope="module")
def evaluated(real: Path, tracks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run against one with other identities in its second half."""
    out = tmp_path_factory.mktemp("out")
    results = read_submission(tracks).results
    later = [token for i, token in enumerate(results) if i % 40 >= 20]
    changed = {
        token: [row | {"tracking_id": f"{row['tracking_id']}{'b' * (token in later)}"} for row in rows]
        for token, rows in results.items()
    }
    write_submission(out / "other.json", Submission("tracking", changed))
    files = ["--tracks", str(tracks), "--against", str(out / "other.json")]
    assert streampetr_cli.main(["evaluate", *files, "--dataroot", str(real), "--fast", "--out", str(out)]) == 0
    return out


class _Page(HTMLParser):
    """Collects what a page asks of the network, and whether its elements are closed in order."""

    VOID = frozenset({"meta", "path", "circle", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.outside += [f"{k}={v}" for k, v in attrs if k in ("src", "href", "xlink:href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_stands_alone_and_says_it_all(evaluated: Path) -> None:
    text = (evaluated / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert page.outside == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "http" not in text
    assert "url(" not in text
    assert "NaN" not in text
    assert "nan" not in re.findall(r'[MLH ,"]nan', text)
    metrics = json.loads((evaluated / "metrics.json").read_text())
    for key in ("amota", "mota"):
        assert f"<b>{metrics[key]:.3f}</b>" in text
    assert text.count("<svg") == 10  # eight charts, two scenes
    assert "scene-0103" in text
    assert "construction" not in text


def test_events_are_as_many_as_the_official_counts(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    events = json.loads((evaluated / "events.json").read_text())
    kinds = [event["kind"] for event in events]
    assert kinds.count("switch") == metrics["ids"]
    assert kinds.count("fragmentation") == metrics["frag"]
    times = [(event["scene"], event["stamp_us"]) for event in events]
    assert times == sorted(times)
    assert all(0 <= event["time_s"] <= 20 and event["range_m"] < 50 for event in events)


def test_our_scores_agree_with_the_official_ones(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    analysis = json.loads((evaluated / "analysis.json").read_text())
    for name, scores in analysis["classes"].items():
        if name == "all":
            continue
        label = {key: of_class.get(name) for key, of_class in metrics["label_metrics"].items()}
        for key in ("ids", "frag", "fp", "fn", "mt", "ml"):
            assert scores[key] == label[key], (name, key)
        for key in ("mota", "recall", "motp"):
            assert scores[key] == pytest.approx(label[key], abs=1e-9), (name, key)
        rings = [row for row in analysis["ranges"] if row["class_name"] == name]
        assert sum(row["objects"] for row in rings) == label["gt"]
        assert sum(row["tp"] for row in rings) == label["tp"] + label["ids"]
        assert sum(row["fn"] for row in rings) == label["fn"]
        assert sum(row["fp"] for row in rings) == label["fp"]
        assert sum(row["ids"] for row in rings) == label["ids"]


def test_other_identities_are_seen_by_the_comparison(evaluated: Path) -> None:
    comparison = json.loads((evaluated / "comparison.json").read_text())
    assert comparison["theirs"].endswith("other.json")
    of_all = {row["measure"]: row for row in comparison["differences"] if row["class_name"] == "all"}
    assert of_all.keys() == MEASURES.keys()
    assert of_all["ids"]["change"] < -20
    assert of_all["hota"]["change"] > 0
    assert of_all["idf1"]["change"] > 0
    assert len(comparison["gone_events"]) > 20
    assert "better" in (evaluated / "report.html").read_text()


def test_runs_on_other_frames_are_not_compared(shared: Path, real: Path, tracks: Path) -> None:
    from tracking.analysis import analyse
    from tracking.comparison import ComparisonError, compare
    from tracking.evaluation import evaluate_tracking

    one = evaluate_tracking(tracks, real, fast=True)
    assert one.tracks is not None
    analysis = analyse(one.tracks, one.details)
    root = shared / "tracking" / "dev"
    empty = {row["token"]: [] for row in json.loads((root / "v1.0-mini/sample.json").read_text())}
    write_submission(tracks.with_name("empty.json"), Submission("tracking", empty))
    two = evaluate_tracking(tracks.with_name("empty.json"), root, split="syn_val", fast=True)
    assert two.tracks is not None
    nothing = analyse(two.tracks, two.details)
    assert nothing.classes["all"]["hota"] == 0
    assert nothing.events == []
    with pytest.raises(ComparisonError, match="81 key frames"):
        compare(("a", one, analysis), ("b", two, nothing))


def test_a_chart_leaves_out_what_is_unknown() -> None:
    svg = line_chart([Series("a & b", [0, 0.5, np.nan, 1], [0, 1, 1, np.nan], 2)], "x", "y")
    assert svg.count("<circle") == 2
    assert "a &amp; b" in svg
    assert "nan" not in svg


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tracks", "x.json"], "--dataroot"),
        (["--detections", "x.json", "--dataroot", "x", "--against", "y.json"], "--against"),
        (["--bags", "/nowhere", "--plots"], "--plots"),
        (["--tracks", "x.json", "--detections", "x.json", "--dataroot", "x"], "give one of"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, capsys, arguments: list[str], says: str) -> None:
    assert streampetr_cli.main(["evaluate", *arguments, "--out", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
