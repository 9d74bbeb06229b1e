"""Reference vectors through the code that `streampetr verify` runs."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import streampetr_cli
from streampetr_core.golden import GoldenError, open_golden
from streampetr_core.verify import TOLERANCE, check_pixels, compare_rows, verify_golden

STREAM = "golden_stream_stream_petr_r50_428q.npz"


def test_two_frames_of_the_stream(shared: Path) -> None:
    """A fresh and a warm frame: queries, memory, decoded boxes and the stored state."""
    fresh, warm = islice(verify_golden(open_golden(shared / "golden" / STREAM)), 2)
    assert fresh.starts
    assert not warm.starts
    assert {"logits", "xyz", "other", "memory embedding", "memory time", "feature"} <= set(warm.differences)
    for report in (fresh, warm):
        assert report.passed, report
        assert report.boxes_agree == report.boxes_total == 300
    assert warm.alone is not None


@pytest.mark.slow
def test_every_frame_of_the_stream(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six frames with the change of scene, as the command prints them."""
    assert streampetr_cli.main(["verify", str(shared / "golden" / STREAM)]) == 0
    text = capsys.readouterr().out
    assert text.count("300/300") == 6
    assert "FAILED" not in text
    assert "100.0000% of the pixels" in text


def test_single_frame_network(shared: Path) -> None:
    (report,) = verify_golden(open_golden(shared / "golden" / "golden_stream_petrv1_r50.npz"))
    assert report.passed, report
    assert report.boxes_agree == 300


@pytest.mark.slow
def test_training_forward_with_denoising_queries(shared: Path) -> None:
    """900 queries, augmented geometry that is not rigid, denoising queries in front under their mask."""
    reports = list(verify_golden(open_golden(shared / "golden" / "golden_train_stream_petr_r50_900q.npz")))
    assert len(reports) == 2
    assert all(report.passed for report in reports), reports


def test_pixels_from_the_original_images(shared: Path) -> None:
    within, largest = check_pixels(shared / "golden" / "input_r50_704x256.npz", shared / "golden" / "jpeg")
    assert within >= 0.999
    assert largest <= 1


def test_swapped_rows_are_paired_anew_but_wrong_rows_are_not() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(6, 4, generator=generator)
    swapped = rows[[0, 2, 1, 3, 4, 5]]
    differences, count = compare_rows({"logits": swapped}, {"logits": rows}, fixed=0)
    assert differences["logits"] == 0
    assert count == 2
    fixed, count = compare_rows({"logits": swapped}, {"logits": rows}, fixed=4)
    assert fixed["logits"] > TOLERANCE["logits"]
    assert count == 0
    wrong = rows.clone()
    wrong[3] += 1
    wrong[4] = float("nan")
    differences, _ = compare_rows({"logits": wrong}, {"logits": rows}, fixed=0)
    assert differences["logits"] == float("inf")


def test_beyond_tolerance_is_exit_status_1(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = shared / "golden"
    arrays = dict(np.load(golden / "golden_stream_petrv1_r50.npz"))
    arrays["f0_cls_last"] = arrays["f0_cls_last"].copy()
    arrays["f0_cls_last"][5, 3] += 1e-3
    np.savez(tmp_path / "golden_stream_petrv1_r50.npz", **arrays)
    (tmp_path / "input_r50_704x256.npz").symlink_to(golden / "input_r50_704x256.npz")
    assert streampetr_cli.main(["verify", str(tmp_path / "golden_stream_petrv1_r50.npz")]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("golden_stream_repdetr3d_vov.npz", "not supported yet"),
        ("golden_stream_stream_petr_vov_900q.npz", "does not exist"),
        ("golden_backbone_eva02_vitl_800x320.npz", "does not exist"),
        ("golden_backbone_resnet.npz", r"is not known; .* golden_backbone_eva02_vitl\.npz"),
        ("golden_stream_other.npz", "is not known"),
        ("weights.npz", "the name says no configuration"),
        ("golden_stream_petrv1_r50.npz", "does not exist"),
    ],
)
def test_files_that_cannot_be_verified(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(GoldenError, match=says):
        open_golden(tmp_path / name)


def test_damaged_and_lonely_files(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "golden_stream_petrv1_r50.npz"
    path.write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(GoldenError, match="cannot be read"):
        open_golden(path)
    path.unlink()
    path.symlink_to(shared / "golden" / path.name)
    with pytest.raises(GoldenError, match=r"input file input_r50_704x256\.npz is not beside it"):
        open_golden(path)


def test_streams_of_v2_99_have_images_of_their_own(tmp_path: Path) -> None:
    """Blue first, 320x800: not the ResNet's."""
    path = tmp_path / "golden_stream_stream_petr_vov_900q.npz"
    np.savez(path, f0_cls_last=np.zeros((900, 10)))
    with pytest.raises(GoldenError, match=r"input file input_vov_800x320\.npz is not beside it"):
        open_golden(path)
    np.savez(tmp_path / "input_vov_800x320.npz", img_fp16=np.zeros((6, 3, 320, 800), np.float16))
    assert open_golden(path).model == "v299_800_900q"
    assert open_golden(path).images(1).shape == (1, 6, 3, 320, 800)


def _part_of_the_stream(shared: Path, folder: Path, frames: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Arrays of some frames of the reference stream; their input file is put into `folder`."""
    (folder / "input_r50_704x256.npz").symlink_to(shared / "golden" / "input_r50_704x256.npz")
    prefixes = tuple(f"f{frame}_" for frame in frames)
    with np.load(shared / "golden" / STREAM) as file:
        return {key: file[key] for key in file.files if key.startswith(prefixes)}


def test_a_file_without_frames_proves_nothing(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _part_of_the_stream(shared, tmp_path, ())
    np.savez(tmp_path / STREAM, something=np.zeros(3))
    assert streampetr_cli.main(["verify", str(tmp_path / STREAM)]) == 2
    assert "has no frame" in capsys.readouterr().err


def test_a_later_part_of_a_stream_begins_from_the_stored_memory(shared: Path, tmp_path: Path) -> None:
    arrays = _part_of_the_stream(shared, tmp_path, (1, 2))
    kept = {key: value for key, value in arrays.items() if key.startswith(("f2_", "f1_memory_"))}
    np.savez(tmp_path / STREAM, **kept)
    (report,) = verify_golden(open_golden(tmp_path / STREAM))
    assert report.frame == 2
    assert report.passed, report
    np.savez(tmp_path / STREAM, **{key: value for key, value in kept.items() if key.startswith("f2_")})
    with pytest.raises(GoldenError, match="frame 2 continues, but no memory of frame 1"):
        list(verify_golden(open_golden(tmp_path / STREAM)))


def test_frames_may_bring_their_images_and_names_a_suffix(shared: Path, tmp_path: Path) -> None:
    with np.load(shared / "golden" / "golden_stream_petrv1_r50.npz") as file:
        arrays = {key: file[key] for key in file.files}
    with np.load(shared / "golden" / "input_r50_704x256.npz") as file:
        arrays["f0_img_fp16"] = file["img_fp16"]
    np.savez(tmp_path / "golden_stream_petrv1_r50_again.npz", **arrays)
    (report,) = verify_golden(open_golden(tmp_path / "golden_stream_petrv1_r50_again.npz"))
    assert report.passed, report


@pytest.mark.parametrize("key", ["lidar2img", "box_last", "memory_velo", "det_scores"])
def test_arrays_of_wrong_shape_are_named(shared: Path, tmp_path: Path, key: str) -> None:
    arrays = _part_of_the_stream(shared, tmp_path, (0,))
    np.savez(tmp_path / STREAM, **arrays | {f"f0_{key}": arrays[f"f0_{key}"][:-1]})
    with pytest.raises(GoldenError, match=r"shape|fit together|both must be"):
        list(verify_golden(open_golden(tmp_path / STREAM)))
