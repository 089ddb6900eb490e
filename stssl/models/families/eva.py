"""Vision transformers of timm's EVA code: EVA-02, DINOv3, ViT with rotary positions, Perception Encoder."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva, EvaBlock
from torch import Tensor

from stssl.models.families.base import Film, gained, normed
from stssl.models.families.vision_transformer import VisionTransformers


class Evas(VisionTransformers):
    """As the plain ones; the patches' positions are (also) rotations of queries and keys, given to every block."""

    name = "vision transformers with rotary positions"
    modules = ("eva",)
    classes = (Eva,)

    def register(self, net: Any) -> str | None:
        return "num_reg_tokens"

    def stem(self, net: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
        x, rope = net._pos_embed(net.patch_embed(images))
        return net.norm_pre(x), rope

    def block(self, net: Any, number: int, x: Tensor, rope: Tensor | None, film: Tensor | None = None) -> Tensor:
        block = net.blocks[number]
        if rope is not None and net.rope_mixed:
            rope = rope[number]  # every block has its own
        if film is None:
            return block(x, rope=rope)
        first, second = film.unbind(1)
        attention = _scaled(block.attn(normed(block.norm1(x), first), rope=rope), block.gamma_1)
        x = x + block.drop_path1(gained(attention, first))
        mlp = _scaled(block.mlp(normed(block.norm2(x), second)), block.gamma_2)
        return x + block.drop_path2(gained(mlp, second))

    def film(self, net: Any, number: int) -> Film | None:
        return Film(2, 3, net.embed_dim) if type(net.blocks[number]) is EvaBlock else None

    def append(self, x: Tensor, rope: Tensor | None, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        if rope is not None:  # rows of (sin, cos): the angle 0 leaves the new tokens as they are
            zero = rope.new_zeros(*rope.shape[:-2], tokens.shape[1], rope.shape[-1] // 2)
            rope = torch.cat([rope, torch.cat([zero, zero + 1], dim=-1)], dim=-2)
        return super().append(x, None, tokens)[0], rope


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else gamma * x
