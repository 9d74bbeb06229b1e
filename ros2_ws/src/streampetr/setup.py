"""The ROS 2 package: two nodes, launch files and layouts. Its `launch` folder is the top-level one."""

from pathlib import Path

from setuptools import setup

NAME = "streampetr"


def files_of(folder: str) -> list[tuple[str, list[str]]]:
    """Data files under `folder`, installed at the same place below share/streampetr."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found.setdefault(f"share/{NAME}/{path.parent.as_posix()}", []).append(path.as_posix())
    return sorted(found.items())


setup(
    name=NAME,
    version="0.1.0",
    description="Camera-only 3D detection and tracking: StreamPETR as ROS 2 nodes.",
    license="Apache-2.0",
    maintainer="streampetr contributors",
    maintainer_email="streampetr@example.org",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *files_of("launch"),
        *files_of("config"),
    ],
    install_requires=["setuptools"],
    entry_points={
        "console_scripts": [
            f"perception_node = {NAME}.perception_node:main",
            f"tracker_node = {NAME}.tracker_node:main",
            "streampetr = streampetr_cli:main",  # for replay.launch.py and `ros2 run streampetr streampetr VERB`
        ]
    },
    zip_safe=False,
)
