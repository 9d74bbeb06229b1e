"""Outputs that are whole or absent."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from streampetr_core.console import OutputError, atomic_output


def _fill_the_disk(target: Path) -> None:
    with atomic_output(target) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_into_no_folder(target: Path) -> None:
    with atomic_output(target) as temporary:
        (temporary / "file").write_text("the folder was never made")


def _miss_an_input(target: Path) -> None:
    with atomic_output(target) as temporary:
        temporary.write_text("half")
        target.with_name("another").read_text()


@pytest.mark.parametrize(
    ("work", "error", "says"),
    [
        (_fill_the_disk, OutputError, "out cannot be written: No space"),
        (_write_into_no_folder, OutputError, "out cannot be written: No such file"),
        (_miss_an_input, FileNotFoundError, "another"),
    ],
)
def test_a_failure_is_named_and_leaves_nothing(
    work: Callable[[Path], None], error: type[Exception], says: str, tmp_path: Path
) -> None:
    """Trouble with the output is the user's to mend; all other errors stay what they are."""
    with pytest.raises(error, match=says):
        work(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
