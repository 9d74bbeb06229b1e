"""What a training run is made of: typed sections that refuse values which cannot be.

The command line fills them (`--section.field value`) over the values of a recipe, see `training.recipes`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from streampetr_core.errors import StreamPETRError
from streampetr_core.model.variants import Variant, variant
from training.augmentation import Augmentation
from training.denoising import DenoisingSettings
from training.losses import LossSettings
from training.modes import Mode, training_mode
from training.rendered_source import RenderedWorld


class ConfigError(StreamPETRError):
    """A configuration that cannot be trained."""


@dataclass(frozen=True)
class DataConfig:
    """Where the frames come from."""

    source: Literal["tables", "rendered"] = "tables"
    """tables: a nuScenes-format root, real or rendered; rendered: frames made while training, no disk."""
    root: Path | None = None
    """Of the data set."""
    version: str = "v1.0-trainval"
    """Folder of tables below the root."""
    split: str = "train"
    """Official split, or one of the version's splits.json."""
    cache: Path | None = None
    """Folder for index files; beside the tables where not given."""
    workers: int = 4
    """Threads that decode and augment, or render."""
    ahead: int = 2
    """Steps prepared in advance."""
    allow_missing: bool = False
    """Leave out frames without all images instead of refusing."""
    all_views: bool = True
    """2D boxes of objects that no sensor saw, too, as published."""

    def __post_init__(self) -> None:
        if self.workers < 0 or self.ahead < 0:
            raise ConfigError(f"data.workers {self.workers} and data.ahead {self.ahead}; neither may be negative")
        if self.source == "rendered" and self.root is not None:
            raise ConfigError(f"data.source rendered uses no root, but data.root is {self.root}; leave one out")


@dataclass(frozen=True)
class TrainConfig:
    """How frames are played and steps are made."""

    mode: Literal["streaming", "sliding_window", "single_frame"] = "streaming"
    """Decides sampler, frames a step and memory together."""
    decoder: bool = True
    """False: only backbone, neck and the cells that queries begin at; for networks with proposals."""
    keep_features: bool = False
    """Compute what a frozen backbone and neck see in a frame once, and keep it in bf16 in the device's memory, in
    every process: tiny's take 1.2 MB a frame. Images must always look the same, so without augmentation; the
    world may still turn."""
    window: int | None = None
    """Frames of a sliding window; the published 8 where not given."""
    gradient_frames: int | None = None
    """How many of them have a loss; the published 2 where not given."""
    skipped: int | None = None
    """Frames left out at random before a window's last; the published 1 where not given."""
    batch: int = 2
    """Slots of one process."""
    epochs: float | None = None
    """Length by the number of key frames; or give iterations."""
    iterations: int | None = None
    """Length; takes the place of epochs."""
    seed: int = 0
    """Of order, augmentation, noise and first weights."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Of backbone, neck, 2D head and decoder; geometry, heads and losses are always float32. auto: fp16 as
    published, float32 on a CPU."""
    memory: Literal["normal", "low"] = "normal"
    """low: compute activations again in the backward pass; the same numbers, a third slower."""
    non_finite: Literal["skip", "stop"] = "skip"
    """What to do with a step whose gradients are not finite."""
    max_skipped: int = 20
    """Stop after so many skipped steps in a row."""
    device: str = "auto"
    """auto: the accelerator that torch finds, else the CPU."""
    threads: int = 0
    """CPU threads of torch; 0 = as torch chooses."""
    log_every: int = 50
    """Steps between two lines of the log."""

    def __post_init__(self) -> None:
        for name in ("batch", "log_every", "max_skipped"):
            _at_least(1, f"train.{name}", getattr(self, name))
        _at_least(0, "train.threads", self.threads)
        for name in ("epochs", "iterations"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"train.{name} {value}; choose a positive number")
        self.playing()

    def precision_on(self, device_type: str) -> Literal["float32", "bf16", "fp16"]:
        """The precision for a device of that type.

        Raises:
            ConfigError: on fp16 for the CPU.
        """
        if self.precision == "fp16" and device_type == "cpu":
            raise ConfigError("train.precision fp16 is for accelerators; use auto, float32 or bf16 on a CPU")
        if self.precision == "auto":
            return "float32" if device_type == "cpu" else "fp16"
        return self.precision

    def playing(self) -> Mode:
        """The mode with its numbers; ModeError where they contradict each other."""
        return training_mode(self.mode, self.window, self.gradient_frames, self.skipped)


@dataclass(frozen=True)
class NetworkConfig:
    """Where the weights start and which of them move."""

    backbone: Path | None = None
    """Pretrained backbone: a file of its own, or a detector's."""
    weights: Path | None = None
    """Checkpoint to start from: whatever has the same name and shape."""
    batch_norm: Literal["frozen", "affine", "train"] = "frozen"
    """Of the backbone. frozen: as published; affine: scale and shift learn; train: statistics too, over all
    processes together (SyncBN)."""
    frozen: tuple[str, ...] = ()
    """Parts that do not learn, by the beginning of their names, for example img_backbone.layer1."""
    average: float = 0.0
    """Decay of the moving average of the weights (EMA), for example 0.9998; 0 = none. Evaluated and exported."""

    def __post_init__(self) -> None:
        if not 0 <= self.average < 1:
            raise ConfigError(f"network.average {self.average}; choose 0 (none) to below 1")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, warm-up and cosine."""

    rate: float = 4e-4
    """Learning rate of a global batch of `reference_batch`; scaled in proportion to the real one."""
    reference_batch: int = 16
    """0 = no scaling."""
    weight_decay: float = 0.01
    multipliers: tuple[tuple[str, float], ...] = (("img_backbone", 0.25),)
    """Learning rate factors by the beginning of parameter names; the longest that fits counts."""
    layer_decay: float = 1.0
    """Factor from one block of a ViT backbone to the block before; 1 = none."""
    decay_vectors: bool = True
    """Weight decay of biases and norms too, as published."""
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 35.0
    """Largest L2 norm of the gradient; 0 = no limit."""
    warm_up: int = 500
    """Steps over which the rate rises to its schedule, from `warm_up_start` of it."""
    warm_up_start: float = 1.0 / 3.0
    final: float = 1e-3
    """Share of the rate at the end."""
    plateaus: int = 0
    """So many equal parts of the run have one rate each, that of their first step, as in published runs by epoch;
    0 = the rate falls at every step."""

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ConfigError(f"optimizer.rate {self.rate}; choose a positive number")
        for name in ("reference_batch", "weight_decay", "clip", "warm_up", "plateaus"):
            _at_least(0, f"optimizer.{name}", getattr(self, name))
        for name in ("layer_decay", "warm_up_start", "final"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"optimizer.{name} {getattr(self, name)}; choose above 0 to 1")
        for name, value in self.multipliers:
            _at_least(0, f"optimizer.multipliers of {name}", value)


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run."""

    every: int = 1000
    """Steps between checkpoints; also saved at the end and on Ctrl-C."""
    keep: int = 3
    """How many to keep."""
    half: bool = False
    """Exported weights as float16: half the size."""

    def __post_init__(self) -> None:
        _at_least(1, "checkpoint.every", self.every)
        _at_least(1, "checkpoint.keep", self.keep)


@dataclass(frozen=True)
class EvaluationConfig:
    """Official detection scores on the way."""

    every: int = 0
    """Steps between evaluations; 0 = none."""
    root: Path | None = None
    """nuScenes-format root to evaluate on; data.root where not given."""
    version: str | None = None
    """data.version where not given."""
    split: str = "val"
    picture: int = 10
    """Key frame of which a picture is drawn."""

    def __post_init__(self) -> None:
        _at_least(0, "evaluate.every", self.every)
        _at_least(0, "evaluate.picture", self.picture)


@dataclass(frozen=True)
class RunConfig:
    """A training run. `streampetr train RECIPE --out FOLDER ...`; what is not given is the recipe's."""

    model: str = "r50_704_900q"
    """Name of the network."""
    out: Path = Path("out/train")
    """Folder of the run."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder."""
    data: DataConfig = field(default_factory=DataConfig)
    world: RenderedWorld = field(default_factory=RenderedWorld)
    """What data.source rendered shows."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    train: TrainConfig = field(default_factory=TrainConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossSettings = field(default_factory=LossSettings)
    denoising: DenoisingSettings = field(default_factory=DenoisingSettings)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        made_of = self.variant
        if not self.train.decoder and not made_of.num_proposals:
            raise ConfigError(f"train.decoder is off, but model {self.model} has nothing to learn without it")
        if not self.train.decoder and self.train.mode != "single_frame":
            raise ConfigError(
                f"train.decoder is off, so nothing is remembered, but train.mode is {self.train.mode}"
            )
        if not self.train.decoder and self.evaluate.every:
            raise ConfigError("train.decoder is off, so there are no boxes to evaluate; leave evaluate.every at 0")
        if self.train.keep_features:
            self._check_same_features()
        if self.data.source == "rendered" and self.train.mode == "sliding_window":
            raise ConfigError("data.source rendered plays videos; use train.mode streaming or single_frame")
        if self.train.mode != "single_frame" and not made_of.temporal:
            raise ConfigError(
                f"model {self.model} has no memory, but train.mode is {self.train.mode}; use single_frame"
            )

    @property
    def variant(self) -> Variant:
        """What the network is made of; UnknownVariantError where there is none of that name."""
        return variant(self.model)

    def _check_same_features(self) -> None:
        drawn, frozen = self.augmentation, self.network.frozen
        parts = ("img_backbone", "img_neck")
        moving = [part for part in parts if not any(part.startswith(prefix) for prefix in frozen)]
        if self.variant.drop_path:
            raise ConfigError(f"train.keep_features, but model {self.model} drops blocks at random")
        if moving:
            raise ConfigError(f"train.keep_features, but {moving[0]} learns; add it to network.frozen")
        if drawn.zoom != (1.0, 1.0) or drawn.shift or drawn.flip or drawn.grid_mask:
            raise ConfigError(
                "train.keep_features, but images are drawn anew; give --augmentation.zoom 1 1 "
                "--augmentation.no-shift --augmentation.flip 0 --augmentation.grid-mask 0"
            )
        if self.data.source == "rendered":
            raise ConfigError(
                "train.keep_features, but data.source rendered shows no frame twice; use tables, or add "
                "--train.no-keep-features"
            )

    def check_complete(self) -> None:
        """Raise ConfigError where something is missing that no recipe can know."""
        if self.data.source == "tables" and self.data.root is None:
            raise ConfigError("data.root is missing; give --data.root FOLDER, or --data.source rendered")
        if self.train.iterations is None and (self.train.epochs is None or self.data.source == "rendered"):
            raise ConfigError("the length is missing; give --train.iterations (or --train.epochs with tables)")
        if self.evaluate.every and self.evaluate.root is None and self.data.root is None:
            raise ConfigError("evaluate.every is set, but evaluate.root is not; give --evaluate.root FOLDER")
        if self.network.frozen and self.network.weights is None and self.network.backbone is None:
            raise ConfigError(
                f"network.frozen keeps {self.network.frozen[0]} as it is, but it would be random; give "
                "--network.weights FILE or --network.backbone FILE"
            )
        for name in ("backbone", "weights"):
            path = getattr(self.network, name)
            if path is not None and not path.is_file():
                raise ConfigError(f"network.{name} {path} does not exist")


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values, for JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`section.field: old -> new` for everything that differs."""
    found = []
    for key in old.keys() | new.keys():
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: {a} -> {b}")
    return sorted(found)


def _at_least(least: float, name: str, value: float) -> None:
    if not value >= least:
        raise ConfigError(f"{name} {value}; choose at least {least:g}")
