"""What the official evaluation is given: the devkit's own files and splits, and a data set's tables."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

from streampetr_core.errors import StreamPETRError


class EvaluationError(StreamPETRError):
    """A submission that cannot be scored against this data set and split."""


def official_config() -> dict[str, Any]:
    """The published settings (class ranges, thresholds, worst values), read where the devkit keeps them.

    Raises:
        EvaluationError: when nuscenes-devkit is not installed.
    """
    return json.loads(devkit_file("eval/tracking/configs/tracking_nips_2019.json").read_text())


def split_scenes(folder: Path, split: str) -> list[str]:
    """Names of a split's scenes: an official one, or one that `folder`/splits.json defines.

    Raises:
        EvaluationError: when neither knows it.
    """
    official = _official_splits()
    if split in official:
        return official[split]
    own = folder / "splits.json"
    custom = read_table(own) if own.is_file() else {}
    if not isinstance(custom, dict) or split not in custom:
        known = ", ".join([*custom, *official])
        raise EvaluationError(f"unknown split '{split}'; known: {known} (own splits: {own})")
    return list(custom[split])


def _official_splits() -> dict[str, list[str]]:
    """Split -> scene names as the devkit lists them, read from its source: importing that takes seconds."""
    source = devkit_file("utils/splits.py").read_text()
    splits = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return splits | {"train": sorted({*splits["train_detect"], *splits["train_track"]})}


def devkit_file(name: str) -> Path:
    """A file of the installed nuscenes-devkit, found without importing it.

    Raises:
        EvaluationError: when it is not installed.
    """
    found = importlib.util.find_spec("nuscenes")
    if found is None or found.origin is None:
        raise EvaluationError("nuscenes-devkit is not installed; pip install nuscenes-devkit==1.2.0")
    return Path(found.origin).parent / name


def read_table(path: Path) -> Any:
    """The content of a JSON table.

    Raises:
        EvaluationError: when it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{path} cannot be read ({error}); --dataroot and --version name a nuScenes-format data set"
        ) from error
