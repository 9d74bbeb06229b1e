"""A run that stops and goes on is the run that never stopped, to the last bit."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import pytest
import torch

from streampetr_core.detector import Detector
from streampetr_core.model import VARIANTS
from tests.training.conftest import TOY
from training import checkpointing
from training.checkpointing import ResumeError
from training.config import CheckpointConfig, NetworkConfig, RunConfig
from training.distributed import Processes
from training.loop import Trainer
from training.sampler import SamplerError


def trainer(config: RunConfig, source: Any, here: Processes, steps: int = 8) -> Trainer:
    return Trainer(config, source, steps, here, say=lambda text: None)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize(("batch_norm", "proposals"), [("frozen", 0), ("train", 0), ("train", 12)])
def test_two_steps_and_two_are_four(
    toy: RunConfig,
    toy_source: Any,
    one_process: Processes,
    batch_norm: Any,
    proposals: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights, optimiser, average, memory, position, and the numbers that dropout draws; as published, and with
    queries that begin with boxes."""
    monkeypatch.setitem(VARIANTS, "toy", replace(TOY, num_proposals=proposals, refines_boxes=proposals > 0))
    network = NetworkConfig(average=0.9, batch_norm=batch_norm)
    toy = replace(toy, network=network, checkpoint=CheckpointConfig(every=2, keep=9))
    assert toy.variant.dropout > 0
    straight = trainer(replace(toy, out=toy.out / "a"), toy_source(range(4)), one_process, 4)
    straight.run()
    cut = replace(toy, out=toy.out / "b")
    first = trainer(cut, toy_source(range(4)), one_process, 4)
    batches = iter(first.source)
    for _ in range(2):
        first.advance(next(batches))
    first.save()
    torch.manual_seed(99)
    second = trainer(cut, toy_source(range(4)), one_process, 4)
    second.restore(checkpointing.read(cut.out))
    second.run()
    a, b = checkpointing.read(toy.out / "a"), checkpointing.read(toy.out / "b")
    assert a["step"] == b["step"] == 4
    assert a["memory"] is not None
    for key in a:
        assert same(a[key], b[key]), key
    name = "pts_bbox_head.memory_embed.0.weight"
    assert not torch.equal(a["network"][name], a["average"]["weights"][name])


def test_dropout_and_memory_take_part(toy: RunConfig, toy_source: Any, one_process: Processes) -> None:
    """So that the test above would notice if either were lost: without it the next step differs."""
    run = trainer(toy, toy_source(range(4)), one_process)
    batches = iter(run.source)
    run.advance(next(batches))
    run.save()
    step = next(batches)
    after = {}
    for lost in ("nothing", "random", "memory"):
        again = trainer(toy, toy_source(range(4)), one_process)
        state = checkpointing.read(toy.out)
        if lost == "random":
            state["random"] = []
        elif lost == "memory":
            state["memory"] = None
        again.restore(state)
        again.advance(step)
        after[lost] = again.losses["loss_bbox"].item()
    assert len(set(after.values())) == 3


def test_ctrl_c_saves_and_the_run_goes_on(toy: RunConfig, toy_source: Any, one_process: Processes) -> None:
    class Interrupting(toy_source):
        def batch(self, number: int, first: bool = False) -> Any:
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(number, first)

    before = signal.getsignal(signal.SIGINT)
    run = trainer(toy, Interrupting(range(4)), one_process)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpointing.read(toy.out)["step"] == 4
    again = trainer(toy, toy_source(range(4)), one_process)
    again.restore(checkpointing.read(toy.out))
    again.run()
    assert again.step == 8
    assert checkpointing.read(toy.out)["source"]["step"] == 8


def test_old_checkpoints_go_and_broken_ones_are_named(
    toy: RunConfig, toy_source: Any, one_process: Processes
) -> None:
    toy = replace(toy, checkpoint=CheckpointConfig(every=1, keep=2))
    trainer(toy, toy_source(range(4)), one_process, 4).run()
    paths = checkpointing.checkpoints(toy.out)
    assert [path.name for path in paths] == ["step_00000003.pt", "step_00000004.pt"]
    assert not list(toy.out.rglob("*.tmp"))
    paths[1].write_bytes(paths[1].read_bytes()[:1000])
    with pytest.raises(ResumeError, match=r"step_00000004\.pt cannot be read .* remove it"):
        checkpointing.read(toy.out)
    with pytest.raises(ResumeError, match="no checkpoint to resume from"):
        checkpointing.read(toy.out / "elsewhere")


def test_another_batch_or_network_is_refused(toy: RunConfig, toy_source: Any, one_process: Processes) -> None:
    run = trainer(toy, toy_source(range(4)), one_process)
    run.advance(next(iter(run.source)))
    run.save()
    state = checkpointing.read(toy.out)
    fewer = replace(toy, train=replace(toy.train, batch=2))
    with pytest.raises(SamplerError, match="slots was 4, now it is 2"):
        trainer(fewer, toy_source(range(2)), one_process).restore(state)
    frozen = replace(toy, network=NetworkConfig(frozen=("img_neck",)))
    with pytest.raises(ResumeError, match="other learning parts"):
        trainer(frozen, toy_source(range(4)), one_process).restore(state)


@pytest.mark.parametrize("half", [False, True])
def test_exported_weights_load_into_a_detector(
    toy: RunConfig, toy_source: Any, one_process: Processes, half: bool
) -> None:
    toy = replace(toy, network=NetworkConfig(average=0.5), checkpoint=CheckpointConfig(half=half))
    run = trainer(toy, toy_source(range(4)), one_process, 2)
    run.run()
    path = toy.out / "latest.safetensors"
    detector = Detector.from_checkpoint(path, model="auto", device="cpu")
    assert detector.model_name == "toy"
    assert run.average is not None
    name = "pts_bbox_head.memory_embed.0.weight"
    loaded = detector._model.state_dict()[name]
    assert torch.allclose(loaded, run.average.weights[name], atol=1e-3 if half else 0, rtol=0)
    assert not torch.equal(loaded, run.network.state_dict()[name])
    assert path.stat().st_size < (0.6 if half else 1.1) * 4 * sum(p.numel() for p in run.network.parameters())
