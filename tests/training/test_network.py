"""What of a network learns and how it computes, whatever its backbone."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from streampetr_core.model import StreamPETR, Variant
from tests.training.conftest import TOY, ToySource
from training.config import NetworkConfig, TrainConfig
from training.network import prepare_network, training_mode

CPU = torch.device("cpu")
V299 = replace(TOY, backbone="vovnet99", backbone_width=8)
VITL = replace(TOY, backbone="eva02_vit_l", backbone_width=64, drop_path=0.3)


def prepared(variant: Variant, train: TrainConfig, batch_norm: str = "affine") -> StreamPETR:
    torch.manual_seed(1)
    network = prepare_network(StreamPETR(variant), NetworkConfig(batch_norm=batch_norm), train, CPU)  # type: ignore[arg-type]
    training_mode(network, True, batch_norm)
    return network


def gradients(network: StreamPETR) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(2)
    images = torch.randn(2, 1, 3, *network.variant.input_size)
    features = network.extract_features(images)
    features.tokens.square().mean().backward()
    return features.tokens.detach(), {k: p.grad for k, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", [V299, VITL], ids=["V2-99", "ViT"])
def test_low_memory_gives_the_same_gradients(variant: Variant) -> None:
    """Stochastic depth included: recomputed blocks drop the same images."""
    features, plain = gradients(prepared(variant, TrainConfig()))
    low = prepared(variant, TrainConfig(memory="low"))
    again, recomputed = gradients(low)
    assert torch.equal(features, again)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[key], recomputed[key]) for key in plain)
    blocks = [m for m in low.img_backbone.sections() if "forward" in vars(m)]
    assert len(blocks) == (16 if variant is V299 else 24)


@pytest.mark.parametrize("variant", [V299, VITL], ids=["V2-99", "ViT"])
def test_the_backbone_computes_in_half_precision(variant: Variant) -> None:
    """Near the full precision's, not equal to it, and handed on as float32."""
    full, _ = gradients(prepared(replace(variant, drop_path=0.0), TrainConfig()))
    half, found = gradients(prepared(replace(variant, drop_path=0.0), TrainConfig(precision="bf16")))
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.1 * full.abs().max()
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_batch_norm_of_v2_99() -> None:
    """Published: statistics stay, scale and shift learn."""
    network = prepared(V299, TrainConfig())
    before = {k: v.clone() for k, v in network.img_backbone.state_dict().items() if "running" in k}
    _, found = gradients(network)
    assert sum(key.endswith("/norm.weight") for key in found) == 3 + 16 * 6
    assert all(torch.equal(network.img_backbone.state_dict()[key], value) for key, value in before.items())
    _, found = gradients(prepared(V299, TrainConfig(), "frozen"))
    assert not any("/norm." in key for key in found)
    learning = prepared(V299, TrainConfig(), "train")
    gradients(learning)
    assert any(not torch.equal(learning.img_backbone.state_dict()[key], value) for key, value in before.items())


def test_without_decoder_the_images_part_learns_alone() -> None:
    """Every parameter that may learn gets a gradient, which processes that train together wait for."""
    variant = replace(TOY, num_proposals=12)
    network = prepared(variant, TrainConfig(mode="single_frame", decoder=False), "train")
    (batch,) = next(iter(ToySource(range(2))))
    maps = network.propose(batch.images, batch.geometry).maps
    torch.stack([getattr(maps, f.name).sum() for f in fields(maps) if f.name != "size"]).sum().backward()
    learns = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learns == {name for name, p in network.named_parameters() if p.grad is not None}
    assert any(name.startswith("pts_bbox_head.proposals") for name in learns)
    assert not any("transformer" in name for name in learns)
