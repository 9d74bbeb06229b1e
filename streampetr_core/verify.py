"""Whether the network computes what the published one does: reference vectors, frame by frame.

A sequence is run twice: freely, with our own memory carried along, and from the stored state of the frame before.
Scores that are nearly equal may swap places in the top-k that fills the memory; rows that disagree are therefore
paired anew among themselves before they count as wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from streampetr_core.golden import Golden, GoldenError, load_arrays
from streampetr_core.model import FrameOutputs, ImageFeatures, Memory, StreamPETR, build_model, decode
from streampetr_core.preprocessing import decode_jpeg, image_plan, resize_and_crop
from streampetr_core.recipe import recipe_state_dict

TOLERANCE: dict[str, float] = {
    "feature": 1e-4,
    "logits": 2e-4,
    "xyz": 5e-3,
    "other": 5e-4,
    "memory embedding": 2e-4,
    "memory xyz": 5e-3,
    "memory pose": 2e-3,
    "memory velocity": 5e-4,
    "memory time": 1e-6,
    "2D head": 2e-4,
    "score": 1e-4,
    "backbone map": 1e-3,
    "backbone table": 1e-5,
}
"""Largest absolute differences of an independent float32 implementation: metres, logits, seconds; the maps of a
backbone alone in their standard deviations."""

_MOST_PAIRED_ANEW = 128
_TIE = 2e-5
"""Scores closer than this to the last kept one may be on either side of the cut."""


@dataclass
class FrameReport:
    """How one frame compares.

    Attributes:
        golden, frame: kind and model of the file, number of the frame; `starts` where the memory was fresh.
        differences: largest absolute difference by name (see `TOLERANCE`), running freely, after pairing.
        alone: largest difference relative to its tolerance, from the stored state; None where there is none.
        swapped: rows that agree only when paired anew.
        boxes_agree, boxes_total: decoded boxes; `boxes_wrong` of them disagree and are no tie at the cut.
        notes: what else was compared or could not be.
    """

    golden: str
    frame: int
    starts: bool
    differences: dict[str, float] = field(default_factory=dict)
    alone: float | None = None
    swapped: int = 0
    boxes_agree: int = 0
    boxes_total: int = 0
    boxes_wrong: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True where everything is within tolerance."""
        within = all(value <= TOLERANCE[name] for name, value in self.differences.items())
        return within and self.boxes_wrong == 0 and (self.alone is None or self.alone <= 1.0)

    def add(self, differences: Mapping[str, float]) -> None:
        """Keep the larger of what is known and what is new."""
        for name, value in differences.items():
            self.differences[name] = max(value, self.differences.get(name, 0.0))


def verify_golden(golden: Golden) -> Iterator[FrameReport]:
    """Run every frame of a reference file through `forward_frame` and report on each.

    Raises:
        GoldenError: when the file is incomplete.
    """
    model = build_model(golden.model)
    model.load_state_dict(recipe_state_dict(model), strict=True)
    memory, last = None, None
    for frame in golden.frames:
        starts = golden.starts(frame)
        if not starts and last != frame - 1:  # the file leaves out what came before, not what it left behind
            memory = golden.memory(frame - 1)
            if memory is None:
                raise GoldenError(
                    f"{golden.path}: frame {frame} continues, but no memory of frame {frame - 1} is stored"
                )
        last = frame
        check_cameras(golden, frame)
        with torch.inference_mode():
            outputs = model.forward_frame(
                golden.images(frame),
                golden.geometry(frame),
                None if starts else memory,
                prepended=golden.denoising(frame),
            )
            memory = outputs.memory
            yield compare_frame(golden, frame, starts, model, outputs)


def check_cameras(golden: Golden, frame: int) -> None:
    """Refuse a frame whose cameras are not as many everywhere.

    Raises:
        GoldenError: naming the shapes.
    """
    shapes = [tuple(golden.get(frame, key).shape[1:]) for key in ("lidar2img", "intrinsics")]
    count = golden.images(frame).shape[1]
    if shapes != [(count, 4, 4)] * 2:
        raise GoldenError(
            f"{golden.path}: frame {frame} has {count} images, lidar2img {shapes[0]} and intrinsics {shapes[1]}; "
            f"both must be {(count, 4, 4)}"
        )


def compare_frame(
    golden: Golden, frame: int, starts: bool, model: StreamPETR, outputs: FrameOutputs
) -> FrameReport:
    """The report on one frame's outputs; call it where no gradients are recorded."""
    report = FrameReport(f"{golden.kind} {golden.model}", frame, starts)
    learned = model.variant.num_fresh
    differences, report.swapped = compare_queries(golden, frame, outputs, learned, allow_swaps=True)
    report.add(differences)
    stored = golden.memory(frame)
    if stored is not None and outputs.memory is not None:
        differences, swapped = compare_memory(outputs.memory, stored, allow_swaps=True)
        report.add(differences)
        report.swapped = max(report.swapped, swapped)
    if golden.has(frame, "dbg_feat_cam0"):
        report.add({"feature": _largest(outputs.features[0, 0], golden.get(frame, "dbg_feat_cam0")[0])})
    if outputs.prepended_logits is not None and outputs.prepended_boxes is not None:
        logits, boxes = outputs.prepended_logits[-1, 0], outputs.prepended_boxes[-1, 0]
        report.add(_box_differences(logits, boxes, golden, frame, "dn_cls_last", "dn_box_last"))
    if golden.has(frame, "det_scores"):
        report.boxes_agree, report.boxes_total, report.boxes_wrong = compare_boxes(golden, frame, outputs, model)
    _auxiliary(golden, frame, model, outputs, report)
    before = None if starts else golden.memory(frame - 1)
    if before is not None:
        alone = model.pts_bbox_head(ImageFeatures(outputs.features), golden.geometry(frame), before)
        differences, _ = compare_queries(golden, frame, alone, learned, allow_swaps=False)
        if stored is not None:
            # the newest entries may still swap with near-equal scores of this very frame
            differences |= compare_memory(alone.memory, stored, allow_swaps=True)[0]
        report.alone = max(value / TOLERANCE[name] for name, value in differences.items())
    return report


def compare_queries(
    golden: Golden, frame: int, outputs: FrameOutputs, learned: int, allow_swaps: bool
) -> tuple[dict[str, float], int]:
    """Largest differences of logits and boxes, and how many propagated queries had to be paired anew."""
    pairs = [(outputs.logits[-1, 0], outputs.boxes[-1, 0], "cls_last", "box_last", ())]
    if golden.has(frame, "cls_all"):
        pairs += [
            (outputs.logits[layer, 0], outputs.boxes[layer, 0], "cls_all", "box_all", (layer,))
            for layer in range(len(outputs.logits))
        ]
    largest: dict[str, float] = {}
    swapped = 0
    for logits, boxes, logits_key, boxes_key, index in pairs:
        ours = {"logits": logits, "xyz": boxes[:, :3], "other": boxes[:, 3:]}
        reference_boxes = golden.get(frame, boxes_key)[0][index]
        theirs = {
            "logits": golden.get(frame, logits_key)[0][index],
            "xyz": reference_boxes[:, :3],
            "other": reference_boxes[:, 3:],
        }
        if theirs["logits"].shape != logits.shape:
            raise GoldenError(
                f"{golden.path}: {logits_key} has shape {tuple(theirs['logits'].shape)}, model '{golden.model}' "
                f"gives {tuple(logits.shape)}; the file belongs to another configuration"
            )
        found, count = compare_rows(ours, theirs, learned if allow_swaps else len(logits))
        swapped = max(swapped, count)
        largest = {name: max(value, largest.get(name, 0.0)) for name, value in found.items()}
    return largest, swapped


def compare_memory(ours: Memory | None, theirs: Memory, allow_swaps: bool) -> tuple[dict[str, float], int]:
    """Largest differences of the memory's parts, and how many entries had to be paired anew."""
    assert ours is not None

    def parts(memory: Memory) -> dict[str, Tensor]:
        return {
            "memory embedding": memory.embedding[0],
            "memory xyz": memory.reference[0],
            "memory pose": memory.pose[0].flatten(1),
            "memory velocity": memory.velocity[0],
            "memory time": memory.timestamp[0],
        }

    return compare_rows(parts(ours), parts(theirs), 0 if allow_swaps else len(ours))


def compare_rows(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], fixed: int
) -> tuple[dict[str, float], int]:
    """Largest absolute difference by name over rows, and how many rows were paired anew.

    Rows from `fixed` on that differ by more than the tolerance are paired among themselves, nearest first.
    """
    for name in ours:
        if ours[name].shape != theirs[name].shape:
            found, wanted = tuple(theirs[name].shape), tuple(ours[name].shape)
            raise GoldenError(
                f"reference '{name}' has shape {found}, the network gives {wanted}; is the file whole?"
            )
    difference = {name: (ours[name] - theirs[name]).abs().double() for name in ours}
    excess = torch.stack([d.amax(1) / TOLERANCE[name] for name, d in difference.items()]).amax(0)
    bad = torch.nonzero(~(excess <= 1.0)).flatten()
    bad = bad[bad >= fixed]
    swapped = 0
    if 2 <= len(bad) <= _MOST_PAIRED_ANEW:
        cost = torch.stack(
            [
                (ours[name][bad][:, None] - theirs[name][bad][None]).abs().amax(-1).double() / TOLERANCE[name]
                for name in ours
            ]
        ).amax(0)
        rows, columns = linear_sum_assignment(cost.nan_to_num(1e9).clamp(max=1e9).numpy())
        for name in ours:
            difference[name][bad[rows]] = (ours[name][bad[rows]] - theirs[name][bad[columns]]).abs().double()
        swapped = int((cost[rows, columns] <= 1.0).sum())
    return {name: _worst(d) for name, d in difference.items()}, swapped


def compare_boxes(golden: Golden, frame: int, outputs: FrameOutputs, model: StreamPETR) -> tuple[int, int, int]:
    """(agreeing, all, wrong) decoded boxes, paired one to one: same class, score and box within tolerance."""
    kept_range = torch.tensor(model.variant.position_range)
    found = decode(outputs.logits[-1], outputs.boxes[-1], kept_range, model.variant.max_boxes)
    keep = found.inside[0].numpy()
    ours = found.boxes[0].numpy()[keep].astype(np.float64)
    scores, labels = found.scores[0].numpy()[keep], found.labels[0].numpy()[keep]
    ours[:, 2] -= ours[:, 5] / 2  # the published decoder gives bottom centres
    boxes = golden.get(frame, "det_boxes")[0].numpy().astype(np.float64)
    their_scores, their_labels = (golden.get(frame, f"det_{name}")[0].numpy() for name in ("scores", "labels"))
    if not len(boxes) == len(their_scores) == len(their_labels) or boxes.shape[1:] != (9,):
        raise GoldenError(
            f"{golden.path}: det_boxes, det_scores and det_labels of frame {frame} do not fit together"
        )
    difference = np.abs(boxes[:, None] - ours[None])
    turn = difference[..., 6]
    difference[..., 6] = np.minimum(turn, np.abs(2 * np.pi - turn))
    sizes = np.maximum(1.0, boxes[:, None, 3:6])
    agree = (
        (their_labels[:, None] == labels[None])
        & (np.abs(their_scores[:, None] - scores[None]) <= TOLERANCE["score"])
        & (difference[..., :3] <= TOLERANCE["xyz"]).all(-1)
        & (difference[..., 3:6] <= 2 * TOLERANCE["other"] * sizes).all(-1)
        & (turn_within(difference[..., 6]))
        & (difference[..., 7:] <= TOLERANCE["other"]).all(-1)
    )
    rows, columns = linear_sum_assignment(agree, maximize=True)
    good = np.zeros(len(boxes), bool)
    good[rows] = agree[rows, columns]
    excused = their_scores <= their_scores.min() + _TIE
    wrong = int((~good & ~excused).sum()) + abs(len(boxes) - len(ours))
    return int(good.sum()), len(boxes), wrong


def turn_within(angle: NDArray[np.float64]) -> NDArray[np.bool_]:
    """True where headings agree; looser than the code's sine and cosine, which random weights make short."""
    return angle <= 5e-3


def check_pixels(input_path: Path, jpeg_folder: Path) -> tuple[float, int]:
    """Share of preprocessed pixels within one grey level of the stored ones, and the largest difference.

    Raises:
        GoldenError, ImageError: when a file is absent or damaged.
    """
    stored = load_arrays(input_path)
    within, largest = [], 0
    for name, expected in zip(stored["jpeg_names"], stored["img_uint8_bgr"], strict=True):
        file = jpeg_folder / str(name)
        if not file.is_file():
            raise GoldenError(f"{file} does not exist; give the folder with the original images with --jpeg")
        image = decode_jpeg(file.read_bytes())
        plan = image_plan(image.shape[1], image.shape[0], expected.shape[:2])
        pixels = resize_and_crop(image, plan)[..., ::-1].astype(np.int16)
        difference = np.abs(pixels - expected.astype(np.int16))
        within.append(float((difference <= 1).mean()))
        largest = max(largest, int(difference.max()))
    return float(np.mean(within)), largest


def _auxiliary(golden: Golden, frame: int, model: StreamPETR, outputs: FrameOutputs, report: FrameReport) -> None:
    """Compare the 2D head where the file has it."""
    prefix = f"f{frame}_" if golden.has(frame, "roi_enc_cls_scores") else ""
    if f"{prefix}roi_enc_cls_scores" not in golden.arrays or model.img_roi_head is None:
        return
    two_d = model.img_roi_head(outputs.features[0])
    for name, ours in (
        ("roi_enc_cls_scores", two_d.logits),
        ("roi_enc_bbox_preds", two_d.boxes),
        ("roi_pred_centers2d", two_d.centers),
        ("roi_centerness", two_d.centerness),
    ):
        stored = torch.from_numpy(golden.arrays[prefix + name])
        report.add({"2D head": _largest(ours.reshape(stored.shape), stored)})


def _box_differences(
    logits: Tensor, boxes: Tensor, golden: Golden, frame: int, logits_key: str, boxes_key: str
) -> dict[str, float]:
    reference = golden.get(frame, boxes_key)[0]
    return {
        "logits": _largest(logits, golden.get(frame, logits_key)[0]),
        "xyz": _largest(boxes[:, :3], reference[:, :3]),
        "other": _largest(boxes[:, 3:], reference[:, 3:]),
    }


def _largest(a: Tensor, b: Tensor) -> float:
    return _worst((a - b).abs())


def _worst(differences: Tensor) -> float:
    """The largest; NaN counts as infinite, so that it cannot hide."""
    return float(differences.nan_to_num(float("inf")).max())
