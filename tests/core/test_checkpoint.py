"""Weights in and out of files, and what is refused."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streampetr_core.checkpoint import (
    CheckpointError,
    checkpoint_metadata,
    load_checkpoint,
    read_weights,
    save_checkpoint,
)
from streampetr_core.console import OutputError
from streampetr_core.model import StreamPETR, build_model, variant
from streampetr_core.recipe import recipe_state_dict


@pytest.fixture(scope="module")
def trained() -> StreamPETR:
    model = build_model("tiny")
    model.load_state_dict(recipe_state_dict(model))
    return model


def _with_2d_head() -> StreamPETR:
    return StreamPETR(replace(variant("tiny"), has_auxiliary_head=True))


def _equal(a: StreamPETR, b: StreamPETR) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_own_files_come_back_exactly(trained: StreamPETR, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_checkpoint(trained, path, metadata={"epoch": 3})
    facts = checkpoint_metadata(path)
    assert (facts["model"], facts["epoch"]) == ("tiny", "3")
    assert "pts_bbox_head.cls_branches.1.0.weight" not in read_weights(path)
    again = build_model("tiny")
    load_checkpoint(again, path)
    assert _equal(trained, again)
    with pytest.raises(OutputError, match="exists"):
        save_checkpoint(trained, path)


def test_half_precision_files_keep_metres(trained: StreamPETR, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_checkpoint(trained, path, half=True)
    again = build_model("tiny")
    load_checkpoint(again, path)
    assert path.stat().st_size < 16_000_000
    head, expected = again.pts_bbox_head, trained.pts_bbox_head
    assert torch.equal(head.pc_range, expected.pc_range)
    assert torch.equal(head.reference_points.weight, expected.reference_points.weight)
    assert head.reference_points.weight.dtype == torch.float32
    first = "img_backbone.conv1.weight"
    torch.testing.assert_close(again.state_dict()[first], trained.state_dict()[first], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_files(tmp_path: Path, prefix: str) -> None:
    """Wrapped in `state_dict` beside other things, perhaps prefixed, perhaps without the 2D head."""
    trained = _with_2d_head()
    state = {prefix + k: v for k, v in trained.state_dict().items() if "img_roi_head" not in k}
    path = tmp_path / "published.pth"
    torch.save({"meta": {"epoch": 24, "config": "..."}, "state_dict": state, "optimizer": {"lr": 1.0}}, path)
    again = _with_2d_head()
    load_checkpoint(again, path)
    assert torch.equal(again.pts_bbox_head.coords_d, trained.pts_bbox_head.coords_d)
    key = "img_neck.fpn_convs.0.conv.weight"
    assert torch.equal(again.state_dict()[key], trained.state_dict()[key])


def test_wrong_checkpoint_names_the_first_differing_keys(trained: StreamPETR) -> None:
    state = dict(trained.state_dict())
    del state["img_backbone.conv1.weight"]
    state["backbone.stem.weight"] = torch.zeros(1)
    with pytest.raises(
        CheckpointError,
        match=r"not a checkpoint of 'tiny': 1 keys missing, first img_backbone\.conv1\.weight; "
        r"1 keys unexpected, first backbone\.stem\.weight",
    ):
        load_checkpoint(build_model("tiny"), state)


def test_a_2d_head_in_pieces_is_refused() -> None:
    model = _with_2d_head()
    state = dict(model.state_dict())
    del state["img_roi_head.cls.bias"]
    with pytest.raises(CheckpointError, match=r"1 keys missing, first img_roi_head\.cls\.bias"):
        load_checkpoint(model, state)


def test_wrong_shapes_are_told(trained: StreamPETR) -> None:
    state = dict(trained.state_dict())
    state["pts_bbox_head.reference_points.weight"] = torch.zeros(644, 3)
    with pytest.raises(CheckpointError, match=r"1 shapes differ.*is \(644, 3\), not \(20, 3\)"):
        load_checkpoint(build_model("tiny"), state)


class _Runs:
    def __reduce__(self) -> tuple:
        return (print, ("code in a checkpoint was run",))


def test_damaged_and_dangerous_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_model("tiny")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(model, tmp_path / "none.pth")
    for name, content in (
        ("damaged.safetensors", b"\x00" * 40),
        ("damaged.pth", b"junk"),
        ("dangerous.pth", pickle.dumps({"state_dict": _Runs()}, protocol=2)),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read"):
            load_checkpoint(model, tmp_path / name)
    assert "was run" not in capsys.readouterr().out
    torch.save({"state_dict": {"a": "text"}}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        load_checkpoint(model, tmp_path / "empty.pth")


def test_weights_that_are_no_numbers_are_refused(trained: StreamPETR) -> None:
    state = dict(trained.state_dict())
    state["img_backbone.conv1.weight"] = torch.full_like(state["img_backbone.conv1.weight"], float("nan"))
    with pytest.raises(CheckpointError, match=r"NaN or infinity in 1 tensors, first img_backbone\.conv1\.weight"):
        load_checkpoint(build_model("tiny"), state)


def test_a_refused_file_is_not_recommended(tmp_path: Path) -> None:
    (tmp_path / "dangerous.pth").write_bytes(pickle.dumps({"state_dict": _Runs()}, protocol=2))
    with pytest.raises(CheckpointError, match="needs code to load, which is refused") as error:
        load_checkpoint(build_model("tiny"), tmp_path / "dangerous.pth")
    assert "weights_only" not in str(error.value)
