"""Sweeps gather around the first camera, every image once, at regular reference instants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bag_tools.nuscenes_tables import NuScenesTables
from bag_tools.record_sets import RecordSet, record_sets

CAMERAS = ("CAM_FRONT", "CAM_BACK")


def sets_of(root: Any, **options: Any) -> list[RecordSet]:
    tables = NuScenesTables(root.path)
    return record_sets(tables, tables.scenes[0], CAMERAS, **options)


def keep_data(root: Any, wanted: Any) -> None:
    root.rows["sample_data"] = [row for row in root.rows["sample_data"] if wanted(row)]
    root.write()


def test_lidar_sweeps_give_the_reference(tiny_root: Any) -> None:
    sets = sets_of(tiny_root)
    assert [s.sample is not None for s in sets] == ([True] + [False] * 4) * 3 + [True]
    assert all(tuple(s.records) == CAMERAS for s in sets)
    lidar = {row["timestamp"] * 1000 for row in tiny_root.rows["sample_data"] if "LIDAR" in row["token"]}
    assert {s.stamp_ns for s in sets} <= lidar
    used = [row["token"] for s in sets for row in s.records.values()]
    assert len(used) == len(set(used)) == 32
    assert [s for s in sets_of(tiny_root, sweeps=False) if s.sample is None] == []


@pytest.mark.parametrize("lidar", ["key frames only", "all"])
def test_reference_instants_are_regular(tiny_root: Any, lidar: str) -> None:
    keep_data(tiny_root, lambda row: lidar == "all" or "LIDAR" not in row["token"] or row["is_key_frame"])
    intervals = np.diff([s.stamp_ns for s in sets_of(tiny_root)])
    assert (intervals == 100_000_000).all()


def test_a_camera_that_skips_a_sweep_is_absent_there(tiny_root: Any) -> None:
    keep_data(tiny_root, lambda row: row["token"] != "scene-0103-CAM_BACK-3")
    sets = sets_of(tiny_root)
    assert len(sets) == 16
    assert tuple(sets[3].records) == ("CAM_FRONT",)
    assert all(len(s.records) == 2 for s in sets[:3] + sets[4:])
