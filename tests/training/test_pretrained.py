"""Weights to start from: every way a backbone's names are written, and files that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from streampetr_core.checkpoint import CheckpointError, save_checkpoint
from streampetr_core.model import StreamPETR
from streampetr_core.model.eva import EvaViT
from streampetr_core.model.variants import R50_704_428Q, TINY
from training.config import ConfigError, NetworkConfig
from training.network import build_network
from training.pretrained import PretrainedError, load_backbone, load_matching

SMALL = replace(
    TINY,
    embed_dims=32,
    num_heads=2,
    num_layers=1,
    backbone_width=8,
    num_queries=10,
    num_proposals=0,
    refines_boxes=False,
)

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def donor() -> StreamPETR:
    torch.manual_seed(3)
    return StreamPETR(SMALL)


def torchvision(state: State) -> State:
    return {**state, "fc.weight": torch.ones(1000, 64), "fc.bias": torch.ones(1000)}


def detector(state: State) -> State:
    """As mmdet's detectors, for example the nuImages one, with the checkpoint's wrapper."""
    of_backbone = {
        f"backbone.{key}": value for key, value in state.items() if not key.endswith("num_batches_tracked")
    }
    return {"state_dict": {**of_backbone, "neck.fpn.weight": torch.ones(2)}, "meta": {"epoch": 20}}  # type: ignore[dict-item]


def published(state: State) -> State:
    return {**{f"img_backbone.{key}": value for key, value in state.items()}, "pts_bbox_head.x": torch.ones(1)}


@pytest.mark.parametrize("wording", [torchvision, detector, published])
def test_backbones_are_found_whatever_stands_before_their_names(
    donor: StreamPETR, tmp_path: Path, wording: Callable[[State], State]
) -> None:
    state = donor.img_backbone.state_dict()
    torch.save(wording(state), tmp_path / "file.pth")
    network = StreamPETR(SMALL)
    note = load_backbone(network, tmp_path / "file.pth")
    assert "file.pth" in note
    assert all(torch.equal(value, state[key]) for key, value in network.img_backbone.state_dict().items())


V299 = replace(SMALL, backbone="vovnet99")
VITL = replace(SMALL, backbone="eva02_vit_l", backbone_width=64)


def fcos3d(state: State) -> State:
    """As PETR's fcos3d_vovnet_imgbackbone-remapped.pth: nothing but the backbone."""
    return {"state_dict": {f"img_backbone.{key}": value for key, value in state.items()}}  # type: ignore[dict-item]


def dd3d(state: State) -> State:
    """As detectron2 writes a detector with a pyramid; its batch norms, which are frozen, count nothing."""
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    of_backbone = {f"backbone.bottom_up.{key}": value for key, value in kept.items()}
    rest = {"backbone.fpn_lateral4.weight": torch.ones(2), "pixel_mean": torch.ones(3, 1, 1)}
    return {"model": {**of_backbone, **rest}, "iteration": 3}  # type: ignore[dict-item]


@pytest.mark.parametrize("wording", [dict, fcos3d, dd3d])
def test_v2_99_files(tmp_path: Path, wording: Callable[[State], State]) -> None:
    state = StreamPETR(V299).img_backbone.state_dict()
    torch.save(wording(state), tmp_path / "file.pth")
    network = StreamPETR(V299)
    load_backbone(network, tmp_path / "file.pth")
    assert all(torch.equal(value, state[key]) for key, value in network.img_backbone.state_dict().items())


def eva_detectron2(state: State) -> State:
    """As eva02_L_coco_det_sys_o365.pth: the ViT within a pyramid within a detector."""
    of_backbone = {f"backbone.net.{key}": value for key, value in state.items()}
    return {"model": {**of_backbone, "backbone.simfp_4.0.weight": torch.ones(2), "roi_heads.x": torch.ones(1)}}  # type: ignore[dict-item]


def eva_remapped(state: State) -> State:
    """As StreamPETR's guide remaps it."""
    of_backbone = {f"img_backbone.{key}": value for key, value in state.items()}
    return {**of_backbone, "img_backbone.adapter.simfp_4.0.weight": torch.ones(2)}


@pytest.mark.parametrize("wording", [eva_detectron2, eva_remapped])
def test_eva_02_files(tmp_path: Path, wording: Callable[[State], State]) -> None:
    """The file is of square images of 384 pixels; rotary tables stay those of this network's images."""
    donor = EvaViT(384, 64).state_dict()
    torch.save(wording(donor), tmp_path / "file.pth")
    network = StreamPETR(VITL)
    tables = {k: v.clone() for k, v in network.img_backbone.state_dict().items() if "freqs" in k}
    note = load_backbone(network, tmp_path / "file.pth")
    loaded = network.img_backbone.state_dict()
    assert donor["rope_glb.freqs_cos"].shape != loaded["rope_glb.freqs_cos"].shape
    for key, value in loaded.items():
        assert torch.equal(value, tables[key] if key in tables else donor[key]), key
    assert f"{len(loaded) - len(tables)} tensors" in note


def test_learned_positions_of_another_grid_are_resized(tmp_path: Path) -> None:
    """A grid that rises with the row by one a cell rises by half a cell's worth on twice the rows."""
    donor = EvaViT(160, 64).state_dict()
    rows = torch.arange(28.0)[:, None].expand(28, 28).flatten()
    donor["pos_embed"] = torch.cat((torch.full((1,), 7.0), rows))[None, :, None].expand(-1, -1, 64).contiguous()
    torch.save(donor, tmp_path / "file.pth")
    network = StreamPETR(VITL)
    load_backbone(network, tmp_path / "file.pth")
    found = network.img_backbone.state_dict()["pos_embed"]
    assert found.shape == (1, 197, 64)
    assert found[0, 0, 0] == 7.0
    inside = found[0, 1:].view(14, 14, 64)[2:-2, :, 0]
    torch.testing.assert_close(inside, (2 * torch.arange(2.0, 12) + 0.5)[:, None].expand(-1, 14))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda s: s.pop("blocks.7.mlp.ffn_ln.bias"),
            r"1 weights missing, 0 .* first blocks\.7\.mlp\.ffn_ln\.bias",
        ),
        (lambda s: s.update({"patch_embed.proj.weight": torch.ones(64, 3, 14, 14)}), r"first patch_embed\.proj"),
        (
            lambda s: s.update({"pos_embed": torch.ones(1, 200, 64)}),
            r"first pos_embed; .* eva02_vit_l of width",
        ),
    ],
)
def test_a_vit_file_that_lacks_something_says_what(
    tmp_path: Path, spoil: Callable[[State], Any], says: str
) -> None:
    state = EvaViT(160, 64).state_dict()
    spoil(state)
    torch.save({"model": {f"backbone.net.{key}": value for key, value in state.items()}}, tmp_path / "file.pth")
    with pytest.raises(PretrainedError, match=says):
        load_backbone(StreamPETR(VITL), tmp_path / "file.pth")


def test_the_names_are_torchvisions() -> None:
    """Spot checks of resnet50's; all 318 of them, less the classifier's two."""
    with torch.device("meta"):
        names = {key: tuple(v.shape) for key, v in StreamPETR(R50_704_428Q).img_backbone.state_dict().items()}
    assert names["conv1.weight"] == (64, 3, 7, 7)
    assert names["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert names["layer3.5.bn3.running_var"] == (1024,)
    assert names["layer4.2.conv2.weight"] == (512, 512, 3, 3)
    assert len(names) == 318


def test_what_does_not_fit_is_named(donor: StreamPETR, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    state = donor.img_backbone.state_dict()
    torch.save({k: v for k, v in state.items() if "layer4.1" not in k}, path)
    with pytest.raises(PretrainedError, match=r"10 weights missing.*first layer4\.1\.conv1\.weight"):
        load_backbone(StreamPETR(SMALL), path)
    torch.save(state, path)
    with pytest.raises(PretrainedError, match=r"first conv1\.weight; choose a file of a resnet18"):
        load_backbone(StreamPETR(replace(SMALL, backbone_width=16)), path)
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError):
        load_backbone(StreamPETR(SMALL), path)


def test_a_streaming_network_starts_from_a_single_frame_one(tmp_path: Path) -> None:
    """Other queries and no memory: the rest is taken over, the shared heads too."""
    single = StreamPETR(replace(SMALL, num_queries=20, num_propagated=0, memory_length=0))
    path = tmp_path / "single.safetensors"
    save_checkpoint(single, path)
    network = StreamPETR(SMALL)
    note = load_matching(network, path)
    assert "pts_bbox_head.reference_points.weight" in note
    for name in (
        "img_backbone.conv1.weight",
        "pts_bbox_head.cls_branches.0.0.weight",
        "img_neck.fpn_convs.0.conv.bias",
    ):
        assert torch.equal(network.state_dict()[name], single.state_dict()[name])
    torch.save({"something": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(PretrainedError, match="no weight of"):
        load_matching(network, tmp_path / "other.pth")


def test_what_shall_not_learn_must_come_from_a_file(donor: StreamPETR, tmp_path: Path) -> None:
    """A backbone's file has no neck; a checkpoint of the network has."""
    torch.save(donor.img_backbone.state_dict(), tmp_path / "backbone.pth")
    torch.save(donor.state_dict(), tmp_path / "network.pth")
    frozen = ("img_backbone", "img_neck")
    with pytest.raises(ConfigError, match=r"img_neck\..* no file has it"):
        build_network(SMALL, NetworkConfig(backbone=tmp_path / "backbone.pth", frozen=frozen))
    build_network(SMALL, NetworkConfig(backbone=tmp_path / "backbone.pth", frozen=frozen[:1]))
    network, _ = build_network(SMALL, NetworkConfig(weights=tmp_path / "network.pth", frozen=frozen))
    assert torch.equal(network.state_dict()["img_neck.lateral_convs.0.conv.weight"],
                       donor.state_dict()["img_neck.lateral_convs.0.conv.weight"])  # fmt: skip
