"""What a run says: a line of JSON every so often, TensorBoard where it is installed, a sentence on the screen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

STAGES = ("data", "forward", "loss", "backward", "update")


class Stopwatch:
    """Seconds by stage, of the steps in which it runs: then the device is waited for at every mark.

    So it is run in few steps only; shares are exact and training is not slowed down.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.running = False
        self._last = 0.0

    def start(self, running: bool) -> None:
        """Begin a step."""
        self.running = running
        if running:
            self._synchronize()
            self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """A stage is done."""
        if self.running:
            self._synchronize()
            now = time.perf_counter()
            self.seconds[stage] += now - self._last
            self._last = now

    def shares(self) -> dict[str, float]:
        """Share of each stage since the last call."""
        total = sum(self.seconds.values()) or 1.0
        result = {stage: seconds / total for stage, seconds in self.seconds.items()}
        self.seconds = dict.fromkeys(STAGES, 0.0)
        return result

    def _synchronize(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


class RunLog:
    """Numbers of a run over its steps, appended to `log.jsonl` and TensorBoard's files in the run folder."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.file = (out / "log.jsonl").open("a", encoding="utf-8")
        self.board = _board(out)

    def write(self, step: int, kind: str, numbers: dict[str, Any]) -> None:
        """One line; TensorBoard gets numbers as `kind/name`, dictionaries of them as `kind/name/key`."""
        self.file.write(json.dumps({"step": step, "kind": kind, **numbers}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in numbers.items():
                parts = value if isinstance(value, dict) else {"": value}
                for part, number in parts.items():
                    self.board.add_scalar("/".join(filter(None, (kind, name, part))), number, step)

    def picture(self, step: int, name: str, picture: Any) -> None:
        """An RGB picture (H, W, 3) for TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write everything out."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def _board(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra [train]
        return None
    return SummaryWriter(str(out / "tensorboard"))


def peak_memory(device: torch.device) -> float:
    """Most device memory taken so far, GiB; 0 where the device does not tell."""
    if device.type == "cpu":
        return 0.0
    most = getattr(torch.get_device_module(device), "max_memory_allocated", None)
    return most(device) / 2**30 if most else 0.0


def sentence(step: int, steps: int, numbers: dict[str, Any]) -> str:
    """The line for the screen."""
    shares = " ".join(f"{stage} {numbers[f'share_{stage}']:.0%}" for stage in STAGES)
    memory = f", {numbers['memory_gib']:.1f} GiB" if numbers["memory_gib"] else ""
    skipped = f", {numbers['skipped']} skipped" if numbers["skipped"] else ""
    return (
        f"step {step}/{steps}: loss {numbers['loss']:.3f}, gradient {numbers['gradient']:.2f}, rate "
        f"{numbers['rate']:.2e}, {numbers['samples_per_s']:.2f} samples/s ({shares}){memory}{skipped}"
    )
