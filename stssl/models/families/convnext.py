"""timm's ConvNeXt and ConvNeXt V2."""

from __future__ import annotations

from typing import Any

from timm.models.convnext import ConvNeXt
from torch import Tensor

from stssl.models.families.base import Film, Staged, gained, normed


class ConvNeXts(Staged):
    """Maps [B, C, H, W]; each block has one branch, normalised once."""

    name = "ConvNeXts"
    modules = ("convnext",)
    classes = (ConvNeXt,)

    def stem(self, net: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return net.stem(images), None

    def stages(self, net: Any) -> Any:
        return net.stages

    def block(self, net: Any, number: int, x: Tensor, rope: Tensor | None, film: Tensor | None = None) -> Tensor:
        block: Any = self.blocks(net)[number]
        x = self.entering(net, block, x)
        if film is None:
            return block(x)
        film = film[:, 0]
        branch = block.conv_dw(x)
        if block.use_conv_mlp:
            branch = block.mlp(normed(block.norm(branch), film, last=False))
        else:
            branch = block.mlp(normed(block.norm(branch.permute(0, 2, 3, 1)), film)).permute(0, 3, 1, 2)
        if block.gamma is not None:
            branch = branch * block.gamma[:, None, None]
        return block.drop_path(gained(branch, film, last=False)) + block.shortcut(x)

    def end(self, net: Any, x: Tensor) -> Tensor:
        return net.norm_pre(x)

    def stem_width(self, net: Any) -> int:
        return int(net.stages[0].blocks[0].conv_dw.in_channels)

    def width(self, net: Any, number: int) -> int:
        block: Any = self.blocks(net)[number]
        return int(block.conv_dw.out_channels)

    def film(self, net: Any, number: int) -> Film | None:
        return Film(1, 3, self.width(net, number))
