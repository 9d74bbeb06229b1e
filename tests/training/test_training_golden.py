"""Losses, targets and gradients of the published code, frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import streampetr_cli
from streampetr_core.golden import Golden, GoldenError, open_golden
from streampetr_core.model import VARIANTS, FrameOutputs
from streampetr_core.verify import FrameReport
from training.denoising import denoising_queries
from training.losses import compute_losses
from training.matching import MatchWeights, assign, cost_3d
from training.targets import pack_3d
from training.verify import TrainingReport, golden_batch, verify_training
from training.verify_table import print_training_reports

NAME = "golden_train_stream_petr_r50_900q.npz"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return open_golden(shared / "golden" / NAME)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_passes_on_both_frames(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Network, losses, backward pass: as `streampetr verify` prints them."""
    assert streampetr_cli.main(["verify", str(shared / "golden" / NAME)]) == 0
    text = capsys.readouterr().out
    assert text.count("20/20") == 2
    assert "FAILED" not in text


@pytest.mark.parametrize("frame", [0, 1])
def test_stored_outputs_give_the_stored_losses_and_assignment(golden: Golden, frame: int) -> None:
    """The last layer without running the network: outputs are in the file, so only rounding may differ."""
    variant = VARIANTS[golden.model]
    batch = golden_batch(golden, frame)
    targets = pack_3d(batch.targets, CPU)
    denoising = denoising_queries(targets, variant, noise=golden.get(frame, "dn_rand_0"))
    logits, boxes, noisy_logits, noisy_boxes = (
        golden.get(frame, f"{name}_last")[None] for name in ("cls", "box", "dn_cls", "dn_box")
    )
    outputs = FrameOutputs(logits, boxes, None, None, noisy_logits, noisy_boxes, torch.zeros(0))
    losses = compute_losses(outputs, None, denoising, batch, variant)
    names, values = (golden.arrays[f"f{frame}_loss_{part}"] for part in ("names", "values"))
    stored = {str(name).removeprefix("frame_0_"): float(value) for name, value in zip(names, values, strict=True)}
    for name, loss in losses.items():
        assert float(loss) == pytest.approx(stored[name], rel=1e-6), name
    weights = torch.tensor(variant.code_weights)
    cost = cost_3d(outputs.logits, outputs.boxes, targets, weights, MatchWeights())
    rows = assign((cost, targets.counts))[0][0, 0]
    expected = torch.zeros(900, dtype=torch.int64)
    expected[rows] = torch.arange(len(rows)) + 1
    assert torch.equal(expected, golden.get(frame, "match_last_gt_inds")[0])


@pytest.mark.parametrize("frame", [0, 1])
def test_denoising_queries_of_the_stored_noise(golden: Golden, frame: int) -> None:
    targets = pack_3d(golden_batch(golden, frame).targets, CPU)
    found = denoising_queries(targets, VARIANTS[golden.model], noise=golden.get(frame, "dn_rand_0"))
    stored = golden.denoising(frame)
    assert found is not None
    assert stored is not None
    assert torch.equal(found.labels[0], golden.get(frame, "dn_known_labels")[0])
    assert torch.equal(found.queries.allowed, stored.allowed)
    torch.testing.assert_close(found.queries.reference, stored.reference, atol=1e-6, rtol=0.0)
    boxes = golden.get(frame, "dn_known_bboxes")
    torch.testing.assert_close(found.codes[..., :3], boxes[..., :3])
    torch.testing.assert_close(found.codes[..., 3:6].exp(), boxes[..., 3:6])
    assert int(golden.get(frame, "dn_pad_size")) == found.labels.shape[1]


def test_noise_of_another_number_of_boxes_is_refused(golden: Golden, tmp_path: Path) -> None:
    arrays = dict(golden.arrays)
    arrays["f0_dn_rand_0"] = arrays["f0_dn_rand_0"][:-1]
    np.savez(tmp_path / NAME, **arrays)
    with pytest.raises(GoldenError, match=r"f0_dn_rand_0 has shape \(199, 3\); expected \(200, 3\)"):
        next(verify_training(open_golden(tmp_path / NAME)))


def good_report() -> TrainingReport:
    return TrainingReport(
        FrameReport("train made_up", 0, True), {"loss_cls": 1e-6}, {"neck": 0.0}, {"a": 1e-4}, 0, 2, 2
    )


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("losses", {"loss_cls": 2e-4}, "loss loss_cls 2.0e-04"),
        ("losses", {"loss_cls": float("inf")}, "loss loss_cls inf"),
        ("modules", {"neck": 2e-3}, "gradient of a module neck 2.0e-03"),
        ("tensors", {"a": 2e-2}, "gradient of a tensor a 2.0e-02"),
        ("denoising_wrong", 1, "denoising queries"),
        ("matched", 1, "matching"),
    ],
)
def test_what_is_beyond_tolerance_is_named(
    field: str, value: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert print_training_reports([good_report()])
    report = good_report()
    setattr(report, field, value)
    capsys.readouterr()
    assert not print_training_reports([good_report(), report])
    text = " ".join(capsys.readouterr().out.split())
    assert says in text
    assert "FAILED" in text
