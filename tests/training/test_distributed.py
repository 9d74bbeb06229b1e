"""Several processes learn what one learns with the batch of all of them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from training import checkpointing
from training.distributed import DeviceError, Processes, choose_device

WORKER = Path(__file__).with_name("gloo_worker.py")


@pytest.fixture(scope="module")
def worker() -> Any:
    spec = importlib.util.spec_from_file_location("gloo_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_processes_give_the_losses_of_one_with_their_batch(tmp_path: Path, worker: Any) -> None:
    """By torchrun and gloo: losses, gradient norm and weights over three steps; then one process goes on alone."""
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(WORKER))
    for name, arguments in (("two", command), ("one", (str(WORKER),))):
        done = subprocess.run(
            (sys.executable, *arguments, str(tmp_path / name)), capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
    two, one = (torch.load(tmp_path / name / "losses.pt", weights_only=True) for name in ("two", "one"))
    assert len(two) == len(one) == worker.STEPS
    for step_two, step_one in zip(two, one, strict=True):
        assert step_two.keys() == step_one.keys()
        for name, value in step_one.items():
            assert step_two[name] == pytest.approx(value, rel=2e-4), name

    here = Processes(0, 1, torch.device("cpu"))
    after = []
    for name in ("two", "one"):
        alone = worker.make_trainer(tmp_path / name, here)
        alone.restore(checkpointing.read(tmp_path / name))
        alone.advance(next(iter(alone.source)))
        after.append(float(torch.stack(list(alone.losses.values())).sum().detach()))
        assert alone.memory is not None
        assert len(alone.memory.embedding) == worker.SLOTS
    assert after[0] == pytest.approx(after[1], rel=1e-3)


def test_devices_are_named_or_refused() -> None:
    assert choose_device("cpu").type == "cpu"
    if not torch.accelerator.is_available():
        assert choose_device("auto", local_rank=3) == torch.device("cpu")
        with pytest.raises(DeviceError, match="'cuda' is not here"):
            choose_device("cuda")
    with pytest.raises(DeviceError, match="is not known"):
        choose_device("gpu7")
