"""timm's Swin Transformers (the first version)."""

from __future__ import annotations

from typing import Any

from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from stssl.models.families.base import Film, Staged, gained, normed


class Swins(Staged):
    """Maps [B, H, W, C]. There are no extra tokens: a window has no room for one."""

    name = "Swin transformers"
    modules = ("swin_transformer",)
    classes = (SwinTransformer,)
    sized = True

    def stem(self, net: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return net.patch_embed(images), None

    def stages(self, net: Any) -> Any:
        return net.layers

    def block(self, net: Any, number: int, x: Tensor, rope: Tensor | None, film: Tensor | None = None) -> Tensor:
        block: Any = self.blocks(net)[number]
        x = self.entering(net, block, x)
        if film is None:
            return block(x)
        first, second = film.unbind(1)
        x = x + block.drop_path1(gained(block._attn(normed(block.norm1(x), first)), first))
        shape = x.shape
        x = x.flatten(1, 2)
        x = x + block.drop_path2(gained(block.mlp(normed(block.norm2(x), second)), second))
        return x.reshape(shape)

    def end(self, net: Any, x: Tensor) -> Tensor:
        return net.norm(x)

    def stem_width(self, net: Any) -> int:
        return self.width(net, 0)

    def width(self, net: Any, number: int) -> int:
        block: Any = self.blocks(net)[number]
        return int(block.norm1.normalized_shape[0])

    def film(self, net: Any, number: int) -> Film | None:
        return Film(2, 3, self.width(net, number))

    def spread(self, vector: Tensor, x: Tensor) -> Tensor:
        return vector[:, None, None]

    def positions(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2)

    def back(self, positions: Tensor, x: Tensor) -> Tensor:
        return positions.reshape(x.shape)
