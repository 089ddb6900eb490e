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

    Source: as position embeddings enter a vision transformer (Dosovitskiy et al., ICLR 2021).
    """

    Config = AddConfig

    def __init__(self, config: AddConfig, backbone: Any, encoder: MetadataEncoder) -> None:
        super().__init__(backbone, encoder)
        self.target = config.to
        self.offset = zeroed(nn.Linear(backbone.num_features, self.family.stem_width(backbone)))

    @classmethod
    def refusal(cls, config: AddConfig, family: Family, backbone: Any) -> str | None:
        if config.to != "patches" and getattr(backbone, "cls_token", None) is None:
            return f"to: {config.to} needs a class token, which it has not; use to: patches"
        return None

    def before(self, number: int, x: Tensor, rope: Tensor | None, e: Tensor) -> tuple[Tensor, Tensor | None]:
        if number:
            return x, rope
        offset = self.family.spread(self.offset(e), x)
        if not self.family.tokens:
            return x + offset, rope
        prefix = self.backbone.num_prefix_tokens
        head, registers, patches = x[:, :1], x[:, 1:prefix], x[:, prefix:]
        if prefix == 0:
            head, registers = x[:, :0], x[:, :0]
        if self.target != "patches":
            head = head + offset
        if self.target != "class_token":
            patches = patches + offset
        return torch.cat([head, registers, patches], dim=1), rope
