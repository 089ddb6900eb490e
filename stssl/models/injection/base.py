"""What every injection point is."""

from __future__ import annotations

from typing import NamedTuple

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stssl.encodings.encoder import MetadataEncoder


class Outputs(NamedTuple):
    """What a network says about a batch."""

    logits: Tensor  # [B, K]
    features: Tensor  # [B, D], what distillation aligns


class Injection(nn.Module):
    """A timm backbone that is also told place and time.

    A subclass names its configuration in `Config` and implements `forward`; it wraps the backbone and never copies
    its code, so that timm's weights load and a state_dict makes a round trip.
    """

    def __init__(self, backbone: VisionTransformer, encoder: MetadataEncoder) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder

    def forward(self, images: Tensor, place: Tensor, time: Tensor) -> Outputs:
        """Classify images with their metadata.

        Args:
            images: [B, C, S, S] float32, normalised.
            place: [B, 2] float32 degrees (latitude, longitude), NaN = unknown.
            time: [B] float64 days since 1970-01-01 UTC, NaN = unknown.
        """
        raise NotImplementedError
