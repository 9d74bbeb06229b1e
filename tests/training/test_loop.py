"""What a step computes in every mode, and what happens when numbers go wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from streampetr_core.model import VARIANTS
from training.augmentation import NO_AUGMENTATION, Augmentation
from training.batch import Batch
from training.config import ConfigError, NetworkConfig, RunConfig, TrainConfig
from training.distributed import Processes
from training.loop import Trainer, TrainingError
from training.network import build_network, prepare_network
from training.step import slot_noise

CPU = torch.device("cpu")


def make(config: RunConfig, source: Any, here: Processes, **network: Any) -> Trainer:
    config = replace(config, network=NetworkConfig(**network)) if network else config
    return Trainer(config, source, 8, here, say=lambda text: None)


def still(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Without the randomness that hangs on how often it is asked for."""
    monkeypatch.setitem(VARIANTS, "toy", replace(config.variant, dropout=0.0))
    return replace(config, augmentation=Augmentation(grid_mask=0.0))


def first_losses(trainer: Trainer, batches: tuple[Batch, ...]) -> dict[str, float]:
    trainer.advance(batches)
    return {name: float(loss.detach()) for name, loss in trainer.losses.items()}


def test_losses_fall(toy: RunConfig, toy_source: Any, one_process: Processes) -> None:
    """Four frames again and again."""
    trainer = make(replace(toy, train=replace(toy.train, mode="single_frame")), toy_source(range(4)), one_process)
    step = next(iter(trainer.source))
    totals = [sum(first_losses(trainer, step).values()) for _ in range(8)]
    assert totals[-1] < 0.9 * totals[0]
    assert trainer.memory is None


def test_streaming_carries_the_memory_but_no_gradient(
    toy: RunConfig, toy_source: Any, one_process: Processes
) -> None:
    trainer = make(toy, toy_source(range(4)), one_process)
    steps = iter(trainer.source)
    trainer.advance(next(steps))
    assert trainer.memory is not None
    assert not trainer.memory.embedding.requires_grad
    assert trainer.memory.embedding.shape == (4, 24, 64)
    before = trainer.memory.reference.clone()
    trainer.advance(next(steps))
    assert not torch.equal(trainer.memory.reference, before)


def test_a_window_equals_streaming_from_a_cold_start(
    toy: RunConfig, toy_source: Any, one_process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last frames' losses, when nothing is learned in between; the noise of denoising hangs on the step."""
    toy = still(toy, monkeypatch)
    toy = replace(toy, denoising=replace(toy.denoising, groups=0))
    window = next(iter(toy_source(range(2), window=4)))
    train = replace(toy.train, batch=2, mode="sliding_window", window=4, gradient_frames=2)
    sliding = make(replace(toy, train=train), None, one_process)
    losses = first_losses(sliding, window)
    assert {name.split("_", 2)[1] for name in losses} == {"2", "3"}
    assert "frame_3_loss_cls" in losses
    assert "frame_2_enc_loss_iou" in losses

    streaming = make(replace(toy, train=replace(toy.train, batch=2)), None, one_process)
    monkeypatch.setattr(streaming.optimizer, "step", lambda *arguments: None)
    for index, batch in enumerate(window):
        found = first_losses(streaming, (batch,))
        for name, loss in found.items() if index >= 2 else ():
            assert losses[f"frame_{index}_{name}"] == pytest.approx(loss, rel=1e-4), name


@pytest.mark.parametrize("batch_norm", ["frozen", "affine"])
def test_low_memory_gives_the_same_gradients(
    toy: RunConfig, toy_source: Any, one_process: Processes, batch_norm: Any
) -> None:
    """Dropout included: recomputed activations draw the same numbers."""
    found = []
    for memory in ("normal", "low"):
        trainer = make(
            replace(toy, train=replace(toy.train, memory=memory)),
            toy_source(range(4)),
            one_process,
            batch_norm=batch_norm,
        )
        losses = first_losses(trainer, next(iter(trainer.source)))
        found.append((losses, trainer.gradient, trainer.network.state_dict()))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
    assert found[0][2].keys() == found[1][2].keys()


def test_half_precision_keeps_geometry_and_losses_whole(
    toy: RunConfig, toy_source: Any, one_process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = still(toy, monkeypatch)
    seen: set[torch.dtype] = set()
    of_positions: set[torch.dtype] = set()
    found = {}
    for precision in ("float32", "bf16"):
        trainer = make(
            replace(toy, train=replace(toy.train, precision=precision)), toy_source(range(4)), one_process
        )
        trainer.network.get_submodule("img_backbone.layer4.0.conv1").register_forward_hook(
            lambda module, inputs, output: seen.add(output.dtype)
        )
        trainer.network.pts_bbox_head.position_encoder[0].register_forward_hook(
            lambda module, inputs, output: of_positions.add(output.dtype)
        )
        found[precision] = first_losses(trainer, next(iter(trainer.source)))
        assert trainer.memory is not None
        assert trainer.memory.embedding.dtype == torch.float32
    assert seen == {torch.float32, torch.bfloat16}
    assert of_positions == {torch.float32}
    for name, loss in found["float32"].items():
        assert found["bf16"][name] == pytest.approx(loss, rel=0.05, abs=0.05), name
    with pytest.raises(ConfigError, match="fp16 is for accelerators"):
        TrainConfig(precision="fp16").precision_on("cpu")


def test_features_of_a_frozen_backbone_are_computed_once(
    toy: RunConfig, toy_source: Any, one_process: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps, three of them on the same frames: the losses are those of features computed anew each time."""
    variant = replace(toy.variant, num_proposals=12, refines_boxes=True, dropout=0.0, has_auxiliary_head=False)
    monkeypatch.setitem(VARIANTS, "toy", variant)
    found, seen = {}, []
    for keep in (False, True):
        train = replace(toy.train, mode="single_frame", keep_features=keep)
        network = NetworkConfig(frozen=("img_backbone", "img_neck"))
        config = replace(toy, train=train, augmentation=NO_AUGMENTATION, network=network)
        trainer = make(config, toy_source(range(4)), one_process)
        extract = trainer.network.extract_features

        def watched(images: torch.Tensor, extract: Any = extract) -> Any:
            seen.append(len(images))
            return extract(images)

        monkeypatch.setattr(trainer.network, "extract_features", watched)
        steps = iter(trainer.source)
        step = next(steps)
        found[keep] = [first_losses(trainer, each) for each in (step, step, next(steps), step)]
    assert seen == [4, 4, 4, 4, 4, 4]
    for plain, kept in zip(found[False], found[True], strict=True):
        for name, loss in plain.items():
            assert kept[name] == pytest.approx(loss, rel=0.05, abs=0.05), name


def test_what_is_frozen_does_not_move(toy: RunConfig, toy_source: Any, one_process: Processes) -> None:
    trainer = make(toy, toy_source(range(4)), one_process, frozen=("img_backbone.layer1", "img_neck"))
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.advance(next(iter(trainer.source)))
    for name, value in trainer.network.state_dict().items():
        moved = not torch.equal(value, before[name])
        norm = name.startswith("img_backbone") and (".bn" in name or name.startswith("img_backbone.bn"))
        if norm or "downsample.1" in name or name.startswith(("img_backbone.layer1", "img_neck")):
            assert not moved, name
        elif name.startswith("img_backbone.layer2") and "conv" in name:
            assert moved, name
    with pytest.raises(ConfigError, match="begins with 'backbone'"):
        make(toy, None, one_process, frozen=("backbone",))


@pytest.mark.parametrize(("batch_norm", "affine", "statistics"), [("affine", True, False), ("train", True, True)])
def test_batch_norm_learns_as_told(
    toy: RunConfig, toy_source: Any, one_process: Processes, batch_norm: Any, affine: bool, statistics: bool
) -> None:
    trainer = make(toy, toy_source(range(4)), one_process, batch_norm=batch_norm)
    norm = trainer.network.get_submodule("img_backbone.layer2.0.bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    weight, mean = norm.weight.detach().clone(), norm.running_mean.clone()
    trainer.advance(next(iter(trainer.source)))
    assert (not torch.equal(norm.weight, weight)) == affine
    assert (not torch.equal(norm.running_mean, mean)) == statistics


def test_several_processes_on_a_device_share_statistics(toy: RunConfig) -> None:
    network, _ = build_network(toy.variant, NetworkConfig())
    names = list(network.state_dict())
    network = prepare_network(network, NetworkConfig(batch_norm="train"), toy.train, torch.device("meta"), 2)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
    assert list(network.state_dict()) == names


def spoil(batch: Batch) -> Batch:
    images = batch.images.clone()
    images[1] = float("nan")
    return replace(batch, images=images)


def test_a_step_that_is_not_finite_is_skipped_counted_and_named(
    toy: RunConfig, toy_source: Any, one_process: Processes, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.out.mkdir()
    trainer = make(toy, toy_source(range(4)), one_process, average=0.9)
    steps = iter(trainer.source)
    assert trainer.advance(next(steps))
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    (batch,) = next(steps)
    assert not trainer.advance((spoil(batch),))
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())
    assert (trainer.skipped, trainer.step) == (1, 2)
    text = capsys.readouterr().out
    assert "step 1: losses" in text
    assert "not finite; frames f1s0, f1s1, f1s2, f1s3" in text
    assert json.loads((toy.out / "not_finite.jsonl").read_text())["frames"].startswith("f1s0")
    assert trainer.advance(next(steps))  # the memory did not keep it
    assert (trainer.skipped, trainer.in_a_row) == (1, 0)
    assert torch.isfinite(torch.stack(list(trainer.losses.values()))).all()


def test_it_stops_where_asked_and_after_too_many(toy: RunConfig, toy_source: Any, one_process: Processes) -> None:
    toy.out.mkdir()
    bad = (spoil(toy_source(range(4)).batch(0)),)
    strict = replace(toy, train=replace(toy.train, non_finite="stop"))
    with pytest.raises(TrainingError, match=r"frames f0s0.*look at these frames"):
        make(strict, None, one_process).advance(bad)
    patient = make(replace(toy, train=replace(toy.train, max_skipped=3)), None, one_process)
    patient.advance(bad)
    patient.advance(bad)
    with pytest.raises(TrainingError, match="3 steps in a row"):
        patient.advance(bad)


def test_a_batch_without_boxes_is_a_step(toy: RunConfig, toy_source: Any, one_process: Processes) -> None:
    (batch,) = next(iter(toy_source(range(4))))
    none = [
        replace(
            t,
            boxes=t.boxes[:0],
            labels=t.labels[:0],
            boxes_2d=tuple(x[:0] for x in t.boxes_2d),
            labels_2d=tuple(x[:0] for x in t.labels_2d),
            centers_2d=tuple(x[:0] for x in t.centers_2d),
        )
        for t in batch.targets
    ]
    trainer = make(toy, None, one_process)
    assert trainer.advance((replace(batch, targets=tuple(none)),))
    assert float(trainer.losses["loss_cls"].detach()) > 0


def test_noise_hangs_on_step_and_slot_alone() -> None:
    """The halves of a batch draw what the whole one draws, whatever the other samples hold."""
    whole = slot_noise((2, 5, 3, 1), 5, 10, (0, 7, 0), range(4)).reshape(4, 10, 5, 3)
    half = slot_noise((3, 1), 3, 10, (0, 7, 0), range(2, 4)).reshape(2, 10, 3, 3)
    assert torch.equal(whole[2:, :, :3], half)
    assert half[0].min() > 0
    assert half.max() < 1
    assert not torch.equal(whole[1], slot_noise((2, 5), 5, 10, (0, 8, 0), range(2)).reshape(2, 10, 5, 3)[1])


def test_the_log_has_losses_speed_and_shares(toy: RunConfig, toy_source: Any, one_process: Processes) -> None:
    said: list[str] = []
    Trainer(toy, toy_source(range(4)), 3, one_process, said.append).run()
    lines = [json.loads(line) for line in (toy.out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line["losses"].values()))
        shares = [value for name, value in line.items() if name.startswith("share_")]
        assert sum(shares) == pytest.approx(1)
        assert min(shares) > 0
        assert line["samples_per_s"] > 0
    assert len([text for text in said if "samples/s (data" in text]) == 3
    events = list((toy.out / "tensorboard").glob("events*"))
    assert scalars(events[0], "train/losses/loss_bbox") == pytest.approx([x["losses"]["loss_bbox"] for x in lines])


def scalars(path: Path, name: str) -> list[float]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    values = [value for event in EventFileLoader(str(path)).Load() for value in event.summary.value]
    return [value.tensor.float_val[0] for value in values if value.tag == name]
