"""Rates by part of the network and by step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from streampetr_core.model import StreamPETR
from streampetr_core.model.variants import TINY, VITL_800_900Q
from training.average import WeightAverage
from training.config import ConfigError, OptimizerConfig
from training.optimizer import layers_above, make_optimizer, multiplier, parameter_groups, set_rates
from training.recipes import recipe
from training.schedule import base_rate, rate_factor

SMALL = replace(TINY, embed_dims=32, num_layers=1, backbone_width=8)


@pytest.fixture(scope="module")
def network() -> StreamPETR:
    return StreamPETR(SMALL)


def test_every_parameter_is_in_one_group_with_its_rate(network: StreamPETR) -> None:
    config = OptimizerConfig(multipliers=(("img_backbone", 0.25), ("img_backbone.layer4", 0.5)))
    groups = parameter_groups(network.named_parameters(), config, 1e-3)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert len(rates) == len(learning) == sum(len(group["params"]) for group in groups)
    for name, parameter in learning.items():
        expected = 5e-4 if "backbone.layer4" in name else 2.5e-4 if "backbone" in name else 1e-3
        assert rates[id(parameter)] == pytest.approx(expected), name
    assert {group["weight_decay"] for group in groups} == {0.01}


def test_names_are_covered_whole() -> None:
    assert multiplier("img_backbone.layer10.x", [("img_backbone.layer1", 0.1)]) == 1.0
    assert multiplier("img_backbone.layer1.x", [("img_backbone.layer1", 0.1)]) == 0.1


def test_a_multiplier_for_nothing_is_refused(network: StreamPETR) -> None:
    with pytest.raises(ConfigError, match="begins with 'backbone'"):
        make_optimizer(network, OptimizerConfig(multipliers=(("backbone", 0.1),)), 1e-3)


def test_layers_of_a_vit_move_less_the_deeper_they_are() -> None:
    """EVA-02's names; 0.9 a block as the published ViT-L."""
    names = ["patch_embed.proj.weight", "blocks.0.attn.q", "blocks.23.mlp.w1", "norm.weight"]
    assert [layers_above(f"img_backbone.{name}", 24) for name in names] == [25, 24, 1, 0]
    assert layers_above("pts_bbox_head.blocks.0.x", 24) == 0
    named = [
        (f"img_backbone.blocks.{i}.{k}", nn.Parameter(torch.ones(*s)))
        for i in range(3)
        for k, s in (("weight", (2, 2)), ("bias", (2,)))
    ]
    named.append(("img_neck.weight", nn.Parameter(torch.ones(2, 2))))
    config = OptimizerConfig(multipliers=(("img_backbone", 0.1),), layer_decay=0.9, decay_vectors=False)
    groups = parameter_groups(named, config, 1.0)
    found = {(round(g["lr"], 9), g["weight_decay"]) for g in groups}
    depths = {(round(0.1 * 0.9 ** (3 - i), 9), decay) for i in range(3) for decay in (0.01, 0.0)}
    assert found == depths | {(1.0, 0.01)}


def test_the_layer_decay_of_a_vit_network() -> None:
    """By the recipe: heads 4e-4; the backbone 1e-4 after its last block, nine tenths of it a block before."""
    with torch.device("meta"):
        network = StreamPETR(replace(VITL_800_900Q, backbone_width=64))
    config = recipe("vitl_800_900q").optimizer
    groups = parameter_groups(network.named_parameters(), config, config.rate)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    named = dict(network.named_parameters())
    for name, expected in (
        ("pts_bbox_head.memory_embed.0.weight", (4e-4, 1e-7)),
        ("img_backbone.blocks.23.mlp.w3.weight", (1e-4 * 0.9, 1e-7)),
        ("img_backbone.blocks.23.mlp.w3.bias", (1e-4 * 0.9, 0.0)),
        ("img_backbone.blocks.0.attn.q_bias", (1e-4 * 0.9**24, 0.0)),
        ("img_backbone.patch_embed.proj.weight", (1e-4 * 0.9**25, 1e-7)),
        ("img_backbone.pos_embed", (1e-4 * 0.9**25, 1e-7)),
    ):
        assert rates[id(named[name])] == pytest.approx(expected), name


def test_warm_up_then_cosine() -> None:
    config = OptimizerConfig()
    assert rate_factor(0, 10_000, config) == pytest.approx(1 / 3)
    assert rate_factor(250, 10_000, config) == pytest.approx(2 / 3 * cosine(250, 10_000))
    assert rate_factor(5000, 10_000, config) == pytest.approx((1 + 1e-3) / 2)
    assert rate_factor(10_000, 10_000, config) == pytest.approx(1e-3)
    by_epoch = [rate_factor(step, 24_000, replace(config, warm_up=0, plateaus=24)) for step in range(24_000)]
    assert by_epoch[::1000] == pytest.approx([cosine(epoch, 24) for epoch in range(24)])
    assert all(by_epoch[step] == by_epoch[step - step % 1000] for step in range(24_000))
    factors = [rate_factor(step, 10_000, config) for step in range(500, 10_000, 100)]
    assert factors == sorted(factors, reverse=True)


def cosine(step: int, steps: int) -> float:
    return 1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * step / steps)) / 2


def test_the_rate_follows_the_batch(network: StreamPETR) -> None:
    config = OptimizerConfig()
    assert base_rate(config, 16) == 4e-4
    assert base_rate(config, 8) == 2e-4  # as published for 8 samples
    assert base_rate(replace(config, reference_batch=0), 8) == 4e-4
    optimizer = make_optimizer(network, config, 1e-3)
    set_rates(optimizer, 0.5)
    set_rates(optimizer, 0.5)  # not of the present rate
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([1.25e-4, 5e-4])


def test_the_average_trails_the_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, 0.5)
    start = network.weight.item()
    with torch.no_grad():
        network.weight += 1.0
    average.update(network)  # at first a step keeps a tenth
    assert average.weights["weight"].item() == pytest.approx(start + 0.9)
    average.update(network)
    assert average.weights["weight"].item() == pytest.approx(start + 1 - 0.1 * 2 / 11)
    again = WeightAverage(nn.Linear(1, 1, bias=False), 0.5)
    again.load_state_dict(average.state_dict())
    assert again.updates == 2
    assert torch.equal(again.weights["weight"], average.weights["weight"])
