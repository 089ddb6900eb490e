"""Metadata added to what enters the first block."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from stssl.config import Config
from stssl.encodings.encoder import MetadataEncoder
from stssl.models.families import Family
from stssl.models.injection.base import Injection, zeroed


class AddConfig(Config):
    """To which tokens: those of the patches (in a convolutional network, all positions), the class token, or both."""

    name: Literal["add"] = "add"
    to: Literal["patches", "class_token", "both"] = "patches"


class Add(Injection):
    """x ← x + W e at the input of the first block, W [C, E] = 0 at first.

    Source: Dosovitskiy et al. (ICLR 2021), whose position embeddings enter so.
    """

    Config = AddConfig

    def __init__(self, config: AddConfig, backbone: Any, encoder: MetadataEncoder) -> None:
        super().__init__(backbone, encoder)
        self.target = config.to
        self.offset = zeroed(nn.Linear(self.embedding(backbone), self.family.stem_width(backbone)))

    @classmethod
    def refusal(cls, config: AddConfig, family: Family, backbone: Any) -> str | None:
        if config.to != "patches" and getattr(backbone, "cls_token", None) is None:
            return f"to: {config.to} needs a class token, which this model lacks; use to: patches"
        return None

    def before(self, number: int, x: Tensor, rope: Tensor | None, e: Tensor) -> tuple[Tensor, Tensor | None]:
        if number:
            return x, rope
        offset = self.family.spread(self.offset(e), x)
        if not self.family.tokens:
            return x + offset, rope
        first, patches = x.split([self.backbone.num_prefix_tokens, x.shape[1] - self.backbone.num_prefix_tokens], dim=1)
        if self.target != "patches":
            first = torch.cat([first[:, :1] + offset, first[:, 1:]], dim=1)
        if self.target != "class_token":
            patches = patches + offset
        return torch.cat([first, patches], dim=1), rope
