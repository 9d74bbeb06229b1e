"""Files of a backbone alone: what is understood of them, and that a wrong number is found.

The reference itself is large and made elsewhere; here are made-up files of a narrow network in its format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import streampetr_cli
from streampetr_core import verify_backbone as module
from streampetr_core.golden import GoldenError, open_golden
from streampetr_core.model.eva import EvaViT
from streampetr_core.recipe import recipe_weight
from streampetr_core.verify_backbone import verify_backbone

NAME = "golden_backbone_eva02_vitl_800x320.npz"
ROWS, COLUMNS = np.array([0, 9, 19]), np.array([0, 7, 15, 16, 25, 40, 49])

Arrays = dict[str, NDArray]


def narrow() -> EvaViT:
    return EvaViT(320, 64, pyramid=True)


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """As the reference's README has it."""
    network = narrow()
    built = network.state_dict()
    weights = {k: recipe_weight(f"img_backbone.{k}", tuple(v.shape)) for k, v in built.items()}
    network.load_state_dict({k: built[k] if w is None else torch.as_tensor(w) for k, w in weights.items()})
    image = torch.randn(3, 320, 800, generator=torch.Generator().manual_seed(5)).half()
    found: Arrays = {"input_fp16": image.numpy()}
    x = network.patch_embed["proj"](image[None].float()).permute(0, 2, 3, 1) + network.positions(20, 50)
    found["pos_embed_resized"] = network.positions(20, 50).detach().numpy()
    with torch.inference_mode():
        for index, block in enumerate(network.eval().blocks):
            x = block(x)
            if index in (0, 2, 23):
                name, values = f"block{index}", x[0].numpy()
                found |= {f"{name}_mean": values.mean(), f"{name}_std": values.std()}
                found[f"{name}_values"] = values[ROWS][:, COLUMNS, :64]
        for index, level in enumerate(network(image[None].float())):
            name, values = f"level{index}", level[0].numpy()
            found |= {f"{name}_shape": np.array(level.shape), f"{name}_mean": values.mean()}
            found |= {
                f"{name}_std": values.std(),
                f"{name}_fp16": values[: 256 if index else 64].astype(np.float16),
            }
            yy, xx = np.arange(0, values.shape[1], 3), np.arange(1, values.shape[2], 4)
            found |= {f"{name}_yy": yy, f"{name}_xx": xx, f"{name}_pts_f32": values[:, yy][:, :, xx]}
    for which, rope in (("win", network.rope_win), ("glb", network.rope_glb)):
        found |= {f"rope_{which}_cos": rope.freqs_cos.numpy(), f"rope_{which}_sin": rope.freqs_sin.numpy()}
    return found


def test_everything_in_a_file_is_compared(arrays: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / NAME, **arrays)  # type: ignore[arg-type]
    report = verify_backbone(open_golden(tmp_path / NAME), narrow())
    assert report.passed, report
    assert report.differences.keys() == {"backbone map", "backbone table"}
    assert not report.notes


def scaled(factor: float) -> Any:
    return lambda array: (array * factor).astype(array.dtype)


def one_cell(array: NDArray) -> NDArray:
    changed = array.copy()
    changed[1, 2, 3] += 0.05 * array.astype(np.float32).std()
    return changed


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("block2_std", scaled(1.01)),
        ("block23_values", one_cell),
        ("level0_fp16", one_cell),
        ("level3_pts_f32", one_cell),
        ("level2_mean", lambda mean: mean + 0.1),
        ("pos_embed_resized", scaled(1.01)),
        ("rope_glb_sin", scaled(-1.0)),
        ("level1_fp16", scaled(float("nan"))),
    ],
)
def test_a_wrong_number_is_found(arrays: Arrays, tmp_path: Path, key: str, change: Any) -> None:
    np.savez(tmp_path / NAME, **(arrays | {key: change(arrays[key])}))  # type: ignore[arg-type]
    assert not verify_backbone(open_golden(tmp_path / NAME), narrow()).passed


def test_what_is_not_understood_is_named(arrays: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / NAME, **(arrays | {"level9_fp16": np.ones(3), "weather": np.ones(2)}))  # type: ignore[arg-type]
    report = verify_backbone(open_golden(tmp_path / NAME), narrow())
    assert report.passed
    assert report.notes == ["not compared: level9_fp16, weather"]


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (("level",), "has no image 'input_fp16'"),
        (("input", "rope"), "has no map to compare"),
    ],
)
def test_a_file_without_the_essentials_proves_nothing(
    arrays: Arrays, tmp_path: Path, kept: tuple[str, ...], says: str
) -> None:
    np.savez(tmp_path / NAME, **{k: v for k, v in arrays.items() if k.startswith(kept)})  # type: ignore[arg-type]
    with pytest.raises(GoldenError, match=says):
        verify_backbone(open_golden(tmp_path / NAME), narrow())


def test_another_network_is_refused(arrays: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / NAME, **(arrays | {"level1_shape": np.array([1, 256, 80, 200])}))  # type: ignore[arg-type]
    with pytest.raises(GoldenError, match="level1_shape"):
        verify_backbone(open_golden(tmp_path / NAME), narrow())


def test_the_command_takes_such_files(
    arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "EvaViT", lambda height, pyramid: EvaViT(height, 64, pyramid=pyramid))
    np.savez(tmp_path / NAME, **arrays)  # type: ignore[arg-type]
    assert streampetr_cli.main(["verify", str(tmp_path / NAME)]) == 0
    assert "backbone map:" in capsys.readouterr().out
    np.savez(tmp_path / NAME, **(arrays | {"block0_mean": arrays["block0_mean"] + 1}))  # type: ignore[arg-type]
    assert streampetr_cli.main(["verify", str(tmp_path / NAME)]) == 1
    assert "backbone map" in capsys.readouterr().out
