"""Metadata as one more input token (the published injection point)."""

from __future__ import annotations

from typing import Literal

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from stssl.config import Config
from stssl.encodings.encoder import MetadataEncoder
from stssl.models.injection.base import Injection, Outputs


class TokenConfig(Config):
    """One token, appended to the input tokens."""

    name: Literal["token"] = "token"


class Token(Injection):
    """x ← [x; MLP(e) + p], e the encoded metadata and p a learned position vector.

    The features are the output at that token, after the last norm. Source: Bernhard et al. (ECAI 2024).
    """

    Config = TokenConfig

    def __init__(self, config: TokenConfig, backbone: VisionTransformer, encoder: MetadataEncoder) -> None:
        super().__init__(backbone, encoder)
        self.position = nn.Parameter(trunc_normal_(torch.zeros(1, 1, backbone.embed_dim), std=0.02))

    def forward(self, images: Tensor, place: Tensor, time: Tensor) -> Outputs:
        vit = self.backbone
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
        metadata = self.encoder(place, time)[:, None] + self.position
        tokens = vit.norm(vit.blocks(torch.cat([tokens, metadata.to(tokens.dtype)], dim=1)))
        # the head pools image tokens only, as in the network without metadata
        return Outputs(vit.forward_head(tokens[:, :-1]), tokens[:, -1])
