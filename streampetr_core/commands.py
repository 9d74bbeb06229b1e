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


@dataclass
class BenchArguments:
    """Measure where a frame's time goes, from JPEGs to boxes, and how that compares with plain eager float32."""

    model: str = "r50_704_428q"
    """Variant of the network."""
    weights: str = "recipe"
    """A file, "recipe" or "random"; the time does not depend on it."""
    frames: int = 20
    """Frames measured."""
    warm_up: int = 3
    """Frames before them."""
    device: str = "auto"
    """cpu, cuda or auto."""
    backend: str = "auto"
    """What runs the network: torch or auto."""
    threads: int = 0
    """CPU threads of the network; 0 = as torch chooses."""
    size: str = "1600x900"
    """Size of the camera images."""
    images: Path | None = None
    """A folder with six JPEGs of that size; made up where not given."""
    plain: bool = True
    """Measure plain eager float32 too, for the ratio."""


def bench(argv: list[str]) -> int:
    """`streampetr bench`: a table of p50, p90 and p99 by stage."""
    arguments = parse(BenchArguments, "bench", argv, "streampetr bench --model tiny --frames 50")
    import torch

    from streampetr_core import bench as benchmark
    from streampetr_core.bench_table import print_bench
    from streampetr_core.detector import Detector
    from streampetr_core.model import build_model

    if arguments.frames < 1 or arguments.warm_up < 1:
        raise benchmark.BenchError(
            f"frames {arguments.frames}, warm-up {arguments.warm_up}: both must be at least 1"
        )
    width, _, height = arguments.size.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise benchmark.BenchError(f"size '{arguments.size}' is not WIDTHxHEIGHT, for example 1600x900")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rig = benchmark.ring_rig(int(width), int(height))
    jpegs = benchmark.camera_jpegs(arguments.images, int(width), int(height), len(rig))
    detector = Detector.from_checkpoint(
        arguments.weights, rig, model=arguments.model, backend=arguments.backend, device=arguments.device
    )
    plain = build_model(detector.model_name).to(detector.device) if arguments.plain else None
    result = benchmark.run_bench(
        detector,
        plain,
        jpegs,
        rig,
        arguments.frames,
        arguments.warm_up,
        lambda rounds: progress(rounds, "frames"),
    )
    print_bench(result, detector, arguments.size, sum(map(len, jpegs)) // len(jpegs), arguments.warm_up)
    return 0
