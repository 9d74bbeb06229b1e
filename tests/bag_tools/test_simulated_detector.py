"""Simulated detections of rendered drives have the errors and the lineage that they are said to have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bag_tools import lineage_bench
from bag_tools.pipeline import Detected
from bag_tools.rendered.drive import RenderedDrive
from bag_tools.simulated_detector import CameraErrors, Lineage, Moment, detect, moments, with_lineage
from tracking.tracker import Tracker

EXACT = CameraErrors((0, 0), (0, 0), 0.5, 2.2, 0.0, 0.0, 0.0, (0, 0), missed=-2.0, doubled=0.0, ghosts=0.0)


@pytest.fixture(scope="module")
def drive() -> tuple[Moment, ...]:
    return moments(40, 8.0)


def numbers(items: Sequence[Detected]) -> list[np.ndarray]:
    found = [item.boxes.lineage for item in items if item.boxes is not None]
    assert all(row is not None and (row > 0).all() for row in found)
    return found  # type: ignore[return-value]


def test_truth_without_images_is_that_of_the_images() -> None:
    rendered = RenderedDrive(40, 1.0, (264, 148), device="cpu")
    without, (_, with_images) = rendered.truth_at(1), rendered.frame_with_truth(1)
    np.testing.assert_array_equal(without.boxes.center, with_images.boxes.center)
    # the images of a moving car are up to 50 ms apart
    assert np.mean((without.points > 0) == (with_images.points > 0)) > 0.9
    assert np.median(np.abs(without.visibility - with_images.visibility)) < 0.05


def test_depth_is_worst_and_its_error_lasts(drive: tuple[Moment, ...]) -> None:
    errors = CameraErrors(doubled=0.0, ghosts=0.0, radial=(0.2, 0.05), lateral=(0.1, 0.005))
    off: dict[int, dict[int, tuple[float, float]]] = {}
    for seed in range(4):
        for frame, (moment, item) in enumerate(zip(drive, detect(drive, seed, errors), strict=True)):
            assert item.boxes is not None
            truth = {who: row for row, who in enumerate(moment.truth.boxes.track_id.tolist())}
            for who, place in zip(item.boxes.track_id.tolist(), item.boxes.center, strict=True):
                there = moment.truth.boxes.center[truth[who], :2]
                unit, distance = there / np.hypot(*there), np.hypot(*there)
                along, across = (place[:2] - there) @ unit, (place[:2] - there) @ (-unit[1], unit[0])
                row = along / (0.2 + 0.05 * distance), across / (0.1 + 0.005 * distance)
                off.setdefault(who + 1000 * seed, {})[frame] = row
    every = np.array([row for rows in off.values() for row in rows.values()])
    np.testing.assert_allclose(every.std(0), 1.0, atol=0.15)
    pairs = [(r[f][0], r[f + 1][0]) for r in off.values() for f in r if f + 1 in r]
    assert 0.25 < np.corrcoef(np.array(pairs).T)[0, 1] < 0.55  # 0.5 exp(-0.5 s / 2.2 s) = 0.4


def test_the_same_seed_gives_the_same_boxes(drive: tuple[Moment, ...]) -> None:
    one, again, other = (list(detect(drive, seed)) for seed in (1, 1, 2))
    for a, b in zip(one, again, strict=True):
        assert a.boxes is not None
        assert b.boxes is not None
        np.testing.assert_array_equal(a.boxes.center, b.boxes.center)
    counts = [[len(item.boxes or ()) for item in items] for items in (one, other)]
    assert counts[0] != counts[1]


def test_lineage_follows_the_objects_as_well_as_it_is_told_to(drive: tuple[Moment, ...]) -> None:
    items = list(detect(drive, 0, EXACT))
    whose = [item.boxes.track_id for item in items if item.boxes is not None]
    faithful = numbers(with_lineage(items, Lineage(1.0, swapped=0.0)))
    names: dict[int, int] = {}
    for row, who in zip(np.concatenate(faithful), np.concatenate(whose), strict=True):
        assert names.setdefault(int(who), int(row)) == row
    assert len(set(names.values())) == len(names)
    forgetful = np.concatenate(numbers(with_lineage(items, Lineage(0.0))))
    assert len(set(forgetful)) == len(forgetful)

    def agreement(lineage: Lineage) -> float:
        found = numbers(with_lineage(items, lineage))
        pairs = [
            (a[np.isin(was, both)] == b[np.isin(now, both)]).mean()
            for a, b, was, now in zip(found, found[1:], whose, whose[1:], strict=False)
            if len(both := np.intersect1d(was, now))
        ]
        return float(np.mean(pairs))

    assert agreement(Lineage(0.8, swapped=0.0)) == pytest.approx(0.8, abs=0.08)
    assert agreement(Lineage(0.8, swapped=0.2)) < 0.7
    assert agreement(Lineage(0.95, shuffled=True)) < 0.2


def test_nobody_is_told_whose_box_it_is(drive: tuple[Moment, ...]) -> None:
    for item in with_lineage(list(detect(drive, 0)), Lineage(0.9)):
        assert item.boxes is not None
        assert (item.boxes.track_id == -1).all()


def test_exact_boxes_are_tracked_almost_perfectly(drive: tuple[Moment, ...]) -> None:
    simulation = lineage_bench.Simulation((drive,), (tuple(detect(drive, 0, EXACT)),))
    summary = lineage_bench.summary_of(simulation, simulation.told(None), Tracker())
    assert summary["mota"] > 0.85  # some that stand close together are taken for one
    assert summary["ids"] <= 2


def test_the_table_names_every_lineage_and_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage_bench, "SECONDS", 2.0)
    monkeypatch.setattr(lineage_bench, "WEIGHTS", (0.0, 2.0))
    table = lineage_bench.lineage_table((40,), repeats=2)
    assert [column.header for column in table.columns] == ["lineage", "weight 0", "weight 2"]
    assert list(table.columns[0].cells) == list(lineage_bench.LINEAGES)
    assert all("±" in cell for cell in table.columns[1].cells)  # type: ignore[operator]


def test_lineage_helps_the_tracker_and_chance_does_not_harm_it(drive: tuple[Moment, ...]) -> None:
    def mean(lineage: Lineage | None) -> float:
        scores = []
        for seed in range(4):
            simulation = lineage_bench.simulate([drive], seed)
            scores.append(lineage_bench.summary_of(simulation, simulation.told(lineage), Tracker())["amota"])
        return float(np.mean(scores))

    without = mean(None)
    assert mean(Lineage(0.95)) > without + 0.01
    assert mean(Lineage(0.95, shuffled=True)) > without - 0.02
