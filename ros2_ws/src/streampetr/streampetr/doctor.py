"""`streampetr doctor`: what of the machine works, or what a bag contains and what it lacks to be run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from streampetr.environment import INSTALL, ros_distribution, ros_environment
from streampetr.graph import OUTPUT_TOPICS
from streampetr_core.errors import StreamPETRError

State = Literal["ok", "note", "broken"]
"""ok; works, but something could be better; needed and does not work."""

VISION_MSGS = {
    "Detection3DArray": "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "Detection3D": "RIHS01_ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b",
    "ObjectHypothesisWithPose": "RIHS01_41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc",
    "ObjectHypothesis": "RIHS01_51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90",
    "BoundingBox3D": "RIHS01_bbb73a65c163d7f9bb29009c7bde9f7faa576bd2d23299c4511d19230dab4698",
}
"""Type hashes of vision_msgs 4 as the distributions ship it: with the same hash types are the same on the wire."""

SOCKET_BYTES = 4 << 20
"""Receive buffer that holds a raw 1600x900 image between two machines."""

_ROUND_TRIP = """
import json, os, time, rclpy
from rclpy.utilities import get_rmw_implementation_identifier
from streampetr_msgs.msg import Box3DArray
rclpy.init()
node = rclpy.create_node("streampetr_doctor_%d" % os.getpid())
received = []
topic = "~/ping"
node.create_subscription(Box3DArray, topic, received.append, 1)
publisher = node.create_publisher(Box3DArray, topic, 1)
end = time.monotonic() + 10
while not received and time.monotonic() < end:
    publisher.publish(Box3DArray(scene="ping"))
    rclpy.spin_once(node, timeout_sec=0.1)
print(json.dumps({"rmw": get_rmw_implementation_identifier(), "received": bool(received)}))
node.destroy_node()
rclpy.shutdown()
"""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report: what was looked at, how it is, and what to do about it."""

    name: str
    state: State
    text: str
    advice: str = ""


def examine_machine() -> list[Finding]:
    """Look at everything that the project uses; no check takes down another."""
    checks: list[Callable[[], list[Finding]]] = [_python, _torch, _evaluation, _ros, _vision_msgs, _system]
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken installation can raise anything, and the report must go on
            name = check.__name__.strip("_")
            findings.append(Finding(name, "broken", f"{type(error).__name__}: {error}", "run `make setup`"))
    return findings


def examine_bag(path: Path) -> list[Finding]:
    """What a bag contains, and whether detections can be made of it.

    Raises:
        BagError: when it cannot be opened.
    """
    from bag_tools.bag_reader import describe
    from bag_tools.layout import SAMPLE_TOPIC
    from bag_tools.messages import BOX_ARRAY

    bag = describe(path)
    seconds = max(bag.seconds, 1e-9)
    findings = [Finding("bag", "ok", f"{bag.path}: {bag.seconds:.1f} s, {len(bag.topics)} topics")]
    for topic in bag.topics:
        rate = f", {(topic.count - 1) / seconds:.1f} Hz" if topic.count > 1 else ""
        findings.append(Finding(topic.name, "ok", f"{topic.type_name}, {topic.count} messages{rate}"))
    for camera in bag.cameras:
        text = f"{camera.width}x{camera.height}, calibrated, {camera.images} images"
        findings.append(Finding(camera.name, "ok" if camera.images else "note", text))
    if bag.ego_motion:
        findings.append(Finding("ego motion", "ok", bag.ego_motion))
    if bag.runnable:
        named = "named by the bag" if bag.has_samples else f"grouped by time, there is no {SAMPLE_TOPIC}"
        truth = "with ground truth" if bag.has_ground_truth else "without ground truth"
        findings.append(Finding("camera sets", "ok", f"{bag.sets}, {named}; {truth}"))
    boxes = [topic.name for topic in bag.topics if topic.type_name == BOX_ARRAY and topic.name in OUTPUT_TOPICS]
    if boxes and not bag.runnable:
        findings.append(Finding("results", "ok", f"what the nodes said, on {', '.join(boxes)}"))
        verdict = f"streampetr track {path} --out DIR, streampetr evaluate --bags DRIVE {path} --out DIR"
        return [*findings, Finding("verdict", "ok", verdict)]
    findings += [Finding("problem", "note" if bag.runnable else "broken", problem) for problem in bag.problems]
    verdict = f"streampetr detect {path} --weights FILE --out DIR, streampetr replay {path}"
    if not bag.runnable:
        verdict = "cannot be run"
    return [*findings, Finding("verdict", "ok" if bag.runnable else "broken", verdict)]


def show(findings: list[Finding]) -> None:
    """Print the report as a table, advice below its line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "note": "yellow", "broken": "red"}
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        state = Text(finding.state, style=colours[finding.state])
        table.add_row(state, Text(finding.name, style="bold"), Text(finding.text))
        if finding.advice:
            table.add_row("", "", Text(f"-> {finding.advice}", style="dim"))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def status(findings: list[Finding]) -> int:
    """Exit status: 1 when something needed is broken."""
    return int(any(finding.state == "broken" for finding in findings))


def _python() -> list[Finding]:
    version = platform.python_version()
    supported = (3, 10) <= sys.version_info[:2] <= (3, 13)
    advice = "" if supported else "make clean-all; make setup PYTHON=python3.11"
    return [Finding("python", "ok" if supported else "broken", f"{version}, {sys.prefix}", advice)]


def _torch() -> list[Finding]:
    import torch

    from streampetr_core.detector import BACKENDS

    text = f"{torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()} processors"
    findings = [Finding("torch", "ok", text)]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        findings.append(Finding("devices", "ok", f"cpu, {', '.join(names)}"))
    else:
        findings.append(Finding("devices", "note", "cpu; no CUDA device, so the large models are slow"))
    findings.append(Finding("backends", "ok", ", ".join(name for name in BACKENDS if name != "auto")))
    return findings


def _evaluation() -> list[Finding]:
    packages = {"nuscenes-devkit": "1.2.0", "motmetrics": "1.4.0", "rosbags": "0.11.9", "numpy": ""}
    findings = []
    for package, tried in packages.items():
        version = importlib.metadata.version(package)
        is_tried = not tried or version == tried
        advice = "" if is_tried else f"the official numbers were checked with {tried}"
        findings.append(Finding(package, "ok" if is_tried else "note", version, advice))
    return findings


def _ros() -> list[Finding]:
    distribution = ros_distribution()
    kind = f"distribution {distribution}" if distribution else "PyPI wheels"
    record = INSTALL / "streampetr_build.json"
    if not record.is_file():
        return [Finding("ros", "broken", f"{kind}; interfaces not built in {INSTALL}", "run `make setup`")]
    built = json.loads(record.read_text())
    backfill = ", ".join(built["backfill"]) or "nothing"
    findings = [Finding("ros", "ok", f"{kind}; interfaces built for {built['ros']}; backfill: {backfill}")]
    if built["ros"] != (f"distribution {distribution}" if distribution else "wheels"):
        text = f"{kind} in this shell, but the interfaces were built for {built['ros']}"
        return [Finding("ros", "broken", text, "run `make setup` in this shell")]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ROUND_TRIP],
            env=ros_environment(), capture_output=True, text=True, timeout=40,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [*findings, Finding("messages", "broken", "a node did not start within 40 s", _NETWORK)]
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [*findings, Finding("messages", "broken", reason, "run `make setup`")]
    answer = json.loads(done.stdout.splitlines()[-1])
    if not answer["received"]:
        return [
            *findings,
            Finding("messages", "broken", f"a node does not hear itself ({answer['rmw']})", _NETWORK),
        ]
    return [*findings, Finding("messages", "ok", f"a Box3DArray was sent and received through {answer['rmw']}")]


_NETWORK = "look at ROS_DOMAIN_ID, RMW_IMPLEMENTATION, the firewall and free space in /dev/shm"


def _vision_msgs() -> list[Finding]:
    prefixes = ros_environment()["AMENT_PREFIX_PATH"].split(os.pathsep)
    hashes = installed_hashes("vision_msgs", [Path(prefix) for prefix in prefixes])
    if not hashes:
        return [Finding("vision_msgs", "broken", "not installed", "run `make setup`")]
    different = [name for name, expected in VISION_MSGS.items() if hashes.get(name) != expected]
    if different:
        text = f"{', '.join(different)} differ from those of the distributions"
        return [Finding("vision_msgs", "note", text, "other machines on the network may not understand ours")]
    return [Finding("vision_msgs", "ok", f"the {len(VISION_MSGS)} types have the distributions' hashes")]


def installed_hashes(package: str, prefixes: list[Path]) -> dict[str, str]:
    """Type hash of each message of an interface package, from the first prefix that has it."""
    folder = next((p for p in (q / "share" / package / "msg" for q in prefixes) if p.is_dir()), None)
    if folder is None:
        return {}
    hashes = {}
    for path in folder.glob("*.json"):
        for entry in json.loads(path.read_text())["type_hashes"]:
            if entry["type_name"] == f"{package}/msg/{path.stem}":
                hashes[path.stem] = entry["hash_string"]
    return hashes


def _system() -> list[Finding]:
    findings = []
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    findings.append(Finding("disk", "ok" if free > 5 else "note", f"{free:.0f} GB free in {Path.cwd()}"))
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / 1e6
        advice = "" if free > 200 else "Fast DDS passes images through it; in a container: --shm-size=1g"
        findings.append(Finding("/dev/shm", "note" if advice else "ok", f"{free:.0f} MB free", advice))
    setting = Path("/proc/sys/net/core/rmem_max")
    if setting.is_file():
        size = int(setting.read_text())
        advice = (
            ""
            if size >= SOCKET_BYTES
            else f"cameras on another machine: sysctl -w net.core.rmem_max={SOCKET_BYTES}"
        )
        findings.append(Finding("socket buffer", "note" if advice else "ok", f"{size >> 10} KiB", advice))
    return findings


class DoctorError(StreamPETRError):
    """A path that is no bag."""


def run(bag: Path | None) -> int:
    """Print the report on the machine, or on a bag; returns the exit status.

    Raises:
        DoctorError: when there is nothing at `bag`.
    """
    if bag is not None and not bag.exists():
        raise DoctorError(f"{bag} does not exist; give a rosbag2 folder or an .mcap file")
    findings = examine_machine() if bag is None else examine_bag(bag)
    show(findings)
    return status(findings)
