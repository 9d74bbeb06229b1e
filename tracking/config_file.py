"""The tracker's settings as a JSON file: what a file does not name keeps its default.

`python -m tracking.config_file > tracker.json` writes all of them, to cut down to what should differ.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tracking.config import ClassParameters, TrackerConfig, TrackerConfigError

S = TypeVar("S", TrackerConfig, ClassParameters)


def read_config(path: Path | str) -> TrackerConfig:
    """The settings of a JSON file laid over the defaults.

    `{"max_age": 3.0, "classes": {"car": {"speed": 6.0}, "forklift": {"speed": 2.0}}}` changes three numbers of two
    classes; a class without defaults starts from `other`.

    Raises:
        TrackerConfigError: when the file cannot be read, names a setting that does not exist, or gives a value
            that makes no sense.
    """
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise TrackerConfigError(f"tracker settings {path}: {error.strerror}") from error
    except ValueError as error:
        raise TrackerConfigError(f"tracker settings {path}: not JSON ({error})") from error
    try:
        return config_from(content)
    except TrackerConfigError as error:
        raise TrackerConfigError(f"{path}: {error}") from error


def config_from(content: Any) -> TrackerConfig:
    """The settings of a parsed file; see `read_config`."""
    base = TrackerConfig()
    content = dict(_mapping(content, "the file"))
    classes, other = dict(base.classes), base.other
    if "other" in content:
        other = _laid_over(other, _mapping(content["other"], "other"), "other.")
    for name, changes in _mapping(content.get("classes", {}), "classes").items():
        start = classes.get(name, other)
        classes[name] = _laid_over(start, _mapping(changes, f"classes.{name}"), f"classes.{name}.")
    if "groups" in content:
        groups = content["groups"]
        if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
            raise TrackerConfigError("tracker: groups must be lists of class names")
        content["groups"] = tuple(tuple(str(name) for name in group) for group in groups)
    if "views" in content:
        given = _mapping(content.pop("views"), "views").items()
        base = dataclasses.replace(
            base, views={name: _number((0.0, 0.0), view, f"views.{name}") for name, view in given}
        )
    plain = {key: value for key, value in content.items() if key not in ("classes", "other")}
    return _laid_over(dataclasses.replace(base, classes=classes, other=other), plain, "")


def config_content(config: TrackerConfig) -> dict[str, Any]:
    """What `read_config` reads, with every setting."""
    content = {item.name: getattr(config, item.name) for item in dataclasses.fields(config)}
    content["classes"] = {name: dataclasses.asdict(row) for name, row in config.classes.items()}
    content["other"] = dataclasses.asdict(config.other)
    content["views"] = dict(config.views)
    return content


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TrackerConfigError(f"tracker: {name} must be a JSON object, not {type(value).__name__}")
    return value


def _laid_over(base: S, changes: Mapping[str, Any], prefix: str) -> S:
    values: dict[str, Any] = {}
    names = [item.name for item in dataclasses.fields(base)]
    for name, value in changes.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"there are {', '.join(names)}"
            raise TrackerConfigError(f"tracker: no setting '{prefix}{name}'; {hint}")
        values[name] = value if name == "groups" else _number(getattr(base, name), value, prefix + name)
    return dataclasses.replace(base, **values)


def _number(default: Any, value: Any, name: str) -> Any:
    """The value as the default's type: a number, or as many numbers as the default has."""
    wanted = default if isinstance(default, tuple) else (default,)
    given = value if isinstance(default, tuple) else [value]
    fits = isinstance(given, list | tuple) and len(given) == len(wanted)
    if not fits or any(isinstance(item, bool) or not isinstance(item, int | float) for item in given):
        what = f"{len(wanted)} numbers" if isinstance(default, tuple) else "a number"
        raise TrackerConfigError(f"tracker: {name} is {value!r}; it must be {what}")
    numbers = tuple(float(item) for item in given)
    return numbers if isinstance(default, tuple) else numbers[0]


if __name__ == "__main__":
    print(json.dumps(config_content(TrackerConfig()), indent=2))
