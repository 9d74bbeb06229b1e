"""`build` puts the interfaces and the ROS package into ros2_ws/install, above a distribution or the wheels.

    .venv/bin/python ros2_ws/build.py

What the distribution lacks is taken from `backfill/`; the rest of that folder is left alone. The result says in
`install/streampetr_build.json` what it was built for; another Python or distribution begins with empty folders.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parent
sys.path.insert(0, str(WORKSPACE))

import repair_wheels  # noqa: E402  (a script beside this one)

RECORD = "streampetr_build.json"


class BuildError(Exception):
    """Something that the machine lacks, or a build that failed; the message says what to do."""


def missing_tools(python_include: Path) -> list[str]:
    """What has to be installed before colcon can build: Debian package names."""
    needed = {"g++": "g++", "gcc": "gcc", "cmake": "cmake", "make": "make"}
    packages = [package for tool, package in needed.items() if shutil.which(tool) is None]
    if not (python_include / "Python.h").is_file():
        packages.append(f"python{sys.version_info.major}.{sys.version_info.minor}-dev")
    return packages


def lacking(packages: list[str], prefixes: list[Path]) -> list[str]:
    """Those of `packages` that no ROS prefix in `prefixes` has."""
    return [
        p for p in packages if not any((prefix / "share" / p / "package.xml").is_file() for prefix in prefixes)
    ]


def build_environment(base: Mapping[str, str], wheels: Path) -> tuple[dict[str, str], list[Path], str]:
    """Environment for colcon, the ROS prefixes below our own, and "distribution jazzy" or "wheels"."""
    environment = {name: value for name, value in base.items() if name != "COLCON_PREFIX_PATH"}
    # of an earlier build of ours nothing may be found: it would count as part of the distribution
    ours = str(WORKSPACE / "install")
    for name in ("AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH", "LD_LIBRARY_PATH", "PYTHONPATH"):
        entries = [e for e in environment.get(name, "").split(os.pathsep) if e and not e.startswith(ours)]
        environment[name] = os.pathsep.join(entries)
    environment["PATH"] = os.pathsep.join([str(wheels / "bin"), environment.get("PATH", os.defpath)])
    distribution = environment.get("ROS_DISTRO")
    if distribution and environment["AMENT_PREFIX_PATH"]:
        prefixes = [Path(entry) for entry in environment["AMENT_PREFIX_PATH"].split(os.pathsep)]
        return environment, prefixes, f"distribution {distribution}"
    environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(wheels)
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(
        filter(None, [f"{wheels}/lib", environment["LD_LIBRARY_PATH"]])
    )
    return environment, [wheels], "wheels"


def build(wheels: Path) -> str:
    """Build everything; returns one line that says what for.

    Raises:
        BuildError: when tools are missing, ROS 2 is absent or colcon fails (its output is in ros2_ws/log).
    """
    if missing := missing_tools(Path(sysconfig.get_paths()["include"])):
        raise BuildError(f"missing on this machine: {' '.join(missing)}; sudo apt-get install {' '.join(missing)}")
    environment, prefixes, kind = build_environment(os.environ, wheels)
    if absent := lacking(["rclpy", "rosidl_default_generators", "sensor_msgs"], prefixes):
        raise BuildError(
            f"no {', '.join(absent)} in {kind}; source a ROS 2 distribution or install the [ros] extra"
        )
    backfill = sorted(path.parent.name for path in WORKSPACE.glob("backfill/*/package.xml"))
    backfill = lacking(backfill, prefixes)
    target = {"ros": kind, "python": sys.version.split()[0], "prefix": str(wheels), "backfill": backfill}
    install = WORKSPACE / "install"
    record = install / RECORD
    if install.exists() and (not record.is_file() or json.loads(record.read_text()) != target):
        for folder in ("build", "install", "log"):
            shutil.rmtree(WORKSPACE / folder, ignore_errors=True)
    if kind == "wheels":
        import numpy

        repair_wheels.repair(wheels, sysconfig.get_paths()["include"], numpy.get_include())
    print("building the ROS 2 interfaces (about a minute the first time)", flush=True)
    colcon("streampetr_msgs", *backfill, environment=environment)
    # linked, not copied: what is edited is what runs
    colcon("streampetr", environment=environment, options=["--symlink-install"])
    record.write_text(json.dumps(target))
    return f"{kind}, Python {target['python']}, backfill: {', '.join(backfill) or 'nothing'}"


def colcon(*packages: str, environment: Mapping[str, str], options: list[str] | None = None) -> None:
    """Run `colcon build` for these packages into one merged prefix."""
    command = [sys.executable, "-m", "colcon", "--log-base", "log", "build", "--merge-install", *(options or [])]
    command += ["--base-paths", "src", "backfill", "--packages-select", *packages]
    command += ["--event-handlers", "desktop_notification-"]
    command += ["--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
    done = subprocess.run(
        command, cwd=WORKSPACE, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise BuildError(
            f"colcon build {' '.join(packages)} failed; see above and {WORKSPACE / 'log/latest_build'}"
        )


def main() -> int:
    """Build with this interpreter's environment."""
    try:
        print(f"built ros2_ws for {build(Path(sys.prefix))}")
    except BuildError as error:
        print(f"ros2_ws: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
