"""Backfill of message_filters; see ../README.md."""

from setuptools import setup

NAME = "message_filters"

setup(
    name=NAME,
    version="7.1.1",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    license="Apache-2.0",
    maintainer="streampetr contributors",
    maintainer_email="streampetr@example.org",
    description="Filters of message streams, in Python, as far as streampetr needs it.",
    zip_safe=False,
)
