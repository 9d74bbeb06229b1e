"""Every network of the family as one frozen value; a variant is another one with the differing fields replaced."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from streampetr_core.boxes import NUSCENES_CLASSES
from streampetr_core.errors import StreamPETRError
from streampetr_core.preprocessing import ChannelOrder

BACKBONES = ("resnet18", "resnet50", "vovnet99", "eva02_vit_l")


class UnknownVariantError(StreamPETRError):
    """A model name that this program does not know."""


@dataclass(frozen=True)
class Variant:
    """What a network is made of.

    Attributes:
        name: as in `build_model(name)`.
        input_size: height and width of the network's images, pixels; multiples of 32.
        channel_order: of the normalised pixels; backbones keep to the one that they were pretrained with.
        backbone: one of `BACKBONES`.
        backbone_width: its first number of channels; 64 = standard, in the ViT 1024.
        embed_dims, num_heads, num_layers, feedforward_dims: of the transformer decoder.
        num_queries: learned queries.
        num_proposals: queries that begin at the best image cells, see `proposals`; 0 = none, as published.
        num_propagated: queries taken over from the memory; also how many a frame gives to it. 0 = no memory.
        memory_length: entries kept from frame to frame.
        refines_boxes: queries of image cells and of the memory begin with the boxes of a filter, see `box_filter`,
            and give a correction; published ones begin with a place alone.
        dropout: in training.
        drop_path: largest probability of stochastic depth in the ViT's blocks, in training.
        class_names: of the 3D head, in order.
        pc_range: x, y, z minimum and maximum in metres, model frame: where boxes can be.
        position_range: likewise, for the position embedding and for keeping decoded boxes.
        depth_start, num_depths: of the points along the ray of an image cell.
        stride: image pixels an image cell.
        code_weights: of the ten box numbers in the loss.
        has_auxiliary_head: with the 2D head, which only training runs.
        max_boxes: decoded a frame.
    """

    name: str
    input_size: tuple[int, int] = (256, 704)
    channel_order: ChannelOrder = "RGB"
    backbone: str = "resnet50"
    backbone_width: int = 64
    embed_dims: int = 256
    num_heads: int = 8
    num_layers: int = 6
    feedforward_dims: int = 2048
    num_queries: int = 300
    num_proposals: int = 0
    num_propagated: int = 128
    memory_length: int = 512
    refines_boxes: bool = False
    dropout: float = 0.1
    drop_path: float = 0.0
    class_names: tuple[str, ...] = NUSCENES_CLASSES
    pc_range: tuple[float, ...] = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
    position_range: tuple[float, ...] = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
    depth_start: float = 1.0
    num_depths: int = 64
    stride: int = 16
    code_weights: tuple[float, ...] = (2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    has_auxiliary_head: bool = True
    max_boxes: int = 300

    @property
    def num_fresh(self) -> int:
        """Queries that do not come from the memory: learned ones, then proposals."""
        return self.num_queries + self.num_proposals

    @property
    def temporal(self) -> bool:
        """True where the network carries a memory from frame to frame."""
        return self.num_propagated > 0


R50_704_428Q = Variant("r50_704_428q")
R50_704_900Q = replace(R50_704_428Q, name="r50_704_900q", num_queries=644, num_propagated=256, memory_length=1024)
PETR_R50_704 = replace(
    R50_704_428Q,
    name="petr_r50_704",
    num_queries=900,
    num_propagated=0,
    memory_length=0,
    code_weights=(2.0, 2.0, *(1.0,) * 6, 0.2, 0.2),
    has_auxiliary_head=False,
)
FOCAL_PETR_R50_704 = replace(PETR_R50_704, name="focal_petr_r50_704", has_auxiliary_head=True)
V299_800_900Q = replace(
    R50_704_900Q, name="v299_800_900q", input_size=(320, 800), channel_order="BGR", backbone="vovnet99"
)
VITL_800_900Q = replace(
    R50_704_900Q,
    name="vitl_800_900q",
    input_size=(320, 800),
    backbone="eva02_vit_l",
    backbone_width=1024,
    drop_path=0.3,
)
TINY = replace(
    R50_704_428Q,
    name="tiny",
    input_size=(160, 416),
    backbone="resnet18",
    backbone_width=32,
    embed_dims=128,
    num_heads=4,
    num_layers=3,
    feedforward_dims=512,
    num_queries=20,
    num_proposals=140,
    num_propagated=100,
    memory_length=300,
    refines_boxes=True,
    dropout=0.0,
    has_auxiliary_head=False,
    max_boxes=200,
)

VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        R50_704_428Q,
        R50_704_900Q,
        V299_800_900Q,
        VITL_800_900Q,
        PETR_R50_704,
        FOCAL_PETR_R50_704,
        TINY,
    )
}


def variant(name: str) -> Variant:
    """The variant of that name.

    Raises:
        UnknownVariantError: with the nearest known name.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    near = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UnknownVariantError(f"unknown model '{name}'; {hint}known: {', '.join(VARIANTS)}")
