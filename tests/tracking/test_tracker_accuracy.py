"""One configuration does well on real boxes without velocities and on synthetic ones with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import streampetr_cli
from bag_tools.tracking_bench import Score, open_set, score, track_set
from bag_tools.tracking_tuning import GROUPS, GUESS, thinned, with_group
from streampetr_core.boxes import Boxes3D
from tracking.ablation import variants
from tracking.config import TrackerConfig


def scored(root: Path, detections: str, split: str) -> Score:
    return score(open_set(root, detections, "v1.0-mini", split), variants()[0])


def test_real_boxes(shared: Path) -> None:
    values = scored(shared / "data" / "nuscenes_mini_val", "detections_cc3dt.json", "mini_val").values
    assert values["amota"] >= 0.55  # the best published tracker gets 0.344, the reference 0.159
    assert values["ids"] <= 60
    assert values["mota"] >= 0.5
    assert values["car"] >= 0.5
    assert values["pedestrian"] >= 0.55


def test_synthetic_boxes(shared: Path) -> None:
    values = scored(shared / "tracking" / "dev", "detections.json", "syn_all").values
    assert values["amota"] >= 0.835  # the best published tracker gets 0.712 with 45 switches
    assert values["ids"] <= 25
    assert values["mota"] >= 0.8


def test_every_variant_of_the_ablation_changes_something(shared: Path) -> None:
    data = open_set(shared / "data" / "nuscenes_mini_val", "detections_cc3dt.json", "v1.0-mini", "mini_val")
    data = data.of(data.scenes[:1])
    tracks = {item.name: track_set(data, item)[0].tracks for item in variants()}
    same = {name for name, rows in tracks.items() if rows == tracks["as it is"]}
    # these two are about measured velocities, of which this set has none
    assert same == {"as it is", "measured velocities ignored", "all of the error new in every frame"}


def test_thinned_copies_are_the_same_every_time() -> None:
    none = np.zeros((500, 3))
    boxes = Boxes3D(none, none, np.arange(500.0), stamp_ns=7)
    one, again, other = thinned(1)(boxes), thinned(1)(boxes), thinned(2)(boxes)
    np.testing.assert_array_equal(one.yaw, again.yaw)
    assert 460 <= len(one) < 500
    assert not np.array_equal(one.yaw, other.yaw)
    assert len(thinned(0)(boxes)) == 500
    assert len(thinned(0, ("bus",))(boxes)) == 0


def test_groups_cover_what_is_scored() -> None:
    named = {name for names in GROUPS.values() for name in names}
    assert {"car", "truck", "bus", "trailer", "motorcycle", "bicycle", "pedestrian"} <= named
    changed = with_group(TrackerConfig(), "cycle", GUESS["cycle"])
    assert changed.of("bicycle") == GUESS["cycle"]
    assert changed.of("car") == TrackerConfig().of("car")


def test_the_bench_verb_prints_its_tables(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(shared / "data" / "nuscenes_mini_val")
    sets = ["--sets", root, "detections_cc3dt.json", "mini_val"]
    assert streampetr_cli.main(["bench", "tracking", "--boxes", "30", "--frames", "6", *sets]) == 0
    printed = capsys.readouterr().out
    assert "ms p50" in printed
    assert "as it is" in printed
