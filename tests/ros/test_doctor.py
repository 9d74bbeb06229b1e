"""The doctor says what works, and why a bag cannot be run; its exit status says whether something is broken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from streampetr import doctor
from streampetr.doctor import Finding

from bag_tools import layout, messages
from bag_tools.convert import BAG_VERSION
from streampetr_core.errors import StreamPETRError


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.ros
def test_a_machine_that_was_set_up_is_sound() -> None:
    findings = by_name(doctor.examine_machine())
    assert {name: f.text for name, f in findings.items() if f.state == "broken"} == {}
    assert findings["torch"].text.startswith("2.13")
    assert findings["nuscenes-devkit"].text == "1.2.0"
    assert "was sent and received" in findings["messages"].text
    assert "hashes" in findings["vision_msgs"].text


def test_interfaces_not_built_are_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "INSTALL", tmp_path)
    (finding,) = doctor._ros()
    assert (finding.state, finding.advice) == ("broken", "run `make setup`")


def test_a_shell_with_another_distribution_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "streampetr_build.json").write_text('{"ros": "wheels", "backfill": []}')
    monkeypatch.setattr(doctor, "INSTALL", tmp_path)
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/jazzy")
    (finding,) = doctor._ros()
    assert finding.state == "broken"
    assert "distribution jazzy" in finding.text
    assert "built for wheels" in finding.text


def test_one_broken_check_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Finding]:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(doctor, "_torch", broken)
    monkeypatch.setattr(doctor, "_ros", list)
    findings = doctor.examine_machine()
    assert [f.text for f in findings if f.state == "broken"] == [
        "OSError: libtorch.so: cannot open shared object file"
    ]
    assert "numpy" in by_name(findings)
    assert doctor.status(findings) == 1


def test_a_note_is_not_an_error() -> None:
    assert doctor.status([Finding("disk", "note", "1 GB free"), Finding("python", "ok", "3.11")]) == 0


def test_changed_hashes_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "share" / "vision_msgs" / "msg"
    folder.mkdir(parents=True)
    for name, value in (doctor.VISION_MSGS | {"BoundingBox3D": "RIHS01_0"}).items():
        text = f'{{"type_hashes": [{{"type_name": "vision_msgs/msg/{name}", "hash_string": "{value}"}}]}}'
        (folder / f"{name}.json").write_text(text)
    monkeypatch.setattr(doctor, "ros_environment", lambda: {"AMENT_PREFIX_PATH": str(tmp_path)})
    (finding,) = doctor._vision_msgs()
    assert finding.state == "note"
    assert finding.text.startswith("BoundingBox3D differ")


def test_a_bag_without_images_or_calibration_is_broken(write_bag: Callable[..., Path], tmp_path: Path) -> None:
    findings = doctor.examine_bag(write_bag(tmp_path / "bag"))  # images, but no camera_info
    assert doctor.status(findings) == 1
    problem = by_name(findings)["problem"].text
    assert "camera_info" in problem
    assert by_name(findings)["/tf"].text.startswith("tf2_msgs/msg/TFMessage, ")


def test_an_empty_bag_is_broken(tmp_path: Path) -> None:
    with Writer(tmp_path / "bag", version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection(layout.TF_TOPIC, messages.TF_MESSAGE, typestore=messages.typestore())
    findings = doctor.examine_bag(tmp_path / "bag")
    assert doctor.status(findings) == 1
    assert "holds no messages" in by_name(findings)["problem"].text


@pytest.mark.parametrize("content", [b"", b"broken", b"\x89MCAP0\r\n\x00\x00"])
def test_what_is_no_bag_is_one_clear_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    path.write_bytes(content)
    with pytest.raises(StreamPETRError, match=r"drive\.mcap"):
        doctor.run(path)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streampetr_cli", "doctor", str(tmp_path / "no.mcap")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no.mcap does not exist" in done.stderr
