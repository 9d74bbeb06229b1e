"""The table that `streampetr bench` prints."""

from __future__ import annotations

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from streampetr_core.bench import BenchResult, device_name
from streampetr_core.detector import Detector

_WHAT = {
    "decode": "six JPEGs, in threads",
    "prepare": "resize, crop, normalise, in threads",
    "geometry": "poses, reset rules, position embedding (new: the robot moves)",
    "backbone": "copy to the device, backbone, neck",
    "head": "memory in, decoder, heads, memory out",
    "boxes": "top-k, decoding, copy back, base_link",
}


def print_bench(result: BenchResult, detector: Detector, size: str, jpeg_bytes: int, warm_up: int) -> None:
    """Percentiles by stage, the whole frame, the ratio to plain PyTorch and the circumstances."""
    total = result.total
    table = Table(title=f"{detector.model_name}: milliseconds a frame", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("stage")
    for title in ("p50", "p90", "p99", "share"):
        table.add_column(title, justify="right")
    table.add_column("what it includes", style="dim")
    rows = [*result.stages.items(), ("whole frame", list(total))]
    for stage, values in rows:
        if stage == "whole frame":
            table.add_section()
        p50, p90, p99 = np.percentile(values, (50, 90, 99))
        share = f"{np.sum(values) / total.sum():.0%}"
        table.add_row(
            stage, f"{p50:.1f}", f"{p90:.1f}", f"{p99:.1f}", share, _WHAT.get(stage, "JPEGs in, boxes out")
        )
    if result.plain:
        p50, p90, p99 = np.percentile(result.plain, (50, 90, 99))
        what = f"the same, one camera after the other, not optimised ({len(result.plain)} frames)"
        table.add_row("plain eager fp32", f"{p50:.1f}", f"{p90:.1f}", f"{p99:.1f}", "", what)
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    if result.plain:
        ratio = np.median(total) / np.median(result.plain)
        console.print(f"takes {ratio:.2f} of plain eager fp32 PyTorch (medians, same run)", highlight=False)
    height, width = detector.input_size
    console.print(
        f"{device_name(detector.device)}; torch {torch.__version__}, {torch.get_num_threads()} threads, float32; "
        f"6 images {size}, {jpeg_bytes // 1000} kB each, network input {width}x{height}; "
        f"{len(total)} frames after {warm_up} of warm-up",
        highlight=False,
        style="dim",
    )
