"""Image positions attend to metadata."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from stssl.config import Config
from stssl.encodings.encoder import MetadataEncoder
from stssl.models.families import Family
from stssl.models.injection.base import Blocks, Injection, chosen, unknown_blocks, zeroed

HEAD = 32  # channels of a head, whatever the backbone's width


class CrossAttentionConfig(Config):
    """After which blocks (as for film), with how many heads of 32 channels, to how many tokens made of the metadata."""

    name: Literal["cross_attention"] = "cross_attention"
    blocks: Blocks = "last_half"
    heads: int = Field(4, ge=1, le=16)
    tokens: int = Field(4, ge=2, le=8)  # to a single one, every position would attend alike


class Attend(nn.Module):
    """W_o · Attn(LN(x), tokens): x [B, N, C], tokens [B, n, E] -> [B, N, C]; W_o = 0 at first."""

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * HEAD)
        self.key_value = nn.Linear(source, 2 * heads * HEAD)
        self.out = zeroed(nn.Linear(heads * HEAD, width))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        query = self.query(self.norm(x)).unflatten(2, (self.heads, HEAD)).transpose(1, 2)
        key, value = self.key_value(tokens).unflatten(2, (2, self.heads, HEAD)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class CrossAttention(Injection):
    """x ← x + W_o · Attn(LN(x), tokens(e)) after chosen blocks; tokens(e) = W e + b, [B, n, E]; W_o = 0 at first.

    Source: Vaswani et al. (NeurIPS 2017), attention to another sequence.
    """

    Config = CrossAttentionConfig

    def __init__(self, config: CrossAttentionConfig, backbone: Any, encoder: MetadataEncoder) -> None:
        super().__init__(backbone, encoder)
        self.count, width = config.tokens, self.embedding(backbone)
        self.expand = nn.Linear(width, config.tokens * width)
        blocks = chosen(config.blocks, len(self.family.blocks(backbone)))
        self.attend = nn.ModuleDict(
            {str(number): Attend(self.family.width(backbone, number), width, config.heads) for number in blocks}
        )

    @classmethod
    def refusal(cls, config: CrossAttentionConfig, family: Family, backbone: Any) -> str | None:
        return unknown_blocks(config.blocks, len(family.blocks(backbone)))

    def after(self, number: int, x: Tensor, e: Tensor) -> Tensor:
        if str(number) not in self.attend:
            return x
        tokens = self.expand(e).unflatten(1, (self.count, -1))
        return x + self.family.back(self.attend[str(number)](self.family.positions(x), tokens), x)
