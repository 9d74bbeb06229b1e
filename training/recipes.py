"""Every published schedule, two between them, and the demo's, as named values.

The published runs used 8 processes with the batch given here; the learning rate follows the batch by itself.
`docs/training.md` says what each is for.
"""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

from training.augmentation import ZOOM_800, Augmentation
from training.config import (
    CheckpointConfig,
    ConfigError,
    DataConfig,
    NetworkConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
)
from training.denoising import DenoisingSettings
from training.losses import LossSettings
from training.network import IMAGES_PART

_R50 = RunConfig(
    model="r50_704_900q",
    train=TrainConfig(mode="streaming", batch=2, epochs=24),
    checkpoint=CheckpointConfig(1758),
)
"""ResNet-50 from ImageNet: 16 slots, rate 4e-4, a checkpoint every epoch of 28130 frames."""


def _epochs(recipe: RunConfig, epochs: float) -> RunConfig:
    return replace(recipe, train=replace(recipe.train, epochs=epochs))


# a backbone that has learned detection already moves less
_NUIMAGES = replace(_R50, model="r50_704_428q", optimizer=OptimizerConfig(multipliers=(("img_backbone", 0.1),)))

_SLIDING = replace(
    _R50,
    train=TrainConfig(mode="sliding_window", batch=1, epochs=24),
    optimizer=replace(_R50.optimizer, plateaus=24),
    checkpoint=CheckpointConfig(3516),
)

_V299 = replace(
    _NUIMAGES,
    model="v299_800_900q",
    augmentation=Augmentation(zoom=ZOOM_800),
    network=NetworkConfig(batch_norm="affine"),
)

# the head learns with 4e-4, the last block with 1e-4, every block before it with nine tenths of that
_VITL = replace(
    _R50,
    model="vitl_800_900q",
    augmentation=Augmentation(zoom=ZOOM_800),
    train=replace(_R50.train, memory="low"),
    optimizer=OptimizerConfig(
        multipliers=(("img_backbone", 0.25),), layer_decay=0.9, weight_decay=1e-7, decay_vectors=False
    ),
)

_SINGLE = replace(
    _R50,
    train=TrainConfig(mode="single_frame", batch=2, epochs=24),
    optimizer=replace(_R50.optimizer, plateaus=24),
)

_TINY_SINGLE = RunConfig(
    model="tiny",
    data=DataConfig(version="v1.0-trainval", split="rendered", workers=2, all_views=False),
    # mirrored images of boxes that are not: a car that drives to the left looks as if to the right; a scaled world
    # is one in which objects of the same look are elsewhere
    augmentation=Augmentation(zoom=(0.9, 1.15), flip=0.0, scale=(1.0, 1.0), grid_mask=0.0),
    # a CPU multiplies bf16 twice as fast
    train=TrainConfig(mode="single_frame", decoder=False, batch=4, iterations=10000, precision="bf16"),
    # from nothing: batch norm has no statistics to trust yet, and no part is ahead of the others
    network=NetworkConfig(batch_norm="train", average=0.999),
    optimizer=OptimizerConfig(rate=8e-4, reference_batch=0, multipliers=(), warm_up=100, final=0.05),
    loss=LossSettings(heat=1.0, shift=0.4, half=1.0, depth=1.0, size=0.2, axis=0.3, heading=0.3, speed=0.1),
    denoising=DenoisingSettings(groups=0),
    checkpoint=CheckpointConfig(every=250, half=True),
)
_TINY = replace(
    _TINY_SINGLE,
    train=replace(_TINY_SINGLE.train, mode="streaming", decoder=True, keep_features=True, iterations=8000),
    augmentation=replace(_TINY_SINGLE.augmentation, zoom=(1.0, 1.0), shift=False),
    # what the images' part has learned stays: without its backward pass there is time for more frames
    network=NetworkConfig(frozen=IMAGES_PART, average=0.999),
    optimizer=replace(_TINY_SINGLE.optimizer, rate=5e-4, final=1e-3),
    loss=replace(_TINY_SINGLE.loss, half_quality=1.0, reach=4.0),
)

RECIPES: dict[str, tuple[RunConfig, str]] = {
    "r50_704_900q": (_R50, "ResNet-50 (ImageNet), 644+256 queries, 24 epochs streaming; the published baseline"),
    "r50_704_900q_60e": (_epochs(_R50, 60), "the same for 60 epochs"),
    "r50_704_900q_90e": (_epochs(_R50, 90), "the same for 90 epochs"),
    "r50_704_428q": (_epochs(_NUIMAGES, 24), "ResNet-50 (nuImages), 300+128 queries, 24 epochs streaming"),
    "r50_704_428q_60e": (_epochs(_NUIMAGES, 60), "the same for 60 epochs; the published fast model"),
    "r50_704_428q_90e": (_epochs(_NUIMAGES, 90), "the same for 90 epochs"),
    "r50_704_900q_sliding": (_SLIDING, "windows of 8 key frames, gradients in 2, 24 epochs; slow, much memory"),
    "v299_800_900q": (_V299, "V2-99 (FCOS3D or DD3D), 320x800, 644+256 queries, 24 epochs streaming; published"),
    "vitl_800_900q": (_VITL, "EVA-02 ViT-L (detector), 320x800, 24 epochs streaming, layer-wise decay"),
    "petr_r50_704": (
        replace(_SINGLE, model="petr_r50_704", optimizer=replace(_NUIMAGES.optimizer, plateaus=24)),
        "PETR, single frames, 24 epochs",
    ),
    "focal_petr_r50_704": (
        replace(_SINGLE, model="focal_petr_r50_704"),
        "FocalPETR, single frames, 24 epochs; pretraining",
    ),
    "tiny_single": (
        _TINY_SINGLE,
        "the images' part of the demo's network on single rendered frames, from nothing",
    ),
    "tiny": (_TINY, "its decoder and memory; begin with the weights of tiny_single"),
}
"""name -> (configuration, one line about it)."""


def recipe(name: str) -> RunConfig:
    """The configuration of that name; its run folder is out/train/NAME.

    Raises:
        ConfigError: with the nearest known name.
    """
    if name in RECIPES:
        return replace(RECIPES[name][0], out=Path("out/train") / name)
    near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(f"unknown recipe '{name}'; {hint}known: {', '.join(RECIPES)}")
