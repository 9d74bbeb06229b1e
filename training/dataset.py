"""A nuScenes-format data set, real or rendered, as augmented frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streampetr_core.model.variants import Variant
from training.augmentation import Augmentation
from training.batch import Batch
from training.example import Example, collate, make_example
from training.index import FrameIndex, FrameIndexError
from training.modes import Mode
from training.sampler import StreamingSampler, Turn, WindowSampler, make_sampler


@dataclass(frozen=True)
class Dataset:
    """Frames of an index, as a network of some variant trains on them. Opening it looks for every image.

    Attributes:
        index: of the data set.
        variant: gives image size, classes and range.
        augmentation: limits of the draws.
        allow_missing: leave out frames of which an image is absent, and play on with a camera less where a file
            turns out to be damaged; else both are errors.
        all_views: outlines of hidden boxes too, see `make_example`.
        keep: (S,) bool, the frames that can be played.

    Raises:
        FrameIndexError: naming the first missing images and their number, or when no frame is left.
    """

    index: FrameIndex
    variant: Variant
    augmentation: Augmentation = field(default_factory=Augmentation)
    allow_missing: bool = False
    all_views: bool = True
    keep: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        lacking, names = self.index.missing_images()
        shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        root = self.index.root
        if names and not self.allow_missing:
            raise FrameIndexError(
                f"{root}: {len(names)} images of {int(lacking.sum())} of {len(lacking)} key frames are missing: "
                f"{shown}; fetch them, or leave those frames out with allow_missing"
            )
        if lacking.all():
            raise FrameIndexError(
                f"{root}: no key frame has all its images; {len(names)} are missing: {shown}; check the root"
            )
        object.__setattr__(self, "keep", ~lacking)

    @property
    def note(self) -> str:
        """One line: what is played and what is left out."""
        scenes = len(set(self.index.scene[self.keep].tolist()))
        text = f"{int(self.keep.sum())} key frames of {scenes} scenes"
        left_out = int((~self.keep).sum())
        return text + (f"; {left_out} without all images left out" if left_out else "")

    def sampler(
        self, mode: Mode, slots: int, rank: int = 0, ranks: int = 1, seed: int = 0
    ) -> StreamingSampler | WindowSampler:
        """The sampler of a mode over the frames that can be played."""
        return make_sampler(self.index.starts, mode, slots, rank, ranks, seed, self.keep)

    def __getitem__(self, turn: Turn) -> Example:
        """One frame as its turn draws it.

        Raises:
            FrameIndexError: on a damaged image, unless missing ones are allowed.
        """
        return make_example(
            self.index.frame(turn.frame, tolerant=self.allow_missing),
            self.index.truth(turn.frame),
            self.augmentation.draw(turn.draw),
            self.variant,
            origin=self.index.origin(turn.frame),
            continues=turn.continues,
            all_views=self.all_views,
        )

    def step(self, turns: Sequence[Sequence[Turn]]) -> tuple[Batch, ...]:
        """A training step, made in the calling thread: one batch for each of its frames."""
        return collate([self[turn] for frame in turns for turn in frame], len(turns[0]))
