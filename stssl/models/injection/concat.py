"""Metadata beside the image's features, for the classifier to see."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stssl.config import Config
from stssl.encodings.encoder import MetadataEncoder
from stssl.models.injection.base import Injection, Outputs, read, zeroed


class ConcatConfig(Config):
    """Width of what stands beside the image's features."""

    name: Literal["concat"] = "concat"
    width: int = Field(64, ge=1, le=4096)


class Concat(Injection):
    """logits = head([h; W e]), h the pooled image feature [B, D] and W [w, E]; the head's columns for W e are 0 at first.

    A linear head on [h; u] is head(h) + V u, so timm's head stays as it is. The feature that a student learns to
    predict is [h; W e], [B, D+w].

    Source: Tang et al. (ICCV 2015), who concatenate features of the place.
    """

    Config = ConcatConfig

    def __init__(self, config: ConcatConfig, backbone: Any, encoder: MetadataEncoder) -> None:
        super().__init__(backbone, encoder)
        self.reduce = nn.Linear(self.embedding(backbone), config.width)
        self.columns = zeroed(nn.Linear(config.width, backbone.num_classes, bias=False))

    @classmethod
    def beside(cls, config: ConcatConfig) -> int:
        return config.width

    def answer(self, features: Tensor, e: Tensor) -> Outputs:
        image, beside = read(self.backbone, features), self.reduce(e)
        return Outputs(image.logits + self.columns(beside), torch.cat([image.pooled, beside], dim=1))
