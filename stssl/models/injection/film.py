"""Metadata modulates the features of chosen blocks."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from stssl.config import Config
from stssl.encodings.encoder import MetadataEncoder
from stssl.models.families import Family
from stssl.models.injection.base import Blocks, Injection, chosen, unknown_blocks, zeroed


class FilmConfig(Config):
    """Which blocks: all, first_half, last_half, first, last, or a list of numbers from 0."""

    name: Literal["film"] = "film"
    blocks: Blocks = "last_half"


class FilmInjection(Injection):
    """norm(x)·(1+γ) + β, and the residual branch × (1+a); (γ, β, a) = W e + b of each branch of each chosen block.

    W and b are 0 at first. There is no gate that starts at 0: it would erase pretrained features. A ResNet's blocks
    are modulated at their output, by γ and β alone.

    Source: Perez et al., FiLM (AAAI 2018); the scale of the branch as in Peebles & Xie, DiT (ICCV 2023), there
    starting at 0.
    """

    Config = FilmConfig

    def __init__(self, config: FilmConfig, backbone: Any, encoder: MetadataEncoder) -> None:
        super().__init__(backbone, encoder)
        blocks = chosen(config.blocks, len(self.family.blocks(backbone)))
        self.shapes = {number: self.family.film(backbone, number) for number in blocks}
        self.modulation = nn.ModuleDict(
            {
                str(number): zeroed(nn.Linear(self.embedding(backbone), shape.branches * shape.parts * shape.channels))
                for number, shape in self.shapes.items()
                if shape is not None
            }
        )

    @classmethod
    def refusal(cls, config: FilmConfig, family: Family, backbone: Any) -> str | None:
        depth = len(family.blocks(backbone))
        if fault := unknown_blocks(config.blocks, depth):
            return fault
        for number in chosen(config.blocks, depth):
            if family.film(backbone, number) is None:
                kind = type(family.blocks(backbone)[number]).__name__
                return f"its blocks ({kind}) do not normalise at the head of each residual branch"
        return None

    def film(self, number: int, e: Tensor) -> Tensor | None:
        shape = self.shapes.get(number)
        return None if shape is None else self.modulation[str(number)](e).unflatten(1, shape)
