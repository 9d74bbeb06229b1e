"""The 13 JSON tables of a nuScenes-format root, read as they are needed and indexed by token; no devkit."""

from __future__ import annotations

import difflib
import json
from collections import defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streampetr_core.cameras import NUSCENES_CAMERAS
from streampetr_core.errors import StreamPETRError
from streampetr_core.geometry import transform

Row = dict[str, Any]
"""One row of a table, its fields named as in the nuScenes schema."""

TABLES: tuple[str, ...] = (
    "category",
    "attribute",
    "visibility",
    "instance",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "log",
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
    "map",
)

DETECTION_NAMES: dict[str, str] = {
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""General category -> detection class, the official mapping; other categories are not scored."""

_MINI_SPLITS: dict[str, tuple[str, ...]] = {
    "mini_val": ("scene-0103", "scene-0916"),
    "mini_train": (
        "scene-0061",
        "scene-0553",
        "scene-0655",
        "scene-0757",
        "scene-0796",
        "scene-1077",
        "scene-1094",
        "scene-1100",
    ),
}  # stated here so that small data sets do not pay the three seconds that importing the devkit takes

_LARGE_SPLITS = ("train", "val", "test", "train_detect", "train_track")


class NuScenesError(StreamPETRError):
    """A nuScenes-format root that is incomplete, or lacks what was asked of it."""


class _TableRow(dict[str, Any]):
    """A row that says which field it lacks."""

    __slots__ = ("path",)

    def __init__(self, path: Path, row: Row) -> None:
        super().__init__(row)
        self.path = path

    def __missing__(self, field: str) -> Any:
        raise NuScenesError(f"{self.path}: row '{self['token']}' has no field '{field}'")


def nanoseconds(microseconds: int) -> int:
    """A nuScenes timestamp as the integer nanoseconds used everywhere else."""
    return int(microseconds) * 1000


def split_scenes(root: Path, version: str, split: str) -> tuple[str, ...]:
    """Names of the scenes of a split: an official one, else one of `<version>/splits.json`, as in the devkit.

    Raises:
        NuScenesError: when no such split exists; the message names the nearest ones.
    """
    if split in _MINI_SPLITS:
        return _MINI_SPLITS[split]
    own_file = root / version / "splits.json"
    own: dict[str, list[str]] = _load(own_file) if own_file.is_file() else {}
    if split in own and split not in _LARGE_SPLITS:
        return tuple(own[split])
    from nuscenes.utils.splits import create_splits_scenes

    official = create_splits_scenes()
    if split not in official:
        known = [*own, *official]
        near = difflib.get_close_matches(split, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"one of {', '.join(known)}"
        raise NuScenesError(f"unknown split '{split}'; {hint}")
    return tuple(official[split])


class NuScenesTables:
    """Tables of one version of a root, restricted to some scenes.

    A table is read when it is first used; that all files are there and that the scenes exist is checked at once.

    Args:
        root: the folder that holds `samples/`, `<version>/` ...
        version: the name of the folder of tables, for example "v1.0-mini".
        split: an official split, or one of `<version>/splits.json`; scenes that the root lacks are left out.
        scenes: scene names or tokens, in the wanted order; not together with `split`.

    Raises:
        NuScenesError: naming the missing folder, tables or scenes.
    """

    def __init__(
        self,
        root: Path | str,
        version: str = "v1.0-mini",
        split: str | None = None,
        scenes: list[str] | tuple[str, ...] | None = None,
    ) -> None:
        self.root, self.version = Path(root), version
        folder = self.root / version
        if not self.root.is_dir():
            raise NuScenesError(f"{self.root}: no such folder; give the root of a nuScenes-format data set")
        if not folder.is_dir():
            found = sorted(path.parent.name for path in self.root.glob("*/sample.json"))
            hint = f"it has {', '.join(found)}: pass one with --version" if found else "it holds no tables at all"
            raise NuScenesError(f"{self.root}: no tables of version '{version}'; {hint}")
        missing = [name for name in TABLES if not (folder / f"{name}.json").is_file()]
        if missing:
            files = ", ".join(f"{name}.json" for name in missing)
            raise NuScenesError(f"{folder}: missing {files}; download or render the data set again")
        self._tables: dict[str, dict[str, Row]] = {}
        self.scenes: tuple[Row, ...] = self._select(split, scenes)

    def table(self, name: str) -> dict[str, Row]:
        """token -> row of one table, in file order.

        Raises:
            NuScenesError: when the file is not a JSON list of rows with tokens.
        """
        if name not in self._tables:
            path = self.root / self.version / f"{name}.json"
            try:
                self._tables[name] = {row["token"]: _TableRow(path, row) for row in _load(path)}
            except (KeyError, TypeError, ValueError) as error:
                raise NuScenesError(f"{path}: not a list of rows with a token each") from error
        return self._tables[name]

    def get(self, name: str, token: str) -> Row:
        """One row.

        Raises:
            NuScenesError: when the table has no such token.
        """
        rows = self.table(name)
        if token not in rows:
            raise NuScenesError(f"{self.root / self.version / name}.json: no row with token '{token}'")
        return rows[token]

    def samples(self, scene: Row) -> list[Row]:
        """Key frames of a scene, by time."""
        return self._samples_by_scene.get(scene["token"], [])

    def sample_data(self, sample: Row) -> dict[str, Row]:
        """channel -> key-frame row of `sample_data` of one sample."""
        return self._key_data.get(sample["token"], {})

    def sweeps(self, scene: Row) -> dict[str, list[Row]]:
        """channel -> every row of `sample_data` of a scene, key frames and sweeps, by time."""
        return self._data_by_scene.get(scene["token"], {})

    def annotations(self, sample: Row) -> list[Row]:
        """Rows of `sample_annotation` of one sample, in file order."""
        return self._annotations_by_sample.get(sample["token"], [])

    def channel(self, data: Row) -> str:
        """Sensor channel of a `sample_data` row, "CAM_FRONT" ..."""
        return self._channels[data["calibrated_sensor_token"]]

    @cached_property
    def camera_channels(self) -> tuple[str, ...]:
        """Channels of all cameras: the nuScenes ones in the order of the checkpoints, then others by name."""
        found = {row["channel"] for row in self.table("sensor").values() if row["modality"] == "camera"}
        return tuple(name for name in NUSCENES_CAMERAS if name in found) + tuple(
            sorted(found - set(NUSCENES_CAMERAS))
        )

    def ego_pose(self, data: Row) -> NDArray[np.float64]:
        """(4, 4) map_from_ego at the stamp of a `sample_data` row."""
        row = self.get("ego_pose", data["ego_pose_token"])
        return transform(row["translation"], row["rotation"])

    def calibration(self, token: str) -> tuple[NDArray[np.float64], list[list[float]]]:
        """ego_from_sensor (4, 4) and the intrinsics (3x3 nested list, empty for other than cameras) of a row of
        `calibrated_sensor`."""
        row = self.get("calibrated_sensor", token)
        return transform(row["translation"], row["rotation"]), row["camera_intrinsic"]

    def detection_name(self, annotation: Row) -> str | None:
        """Detection class of an annotation, None where its category is not one of the ten."""
        instance = self.get("instance", annotation["instance_token"])
        return DETECTION_NAMES.get(self.get("category", instance["category_token"])["name"])

    def attribute(self, annotation: Row) -> str:
        """Attribute name of an annotation, "" where it has none."""
        tokens = annotation["attribute_tokens"]
        return self.get("attribute", tokens[0])["name"] if tokens else ""

    def velocity(self, annotation: Row, longest: float = 1.5) -> NDArray[np.float64]:
        """(3,) metres per second in the map, as the devkit's `box_velocity` defines it.

        The difference between the previous and the next annotation of the instance (or this one, where one of them
        is missing); NaN where there is neither, or where they lie more than `longest` seconds apart (twice that
        for a centred difference).
        """
        previous, following = annotation["prev"], annotation["next"]
        if not previous and not following:
            return np.full(3, np.nan)
        first = self.get("sample_annotation", previous) if previous else annotation
        last = self.get("sample_annotation", following) if following else annotation
        # seconds as the devkit forms them, so that its numbers come out to the last digit
        seconds = 1e-6 * self.get("sample", last["sample_token"])["timestamp"]
        seconds -= 1e-6 * self.get("sample", first["sample_token"])["timestamp"]
        if seconds > (2 * longest if previous and following else longest):
            return np.full(3, np.nan)
        return (np.array(last["translation"]) - np.array(first["translation"])) / seconds

    def _select(self, split: str | None, names: list[str] | tuple[str, ...] | None) -> tuple[Row, ...]:
        """The rows of the wanted scenes."""
        rows = list(self.table("scene").values())
        known = {row["name"]: row for row in rows} | {row["token"]: row for row in rows}
        present = _shorten([row["name"] for row in rows])
        if split is not None and names is not None:
            raise NuScenesError("give either a split or scene names, not both")
        if names is not None:
            unknown = [name for name in names if name not in known]
            if unknown:
                raise NuScenesError(f"{self.root}: no scene {', '.join(unknown)}; {self.version} has {present}")
            return tuple(known[name] for name in dict.fromkeys(names))
        if split is None:
            return tuple(rows)
        wanted = set(split_scenes(self.root, self.version, split))
        chosen = tuple(row for row in rows if row["name"] in wanted)
        if not chosen:
            members = _shorten(sorted(wanted))
            raise NuScenesError(
                f"{self.root}: no scene of split '{split}' ({members}); {self.version} has {present}"
            )
        return chosen

    @cached_property
    def _channels(self) -> dict[str, str]:
        sensors = self.table("sensor")
        return {
            token: sensors[row["sensor_token"]]["channel"]
            for token, row in self.table("calibrated_sensor").items()
        }

    @cached_property
    def _samples_by_scene(self) -> dict[str, list[Row]]:
        return _grouped(self.table("sample").values(), "scene_token", sort="timestamp")

    @cached_property
    def _annotations_by_sample(self) -> dict[str, list[Row]]:
        return _grouped(self.table("sample_annotation").values(), "sample_token")

    @cached_property
    def _key_data(self) -> dict[str, dict[str, Row]]:
        grouped: dict[str, dict[str, Row]] = defaultdict(dict)
        for row in self.table("sample_data").values():
            if row["is_key_frame"]:
                grouped[row["sample_token"]][self.channel(row)] = row
        return grouped

    @cached_property
    def _data_by_scene(self) -> dict[str, dict[str, list[Row]]]:
        samples = self.table("sample")
        grouped: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
        for row in sorted(self.table("sample_data").values(), key=lambda row: row["timestamp"]):
            grouped[samples[row["sample_token"]]["scene_token"]][self.channel(row)].append(row)
        return grouped


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise NuScenesError(f"{path} cannot be read: {error}") from error


def _grouped(rows: Any, field: str, sort: str = "") -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row[sort]) if sort else rows:
        grouped[row[field]].append(row)
    return grouped


def _shorten(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
