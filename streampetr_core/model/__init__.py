"""The networks: `build_model(name)` gives one, untrained, in evaluation mode."""

from __future__ import annotations

from streampetr_core.model.auxiliary_head import AuxiliaryHead, AuxiliaryOutputs
from streampetr_core.model.coder import Detections, decode
from streampetr_core.model.head import FrameOutputs, ImageFeatures, PrependedQueries
from streampetr_core.model.memory import Memory
from streampetr_core.model.position_embedding import FrameGeometry, PositionEncoding
from streampetr_core.model.proposals import ProposalMaps
from streampetr_core.model.streampetr import StreamPETR
from streampetr_core.model.variants import VARIANTS, UnknownVariantError, Variant, variant

__all__ = [
    "VARIANTS",
    "AuxiliaryHead",
    "AuxiliaryOutputs",
    "Detections",
    "FrameGeometry",
    "FrameOutputs",
    "ImageFeatures",
    "Memory",
    "PositionEncoding",
    "PrependedQueries",
    "ProposalMaps",
    "StreamPETR",
    "UnknownVariantError",
    "Variant",
    "build_model",
    "decode",
    "variant",
]


def build_model(name: str) -> StreamPETR:
    """A network with random weights, in evaluation mode.

    Raises:
        UnknownVariantError: with the nearest known name.
    """
    return StreamPETR(variant(name)).eval()
