"""Backfill of cv_bridge; see ../README.md."""

from setuptools import setup

NAME = "cv_bridge"

setup(
    name=NAME,
    version="4.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    license="Apache-2.0",
    maintainer="streampetr contributors",
    maintainer_email="streampetr@example.org",
    description="Conversion between image messages and numpy arrays, as far as streampetr needs it.",
    zip_safe=False,
)
