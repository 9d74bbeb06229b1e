"""The whole network: backbone, neck, head; one pure call a frame.

Legend: `B` batch, `N` cameras, `H W` image height and width, `C` channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from streampetr_core.model.auxiliary_head import AuxiliaryHead
from streampetr_core.model.backbone import Backbone
from streampetr_core.model.eva import EvaViT
from streampetr_core.model.head import FrameOutputs, Head, ImageFeatures, PrependedQueries
from streampetr_core.model.memory import Memory
from streampetr_core.model.neck import CPFPN
from streampetr_core.model.position_embedding import FrameGeometry, PositionEncoding
from streampetr_core.model.proposals import Proposals
from streampetr_core.model.resnet import ResNet
from streampetr_core.model.variants import BACKBONES, UnknownVariantError, Variant
from streampetr_core.model.vovnet import VoVNet


def make_backbone(variant: Variant) -> Backbone:
    """The variant's backbone, with random weights.

    Raises:
        UnknownVariantError: when there is none of that name, or it does not go with the rest.
    """
    width = variant.backbone_width
    if variant.num_proposals and not variant.backbone.startswith("resnet"):
        raise UnknownVariantError(f"proposals need a ResNet's map of stride 8; '{variant.backbone}' has none")
    if variant.backbone == "vovnet99":
        return VoVNet(width)
    if variant.backbone == "eva02_vit_l":
        return EvaViT(variant.input_size[0], width, variant.drop_path)
    if variant.backbone in BACKBONES:
        return ResNet(int(variant.backbone.removeprefix("resnet")), width, fine=variant.num_proposals > 0)
    raise UnknownVariantError(f"unknown backbone '{variant.backbone}'; known: {', '.join(BACKBONES)}")


class StreamPETR(nn.Module):
    """Camera images and a memory in, boxes and the next memory out.

    The state dict has the published names and nothing else; `img_roi_head` (2D) is run by training only. A
    backbone with one map needs no neck: the heads take its channels as they are.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.img_backbone = make_backbone(variant)
        dims = variant.embed_dims
        finest, *coarser = self.img_backbone.out_channels[variant.num_proposals > 0 :]
        self.img_neck = CPFPN((finest, *coarser), dims) if coarser else None
        in_dims = dims if coarser else finest
        self.img_roi_head = (
            AuxiliaryHead(in_dims, dims, len(variant.class_names)) if variant.has_auxiliary_head else None
        )
        self.pts_bbox_head = Head(variant, in_dims, self.img_backbone.out_channels[0])

    def extract_features(self, images: Tensor) -> ImageFeatures:
        """Normalised images (B, N, 3, H, W) -> features of stride 16, and of 8 where there are proposals."""
        maps = self.img_backbone(images.flatten(0, 1))
        fine = None
        if self.variant.num_proposals:
            fine, *maps = maps
            fine = fine.unflatten(0, images.shape[:2])
        tokens = maps[0] if self.img_neck is None else self.img_neck(tuple(maps))
        return ImageFeatures(tokens.unflatten(0, images.shape[:2]), fine)

    def encode_position(self, geometry: FrameGeometry, image_size: tuple[int, int]) -> PositionEncoding:
        """The calibration's share of the tokens for images of height, width; good while the calibration stays."""
        stride = self.variant.stride
        return self.pts_bbox_head.encode_position(geometry, image_size[0] // stride, image_size[1] // stride)

    def propose(self, images: Tensor, geometry: FrameGeometry) -> Proposals:
        """The images' part alone: where queries would begin, in networks with proposals."""
        return self.pts_bbox_head.propose(self.extract_features(images), geometry)

    def forward_frame(
        self,
        images: Tensor,
        geometry: FrameGeometry,
        memory: Memory | None,
        *,
        position: PositionEncoding | None = None,
        prepended: PrependedQueries | None = None,
        last_only: bool = False,
    ) -> FrameOutputs:
        """One frame; pure: nothing is kept in the module.

        Args:
            images: (B, N, 3, H, W) normalised.
            geometry: where the cameras look and where the memory is.
            memory: of the frame before; None at the start of a drive.
            position: what `encode_position` gave for this calibration; computed where None.
            prepended: denoising queries of training.
            last_only: skip the heads of all decoder layers but the last.
        """
        features = self.extract_features(images)
        return self.pts_bbox_head(features, geometry, memory, position, prepended, last_only)

    def forward(self, images: Tensor, geometry: FrameGeometry, memory: Memory | None) -> FrameOutputs:
        """`forward_frame` under the name that wrappers such as DDP call."""
        return self.forward_frame(images, geometry, memory)
