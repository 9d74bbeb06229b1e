"""V2-99 and EVA-02: names, maps, and each computed a second time in another way, at a reduced width."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from streampetr_core.checkpoint import load_checkpoint, save_checkpoint
from streampetr_core.model import StreamPETR, UnknownVariantError, build_model, variant
from streampetr_core.model.backbone import Backbone
from streampetr_core.model.eva import Block, EvaViT, RotaryEmbedding, map_from_windows, windows_from_map
from streampetr_core.model.folding import fold_batch_norm
from streampetr_core.model.streampetr import make_backbone
from streampetr_core.model.vovnet import AggregationBlock, VoVNet
from streampetr_core.recipe import recipe_state_dict, recipe_weight


def by_recipe(module: Backbone) -> Backbone:
    module.load_state_dict(recipe_state_dict(module))
    return module.eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_published_names_of_eva_02_load_strictly(shared: Path) -> None:
    """With the pyramid, as RepDETR3D has it; without it the same names less the pyramid's."""
    keys = json.loads((shared / "golden" / "keys_repdetr3d_eva02.json").read_text())
    keys = {k.removeprefix("img_backbone."): v for k, v in keys.items() if k.startswith("img_backbone.")}
    with torch.device("meta"):
        backbone = EvaViT(320, pyramid=True)
        backbone.load_state_dict({k: torch.zeros(shape) for k, shape in keys.items()}, strict=True, assign=True)
        plain = build_model("vitl_800_900q").img_backbone.state_dict()
    assert {key: list(value.shape) for key, value in backbone.state_dict().items()} == keys
    assert set(plain) == {key for key in keys if not key.startswith("adapter.")}


def test_sizes_of_the_networks() -> None:
    """Parameters of V2-99 and ViT-L, in millions; the ViT's channels go into the heads without a neck."""
    with torch.device("meta"):
        v299, vitl = build_model("v299_800_900q"), build_model("vitl_800_900q")
    millions = [sum(p.numel() for p in network.img_backbone.parameters()) / 1e6 for network in (v299, vitl)]
    assert millions == pytest.approx([68.6, 303.4], abs=1.0)
    assert vitl.img_neck is None
    assert vitl.pts_bbox_head.state_dict()["memory_embed.0.weight"].shape == (256, 1024)
    assert vitl.img_roi_head is not None
    assert vitl.img_roi_head.state_dict()["shared_cls.0.weight"].shape == (256, 1024, 3, 3)


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (VoVNet, [(1, 768, 5, 7), (1, 1024, 2, 3)]),
        (lambda: EvaViT(96, 64), [(1, 64, 5, 7)]),
        (
            lambda: EvaViT(96, 64, pyramid=True),
            [(1, 256, 20, 28), (1, 256, 10, 14), (1, 256, 5, 7), (1, 256, 2, 3)],
        ),
    ],
    ids=["V2-99", "ViT", "ViT with pyramid"],
)
def test_maps_of_an_image(make: Callable[[], Backbone], shapes: list[tuple[int, ...]]) -> None:
    backbone = make().eval()
    with torch.inference_mode():
        maps = backbone(random(1, 3, 80, 112))
    assert [tuple(m.shape) for m in maps] == shapes
    assert backbone.out_channels == tuple(shape[1] for shape in shapes)


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(UnknownVariantError, match=r"'resnet34'; known: .*vovnet99"):
        make_backbone(replace(variant("tiny"), backbone="resnet34"))


# V2-99


def test_one_aggregation_block_by_hand() -> None:
    """Batch norm as a formula, every intermediate map kept, the gate as a matrix times means."""
    state = {k: torch.as_tensor(recipe_weight(k, tuple(v.shape))) for k, v in _block().state_dict().items()}
    block = _block()
    block.load_state_dict(state)
    x = random(2, 12, 6, 9)

    def conv_norm_relu(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}/conv.weight"]
        x = functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
        mean, var, scale, shift = (
            state[f"{name}/norm.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.clamp((x - mean) / (var + 1e-5).sqrt() * scale + shift, min=0)

    maps = [x]
    for i in range(5):
        maps.append(conv_norm_relu(maps[-1], f"layers.{i}.A_{i}"))
    y = conv_norm_relu(torch.cat(maps, 1), "concat.A_concat")
    gate = y.mean((2, 3)) @ state["ese.fc.weight"][:, :, 0, 0].T + state["ese.fc.bias"]
    expected = y * ((gate + 3).clamp(0, 6) / 6)[:, :, None, None] + x
    with torch.inference_mode():
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def _block() -> AggregationBlock:
    return AggregationBlock("A", 12, 8, 12, shortcut=True).eval()


def test_stages_are_pooled_with_a_last_incomplete_window() -> None:
    """20 rows become 10, 5 and 2, not 9, 4 and 1; only the first block of a stage is without a shortcut."""
    backbone = by_recipe(VoVNet(8))
    blocks = backbone.sections()
    assert len(blocks) == 1 + 3 + 9 + 3
    assert [i for i, block in enumerate(blocks) if not cast(AggregationBlock, block).shortcut] == [0, 1, 4, 13]
    rows: list[int] = []
    for i in (0, 1, 4, 13):
        blocks[i].register_forward_hook(lambda module, inputs, output: rows.append(output.shape[2]))
    with torch.inference_mode():
        backbone(random(1, 3, 80, 64))
    assert rows == [20, 10, 5, 2]


def test_folded_batch_norm_changes_only_rounding() -> None:
    backbone = by_recipe(VoVNet(8))
    folded = fold_batch_norm(backbone)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        for a, b in zip(backbone(random(2, 3, 64, 96)), folded(random(2, 3, 64, 96)), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_batch_norm_keeps_its_statistics_in_training() -> None:
    backbone = VoVNet(8).train()
    before = backbone.state_dict()["stem.stem_1/norm.running_mean"].clone()
    backbone(random(1, 3, 64, 64))
    assert torch.equal(backbone.state_dict()["stem.stem_1/norm.running_mean"], before)
    assert backbone.training


# EVA-02


def test_rotary_tables() -> None:
    """As published: 16 rates for rows, then for columns, each twice; a side of 20 is squeezed to 16."""
    rope = RotaryEmbedding(64, 20)
    assert rope.freqs_cos.shape == (400, 64)
    row, column = 7, 13
    for pair in range(16):
        rate = 10000 ** (-2 * pair / 32)
        for place, offset in ((row, 0), (column, 32)):
            angle = torch.tensor(place / 20 * 16 * rate)
            for channel in (offset + 2 * pair, offset + 2 * pair + 1):
                assert rope.freqs_cos[row * 20 + column, channel] == pytest.approx(float(angle.cos()), abs=1e-6)
                assert rope.freqs_sin[row * 20 + column, channel] == pytest.approx(float(angle.sin()), abs=1e-6)


def test_scores_depend_on_relative_positions_only() -> None:
    """One query and one key at every place: the score of two places is that of their difference."""
    side = 8
    rope = RotaryEmbedding(64, side)
    query, key = (rope(random(1, 64, seed=s).expand(side * side, 64)) for s in (1, 2))
    scores = (query @ key.T).view(side, side, side, side)
    torch.testing.assert_close(scores[1:, 2:, 1:, 2:], scores[:-1, :-2, :-1, :-2], atol=1e-4, rtol=0)
    torch.testing.assert_close(scores[3, 5, 3, 5], (random(1, 64, seed=1) * random(1, 64, seed=2)).sum())
    assert (scores[0, 0] - scores[0, 0, 0, 0]).abs().max() > 0.5  # and they do depend on them


def test_windows_and_back() -> None:
    """Tokens keep their order; what does not fill a window is filled with zeros."""
    x = torch.arange(1.0, 2 * 5 * 7 + 1).view(2, 5, 7, 1)
    windows = windows_from_map(x, 4)
    assert windows.shape == (2 * 2 * 2, 16, 1)
    assert windows[1, :, 0].tolist() == [5, 6, 7, 0, 12, 13, 14, 0, 19, 20, 21, 0, 26, 27, 28, 0]
    assert torch.equal(map_from_windows(windows, 4, x.shape), x)


def test_the_vit_computed_window_by_window() -> None:
    """Another way to write it down: a loop over windows, turns as complex numbers, softmax spelled out."""
    backbone = EvaViT(80, 128)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.dim() == 1:  # norms and biases that say something
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    images = random(2, 3, 80, 304)
    with torch.inference_mode():
        (found,) = backbone.eval()(images)
        expected = window_by_window(backbone, images, 5)
    assert found.std() > 1
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def window_by_window(backbone: EvaViT, images: Tensor, high: int) -> Tensor:
    weights = backbone.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-6).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def turned(x: Tensor, side: int) -> Tensor:
        rate = 10000.0 ** (-torch.arange(0, 32, 2) / 32)
        place = torch.arange(side) / side * 16
        rows, columns = place[:, None, None] * rate, place[None, :, None] * rate
        angle = torch.cat((rows.expand(side, side, 16), columns.expand(side, side, 16)), -1).flatten(0, 1)
        numbers = torch.view_as_complex(x.unflatten(-1, (32, 2)).contiguous())
        return torch.view_as_real(numbers * torch.polar(torch.ones_like(angle), angle)).flatten(-2)

    x = functional.conv2d(images, weights["patch_embed.proj.weight"], stride=16).permute(0, 2, 3, 1)
    x = x + weights["patch_embed.proj.bias"]
    grid = weights["pos_embed"][0, 1:].T.reshape(1, -1, 14, 14)
    grid = functional.interpolate(grid, size=x.shape[1:3], mode="bicubic", align_corners=False)
    x = x + grid.permute(0, 2, 3, 1)
    batch, height, width, dims = x.shape
    for i in range(24):
        side = high if i in (2, 5, 8, 11, 14, 17, 20, 23) else 16
        y, attended = norm(x, f"blocks.{i}.norm1"), torch.zeros_like(x)
        for row in range(0, height, side):
            for column in range(0, width, side):
                part = y[:, row : row + side, column : column + side]
                window = torch.zeros(batch, side, side, dims)
                window[:, : part.shape[1], : part.shape[2]] = part
                tokens = window.flatten(1, 2)
                name = f"blocks.{i}.attn"
                q = linear(tokens, f"{name}.q_proj") + weights[f"{name}.q_bias"]
                k = linear(tokens, f"{name}.k_proj")
                v = linear(tokens, f"{name}.v_proj") + weights[f"{name}.v_bias"]
                q, k, v = (t.unflatten(-1, (-1, 64)).transpose(1, 2) for t in (q, k, v))
                scores = turned(q, side) @ turned(k, side).transpose(-1, -2) / 8
                mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
                mixed = linear(mixed, f"{name}.proj").unflatten(1, (side, side))
                attended[:, row : row + side, column : column + side] = mixed[:, : part.shape[1], : part.shape[2]]
        x = x + attended
        y = norm(x, f"blocks.{i}.norm2")
        gate = linear(y, f"blocks.{i}.mlp.w1")
        hidden = gate * gate.sigmoid() * linear(y, f"blocks.{i}.mlp.w2")
        x = x + linear(norm(hidden, f"blocks.{i}.mlp.ffn_ln"), f"blocks.{i}.mlp.w3")
    return x.permute(0, 3, 1, 2)


def test_rotary_tables_keep_their_digits_in_files_of_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = replace(variant("vitl_800_900q"), backbone_width=64, embed_dims=64, num_layers=1, num_queries=9)
    network = StreamPETR(small)
    save_checkpoint(network, tmp_path / "half.safetensors", half=True)
    again = StreamPETR(small)
    load_checkpoint(again, tmp_path / "half.safetensors")
    before, after = network.img_backbone.state_dict(), again.img_backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if "freqs" in key)
    assert torch.equal(before["blocks.3.mlp.w1.weight"].half().float(), after["blocks.3.mlp.w1.weight"])


def test_stochastic_depth_only_in_training() -> None:
    """None in the first block, the full rate in the last; images are dropped one by one."""
    backbone = EvaViT(80, 64, drop_path=0.3)
    rates = [cast(Block, block).drop_path for block in backbone.blocks]
    assert (rates[0], rates[-1]) == (0.0, 0.3)
    assert rates == sorted(rates)
    images = random(1, 3, 80, 80).expand(2, -1, -1, -1)
    with torch.inference_mode():
        (same,) = backbone.eval()(images)
        (dropped,) = backbone.train()(images)
    torch.testing.assert_close(same[0], same[1])
    assert (dropped[0] - dropped[1]).abs().max() > 1e-3


def test_a_small_vit_network_runs_and_learns() -> None:
    from tests.core.test_model import _small_inputs

    small = replace(
        variant("vitl_800_900q"),
        input_size=(96, 160),
        backbone_width=64,
        embed_dims=64,
        num_heads=2,
        num_layers=1,
        num_queries=9,
        num_propagated=4,
        memory_length=8,
        drop_path=0.0,
    )
    network = StreamPETR(small).train()
    outputs = network.forward_frame(*_small_inputs(), None)
    assert outputs.features.shape == (1, 3, 64, 6, 10)
    (outputs.logits.sum() + outputs.boxes.sum()).backward()
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert all(name.startswith("img_roi_head.") for name in without), without
