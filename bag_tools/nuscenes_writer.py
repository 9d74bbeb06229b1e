"""The 13 tables of a nuScenes-format root as they grow, and how they are written so that the devkit loads them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bag_tools.nuscenes_tables import DETECTION_NAMES, TABLES, Row
from streampetr_core.geometry import quaternion_from_matrix

CATEGORY_OF: dict[str, str] = {name: category for category, name in reversed(DETECTION_NAMES.items())}
"""Detection class -> the general category it is filed under (the first of several)."""

VISIBILITY_LEVELS = ("v0-40", "v40-60", "v60-80", "v80-100")
"""Levels of the visibility table; their tokens are "1" to "4"."""

_ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)


def make_token(*parts: object) -> str:
    """A token that is the same whenever the same thing is written."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def chain(rows: list[Row]) -> None:
    """Set `prev` and `next` of rows in order."""
    tokens = ["", *(row["token"] for row in rows), ""]
    for index, row in enumerate(rows):
        row["prev"], row["next"] = tokens[index], tokens[index + 2]


class TableWriter:
    """The growing tables of one root; categories, attributes and visibility levels are there from the start."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Row]] = {name: {} for name in TABLES}
        for level, name in enumerate(VISIBILITY_LEVELS, start=1):
            self.put("visibility", str(level), level=name, description="")
        for category in CATEGORY_OF.values():
            self.put("category", make_token("category", category), name=category, description="")
        for attribute in _ATTRIBUTES:
            self.put("attribute", make_token("attribute", attribute), name=attribute, description="")

    def put(self, table: str, token: str, **fields: Any) -> str:
        """Keep a row under its token; the first of equal tokens stays. Returns the token."""
        self.rows[table].setdefault(token, {"token": token, **fields})
        return token

    def put_pose(self, table: str, token: str, matrix: NDArray[np.float64], **fields: Any) -> str:
        """Keep a row that holds the pose `matrix` (4, 4)."""
        place = {"translation": matrix[:3, 3].tolist(), "rotation": quaternion_from_matrix(matrix).tolist()}
        return self.put(table, token, **fields, **place)

    def write(self, folder: Path, version: str) -> None:
        """All tables below `folder`/`version`, and the map image that the devkit insists on."""
        (folder / "maps").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "maps" / "blank.png"), np.zeros((8, 8), np.uint8))
        logs = list(self.rows["log"])
        fields = {"log_tokens": logs, "category": "semantic_prior", "filename": "maps/blank.png"}
        self.put("map", make_token("map"), **fields)
        (folder / version).mkdir(parents=True, exist_ok=True)
        for name, rows in self.rows.items():
            (folder / version / f"{name}.json").write_text(json.dumps(list(rows.values()), indent=0))
