"""Weights to start from: every way a ResNet's names are written, and files that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from streampetr_core.checkpoint import CheckpointError, save_checkpoint
from streampetr_core.model import StreamPETR
from streampetr_core.model.variants import R50_704_428Q, TINY
from training.pretrained import PretrainedError, load_backbone, load_matching

SMALL = replace(TINY, embed_dims=32, num_heads=2, num_layers=1, backbone_width=8, num_queries=10, num_proposals=0)

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
