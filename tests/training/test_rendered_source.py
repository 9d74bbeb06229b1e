"""Frames rendered while training: videos without end, repeatable from any position, truth as in the tables."""

from __future__ import annotations

import itertools

import pytest
import torch

from bag_tools.rendered.dataset_writer import drive_seed
from streampetr_core.model.variants import TINY
from training.augmentation import NO_AUGMENTATION, Augmentation
from training.batch import Batch
from training.prefetch import StepBatches
from training.rendered_source import RenderedSource, RenderedSourceError, RenderedWorld
from training.sampler import SamplerError

WORLD = RenderedWorld(seed=1, seconds=1.0, size=(208, 117))
"""Drives of two frames, small."""


def source(slots: int = 2, rank: int = 0, ranks: int = 1, threads: int = 2, ahead: int = 2) -> RenderedSource:
    plain = Augmentation()
    return RenderedSource(WORLD, TINY, plain, slots, rank, ranks, device="cpu", threads=threads, ahead=ahead)


def tensors(batch: Batch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    batch.map(lambda tensor: (found.append(tensor), tensor)[1])
    return found


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(tensors(a), tensors(b), strict=True)
    return a.tokens == b.tokens and all(torch.equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def steps() -> list[StepBatches]:
    return list(itertools.islice(source(), 5))


def test_batches_are_those_of_a_data_set(steps: list[StepBatches]) -> None:
    for (batch,) in steps:
        assert batch.images.shape == (2, 6, 3, *TINY.input_size)
        assert batch.images.std() > 0.2
        assert batch.geometry.present is None
        for targets in batch.targets:
            assert len(targets.boxes) > 5
            assert torch.isfinite(targets.boxes).all()
            assert sum(map(len, targets.boxes_2d)) > 3


def test_every_slot_is_a_video_of_its_own(steps: list[StepBatches]) -> None:
    batches = [batch for (batch,) in steps]
    continues = torch.stack([b.geometry.continues for b in batches if b.geometry.continues is not None])
    # drives of two frames; the second slot began in the middle of its first one
    assert continues.T.tolist() == [[0, 1, 0, 1, 0], [0, 0, 1, 0, 1]]
    tokens = [token for b in batches for token in b.tokens]
    assert len(set(tokens)) == len(tokens)
    for before, now in itertools.pairwise(batches):
        for slot in range(2):
            goes_on = now.geometry.continues is not None and bool(now.geometry.continues[slot])
            elapsed = float(now.geometry.timestamp[slot] - before.geometry.timestamp[slot])
            assert (elapsed == pytest.approx(0.5)) == goes_on
    assert not torch.equal(batches[0].images[0], batches[0].images[1])


def test_going_on_is_as_if_never_stopped(steps: list[StepBatches]) -> None:
    first = source(threads=1, ahead=0)
    begun = list(itertools.islice(first, 1))
    second = source()
    second.load_state_dict(first.state_dict())
    resumed = begun + list(itertools.islice(second, 2))
    assert all(same(a[0], b[0]) for a, b in zip(steps, resumed, strict=False))
    with pytest.raises(SamplerError, match="slots was 2, now it is 1"):
        source(1).load_state_dict(first.state_dict())


def test_processes_share_the_slots(steps: list[StepBatches]) -> None:
    (own,) = next(iter(source(1, 1, 2)))
    (whole,) = steps[0]
    assert own.tokens == whole.tokens[1:]
    assert torch.equal(own.images[0], whole.images[1])


def test_training_never_drives_where_the_judges_do() -> None:
    """Seeds of rendered data sets lie below those of the training drives."""
    assert drive_seed(9999, 849) < 10_000_000


def test_truth_asks_for_visibility() -> None:
    every, clear = (
        RenderedSource(
            RenderedWorld(1, 1.0, (208, 117), min_visibility=share), TINY, NO_AUGMENTATION, 1, device="cpu"
        )
        for share in (0.0, 0.6)
    )
    (all_of_them,), (seen_well,) = next(iter(every)), next(iter(clear))
    assert torch.equal(all_of_them.images, seen_well.images)
    assert 0 < len(seen_well.targets[0].boxes) < len(all_of_them.targets[0].boxes)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(RenderedSourceError, match="0 slots for process 0 of 1"):
        source(0)
    with pytest.raises(RenderedSourceError, match="process 2 of 2"):
        source(1, 2, 2)
