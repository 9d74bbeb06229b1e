"""Fixtures for every test: the shared reference data, where it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("STREAMPETR_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference vectors and real keyframes; in CI its absence is a failure, elsewhere a skip."""
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"reference data not found at {SHARED}")
        pytest.skip(f"reference data not found at {SHARED} (set STREAMPETR_SHARED)")
    return SHARED
