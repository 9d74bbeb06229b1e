"""One training step: the frames of a step through the network, and their losses.

Legend: `B` slots of this process, `S` boxes of the fullest sample, `P` denoising queries.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from streampetr_core.model import ImageFeatures, Memory, StreamPETR
from training.batch import Batch
from training.config import RunConfig
from training.denoising import Denoising, denoising_queries
from training.grid_mask import grid_mask
from training.losses import compute_losses, map_losses
from training.network import training_mode
from training.targets import Targets3D, pack_3d

_NOISE = 7919
"""Set apart from the seeds of augmentations."""


class TrainingStep(nn.Module):
    """From the batches of a step to named losses; what DDP wraps, so that a step is one forward call.

    Args:
        network: prepared by `prepare_network`.
        config: of the run.
        slots: global numbers of this process's slots; noise hangs on them, so that several processes draw what
            one would.
    """

    def __init__(self, network: StreamPETR, config: RunConfig, slots: range) -> None:
        super().__init__()
        self.network, self.config, self.slots = network, config, slots
        self.playing = config.train.playing()
        self._kept: dict[str, ImageFeatures] = {}

    def forward(
        self,
        batches: tuple[Batch, ...],
        memory: Memory | None,
        step: int,
        mark: Callable[[str], None] = lambda stage: None,
    ) -> tuple[dict[str, Tensor], Memory | None]:
        """Losses by name, and the memory after the last frame.

        Frames before the last `gradient_frames` only fill the memory: in evaluation mode, without mask, noise and
        gradient, as published. Losses of a window are named frame_6_..., frame_7_...

        Args:
            batches: one for each frame of the step, on the network's device.
            memory: after the step before, where the mode carries it on.
            step: number, which all draws hang on.
            mark: called with "forward" and "loss" when these are done.
        """
        config, playing = self.config, self.playing
        first = len(batches) - playing.gradient_frames
        losses: dict[str, Tensor] = {}
        memory = memory if playing.carries_memory else None
        if first > 0:
            training_mode(self.network, False, config.network.batch_norm)
            with torch.no_grad():
                for batch in batches[:first]:
                    memory = self.network.forward_frame(
                        batch.images, batch.geometry, memory, last_only=True
                    ).memory
            mark("forward")
        training_mode(self.network, True, config.network.batch_norm)
        for index, batch in enumerate(batches[first:], first):
            prefix = f"frame_{index}_" if len(batches) > 1 else ""
            found, memory = self._frame(batch, memory, (step, index), mark)
            losses |= {f"{prefix}{name}": loss for name, loss in found.items()}
        return losses, memory

    def _frame(
        self, batch: Batch, memory: Memory | None, where: tuple[int, int], mark: Callable[[str], None]
    ) -> tuple[dict[str, Tensor], Memory | None]:
        config, network = self.config, self.network
        # one mask for all frames of a step, as for all cameras
        images = grid_mask(batch.images, config.augmentation.grid_mask, (config.train.seed, where[0]))
        if not config.train.decoder:
            maps = network.propose(images, batch.geometry).maps
            mark("forward")
            losses = map_losses(maps, batch, config.loss)
            mark("loss")
            return losses, None
        targets = pack_3d(batch.targets, images.device)
        denoising = self._denoising(targets, where)
        outputs = network.pts_bbox_head(
            self._features(images, batch.tokens),
            batch.geometry,
            memory,
            prepended=None if denoising is None else denoising.queries,
        )
        auxiliary = None if network.img_roi_head is None else network.img_roi_head(outputs.features.flatten(0, 1))
        mark("forward")
        losses = compute_losses(
            outputs, auxiliary, denoising, batch, network.variant, config.loss, targets=targets
        )
        mark("loss")
        return losses, outputs.memory

    def _features(self, images: Tensor, tokens: tuple[str, ...]) -> ImageFeatures:
        if not self.config.train.keep_features:
            return self.network.extract_features(images)
        new = [row for row, token in enumerate(tokens) if token not in self._kept]
        if new:
            found = self.network.extract_features(images[new])
            for place, row in enumerate(new):
                self._kept[tokens[row]] = found.map(lambda x, place=place: x[place].bfloat16())
        kept = [self._kept[token] for token in tokens]
        fine = [item.fine for item in kept if item.fine is not None]
        return ImageFeatures(
            torch.stack([item.tokens for item in kept]).float(), torch.stack(fine).float() if fine else None
        )

    def _denoising(self, targets: Targets3D, where: tuple[int, int]) -> Denoising | None:
        settings = self.config.denoising
        noise = slot_noise(
            targets.counts, targets.labels.shape[1], settings.groups, (self.config.train.seed, *where), self.slots
        )
        return denoising_queries(targets, self.network.variant, settings, noise.to(targets.boxes.device))


def slot_noise(counts: tuple[int, ...], size: int, groups: int, seed: tuple[int, ...], slots: range) -> Tensor:
    """(B, P, 3) uniform in [0, 1) with P = groups x size: a sample's numbers depend on its seed and slot alone."""
    noise = np.zeros((len(counts), groups, size, 3), np.float32)
    for row, slot, count in zip(noise, slots, counts, strict=True):
        row[:, :count] = np.random.default_rng((*seed, slot, _NOISE)).random((groups, count, 3), np.float32)
    return torch.from_numpy(noise.reshape(len(counts), groups * size, 3))


def finite_or_none(memory: Memory | None) -> Memory | None:
    """The memory, or None where a number in it is not finite: the next frame then starts afresh."""
    if memory is None:
        return None
    finite = all(bool(torch.isfinite(x).all()) for x in vars(memory).values())
    return memory if finite else None


def tokens_of(batches: tuple[Batch, ...]) -> str:
    """The frames of a step, for messages: at most eight."""
    tokens = [token for batch in batches for token in batch.tokens]
    return ", ".join(tokens[-8:]) + (f" and {len(tokens) - 8} before" if len(tokens) > 8 else "")
