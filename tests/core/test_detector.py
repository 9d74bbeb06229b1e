"""The detector's memory: when it continues, when it is forgotten, and that nothing else leaks in."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streampetr_core import Boxes3D, CameraRig, Detector, Frame
from streampetr_core.bench import drive_frame, ring_rig
from streampetr_core.checkpoint import CheckpointError, save_checkpoint
from streampetr_core.detector import Continuity, DetectorError, DetectorState
from streampetr_core.frame import FrameError
from streampetr_core.frame_geometry import frame_matrices
from streampetr_core.geometry import inverse, quaternion_from_yaw, transform
from streampetr_core.model import FrameGeometry, UnknownVariantError, build_model
from streampetr_core.preprocessing import ImageError, prepare
from streampetr_core.recipe import recipe_state_dict

WIDTH, HEIGHT = 416, 234
RIG = ring_rig(WIDTH, HEIGHT)
NOTHING = DetectorState(None, 0, np.eye(4), "", ("first_frame", "first frame"))
IMAGES = [np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for i in range(7)]


@pytest.fixture(scope="module")
def shared_detector() -> Detector:
    return Detector.from_checkpoint("recipe", model="tiny", device="cpu")


@pytest.fixture
def detector(shared_detector: Detector) -> Detector:
    """A detector that has seen nothing."""
    fresh = copy.copy(shared_detector)
    fresh.reset_counts = type(shared_detector.reset_counts)()
    fresh.restore(NOTHING)
    return fresh


def _images(index: int, count: int = 6) -> list[NDArray[np.uint8]]:
    return [np.roll(image, 3 * index, axis=1) for image in IMAGES[:count]]


def _frame(index: int, rig: CameraRig = RIG, **changes: object) -> Frame:
    return replace(drive_frame(index, rig, _images(index, len(rig))), **changes)


def _same(a: Boxes3D, b: Boxes3D) -> bool:
    return all(
        np.array_equal(getattr(a, k), getattr(b, k)) for k in ("center", "size", "yaw", "velocity", "score")
    )


def test_boxes_say_what_they_are(detector: Detector) -> None:
    frame = _frame(0)
    boxes = detector.step(frame)
    assert 0 < len(boxes) <= 300
    assert boxes.frame_id == "base_link"
    assert boxes.stamp_ns == frame.stamp_ns
    assert np.all(np.diff(boxes.score) <= 0)
    assert np.isfinite(boxes.center).all()
    assert set(boxes.attribute) == {""}
    assert len(detector.last_queries) == len(boxes)
    assert (detector.model_name, detector.weights_name) == ("tiny", "recipe")


def test_the_memory_matters_and_continues(detector: Detector) -> None:
    detector.step(_frame(0))
    assert detector.last_reset_reason == "first frame"
    assert detector.last_reset_kind == "first_frame"
    warm = detector.step(_frame(1))
    assert detector.last_reset_reason == ""
    detector.reset()
    cold = detector.step(_frame(1))
    assert not _same(warm, cold)
    assert detector.reset_counts == {"first_frame": 1, "request": 1}


def test_equals_the_network_in_map_coordinates(detector: Detector) -> None:
    """The moving origin against the published bookkeeping: global poses, absolute seconds."""
    model = build_model("tiny")
    model.load_state_dict(recipe_state_dict(model))
    memory = None
    for index in range(3):
        frame = _frame(index)
        boxes = detector.step(frame)
        size = model.variant.input_size
        matrices = frame_matrices(frame, size, frame.present)
        pose = frame.map_from_ego @ frame.rig.ego_from_model
        geometry = FrameGeometry(
            torch.from_numpy(matrices.image_from_model)[None],
            torch.from_numpy(matrices.intrinsics)[None],
            torch.from_numpy(inverse(pose)).float()[None],
            torch.from_numpy(pose).float()[None],
            torch.tensor([frame.stamp_ns * 1e-9], dtype=torch.float64),
        )
        images = torch.stack([prepare(i, c, size) for i, c in zip(_images(index), RIG.cameras, strict=True)])[None]
        with torch.inference_mode():
            outputs = model.forward_frame(images, geometry, memory)
        memory = outputs.memory
        scores = outputs.logits[-1].sigmoid().flatten().sort(descending=True).values[: len(boxes)]
        np.testing.assert_allclose(boxes.score, scores.numpy(), atol=2e-4)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("scene_change", {"scene": "another"}),
        ("time_back", {"stamp_ns": drive_frame(-1, RIG, IMAGES[:6]).stamp_ns}),
        ("gap", {"stamp_ns": drive_frame(6, RIG, IMAGES[:6]).stamp_ns}),
        ("ego_jump", {"map_from_ego": transform([500.0, 0, 0], [1, 0, 0, 0])}),
        ("ego_jump", {"map_from_ego": transform([4.0, 0, 0], quaternion_from_yaw(3.0))}),
    ],
)
def test_every_discontinuity_forgets_and_is_counted(detector: Detector, kind: str, changes: dict) -> None:
    detector.step(_frame(0))
    odd = _frame(1, **changes)
    after = detector.step(odd)
    assert detector.last_reset_reason
    assert detector.reset_counts[kind] == 1
    assert detector.last_reset_kind == kind
    detector.reset("test")
    assert _same(after, detector.step(odd))
    assert detector.last_reset_reason == "test"
    detector.step(replace(odd, stamp_ns=odd.stamp_ns + 100_000_000))
    assert detector.last_reset_reason == ""


def test_the_longest_gap_is_a_setting() -> None:
    patient = Detector.from_checkpoint("random", model="tiny", device="cpu", continuity=Continuity(max_gap=5.0))
    patient.step(_frame(0))
    patient.step(_frame(6))
    assert patient.last_reset_reason == ""


def test_snapshot_and_restore_continue_bit_identically(detector: Detector) -> None:
    for index in range(2):
        detector.step(_frame(index))
    state = pickle.loads(pickle.dumps(detector.snapshot()))
    first = [detector.step(_frame(index)) for index in range(2, 4)]
    detector.reset()
    detector.step(_frame(9))
    detector.restore(state)
    second = [detector.step(_frame(index)) for index in range(2, 4)]
    assert detector.last_reset_reason == ""
    assert all(_same(a, b) for a, b in zip(first, second, strict=True))


def test_a_snapshot_of_another_model_is_refused(detector: Detector) -> None:
    detector.step(_frame(0))
    state = detector.snapshot()
    assert state.memory is not None
    wide = replace(state, memory=state.memory.map(lambda x: x.new_zeros(1, 3, 256)))
    with pytest.raises(DetectorError, match="256 channels"):
        detector.restore(wide)


@pytest.mark.parametrize("place", [[2e5, -3e5, 40.0], [5e6, 5e6, 0.0]])
def test_neither_place_nor_date_matters(detector: Detector, place: list[float]) -> None:
    """The same drive elsewhere in the map, turned, and 40 years later."""
    shift = transform(place, quaternion_from_yaw(1.1))
    later = 40 * 365 * 86400 * 10**9

    def moved(frame: Frame) -> Frame:
        return replace(
            frame,
            stamp_ns=frame.stamp_ns + later,
            map_from_ego=shift @ frame.map_from_ego,
            map_from_ego_at_camera=shift @ frame.map_from_ego_at_camera,
        )

    here = [detector.step(_frame(index)) for index in range(3)]
    detector.reset()
    there = [detector.step(moved(_frame(index))) for index in range(3)]
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(a.score, b.score, atol=1e-4)
    assert detector.last_reset_reason == ""


@pytest.mark.parametrize("count", [5, 7])
def test_any_number_of_cameras(detector: Detector, count: int) -> None:
    extra = replace(RIG.cameras[0], name="CAM_EXTRA")
    rig = CameraRig((*RIG.cameras, extra)[:count], RIG.ego_from_model)
    for index in range(2):
        assert len(detector.step(_frame(index, rig))) > 0
    assert detector.last_reset_reason == ""
    assert len(detector.step(_frame(2))) > 0  # back to six; the memory does not depend on the rig
    assert detector.last_reset_reason == ""


def test_an_absent_camera_has_no_say_and_keeps_the_memory(detector: Detector) -> None:
    detector.step(_frame(0))
    state = detector.snapshot()
    whole = _frame(1)
    without = replace(whole, images=(*whole.images[:2], None, *whole.images[3:]))
    a = detector.step(without)
    assert detector.last_reset_reason == ""
    detector.restore(state)
    prepared = [detector.prepare(image, camera) for image, camera in zip(_images(1), RIG.cameras, strict=True)]
    prepared[2] = None  # type: ignore[call-overload]
    poses = whole.map_from_ego_at_camera.copy()
    poses[2] = np.nan
    b = detector.step(replace(whole, map_from_ego_at_camera=poses), prepared)
    assert _same(a, b)
    detector.restore(state)
    assert not _same(a, detector.step(whole))


def test_prepared_images_give_the_same_boxes(detector: Detector) -> None:
    frame = _frame(0)
    a = detector.step(frame)
    detector.reset()
    prepared = [detector.prepare(image, camera) for image, camera in zip(_images(0), RIG.cameras, strict=True)]
    assert _same(a, detector.step(frame, prepared))


def test_bad_frames_leave_the_memory_alone(detector: Detector) -> None:
    detector.step(_frame(0))
    state = detector.snapshot()
    good = _frame(1)
    nan = good.map_from_ego.copy()
    nan[0, 3] = np.nan
    small = (np.zeros((10, 10, 3), np.uint8), *good.images[1:])
    with pytest.raises(FrameError, match="map_from_ego contains NaN"):
        detector.step(replace(good, map_from_ego=nan))
    with pytest.raises(DetectorError, match="0 images for 6 cameras"):
        detector.step(replace(good, images=(None,) * 6))
    with pytest.raises(ImageError, match="'CAM_FRONT': image is 10x10"):
        detector.step(replace(good, images=small))
    with pytest.raises(DetectorError, match=r"shape \(3, 8, 8\)"):
        detector.step(good, [torch.zeros(3, 8, 8)] * 6)
    assert detector.snapshot() is state


def test_position_embedding_is_kept_until_the_calibration_changes(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    original = detector._model.encode_position
    monkeypatch.setattr(detector._model, "encode_position", lambda *a: computed.append(1) or original(*a))
    still = _frame(0)
    still = replace(still, map_from_ego_at_camera=np.tile(still.map_from_ego, (6, 1, 1)))

    def later(frame: Frame, count: int) -> Frame:
        return replace(frame, stamp_ns=frame.stamp_ns + count * 10**8)

    detector._matrices = None
    for count in range(3):
        detector.step(later(still, count))
    assert len(computed) == 1
    zoomed = replace(RIG.cameras[1], intrinsics=RIG.cameras[1].intrinsics * [[1.1], [1.1], [1]])
    rig = CameraRig((RIG.cameras[0], zoomed, *RIG.cameras[2:]), RIG.ego_from_model)
    changed = detector.step(later(replace(still, rig=rig), 3))
    assert len(computed) == 2
    detector.restore(NOTHING)
    assert not _same(changed, detector.step(later(still, 4)))
    assert len(computed) == 3


def test_a_reset_while_a_frame_runs_is_not_lost(detector: Detector) -> None:
    """The service that resets answers in another thread than the one that runs the network."""
    detector.step(_frame(0))
    detector.step(_frame(1), mark=lambda stage: detector.reset("service") if stage == "backbone" else None)
    detector.step(_frame(2))
    assert detector.last_reset_reason == "service"


def test_lineage_of_queries(detector: Detector) -> None:
    """A query beyond the learned ones stands for a memory entry; the memory names the queries it came from."""
    detector.step(_frame(0))
    learned = detector.variant.num_fresh
    first = detector.last_memory_queries
    assert len(first) == detector.variant.num_propagated
    assert len(np.unique(first)) == len(first)
    detector.step(_frame(1))
    assert detector.last_queries.max() < learned + detector.variant.num_propagated
    assert detector.last_queries.max() >= learned  # propagated queries are among the best


def test_boxes_of_a_query_that_is_carried_on_share_their_lineage(detector: Detector) -> None:
    first = detector.step(_frame(0)).lineage
    learned, given = detector.variant.num_fresh, detector.last_memory_queries
    queries = detector.last_queries
    second = detector.step(_frame(1)).lineage
    assert first is not None
    assert second is not None
    carried = detector.last_queries >= learned
    assert carried.any()
    for query, number in zip(detector.last_queries[carried], second[carried], strict=True):
        before = first[queries == given[query - learned]]
        assert (before == number).all()
    without_memory = detector.last_queries < detector.variant.num_queries
    assert set(second[without_memory]).isdisjoint(first)  # learned queries begin anew
    detector.reset()
    assert set(detector.step(_frame(2)).lineage).isdisjoint(second)  # type: ignore[arg-type]


def test_single_frame_networks_have_no_memory() -> None:
    model = build_model("tiny")
    single = type(model)(replace(model.variant, num_propagated=0, memory_length=0)).eval()
    detector = Detector(single, device="cpu")
    a = detector.step(_frame(0))
    detector.step(_frame(1))
    assert _same(a, detector.step(_frame(0)))
    assert len(detector.last_memory_queries) == 0
    assert a.lineage is None


def test_weights_from_a_file(tmp_path: Path) -> None:
    model = build_model("tiny")
    model.load_state_dict(recipe_state_dict(model))
    save_checkpoint(model, tmp_path / "mine.safetensors")
    from_file = Detector.from_checkpoint(tmp_path / "mine.safetensors", RIG, model="auto", device="cpu")
    assert (from_file.model_name, from_file.weights_name) == ("tiny", "mine.safetensors")
    by_rule = Detector.from_checkpoint("recipe", model="tiny", device="cpu")
    assert _same(from_file.step(_frame(0)), by_rule.step(_frame(0)))
    with pytest.raises(CheckpointError, match="is of model 'tiny', not 'r50_704_428q'"):
        Detector.from_checkpoint(tmp_path / "mine.safetensors", model="r50_704_428q")


def test_settings_that_are_refused() -> None:
    with pytest.raises(DetectorError, match="backend 'tensorrt' is not available; choose one of auto, torch"):
        Detector.from_checkpoint("recipe", model="tiny", backend="tensorrt")
    with pytest.raises(DetectorError, match="device 'tpux'"):
        Detector.from_checkpoint("random", model="tiny", device="tpux")
    with pytest.raises(UnknownVariantError, match="did you mean 'tiny'"):
        Detector.from_checkpoint("recipe", model="tinny")
    if not torch.cuda.is_available():
        with pytest.raises(DetectorError, match="no CUDA device"):
            Detector.from_checkpoint("random", model="tiny", device="cuda")


@pytest.mark.gpu
def test_the_gpu_gives_the_boxes_of_the_cpu(detector: Detector) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_gpu = Detector.from_checkpoint("recipe", model="tiny", device="cuda")
    for index in range(3):
        a, b = detector.step(_frame(index)), on_gpu.step(_frame(index))
        np.testing.assert_allclose(a.score, b.score, atol=2e-3)
