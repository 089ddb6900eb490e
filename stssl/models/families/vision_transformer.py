"""Plain vision transformers of timm: ViT, DeiT, DeiT-III, CLIP, SigLIP, DINOv2."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from stssl.models.families.base import Family, Film, gained, normed


class VisionTransformers(Family):
    """Tokens with learned positions; class token and register tokens come first."""

    name = "vision transformers"
    modules: tuple[str, ...] = ("vision_transformer", "deit")
    classes: tuple[type, ...] = (VisionTransformer,)
    sized = structured = tokens = True

    def register(self, net: Any) -> str | None:
        return None if isinstance(net, VisionTransformerDistilled) else "reg_tokens"

    def stem(self, net: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(images)))), None

    def blocks(self, net: Any) -> list[nn.Module]:
        return list(net.blocks)

    def block(self, net: Any, number: int, x: Tensor, rope: Tensor | None, film: Tensor | None = None) -> Tensor:
        block = net.blocks[number]
        if film is None:
            return block(x)
        first, second = film.unbind(1)
        attention = block.ls1(block.attn(normed(block.norm1(x), first)))
        x = x + block.drop_path1(gained(attention, first))
        mlp = block.ls2(block.mlp(normed(block.norm2(x), second)))
        return x + block.drop_path2(gained(mlp, second))

    def end(self, net: Any, x: Tensor) -> Tensor:
        return net.norm(x)

    def stem_width(self, net: Any) -> int:
        return int(net.embed_dim)

    def width(self, net: Any, number: int) -> int:
        return int(net.embed_dim)

    def film(self, net: Any, number: int) -> Film | None:
        # exactly this class: its relatives normalise after the branch, or have one branch of both
        return Film(2, 3, net.embed_dim) if type(net.blocks[number]) is Block else None

    def spread(self, vector: Tensor, x: Tensor) -> Tensor:
        return vector[:, None]

    def positions(self, x: Tensor) -> Tensor:
        return x

    def back(self, positions: Tensor, x: Tensor) -> Tensor:
        return positions

    def normed_tokens(self, net: Any, tokens: Tensor) -> Tensor:
        # some networks norm after pooling only
        return net.fc_norm(tokens) if isinstance(net.norm, nn.Identity) else tokens

    def append(self, x: Tensor, rope: Tensor | None, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.cat([x, tokens.to(x.dtype)], dim=1), rope
