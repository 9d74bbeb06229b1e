"""What every verb of the command line shares: typed arguments, progress, and outputs that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from streampetr_core.errors import StreamPETRError

T = TypeVar("T")

_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class OutputError(StreamPETRError):
    """An output path that exists already or cannot be written."""


def parse(
    arguments_class: type[T], verb: str, argv: list[str], example: str = "", *, default: T | None = None
) -> T:
    """The dataclass `arguments_class` filled from `argv` by tyro.

    The class docstring is the help text; `example` is a full command line shown below it. With a `default`, whose
    values stay where `argv` says nothing, nested dataclasses are sections: `--section.field value`.
    """
    import tyro

    description = (arguments_class.__doc__ or "").strip()
    if example:
        description += f"\n\nexample: {example}"
    if default is not None:
        return tyro.cli(
            arguments_class, prog=f"streampetr {verb}", args=argv, description=description, default=default
        )
    return tyro.cli(
        arguments_class,
        prog=f"streampetr {verb}",
        args=argv,
        description=description,
        config=(tyro.conf.OmitArgPrefixes,),
    )


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` under a progress bar on standard error; silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield from bar.track(items, total=total, description=description)


def check_writable(folder: Path | str) -> None:
    """Make an output folder and see that it can be written to: before the work, not after it.

    Raises:
        OutputError: when it cannot.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be made: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise OutputError(f"{path} cannot be written to; choose another output path")


@contextlib.contextmanager
def atomic_output(path: Path | str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` to write a file or a folder to; renamed to `path` when the block ends well.

    Parent folders are made. On any exception, Ctrl-C too, the temporary is removed and `path` is as before.

    Raises:
        OutputError: when `path` exists and `overwrite` is False, its folder cannot be written or the disk is full.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; choose another path or remove it first")
    check_writable(target.parent)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        if target.is_dir() and temporary.exists():
            shutil.rmtree(target)
        if temporary.exists():
            os.replace(temporary, target)
    except OSError as error:
        if str(temporary) not in str(error.filename) and error.errno not in _DISK_TROUBLE:
            raise
        raise OutputError(f"{target} cannot be written: {error.strerror}; choose another output path") from error
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
