"""Verbs of the core: `bench`, and what `verify` does without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streampetr_core.console import parse, progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streampetr_core.golden import Golden
    from streampetr_core.verify import FrameReport


def verify_inference(goldens: list[Golden], jpeg: Path | None) -> bool:
    """Run every frame of the reference files, print one table; True where all is within tolerance.

    `jpeg` is the folder with the original camera images; `jpeg` beside the first file where None and there is one.
    """
    from streampetr_core.verify import check_pixels, verify_golden
    from streampetr_core.verify_backbone import verify_backbone
    from streampetr_core.verify_table import print_reports

    def frames_of(golden: Golden) -> Iterable[FrameReport]:
        return (verify_backbone(golden),) if golden.kind == "backbone" else verify_golden(golden)

    total = sum(len(golden.frames) for golden in goldens)
    frames = (report for golden in goldens for report in frames_of(golden))
    reports = list(progress(frames, "frames", total))
    streams = [golden for golden in goldens if golden.kind != "backbone"]
    inputs = sorted({golden.input_path for golden in streams if golden.input_path.is_file()})
    folder = jpeg or goldens[0].path.parent / "jpeg"
    pixels = {}
    if inputs and (jpeg is not None or folder.is_dir()):
        pixels = {path.name: check_pixels(path, folder) for path in inputs}
    return print_reports(reports, pixels)


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
