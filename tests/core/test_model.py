"""The network against the published key lists, the weight rule's checksums and the reference vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streampetr_core.golden import open_golden
from streampetr_core.model import (
    FrameGeometry,
    Memory,
    StreamPETR,
    UnknownVariantError,
    build_model,
    variant,
)
from streampetr_core.model.folding import fold_batch_norm
from streampetr_core.model.layers import sine_embedding
from streampetr_core.model.memory import leave_frame
from streampetr_core.recipe import recipe_state_dict, recipe_weight

KEY_LISTS = {
    "stream_petr_r50_428q_24e": "r50_704_428q",
    "stream_petr_r50_428q_60e": "r50_704_428q",
    "stream_petr_r50_428q_speed_test": "r50_704_428q",
    "stream_petr_r50_24e": "r50_704_900q",
    "stream_petr_r50_90e": "r50_704_900q",
    "stream_petr_r50_bs1_8key_2grad": "r50_704_900q",
    "stream_petr_vov_24e": "v299_800_900q",
    "petrv1_r50": "petr_r50_704",
    "focal_petrv1_r50": "focal_petr_r50_704",
}


@pytest.mark.parametrize("config", KEY_LISTS)
def test_published_key_lists_load_strictly(shared: Path, config: str) -> None:
    keys = json.loads((shared / "golden" / f"keys_{config}.json").read_text())
    with torch.device("meta"):  # names and shapes only, no time for numbers
        model = build_model(KEY_LISTS[config])
        state = {key: torch.zeros(shape) for key, shape in keys.items()}
    result = model.load_state_dict(state, strict=True, assign=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == keys


def test_layers_share_one_head() -> None:
    head = build_model("tiny").pts_bbox_head
    assert all(branch is head.cls_branches[0] for branch in head.cls_branches)
    assert all(branch is head.reg_branches[0] for branch in head.reg_branches)


@pytest.mark.parametrize(
    "config", ["stream_petr_r50_24e", "stream_petr_vov_24e", "repdetr3d_vov", "repdetr3d_eva02"]
)
def test_recipe_gives_the_reference_weights(shared: Path, config: str) -> None:
    golden = shared / "golden"
    sums = json.loads((golden / "weight_checksums.json").read_text())[config]
    shapes = json.loads((golden / f"keys_{config}.json").read_text())
    for key, expected in sums.items():
        weight = recipe_weight(key, tuple(shapes[key]))
        if weight is None:  # kept as the model is built
            continue
        assert weight.dtype in (np.float32, np.int64)
        exact = weight.astype(np.float64).ravel()
        assert exact[:4].tolist() == expected["first4"], key
        assert exact.sum() == pytest.approx(expected["sum"], abs=1e-6)
        assert np.sqrt((exact**2).sum()) == pytest.approx(expected["l2"], rel=1e-9)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownVariantError, match="'r50_704_428'; did you mean 'r50_704_428q'"):
        build_model("r50_704_428")
    with pytest.raises(UnknownVariantError, match=r"known: .*tiny"):
        build_model("@@@@")


def test_tiny_fits_in_16_megabytes_at_half_precision() -> None:
    assert 2 * sum(p.numel() for p in build_model("tiny").parameters()) < 16_000_000


def test_coords_match_their_published_values(shared: Path) -> None:
    """LID depths: the first is 1 m, the last about 59.35 m."""
    depths = build_model("tiny").pts_bbox_head.coords_d
    assert depths[0] == 1.0
    assert depths[-1] == pytest.approx(59.35, abs=0.01)


def test_stored_intermediates(shared: Path) -> None:
    """Cone, position embedding and tokens of the single-frame reference: the parts, not only their sum."""
    golden = open_golden(shared / "golden" / "golden_stream_petrv1_r50.npz")
    model = build_model(golden.model)
    model.load_state_dict(recipe_state_dict(model))
    from streampetr_core.model.position_embedding import ray_cone, ray_points

    head, geometry = model.pts_bbox_head, golden.geometry(0)
    points = ray_points(geometry.image_from_model, head.coords_d, head.position_range, 16, 44, 16)
    cone = ray_cone(points, geometry.intrinsics)
    torch.testing.assert_close(cone[0], golden.get(0, "dbg_cone")[0], atol=2e-5, rtol=0)
    picked = torch.from_numpy(golden.arrays["dbg_token_index"])
    with torch.inference_mode():
        position = model.encode_position(geometry, (256, 704)).position[0, picked]
    torch.testing.assert_close(position, golden.get(0, "dbg_pos_embed_raw_tok")[0], atol=2e-4, rtol=0)


def test_folded_batch_norm_changes_only_rounding() -> None:
    model = build_model("tiny")
    model.load_state_dict(recipe_state_dict(model))
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norm(model.img_backbone)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        for a, b in zip(model.img_backbone(images), folded(images), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_batch_norm_keeps_its_statistics_in_training() -> None:
    model = build_model("tiny").train()
    before = model.state_dict()["img_backbone.bn1.running_mean"].clone()
    model.img_backbone(torch.randn(1, 3, 64, 64))
    assert torch.equal(model.state_dict()["img_backbone.bn1.running_mean"], before)
    assert model.pts_bbox_head.training


def test_sine_embedding_interleaves() -> None:
    embedded = sine_embedding(torch.tensor([[0.25, 0.0]]), 4)
    assert embedded.shape == (1, 8)
    torch.testing.assert_close(embedded[0, :2], torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(embedded[0, 4:], torch.tensor([0.0, 1.0, 0.0, 1.0]))


def _small_inputs(batch: int = 1, cameras: int = 3) -> tuple[torch.Tensor, FrameGeometry]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(batch, cameras, 3, 96, 160, generator=generator)
    projection = torch.eye(4).repeat(batch, cameras, 1, 1)
    projection[..., :3, :] += 0.3 * torch.randn(batch, cameras, 3, 4, generator=generator)
    intrinsics = 300 * torch.eye(3).repeat(batch, cameras, 1, 1)
    identity = torch.eye(4).repeat(batch, 1, 1)
    time = torch.full((batch,), 0.5, dtype=torch.float64)
    return images, FrameGeometry(projection, intrinsics, identity, identity, time)


@pytest.fixture(scope="module")
def tiny() -> StreamPETR:
    model = build_model("tiny")
    model.load_state_dict(recipe_state_dict(model))
    return model


def test_all_cameras_present_means_no_mask(tiny: StreamPETR) -> None:
    images, geometry = _small_inputs()
    with torch.inference_mode():
        without = tiny.forward_frame(images, geometry, None)
        with_mask = tiny.forward_frame(images, replace(geometry, present=torch.ones(1, 3, dtype=torch.bool)), None)
    torch.testing.assert_close(with_mask.logits, without.logits, atol=1e-5, rtol=0)


def test_absent_cameras_have_no_say(tiny: StreamPETR) -> None:
    """Other pixels in an absent camera change nothing; the same pixels in a present one do."""
    images, geometry = _small_inputs()
    changed = images.clone()
    changed[:, 1] += 1.0
    masked = replace(geometry, present=torch.tensor([[True, False, True]]))
    with torch.inference_mode():
        a = tiny.forward_frame(images, masked, None)
        b = tiny.forward_frame(changed, masked, None)
        c = tiny.forward_frame(changed, geometry, None)
        d = tiny.forward_frame(images, geometry, None)
    assert torch.equal(a.logits, b.logits)
    assert (c.logits - d.logits).abs().max() > 1e-4
    assert (a.logits - d.logits).abs().max() > 1e-4


def test_batch_slots_are_independent_and_forget_on_their_own(tiny: StreamPETR) -> None:
    images, geometry = _small_inputs(batch=2)
    with torch.inference_mode():
        first = tiny.forward_frame(images, geometry, None)
        both = tiny.forward_frame(images, replace(geometry, continues=torch.tensor([1.0, 0.0])), first.memory)
        kept = tiny.forward_frame(images, geometry, first.memory)
        fresh = tiny.forward_frame(images, geometry, None)
    torch.testing.assert_close(both.logits[:, 0], kept.logits[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(both.logits[:, 1], fresh.logits[:, 1], atol=1e-5, rtol=0)
    assert (kept.logits[:, 1] - fresh.logits[:, 1]).abs().max() > 1e-4


def test_forward_frame_is_pure(tiny: StreamPETR) -> None:
    images, geometry = _small_inputs()
    with torch.inference_mode():
        memory = tiny.forward_frame(images, geometry, None).memory
        assert memory is not None
        copy = memory.map(torch.clone)
        a = tiny.forward_frame(images, geometry, memory)
        b = tiny.forward_frame(images, geometry, memory)
    assert torch.equal(a.logits, b.logits)
    assert all(torch.equal(getattr(memory, k), getattr(copy, k)) for k in ("embedding", "reference", "pose"))


def test_gradients_reach_everything_that_is_trained() -> None:
    model = StreamPETR(replace(variant("tiny"), has_auxiliary_head=True)).train()
    images, geometry = _small_inputs()
    outputs = model.forward_frame(images, geometry, None)
    assert model.img_roi_head is not None
    assert outputs.proposals is not None
    two_d = model.img_roi_head(outputs.features.flatten(0, 1))
    (outputs.logits.sum() + outputs.boxes.sum() + two_d.logits.sum() + two_d.boxes.sum()).backward(
        retain_graph=True
    )
    maps = outputs.proposals.maps
    assert outputs.followed is not None
    (maps.heat.sum() + maps.log_depth.sum() + maps.heading.sum() + outputs.followed.deviations.sum()).backward()
    assert outputs.memory is not None
    assert not outputs.memory.embedding.requires_grad
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    expected = ("img_roi_head.center",)  # not in this sum
    assert all(name.startswith(expected) for name in without), without


def test_the_best_queries_enter_the_memory_first() -> None:
    logits = torch.tensor([[[0.0], [3.0], [1.0]]])
    boxes = torch.arange(30.0).reshape(1, 3, 10)
    embedding = torch.arange(6.0).reshape(1, 3, 2)
    old = Memory(
        torch.zeros(1, 1, 2), torch.ones(1, 1, 3), torch.zeros(1, 1, 1).double(), torch.zeros(1, 1, 4, 4),
        torch.zeros(1, 1, 2), torch.zeros(1, 1, 9), torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1),
    )  # fmt: skip
    world_from_model = torch.eye(4)[None].clone()
    world_from_model[0, :3, 3] = torch.tensor([10.0, 20.0, 30.0])
    new, index = leave_frame(
        old, embedding, logits, boxes, None, 2, world_from_model, torch.tensor([7.0]).double()
    )
    assert index.tolist() == [[1, 2]]
    assert new.reference[0].tolist() == [[20.0, 31.0, 42.0], [30.0, 41.0, 52.0], [11.0, 21.0, 31.0]]
    assert new.velocity[0, :2].tolist() == [[18.0, 19.0], [28.0, 29.0]]
    assert new.timestamp.flatten().tolist() == [-7.0] * 3
    assert torch.equal(new.pose[0, 0], world_from_model[0])
    assert torch.equal(new.pose[0, 2], torch.zeros(4, 4))


def test_queries_begin_with_the_filters_boxes_and_the_memory_keeps_its_states() -> None:
    """A network that has not learned to correct gives just these boxes; the corrections are not remembered."""
    torch.manual_seed(3)
    network = StreamPETR(variant("tiny")).eval()
    images, geometry = _small_inputs()
    learned, count = network.variant.num_queries, network.variant.num_propagated
    with torch.no_grad():
        outputs = network.forward_frame(images, geometry, None)
        for step in range(1, 3):
            later = replace(geometry, timestamp=geometry.timestamp + 0.5 * step)
            outputs = network.forward_frame(images, later, outputs.memory)
    assert outputs.followed is not None
    assert outputs.memory is not None
    assert outputs.memory_queries is not None
    state, boxes = outputs.followed.state, outputs.boxes[-1][:, learned:]
    torch.testing.assert_close(boxes[..., 3:], outputs.followed.box)
    inside = (state.place.abs() < torch.tensor([51.0, 51.0, 2.9])).all(-1)
    assert inside.any()
    torch.testing.assert_close(boxes[..., :3][inside], state.place[inside], atol=1e-3, rtol=0)
    with torch.no_grad():
        network.pts_bbox_head.get_parameter("reg_branches.0.4.bias").fill_(0.5)
        corrected = network.forward_frame(images, geometry, None)
    assert corrected.memory is not None
    assert corrected.memory_queries is not None
    assert corrected.followed is not None
    kept = corrected.memory_queries[0] - learned
    from_cells = (kept >= 0) & (kept < network.variant.num_proposals)
    assert from_cells.any()
    remembered = corrected.memory.reference[0, :count][from_cells]
    torch.testing.assert_close(remembered, corrected.followed.state.place[0, kept[from_cells]])


def test_boxes_without_image_cells_to_correct_them_are_refused() -> None:
    with pytest.raises(UnknownVariantError, match="'tiny' refines boxes"):
        StreamPETR(replace(variant("tiny"), num_proposals=0))


def test_variants_differ_where_they_should() -> None:
    assert variant("r50_704_900q").num_queries + variant("r50_704_900q").num_propagated == 900
    assert not variant("petr_r50_704").temporal
    assert all(side % 32 == 0 for name in ("tiny", "r50_704_428q") for side in variant(name).input_size)
