"""Training: data sets, augmentation, targets, losses, the loop and its checkpoints."""

from __future__ import annotations

from training.batch import Batch, Targets

__all__ = ["Batch", "Targets"]
