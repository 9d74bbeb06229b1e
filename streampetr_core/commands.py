"""Verbs of the core: `verify` and `bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from streampetr_core.console import parse, progress


@dataclass
class VerifyArguments:
    """Compare the network with reference vectors; exits with 1 where one frame is beyond tolerance.

    Each file names its network; weights are made by the recipe, nothing is downloaded.
    """

    goldens: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Reference files, golden_*.npz; input files are looked up beside them."""
    jpeg: Path | None = None
    """Folder with the camera images the inputs were made from; `jpeg` beside the first file where there is one."""
    threads: int = 0
    """CPU threads; 0 = as torch chooses."""


def verify(argv: list[str]) -> int:
    """`streampetr verify GOLDEN.npz ...`; 0 = everything within tolerance, 1 = not."""
    arguments = parse(
        VerifyArguments, "verify", argv, "streampetr verify golden/golden_stream_stream_petr_r50_428q.npz"
    )
    import torch

    from streampetr_core.golden import open_golden
    from streampetr_core.verify import check_pixels, verify_golden
    from streampetr_core.verify_table import print_reports

    if not arguments.goldens:
        from streampetr_core.golden import GoldenError

        raise GoldenError("no reference file given; name at least one golden_*.npz")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    goldens = [open_golden(path) for path in arguments.goldens]
    total = sum(len(golden.frames) for golden in goldens)
    frames = (report for golden in goldens for report in verify_golden(golden))
    reports = list(progress(frames, "frames", total))
    inputs = sorted({golden.input_path for golden in goldens if golden.input_path is not None})
    folder = arguments.jpeg or arguments.goldens[0].parent / "jpeg"
    pixels = {}
    if inputs and (arguments.jpeg is not None or folder.is_dir()):
        pixels = {path.name: check_pixels(path, folder) for path in inputs}
    return 0 if print_reports(reports, pixels) else 1
