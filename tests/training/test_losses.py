"""3D and denoising losses: numbers by hand, plain loops, and batches with little or nothing in them."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from streampetr_core.model import VARIANTS, AuxiliaryOutputs, FrameGeometry, FrameOutputs
from training.batch import Batch, Targets
from training.denoising import Denoising, denoising_queries
from training.losses import LossError, LossSettings, compute_losses, mean_over_processes
from training.matching import MatchWeights, assign, cost_3d
from training.targets import pack_3d

TINY = replace(
    VARIANTS["tiny"], num_queries=8, num_proposals=0, num_propagated=4, memory_length=6, input_size=(32, 64)
)
CAMERAS, QUERIES, LAYERS = 2, 12, 3
CPU = torch.device("cpu")


def frame_targets(count: int, generator: torch.Generator, in_images: bool = True) -> Targets:
    """Random boxes, and as many in each image."""
    boxes = torch.rand(count, 9, generator=generator) * 3.0 + 0.5
    labels = torch.randint(10, (count,), generator=generator)
    count_2d = count if in_images else 0
    corner = torch.rand(CAMERAS, count_2d, 2, generator=generator) * 16.0
    outline = torch.cat((corner, corner + 2.0 + 14.0 * torch.rand(CAMERAS, count_2d, 2, generator=generator)), -1)
    centers = (outline[..., :2] + outline[..., 2:]) / 2.0
    of_cameras = (outline, torch.randint(10, (CAMERAS, count_2d), generator=generator), centers, centers[..., 0])
    return Targets(boxes, labels, *(tuple(x.unbind(0)) for x in of_cameras))


def make_batch(*frames: Targets) -> Batch:
    count = len(frames)
    poses = torch.eye(4).expand(count, 4, 4)
    cameras = torch.eye(4).expand(count, CAMERAS, 4, 4)
    geometry = FrameGeometry(cameras, cameras, poses, poses, torch.zeros(count).double())
    return Batch(torch.zeros(count, CAMERAS, 3, 32, 64), geometry, frames, tuple(map(str, range(count))))


def make_outputs(
    batch: int, prepended: int, generator: torch.Generator
) -> tuple[FrameOutputs, AuxiliaryOutputs, list[Tensor]]:
    """Random outputs, and the leaves that gradients reach."""

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    raw = [
        leaf(LAYERS, batch, QUERIES, 10),
        leaf(LAYERS, batch, QUERIES, 10),
        leaf(LAYERS, batch, prepended, 10),
        leaf(LAYERS, batch, prepended, 10),
    ]
    flat = [leaf(batch * CAMERAS, 8, size) for size in (10, 4, 2, 1)]
    outputs = FrameOutputs(
        raw[0],
        raw[1],
        None,
        None,
        raw[2] if prepended else None,
        raw[3] if prepended else None,
        torch.zeros(batch, CAMERAS, 8, 2, 4),
    )
    auxiliary = AuxiliaryOutputs(flat[0], flat[1].sigmoid() * 0.5 + 0.25, flat[2].sigmoid(), flat[3])
    return outputs, auxiliary, raw[: 4 if prepended else 2] + flat


def case(*counts: int, seed: int) -> tuple[Batch, FrameOutputs, AuxiliaryOutputs, Denoising | None, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    batch = make_batch(*(frame_targets(count, generator) for count in counts))
    denoising = denoising_queries(pack_3d(batch.targets, CPU), TINY, generator=generator)
    prepended = 0 if denoising is None else denoising.labels.shape[1]
    outputs, auxiliary, leaves = make_outputs(len(counts), prepended, generator)
    return batch, outputs, auxiliary, denoising, leaves


def test_numbers_by_hand() -> None:
    """One layer, two queries with even odds for every class, one box that is 1 m off in x and 0.5 m/s in vx."""
    truth = torch.tensor([[3.0, 4.0, 0.0, 4.0, 2.0, 1.5, 0.0, 1.0, 0.0]])
    batch = make_batch(Targets(truth, torch.tensor([2]), (), (), (), ()))
    code = torch.tensor([4.0, 4.0, 0.0, math.log(4.0), math.log(2.0), math.log(1.5), 0.0, 1.0, 1.5, 0.0])
    boxes = torch.stack((code, code + 30.0)).reshape(1, 1, 2, 10)
    features = torch.zeros(1, CAMERAS, 8, 2, 4)
    outputs = FrameOutputs(torch.zeros(1, 1, 2, 10), boxes, None, None, None, None, features)
    losses = compute_losses(outputs, None, None, batch, TINY)
    assert set(losses) == {"loss_cls", "loss_bbox", "dn_loss_cls", "dn_loss_bbox"}
    focal = (0.25 + 19 * 0.75) * 0.25 * math.log(2.0)
    assert float(losses["loss_cls"]) == pytest.approx(2.0 * focal, rel=1e-5)
    assert float(losses["loss_bbox"]) == pytest.approx(0.25 * (2.0 * 1.0 + 0.5), rel=1e-5)
    # with half a metre as half, a box that is 1 m off is worth a quarter, and odds of a quarter lose nothing
    logits = torch.full((1, 1, 2, 10), -30.0)
    logits[0, 0, 0, 2] = -math.log(3.0)
    said = replace(outputs, logits=logits)
    graded = compute_losses(said, None, None, batch, TINY, LossSettings(half_quality=0.5))
    assert float(graded["loss_cls"]) == pytest.approx(0.0, abs=1e-6)
    assert float(graded["loss_bbox"]) == float(losses["loss_bbox"])
    for reach, share in ((0.9, 0.0), (1.1, 1.0)):
        near = compute_losses(said, None, None, batch, TINY, LossSettings(reach=reach))
        assert float(near["loss_bbox"]) == share * float(losses["loss_bbox"])
    bold = compute_losses(outputs, None, None, batch, TINY, LossSettings(half_quality=0.5))
    one = 0.25 * 0.25**2 + 19 * 0.75 * 0.25
    assert float(bold["loss_cls"]) == pytest.approx(2.0 * one * math.log(2.0), rel=1e-5)


def test_denoising_numbers_by_hand() -> None:
    """Two groups of one box, one copy of them background: class over the expected positives, box over both."""
    truth = torch.tensor([[3.0, 4.0, 0.0, 4.0, 2.0, 1.5, 0.0, 1.0, 0.0]])
    batch = make_batch(Targets(truth, torch.tensor([2]), (), (), (), ()))
    targets = pack_3d(batch.targets, CPU)
    noise = torch.full((1, 10, 3), 0.5)
    noise[0, 0] = 1.0
    denoising = denoising_queries(targets, TINY, noise=noise)
    assert denoising is not None
    boxes = targets.codes.repeat(1, 10, 1)[None].clone()
    boxes[0, 0, :, 1] += 3.0
    nothing = torch.full((1, 1, 10, 10), -30.0)
    logits = nothing.clone()
    logits[0, 0, 1:, 2] = 0.0
    outputs = FrameOutputs(
        torch.zeros(1, 1, 1, 10), torch.zeros(1, 1, 1, 10), None, None, logits, boxes, torch.zeros(1, 2, 8, 2, 4)
    )
    losses = compute_losses(outputs, None, denoising, batch, TINY)
    likely = 10 * math.pi / 6 * 0.75**3
    expected = 2.0 * 9 * 0.25 * 0.25 * math.log(2.0) / likely
    assert float(losses["dn_loss_cls"]) == pytest.approx(expected, rel=1e-5)
    assert float(losses["dn_loss_bbox"]) == pytest.approx(0.25 * 2.0 * 3.0, rel=1e-5)


def focal(logit: float, positive: bool) -> float:
    p = 1.0 / (1.0 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


@pytest.mark.parametrize("counts", [(3,), (2, 5), (0, 4, 1), (QUERIES + 3, 1)])
def test_equal_to_plain_loops(counts: tuple[int, ...]) -> None:
    """Layer by layer, sample by sample, query by query; in one case boxes outnumber queries."""
    batch, outputs, _, denoising, _ = case(*counts, seed=7)
    losses = compute_losses(outputs, None, denoising, batch, TINY)
    assert denoising is not None
    assert outputs.prepended_logits is not None
    assert outputs.prepended_boxes is not None
    weights = torch.tensor(TINY.code_weights)
    with torch.no_grad():
        for layer in range(LAYERS):
            cls = box = noisy_cls = noisy_box = 0.0
            for sample, truth in enumerate(batch.targets):
                one = pack_3d((truth,), CPU)
                logits, boxes = (
                    x[layer : layer + 1, sample : sample + 1] for x in (outputs.logits, outputs.boxes)
                )
                rows = assign((cost_3d(logits, boxes, one, weights, MatchWeights()), one.counts))[0]
                chosen = {int(q): t for t, q in enumerate(rows.flatten()[: one.counts[0]])}
                for query in range(QUERIES):
                    label = int(truth.labels[chosen[query]]) if query in chosen else -1
                    cls += sum(focal(float(logits[0, 0, query, c]), c == label) for c in range(10))
                    if query in chosen:
                        difference = (boxes[0, 0, query] - one.codes[0, chosen[query]]).abs()
                        box += float((difference * weights).sum())
                for slot in torch.nonzero(denoising.known[sample]).flatten().tolist():
                    label = int(denoising.labels[sample, slot])
                    row = outputs.prepended_logits[layer, sample, slot]
                    noisy_cls += sum(focal(float(row[c]), c == label) for c in range(10))
                    difference = outputs.prepended_boxes[layer, sample, slot] - denoising.codes[sample, slot]
                    noisy_box += float((difference.abs() * weights).sum())
            total, matched = sum(counts), sum(min(count, QUERIES) for count in counts)
            name = "" if layer == LAYERS - 1 else f"d{layer}."
            likely = max(10 * total * math.pi / 6 * 0.75**3, 1.0)
            for key, expected in (
                ("loss_cls", 2.0 * cls / matched),
                ("loss_bbox", 0.25 * box / matched),
                ("dn_loss_cls", 2.0 * noisy_cls / likely),
                ("dn_loss_bbox", 0.25 * noisy_box / (10 * total)),
            ):
                assert float(losses[name + key]) == pytest.approx(expected, rel=1e-4), name + key


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 3)])
def test_gradients_reach_every_head_without_boxes(counts: tuple[int, ...]) -> None:
    """Finite losses that depend on all outputs, so that no process of a distributed training waits."""
    batch, outputs, auxiliary, denoising, leaves = case(*counts, seed=8)
    losses = compute_losses(outputs, auxiliary, denoising, batch, TINY)
    torch.stack(list(losses.values())).sum().backward()
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    assert all(map(math.isfinite, values.values())), values
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    if not any(counts):
        assert denoising is None
        assert not losses["dn_loss_cls"].requires_grad
        assert values["dn_loss_cls"] == values["loss_cls"] > 0.0
        for name in ("loss_bbox", "enc_loss_bbox", "enc_loss_iou", "centers2d_losses"):
            assert values[name] == 0.0


def test_a_target_that_is_no_number_counts_as_class_only() -> None:
    """A box without height: its logarithm would be minus infinity."""
    batch, outputs, auxiliary, _, leaves = case(2, seed=9)
    whole = compute_losses(replace(outputs, prepended_logits=None), auxiliary, None, batch, TINY)
    flat = batch.targets[0].boxes.clone()
    flat[1, 5] = 0.0
    flat_batch = make_batch(replace(batch.targets[0], boxes=flat))
    losses = compute_losses(replace(outputs, prepended_logits=None), auxiliary, None, flat_batch, TINY)
    assert float(losses["loss_bbox"].detach()) < float(whole["loss_bbox"].detach())
    torch.stack(list(losses.values())).sum().backward()
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves)
    assert leaves[1].grad is not None


_PROCESS = """
import sys
from torch import distributed, tensor
from training.losses import mean_over_processes
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
print(mean_over_processes(tensor([3.0 + 2.0 * rank, 1.0])).tolist())
distributed.destroy_process_group()
"""


def test_counts_are_averaged_over_processes(tmp_path: Path) -> None:
    """3 and 5 of a thing in two processes are 4 on average; one process keeps its own."""
    command = [sys.executable, "-c", _PROCESS]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        assert [process.communicate(timeout=120)[0].strip() for process in processes] == ["[4.0, 1.0]"] * 2
    finally:
        for process in processes:
            process.kill()
    assert mean_over_processes(torch.tensor([3.0])).tolist() == [3.0]


def test_half_precision_outputs_are_summed_in_full_precision() -> None:
    batch, outputs, auxiliary, denoising, _ = case(3, 2, seed=11)
    halves = replace(
        outputs,
        logits=outputs.logits.bfloat16(),
        boxes=outputs.boxes.bfloat16(),
        prepended_logits=None if outputs.prepended_logits is None else outputs.prepended_logits.bfloat16(),
    )
    exact = replace(
        halves,
        logits=halves.logits.float(),
        boxes=halves.boxes.float(),
        prepended_logits=None if halves.prepended_logits is None else halves.prepended_logits.float(),
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses = compute_losses(halves, auxiliary, denoising, batch, TINY)
        expected = compute_losses(exact, auxiliary, denoising, batch, TINY)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(expected[name]), rel=1e-6), name


def test_denoising_for_one_side_only_is_refused() -> None:
    batch, outputs, auxiliary, denoising, _ = case(2, seed=12)
    with pytest.raises(LossError, match="or to neither"):
        compute_losses(outputs, auxiliary, None, batch, TINY)
    with pytest.raises(LossError, match="or to neither"):
        compute_losses(replace(outputs, prepended_logits=None), auxiliary, denoising, batch, TINY)


@pytest.mark.parametrize("counts", [(2, 5), (3, 0)])
def test_two_processes_learn_what_one_with_both_samples_learns(counts: tuple[int, int]) -> None:
    """With every divisor synchronised, the mean of the processes' losses is the loss of the doubled batch."""
    batch, outputs, auxiliary, _, _ = case(*counts, seed=13)
    outputs = replace(outputs, prepended_logits=None, prepended_boxes=None)
    settings = LossSettings(synchronize_all=True)
    whole = compute_losses(outputs, auxiliary, None, batch, TINY, settings)
    mean = torch.tensor([sum(counts) / 2, 0.0, sum(counts) * CAMERAS / 2])
    parts = []
    for sample in range(2):
        one = replace(
            outputs, logits=outputs.logits[:, sample : sample + 1], boxes=outputs.boxes[:, sample : sample + 1]
        )
        images = slice(sample * CAMERAS, (sample + 1) * CAMERAS)
        of_images = AuxiliaryOutputs(*(x[images] for x in vars(auxiliary).values()))
        alone = make_batch(batch.targets[sample])
        parts.append(compute_losses(one, of_images, None, alone, TINY, settings, counts=mean))
    for name, expected in whole.items():
        mean_loss = float((parts[0][name] + parts[1][name]).detach()) / 2
        assert mean_loss == pytest.approx(float(expected.detach()), rel=1e-5), name
