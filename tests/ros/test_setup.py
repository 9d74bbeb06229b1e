"""Set-up: the wheels' repair, what is built where, the stamps of the Makefile, and the type hashes on the wire."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

VISION_MSGS_HASHES = {
    "Detection3DArray": "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "Detection3D": "RIHS01_ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b",
    "ObjectHypothesisWithPose": "RIHS01_41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc",
    "ObjectHypothesis": "RIHS01_51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90",
    "BoundingBox3D": "RIHS01_bbb73a65c163d7f9bb29009c7bde9f7faa576bd2d23299c4511d19230dab4698",
}
"""Of vision_msgs 4 as the distributions ship it."""

TF_MESSAGE_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
"""Of tf2_msgs/msg/TFMessage; rosbags computes the same one from the definition that it carries."""


def load(name: str) -> ModuleType:
    """A script of ros2_ws as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "ros2_ws" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def repair_wheels() -> ModuleType:
    return load("repair_wheels")


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return load("build")


EXPORT = """
set_target_properties(std_msgs::std_msgs__rosidl_generator_py PROPERTIES
  INTERFACE_INCLUDE_DIRECTORIES "${_IMPORT_PREFIX}/include/std_msgs;/opt/python/cp311-cp311/include/python3.11;/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"
)
"""  # noqa: E501


def test_repair_puts_this_machines_folders_in(repair_wheels: ModuleType, tmp_path: Path) -> None:
    broken = tmp_path / "share" / "std_msgs" / "cmake" / "export.cmake"
    sound = tmp_path / "share" / "rcl" / "cmake" / "rclConfig.cmake"
    for path, text in ((broken, EXPORT), (sound, "set(rcl_FOUND TRUE)\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    before = sound.stat().st_mtime_ns
    assert repair_wheels.repair(tmp_path, "/py/include", r"/np/in\1clude") == [broken]
    assert r'"${_IMPORT_PREFIX}/include/std_msgs;/py/include;/np/in\1clude"' in broken.read_text()
    assert repair_wheels.repair(tmp_path, "/py/include", r"/np/in\1clude") == []  # nothing left to do
    assert sound.stat().st_mtime_ns == before
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["export.cmake", "rclConfig.cmake"]


@pytest.mark.parametrize("tag", ["cp310-cp310/{}/python3.10", "cp313-cp313/{}/python3.13"])
@pytest.mark.parametrize("numpy", ["numpy/core/include", "numpy/_core/include"])
def test_repair_knows_every_python_of_the_wheels(
    repair_wheels: ModuleType, tmp_path: Path, tag: str, numpy: str
) -> None:
    path = tmp_path / "share" / "a" / "cmake" / "a.cmake"
    path.parent.mkdir(parents=True)
    path.write_text(f'"/opt/python/{tag.format("include")};/opt/python/{tag.format("lib")}/site-packages/{numpy}"')
    repair_wheels.repair(tmp_path, "/py", "/np")
    assert path.read_text() == '"/py;/np"'


@pytest.mark.ros
def test_the_installed_wheels_are_repaired() -> None:
    exports = list(Path(sys.prefix).glob("share/*/cmake/*rosidl_generator_pyExport.cmake"))
    if not exports:
        pytest.skip("ROS 2 comes from a distribution here")
    include = sysconfig.get_paths()["include"]
    for path in exports:
        text = path.read_text()
        assert "/opt/python" not in text, path
        assert include in text, path


@pytest.mark.ros
def test_type_hashes_are_those_of_the_distributions() -> None:
    from streampetr.doctor import VISION_MSGS, installed_hashes
    from streampetr.environment import ros_environment

    prefixes = [Path(prefix) for prefix in ros_environment()["AMENT_PREFIX_PATH"].split(os.pathsep)]
    vision = installed_hashes("vision_msgs", prefixes)
    assert {name: vision.get(name) for name in VISION_MSGS_HASHES} == VISION_MSGS_HASHES
    assert installed_hashes("tf2_msgs", prefixes)["TFMessage"] == TF_MESSAGE_HASH
    assert VISION_MSGS == VISION_MSGS_HASHES  # what the doctor compares with


def test_only_what_the_distribution_lacks_is_backfilled(build: ModuleType, tmp_path: Path) -> None:
    for package in ("vision_msgs", "rclpy"):
        (tmp_path / "share" / package).mkdir(parents=True)
        (tmp_path / "share" / package / "package.xml").touch()
    names = ["cv_bridge", "vision_msgs"]
    assert build.lacking(names, [tmp_path / "overlay", tmp_path]) == ["cv_bridge"]
    assert build.lacking(names, []) == names


def test_an_earlier_build_of_ours_is_not_part_of_the_distribution(build: ModuleType, tmp_path: Path) -> None:
    ours = build.WORKSPACE / "install"
    sourced = {"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": f"{ours}:/opt/ros/jazzy", "PATH": "/usr/bin"}
    environment, prefixes, kind = build.build_environment(sourced, tmp_path)
    assert (kind, prefixes) == ("distribution jazzy", [Path("/opt/ros/jazzy")])
    assert environment["PATH"] == f"{tmp_path}/bin:/usr/bin"  # our Python runs the generators
    environment, prefixes, kind = build.build_environment({"AMENT_PREFIX_PATH": str(ours)}, tmp_path)
    assert (kind, prefixes, environment["CMAKE_PREFIX_PATH"]) == ("wheels", [tmp_path], str(tmp_path))


def test_missing_tools_are_named(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = build.missing_tools(tmp_path)
    assert missing[:4] == ["g++", "gcc", "cmake", "make"]
    assert missing[4].endswith("-dev")


class Checkout:
    """A folder with the Makefile, in which no step really runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = time.time()
        for name in ("Makefile", "pyproject.toml", "ros2_ws/build.py"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        # nothing of a `make test` or a ROS 2 environment around this test
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            ["make", "--no-print-directory", *arguments],
            cwd=self.root, env=kept | environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def steps(self, **environment: str) -> list[str]:
        """Which steps `make setup` would take."""
        script = self.make("-n", "setup", **environment).stdout
        marks = {"-m venv": "environment", "pip install": "packages", "ros2_ws/build.py": "interfaces"}
        return [step for mark, step in marks.items() if mark in script]

    def done(self, name: str) -> None:
        """Make or change a file, later than all before (the clock of files ticks slower than this test)."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.now += 10
        os.utime(path, (self.now, self.now))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return Checkout(tmp_path)


def test_setup_goes_on_where_it_stopped_and_rests_when_done(checkout: Checkout) -> None:
    assert checkout.steps() == ["environment", "packages", "interfaces"]
    checkout.done(".venv/bin/python")  # interrupted while the environment was made
    assert checkout.steps() == ["environment", "packages", "interfaces"]
    checkout.done(".venv/.created-wheels")
    assert checkout.steps() == ["packages", "interfaces"]
    checkout.done(".venv/.installed-wheels-ros+dev")
    assert checkout.steps() == ["interfaces"]
    checkout.done("ros2_ws/install/streampetr_build.json")
    assert checkout.steps() == []


def test_a_change_repeats_only_what_depends_on_it(checkout: Checkout) -> None:
    for name in (
        ".venv/.created-wheels",
        ".venv/.installed-wheels-ros+dev",
        "ros2_ws/install/streampetr_build.json",
    ):
        checkout.done(name)
    checkout.done("ros2_ws/src/streampetr_msgs/msg/New.msg")
    assert checkout.steps() == ["interfaces"]
    checkout.done("ros2_ws/install/streampetr_build.json")
    checkout.done("pyproject.toml")
    assert checkout.steps() == ["packages", "interfaces"]
    assert checkout.steps(EXTRAS="view") == ["packages", "interfaces"]


def test_another_distribution_begins_anew(checkout: Checkout) -> None:
    for name in (
        ".venv/.created-wheels",
        ".venv/.installed-wheels-ros+dev",
        "ros2_ws/install/streampetr_build.json",
    ):
        checkout.done(name)
    sourced = {"ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": "/opt/ros/jazzy"}
    assert checkout.steps(**sourced) == ["environment", "packages", "interfaces"]
    script = checkout.make("-n", "setup", **sourced).stdout
    assert ".[distribution,dev]" in script


def test_an_environment_for_something_else_leaves_nothing_behind(checkout: Checkout) -> None:
    python = checkout.root / "fakepython"
    python.write_text('#!/bin/sh\ncase "$2" in *version_info*) echo 3.11;; venv) mkdir -p "$3";; esac\n')
    python.chmod(0o755)
    for name in (".venv/.created-wheels", ".venv/lib/libros.so", ".venv.old/rest_of_an_interruption"):
        checkout.done(name)
    done = checkout.make(
        ".venv/.created-jazzy", ROS_DISTRO="jazzy", AMENT_PREFIX_PATH="/opt/ros/jazzy", PYTHON=str(python)
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in checkout.root.glob(".venv*/*")] == [".created-jazzy"]


def fake_python(folder: Path, version: str, has_venv: bool) -> Path:
    path = folder / "fakepython"
    path.write_text(
        f'#!/bin/sh\ncase "$2" in *version_info*) echo {version};; *) exit {int(not has_venv)};; esac\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "has_venv", "expected"),
    [
        ("3.8", True, "is Python 3.8; 3.10 to 3.13 will do"),
        ("3.14", True, "is Python 3.14; 3.10 to 3.13 will do"),
        ("3.11", False, "apt-get install python3.11-venv"),
    ],
)
def test_a_python_that_will_not_do_is_named(
    checkout: Checkout, version: str, has_venv: bool, expected: str
) -> None:
    python = fake_python(checkout.root, version, has_venv)
    done = checkout.make("setup", f"PYTHON={python}")
    assert done.returncode != 0
    assert expected in done.stderr
    assert not list(checkout.root.glob(".venv/.created-*"))


def test_no_python_is_said(checkout: Checkout) -> None:
    done = checkout.make("setup", "PYTHON=/no/such/python")
    assert done.returncode != 0
    assert "Python 3.10 to 3.13 not found" in done.stderr
