"""timm's ResNets, with squeeze-and-excitation, anti-aliasing and other variants of that class."""

from __future__ import annotations

from typing import Any

from timm.models.resnet import ResNet
from torch import Tensor, nn

from stssl.models.families.base import Family, Film, normed


class ResNets(Family):
    """Maps [B, C, H, W]. FiLM acts on a block's output, since its norm layers lie within timm's own forward."""

    name = "ResNets"
    modules = ("resnet",)
    classes = (ResNet,)

    def stem(self, net: Any, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return net.maxpool(net.act1(net.bn1(net.conv1(images)))), None

    def blocks(self, net: Any) -> list[nn.Module]:
        return [block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage]

    def block(self, net: Any, number: int, x: Tensor, rope: Tensor | None, film: Tensor | None = None) -> Tensor:
        x = self.blocks(net)[number](x)
        return x if film is None else normed(x, film[:, 0], last=False)

    def end(self, net: Any, x: Tensor) -> Tensor:
        return x

    def stem_width(self, net: Any) -> int:
        return int(net.layer1[0].conv1.in_channels)

    def width(self, net: Any, number: int) -> int:
        block: Any = self.blocks(net)[number]
        last = block.conv3 if hasattr(block, "conv3") else block.conv2
        return int(last.out_channels)

    def film(self, net: Any, number: int) -> Film | None:
        return Film(1, 2, self.width(net, number))
