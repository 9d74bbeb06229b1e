"""Whether training computes what the published code does: losses, targets and gradients of reference frames.

Dropout is off and the denoising noise is the stored one; the memory of a frame comes from the frame before, as
computed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from streampetr_core.cameras import NUSCENES_CAMERAS
from streampetr_core.golden import Golden, GoldenError
from streampetr_core.model import VARIANTS, FrameOutputs, StreamPETR
from streampetr_core.recipe import recipe_state_dict
from streampetr_core.verify import TOLERANCE, FrameReport, check_cameras, compare_frame
from training.batch import Batch, Targets
from training.denoising import Denoising, denoising_queries
from training.losses import compute_losses
from training.matching import MatchWeights, assign, cost_3d
from training.targets import Targets3D, pack_3d

TRAINING_TOLERANCE: dict[str, float] = {"loss": 1e-4, "gradient of a module": 1e-3, "gradient of a tensor": 1e-2}
"""Largest relative differences of an independent float32 implementation; the reference's own noise is a tenth."""


@dataclass
class TrainingReport:
    """How one training frame compares.

    Attributes:
        forward: the network's outputs, denoising queries with them.
        losses: relative difference by name.
        modules, tensors: relative difference of the gradient's L2 norm by name of the module, of the parameter.
        denoising_wrong: numbers of the denoising queries (labels, reference points, mask) that differ.
        matched, matched_total: boxes that the same query of the last layer answers for, or the one that it
            exchanged places with.
    """

    forward: FrameReport
    losses: dict[str, float] = field(default_factory=dict)
    modules: dict[str, float] = field(default_factory=dict)
    tensors: dict[str, float] = field(default_factory=dict)
    denoising_wrong: int = 0
    matched: int = 0
    matched_total: int = 0

    @property
    def parts(self) -> dict[str, dict[str, float]]:
        """Relative differences by name of their tolerance."""
        return dict(zip(TRAINING_TOLERANCE, (self.losses, self.modules, self.tensors), strict=True))

    @property
    def passed(self) -> bool:
        """True where everything is within tolerance."""
        return (
            self.forward.passed
            and self.denoising_wrong == 0
            and self.matched == self.matched_total
            and not self.beyond()
        )

    def beyond(self) -> list[str]:
        """What is beyond tolerance, in words."""
        return [
            f"{part} {name} {value:.1e}"
            for part, values in self.parts.items()
            for name, value in values.items()
            if not value <= TRAINING_TOLERANCE[part]
        ]


def verify_training(golden: Golden) -> Iterator[TrainingReport]:
    """Run and differentiate every frame of a training reference file and report on each.

    Raises:
        GoldenError: when the file is incomplete.
    """
    model = training_model(golden)
    memory = None
    for frame in golden.frames:
        starts = golden.starts(frame)
        if not starts and memory is None:
            raise GoldenError(f"{golden.path}: frame {frame} continues, but no frame comes before it")
        check_cameras(golden, frame)
        batch = golden_batch(golden, frame)
        targets = pack_3d(batch.targets, batch.images.device)
        noise, wanted = golden.get(frame, "dn_rand_0"), 10 * targets.counts[0]
        if noise.shape != (1, wanted, 3):
            raise GoldenError(
                f"{golden.path}: f{frame}_dn_rand_0 has shape {tuple(noise.shape[1:])}; expected ({wanted}, 3) "
                f"for {targets.counts[0]} boxes"
            )
        denoising = denoising_queries(targets, model.variant, noise=noise)
        if denoising is None or model.img_roi_head is None:
            raise GoldenError(f"{golden.path}: frame {frame} has no boxes, or its network no 2D head")
        outputs = model.forward_frame(
            batch.images, batch.geometry, None if starts else memory, prepended=denoising.queries
        )
        auxiliary = model.img_roi_head(outputs.features.flatten(0, 1))
        # the annotations in the file are numbered as the 3D classes, also for the 2D head
        channels = tuple(range(len(model.variant.class_names)))
        losses = compute_losses(outputs, auxiliary, denoising, batch, model.variant, channels=channels)
        model.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        with torch.no_grad():
            report = TrainingReport(compare_frame(golden, frame, starts, model, outputs))
            _compare_losses(golden, frame, losses, report)
            _compare_gradients(golden, frame, model, report)
            _compare_denoising(golden, frame, denoising, report)
            _compare_matching(golden, frame, outputs, targets, report)
        memory = outputs.memory
        yield report


def training_model(golden: Golden) -> StreamPETR:
    """The network in training mode with weights by the recipe, without dropout and with frozen batch norms."""
    model = StreamPETR(replace(VARIANTS[golden.model], dropout=0.0, drop_path=0.0)).train()
    model.load_state_dict(recipe_state_dict(model), strict=True)
    for module in model.img_backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    return model


def golden_batch(golden: Golden, frame: int) -> Batch:
    """Input and ground truth of one frame of a training reference file, as training gets them."""
    of_cameras = (
        tuple(golden.get(frame, f"gt2d_{part}_{camera}")[0] for camera in NUSCENES_CAMERAS)
        for part in ("boxes", "labels", "centers", "depths")
    )
    boxes, labels = (golden.get(frame, f"gt_{part}")[0] for part in ("boxes_3d_gravity_center", "labels_3d"))
    targets = Targets(boxes, labels, *of_cameras)
    return Batch(golden.images(frame), golden.geometry(frame), (targets,), (f"frame {frame}",))


def _compare_losses(golden: Golden, frame: int, losses: dict[str, Tensor], report: TrainingReport) -> None:
    """Relative differences; a name that only one side has counts as infinite."""
    stored = _named(golden, frame, "loss_names", "loss_values")
    theirs = {name.split("_", 2)[-1]: value for name, value in stored.items()}  # less "frame_0_"
    ours = {name: float(loss) for name, loss in losses.items()}
    report.losses = _relative(ours, theirs)


def _compare_gradients(golden: Golden, frame: int, model: StreamPETR, report: TrainingReport) -> None:
    norms = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    report.tensors = _relative(
        {name: float(norm) for name, norm in norms.items()}, _named(golden, frame, "grad_names", "grad_l2")
    )
    modules = _named(golden, frame, "grad_top_names", "grad_top_l2")
    ours = {
        module: float(torch.stack([n for name, n in norms.items() if name.startswith(f"{module}.")]).norm())
        for module in modules
    }
    report.modules = _relative(ours, modules)


def _compare_denoising(golden: Golden, frame: int, denoising: Denoising, report: TrainingReport) -> None:
    stored = golden.denoising(frame)
    assert stored is not None
    slots = golden.get(frame, "dn_map_known_indice")[0]
    labels = denoising.labels[0][slots]
    close = torch.isclose(denoising.queries.reference, stored.reference, atol=1e-6, rtol=0.0)
    report.denoising_wrong = (
        int((labels != golden.get(frame, "dn_known_labels")[0]).sum())
        + int((~close).sum())
        + int((denoising.queries.allowed != stored.allowed).sum())
        + abs(int(golden.get(frame, "dn_pad_size")) - denoising.labels.shape[1])
    )


def _compare_matching(
    golden: Golden, frame: int, outputs: FrameOutputs, targets: Targets3D, report: TrainingReport
) -> None:
    """Boxes of the last layer's assignment: the same query, or a propagated one that says the same."""
    variant = VARIANTS[golden.model]
    weights = outputs.logits.new_tensor(variant.code_weights)
    cost = cost_3d(outputs.logits[-1:], outputs.boxes[-1:], targets, weights, MatchWeights())
    ours = assign((cost, targets.counts))[0][0, 0]
    stored = golden.get(frame, "match_last_gt_inds")[0]  # of each query: 0 or 1 + its box
    report.matched_total = len(ours)
    for box, query in enumerate(ours.tolist()):
        found = torch.nonzero(stored == box + 1).flatten().tolist()
        if len(found) != 1:
            continue
        theirs = found[0]
        exchanged = min(query, theirs) >= variant.num_fresh and all(
            float((x[-1, 0, query] - golden.get(frame, key)[0, theirs]).abs().max()) <= TOLERANCE[name]
            for x, key, name in ((outputs.logits, "cls_last", "logits"), (outputs.boxes, "box_last", "xyz"))
        )
        report.matched += query == theirs or exchanged


def _named(golden: Golden, frame: int, names: str, values: str) -> dict[str, float]:
    """Two arrays of the file as names and numbers."""
    if not golden.has(frame, names):
        raise GoldenError(f"{golden.path} has no array 'f{frame}_{names}'; it is not complete")
    keys = golden.arrays[f"f{frame}_{names}"]
    return {str(key): float(value) for key, value in zip(keys, golden.get(frame, values)[0], strict=True)}


def _relative(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    differences = dict.fromkeys(ours.keys() ^ theirs.keys(), float("inf"))
    for name in ours.keys() & theirs.keys():
        difference = abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-12)
        differences[name] = difference if difference == difference else float("inf")
    return differences
