"""Metadata as further tokens (the published injection point)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from timm.layers import trunc_normal_
from torch import Tensor, nn

from stssl.config import Config
from stssl.encodings.encoder import MetadataEncoder
from stssl.models.families import Family
from stssl.models.injection.base import Injection, Outputs, read


class TokenConfig(Config):
    """How many tokens, and before which block they are appended (0: the input, as published, with one token)."""

    name: Literal["token"] = "token"
    count: int = Field(1, ge=1, le=8)
    before_block: int = Field(0, ge=0, le=63)


class Token(Injection):
    """x ← [x; W e + p], e the encoded metadata [B, D], and p [n, D] learned position vectors.

    W is the identity for one token, else a linear layer to n·D. The tokens have no image position: rotary positions
    leave them alone. What leaves them after the last norm is what distillation aligns; the head pools the image's
    tokens only, as in the network without metadata.

    Source: Bernhard et al. (ECAI 2024), there with one token at the input. Deviation: the count and the block are free.
    """

    Config = TokenConfig
    starts_blind = False  # a further token takes its share of the attention

    def __init__(self, config: TokenConfig, backbone: Any, encoder: MetadataEncoder) -> None:
        super().__init__(backbone, encoder)
        self.config, width = config, backbone.embed_dim
        self.position = nn.Parameter(trunc_normal_(torch.zeros(1, config.count, width), std=0.02))
        self.expand = nn.Linear(width, config.count * width) if config.count > 1 else nn.Identity()

    @classmethod
    def refusal(cls, config: TokenConfig, family: Family, backbone: Any) -> str | None:
        if not family.tokens:
            return "only vision transformers have tokens to which it could be appended"
        depth = len(backbone.blocks)
        if config.before_block >= depth:
            return f"before_block {config.before_block} does not exist; its {depth} blocks are 0 to {depth - 1}"
        return None

    @classmethod
    def embedding(cls, backbone: Any) -> int:
        return int(backbone.embed_dim)

    @classmethod
    def tokens(cls, config: TokenConfig) -> int:
        return config.count

    def before(self, number: int, x: Tensor, rope: Tensor | None, e: Tensor) -> tuple[Tensor, Tensor | None]:
        if number != self.config.before_block:
            return x, rope
        tokens = self.expand(e).unflatten(1, self.position.shape[1:]) + self.position
        return self.family.append(x, rope, tokens)

    def answer(self, features: Tensor, e: Tensor) -> Outputs:
        count = self.config.count
        tokens = self.family.normed_tokens(self.backbone, features[:, -count:])
        return read(self.backbone, features[:, :-count], tokens.flatten(1))
