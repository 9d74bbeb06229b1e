"""Whether a large backbone alone computes what the published one does: maps of one image, block by block.

A reference file holds `input_fp16` (3, H, W), normalised. Of blocks and of the pyramid's levels it has mean,
standard deviation, shape and values: `block<i>_*` (64 channels, last, at rows 0, 9, 19 and columns 0, 7, 15, 16,
25, 40, 49), `level<i>_*` (channels first; whole in half precision, or at the rows `yy` and columns `xx`). The
resized positions and the rotary tables are in it too. Arrays are told apart by name and shape; what is not
understood is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streampetr_core.golden import Golden, GoldenError
from streampetr_core.model.backbone import Backbone
from streampetr_core.model.eva import EvaViT
from streampetr_core.recipe import recipe_from_shapes
from streampetr_core.verify import FrameReport

_PREFIX = "img_backbone."
_IMAGE = "input_fp16"
_AXES = ("yy", "xx")
_ROWS, _COLUMNS = (0, 9, 19), (0, 7, 15, 16, 25, 40, 49)
_ARRAY = re.compile(r"(block|level)_?(\d+)_?(.*)")
_HALF = 2.0**-11
"""Largest relative error of a number stored in half precision."""


@dataclass
class _Maps:
    """What the network gave, channels first: blocks and levels by number."""

    block: dict[int, Tensor] = field(default_factory=dict)
    level: dict[int, Tensor] = field(default_factory=dict)


def verify_backbone(golden: Golden, backbone: EvaViT | None = None) -> FrameReport:
    """Run the image of a backbone's reference file and compare whatever the file has.

    Args:
        golden: of kind "backbone".
        backbone: the network where it is not the one that the file's name says; gets the recipe's weights.

    Raises:
        GoldenError: when the file has no image, no map, or a map of another shape.
    """
    image = golden.arrays.get(_IMAGE)
    if image is None or image.ndim not in (3, 4):
        raise GoldenError(f"{golden.path} has no image '{_IMAGE}' (3, H, W); it is no backbone's reference file")
    pixels = torch.from_numpy(image.astype(np.float32)).view(1, *image.shape[-3:])
    backbone = EvaViT(pixels.shape[2], pyramid=True) if backbone is None else backbone
    _by_recipe(backbone)
    with torch.inference_mode():
        maps = _run(backbone, pixels)
        report = FrameReport(f"backbone {golden.model}", 0, True)
        unknown = [key for key in golden.arrays if not _compare(golden, key, maps, backbone, report)]
    if "backbone map" not in report.differences:
        raise GoldenError(f"{golden.path} has no map to compare (no array 'block0_*' or 'level0_*')")
    if unknown:
        report.notes.append(f"not compared: {', '.join(unknown)}")
    return report


def _by_recipe(backbone: Backbone) -> None:
    state = recipe_from_shapes({f"{_PREFIX}{key}": value for key, value in backbone.state_dict().items()})
    backbone.load_state_dict({key.removeprefix(_PREFIX): value for key, value in state.items()})
    backbone.eval()


def _run(backbone: EvaViT, pixels: Tensor) -> _Maps:
    maps = _Maps()
    hooks = []
    for index, block in enumerate(backbone.blocks):

        def keep(module: object, inputs: object, output: Tensor, index: int = index) -> None:
            maps.block[index] = output[0].permute(2, 0, 1)

        hooks.append(block.register_forward_hook(keep))
    maps.level = {index: level[0] for index, level in enumerate(backbone(pixels))}
    for hook in hooks:
        hook.remove()
    return maps


def _compare(golden: Golden, key: str, maps: _Maps, backbone: EvaViT, report: FrameReport) -> bool:
    """Compare one array; False where it is not known what it is."""
    array = golden.arrays[key]
    if key == _IMAGE or key.endswith(_AXES):
        return True
    found = _ARRAY.fullmatch(key)
    if found is not None:
        ours = getattr(maps, found[1]).get(int(found[2]))
        return ours is not None and _compare_map(golden, key, found[1], found[3], ours.double().numpy(), report)
    if "pos" in key:
        height, width = next(iter(maps.block.values())).shape[1:]
        ours = backbone.positions(height, width)[0].numpy()
        return _compare_table(array, (ours, ours.transpose(2, 0, 1)), report)
    if "cos" in key or "sin" in key:
        name = "freqs_cos" if "cos" in key else "freqs_sin"
        tables = (rope.state_dict()[name].numpy() for rope in (backbone.rope_win, backbone.rope_glb))
        return _compare_table(array, tuple(tables), report)
    return False


def _compare_table(array: NDArray, candidates: tuple[NDArray, ...], report: FrameReport) -> bool:
    """Compare with the first candidate of the array's shape, be its rows in one or two axes."""
    stored = array.squeeze()
    for ours in candidates:
        if stored.shape in (ours.shape, ours.reshape(-1, ours.shape[-1]).shape):
            report.add({"backbone table": _excess(ours.reshape(stored.shape), stored)})
            return True
    return False


def _compare_map(golden: Golden, key: str, kind: str, what: str, ours: NDArray, report: FrameReport) -> bool:
    """Differences of the statistics or values of our map (C, H, W), in its standard deviations."""
    array = golden.arrays[key]
    statistics = {"mean": float(ours.mean()), "std": float(ours.std())}
    if "shape" in what:
        stored = [int(n) for n in array.ravel() if n != 1]
        if sorted(stored) != sorted(ours.shape):
            raise GoldenError(f"{golden.path}: {key} is {stored}, the network gives {ours.shape}")
        return True
    named = [value for name, value in statistics.items() if name in what]
    if named and array.size == len(named):
        difference = np.abs(array.ravel().astype(np.float64) - named).max()
    else:
        stored = array.reshape(array.shape[-3:]) if array.ndim > 3 else array
        values = (
            _block_cells(stored.shape, ours) if kind == "block" else _level_cells(golden, key, what, stored, ours)
        )
        if values is None or not np.issubdtype(array.dtype, np.floating):
            return False
        difference = _excess(values, stored)
    report.add({"backbone map": float(difference) / statistics["std"]})
    return True


def _block_cells(shape: tuple[int, ...], ours: NDArray) -> NDArray | None:
    """Our values at the cells that files have of blocks; None where `shape` says that it is something else."""
    rows, columns = [r for r in _ROWS if r < ours.shape[1]], [c for c in _COLUMNS if c < ours.shape[2]]
    cells = ours[:64, rows][:, :, columns].transpose(1, 2, 0)
    return cells.reshape(shape) if shape in (cells.shape, (len(rows) * len(columns), cells.shape[2])) else None


def _level_cells(golden: Golden, key: str, what: str, stored: NDArray, ours: NDArray) -> NDArray | None:
    """Our first channels, whole or at the level's own rows and columns; None where the file does not say."""
    channels = ours[: stored.shape[0]] if stored.ndim == 3 else ours[:0]
    if channels.shape == stored.shape:
        return channels
    level = key.removesuffix(what)
    for axis, name in enumerate(_AXES, 1):
        near = [k for k in golden.arrays if k.startswith(level) and k.endswith(name)]
        index = golden.arrays.get(near[0] if near else name)
        if index is None:
            return None
        channels = channels.take(index.ravel().astype(int), axis=axis)
    return channels if channels.shape == stored.shape else None


def _excess(ours: NDArray, stored: NDArray) -> float:
    """The largest difference beyond what storing in half precision may have cost; infinite where NaN."""
    allowed = np.abs(stored.astype(np.float64)) * _HALF + 2.0**-25 if stored.dtype == np.float16 else 0.0
    return float(np.nan_to_num(np.abs(ours.astype(np.float64) - stored) - allowed, nan=np.inf).max())
