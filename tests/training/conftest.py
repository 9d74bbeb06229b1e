"""A small rendered data set for the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from bag_tools.rendered.dataset_writer import write_dataset


@pytest.fixture(scope="session")
def rendered_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives of six key frames (scene-0103 and scene-0916 of mini_val), 416x234; only to be read."""
    root = tmp_path_factory.mktemp("rendered") / "data"
    write_dataset(root, 2, 3.0, seed=5, size=(416, 234), device="cpu")
    return root
