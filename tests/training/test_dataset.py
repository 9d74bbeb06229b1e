"""The data set as a whole: the evaluation's pixels, steps and batches, bad data, going on where one stopped."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bag_tools.nuscenes_source import NuScenesSource
from streampetr_core.frame_geometry import frame_matrices
from streampetr_core.model.variants import TINY
from streampetr_core.preprocessing import ChannelOrder, prepare
from training.augmentation import NO_AUGMENTATION, Augmentation
from training.batch import Batch
from training.dataset import Dataset
from training.example import Draw, make_example
from training.index import FrameIndex, FrameIndexError
from training.index_builder import build_index
from training.loader import Loader
from training.modes import training_mode
from training.sampler import SamplerError, Turn

VARIANT = TINY
STREAMING = training_mode("streaming")


@pytest.fixture(scope="module")
def index(rendered_root: Path) -> FrameIndex:
    return build_index(rendered_root, "v1.0-mini", "mini_val")


@pytest.fixture
def spoilt(index: FrameIndex, tmp_path: Path) -> FrameIndex:
    """The same frames in a copy of the images that a test may spoil."""
    shutil.copytree(index.root / "samples", tmp_path / "samples")
    return replace(index, root=tmp_path)


def tensors(batch: Batch) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    batch.map(lambda tensor: (found.append(tensor), tensor)[1])
    return found


def same(a: Batch, b: Batch) -> bool:
    pairs = zip(tensors(a), tensors(b), strict=True)
    return a.tokens == b.tokens and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_without_augmentation_it_is_what_the_detector_sees(
    index: FrameIndex, rendered_root: Path, order: ChannelOrder
) -> None:
    source = NuScenesSource(rendered_root, "v1.0-mini", "mini_val")
    dataset = Dataset(index, replace(VARIANT, channel_order=order), NO_AUGMENTATION)
    for number in (0, 7):
        (batch,) = dataset.step([[Turn(number, False, (0,))]])
        sample = next(s for s in source.samples if s.token == batch.tokens[0])
        frame = source.frame(sample)
        matrices = frame_matrices(frame, VARIANT.input_size, frame.present)
        assert np.array_equal(batch.geometry.image_from_model[0].numpy(), matrices.image_from_model)
        assert np.array_equal(batch.geometry.intrinsics[0].numpy(), matrices.intrinsics)
        for camera, image, pixels in zip(frame.rig.cameras, frame.images, batch.images[0], strict=True):
            assert image is not None
            assert torch.equal(pixels, prepare(image, camera, VARIANT.input_size, order))


def test_a_batch_is_what_the_network_takes(index: FrameIndex) -> None:
    dataset = Dataset(index, VARIANT)
    (batch,) = next(iter(Loader(dataset, dataset.sampler(STREAMING, 3), workers=0)))
    height, width = VARIANT.input_size
    assert batch.images.shape == (3, 6, 3, height, width)
    assert batch.images.dtype == torch.float32
    assert batch.images.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    geometry = batch.geometry
    assert geometry.image_from_model.shape == (3, 6, 4, 4)
    assert geometry.timestamp.dtype == torch.float64
    assert geometry.continues is not None
    assert geometry.continues.tolist() == [0.0, 0.0, 0.0]
    assert geometry.present is None
    # near the scene's origin: float32 tells a tenth of a millimetre
    assert float(geometry.world_from_model[:, :3, 3].abs().max()) < 100
    for targets in batch.targets:
        assert targets.boxes.shape == (len(targets.labels), 9)
        assert (targets.boxes.dtype, targets.labels.dtype) == (torch.float32, torch.int64)
        assert torch.isfinite(targets.boxes).all()
        assert len(targets.boxes_2d) == len(targets.depths_2d) == 6
        for i in range(6):
            n = len(targets.labels_2d[i])
            shapes = (targets.boxes_2d[i].shape, targets.centers_2d[i].shape, targets.depths_2d[i].shape)
            assert shapes == ((n, 4), (n, 2), (n,))


def test_a_sliding_window_is_a_stream_played_from_a_cold_start(index: FrameIndex) -> None:
    """The same frames in the same order with the same start give the same batches."""
    dataset = Dataset(index, VARIANT, NO_AUGMENTATION)
    mode = training_mode("sliding_window", window=3, gradient_frames=1, skipped=0)
    window_loader = Loader(dataset, dataset.sampler(mode, 1), workers=0)
    streams = list(itertools.islice(Loader(dataset, dataset.sampler(STREAMING, 1), workers=0), 12))
    played = [batch for (batch,) in streams]
    compared = 0
    for window in itertools.islice(window_loader, 12):
        assert len(window) == 3
        for first in range(len(played) - 2):
            piece = played[first : first + 3]
            if [b.tokens for b in piece] != [b.tokens for b in window]:
                continue
            continues = [float(b.geometry.continues) for b in piece if b.geometry.continues is not None]
            if continues == [0.0, 1.0, 1.0]:
                assert all(same(a, b) for a, b in zip(window, piece, strict=True))
                compared += 1
    assert compared >= 3


def test_workers_change_nothing_but_the_speed(index: FrameIndex) -> None:
    dataset = Dataset(index, VARIANT)
    alone = list(itertools.islice(Loader(dataset, dataset.sampler(STREAMING, 2, seed=3), workers=0), 5))
    helped = list(itertools.islice(Loader(dataset, dataset.sampler(STREAMING, 2, seed=3), workers=2), 5))
    assert all(same(a[0], b[0]) for a, b in zip(alone, helped, strict=True))
    other = next(iter(Loader(dataset, dataset.sampler(STREAMING, 2, seed=4), workers=0)))
    assert not same(other[0], alone[0][0])


def test_two_and_two_steps_are_four(index: FrameIndex) -> None:
    dataset = Dataset(index, VARIANT)
    straight = list(itertools.islice(Loader(dataset, dataset.sampler(STREAMING, 2), workers=0), 4))
    first = Loader(dataset, dataset.sampler(STREAMING, 2), workers=2)
    begun = list(itertools.islice(first, 2))  # workers have prepared more than was taken
    state = first.state_dict()
    second = Loader(dataset, dataset.sampler(STREAMING, 2), workers=0)
    second.load_state_dict(state)
    resumed = begun + list(itertools.islice(second, 2))
    assert all(same(a[0], b[0]) for a, b in zip(straight, resumed, strict=True))
    third = Loader(dataset, dataset.sampler(STREAMING, 1), workers=0)
    with pytest.raises(SamplerError, match="slots was 2, now it is 1"):
        third.load_state_dict(state)


def test_a_missing_image_is_named_or_its_frame_left_out(spoilt: FrameIndex) -> None:
    for number, camera in ((1, 0), (1, 3), (4, 2)):
        (spoilt.root / spoilt.paths[number][camera]).unlink()
    with pytest.raises(
        FrameIndexError, match=r"3 images of 2 of 12 key frames are missing: samples/CAM_"
    ) as error:
        Dataset(spoilt, VARIANT)
    assert spoilt.paths[1][0] in str(error.value)
    dataset = Dataset(spoilt, VARIANT, allow_missing=True)
    assert dataset.note == "10 key frames of 2 scenes; 2 without all images left out"
    steps = list(itertools.islice(dataset.sampler(STREAMING, 1).steps(), 40))
    turns = [step[0][0] for step in steps]
    assert not {1, 4} & {turn.frame for turn in turns}
    assert all(not turn.continues for turn in turns if turn.frame in (0, 2, 5))  # nothing came just before
    shutil.rmtree(spoilt.root / "samples")
    with pytest.raises(FrameIndexError, match="no key frame has all its images; 72 are missing"):
        Dataset(spoilt, VARIANT, allow_missing=True)


def test_a_partial_download_of_real_data(shared: Path) -> None:
    """Real tables of which most images are absent: said so with numbers, or trained on what is there."""
    real = build_index(shared / "data/nuscenes_mini_val", "v1.0-mini", "mini_val")
    with pytest.raises(FrameIndexError, match="462 images of 77 of 81 key frames are missing: samples/CAM"):
        Dataset(real, VARIANT)
    dataset = Dataset(real, VARIANT, allow_missing=True)
    assert dataset.note == "4 key frames of 1 scenes; 77 without all images left out"
    (batch,) = next(iter(Loader(dataset, dataset.sampler(STREAMING, 2), workers=2)))
    assert all(len(targets.boxes) > 10 for targets in batch.targets)
    assert float(batch.images.std()) > 0.5


@pytest.mark.parametrize("content", [b"", b"not a picture", None], ids=["empty", "text", "truncated"])
def test_a_damaged_image_is_named_or_played_without(spoilt: FrameIndex, content: bytes | None) -> None:
    path = spoilt.root / spoilt.paths[2][4]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    turn = Turn(2, True, (1,))
    with pytest.raises(FrameIndexError, match=re.escape(path.name)):
        Dataset(spoilt, VARIANT).step([[turn]])
    dataset = Dataset(spoilt, VARIANT)
    loader = Loader(dataset, dataset.sampler(STREAMING, 4), workers=2)
    with pytest.raises(FrameIndexError, match=re.escape(path.name)):  # from a thread, at the step that has it
        for _ in itertools.islice(loader, 12):
            pass
    (batch,) = Dataset(spoilt, VARIANT, allow_missing=True).step([[turn]])
    assert batch.geometry.present is not None
    assert batch.geometry.present.tolist() == [[True, True, True, True, False, True]]
    assert not batch.images[0, 4].any()
    assert len(batch.targets[0].boxes_2d[4]) == 0
    (sound,) = Dataset(spoilt, VARIANT).step([[Turn(3, True, (1,))]])
    assert sound.geometry.present is None


def test_frames_without_boxes(index: FrameIndex) -> None:
    """No box at all, all of them outside the range, none of the classes, none that a sensor saw."""
    frame, truth = index.frame(0), index.truth(0)
    far = truth.boxes.copy()
    far[:, 0] = 51.2  # the border is outside
    nothing = replace(
        truth,
        boxes=truth.boxes[:0],
        labels=truth.labels[:0],
        valid=truth.valid[:0],
        views=tuple(view[:0] for view in truth.views),
    )
    unseen = replace(truth, valid=np.zeros_like(truth.valid))
    draw = Draw(flip=True, rotation=0.2)
    for kind, case, variant in (
        ("none", nothing, VARIANT),
        ("far", replace(truth, boxes=far), VARIANT),
        ("unseen", unseen, VARIANT),
        ("other class", truth, replace(VARIANT, class_names=("airship",))),
    ):
        example = make_example(frame, case, draw, variant, all_views=False)
        boxes, labels, outlines, *_ = example.targets
        assert boxes.shape == (0, 9), kind
        assert labels.shape == (0,)
        total = sum(len(view) for view in outlines)
        assert (total > 0) == (kind == "far"), kind  # seen in the images all the same
        assert all(view.shape == (len(view), 4) for view in outlines)


def test_classes_of_a_network_with_other_names(index: FrameIndex) -> None:
    variant = replace(VARIANT, class_names=("pedestrian", "car"))
    frame, truth = index.frame(0), index.truth(0)
    both = make_example(frame, truth, Draw(), VARIANT)
    few = make_example(frame, truth, Draw(), variant)
    for ours, theirs in ((0, 8), (1, 0)):
        chosen = both.targets[0][both.targets[1] == theirs]
        assert len(chosen) > 0
        assert np.array_equal(few.targets[0][few.targets[1] == ours], chosen)
    assert set(few.targets[1].tolist()) == {0, 1}
    assert {label for labels in few.targets[3] for label in labels.tolist()} <= {0, 1}


def test_hidden_objects_have_outlines_only_where_asked(index: FrameIndex) -> None:
    turn = Turn(0, False, (0,))
    published = Dataset(index, VARIANT, Augmentation())[turn].targets[2]
    visible = Dataset(index, VARIANT, Augmentation(), all_views=False)[turn].targets[2]
    assert sum(map(len, published)) > sum(map(len, visible)) > 0
