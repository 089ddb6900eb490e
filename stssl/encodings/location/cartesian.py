"""The point on the unit sphere."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import LocationEncoding
from stssl.encodings.location._angles import unit_vector


class CartesianConfig(Config):
    """Three coordinates on the unit sphere: near places have near features, at the poles too."""

    name: Literal["cartesian"] = "cartesian"


class Cartesian(LocationEncoding):
    """[cosφ cosλ, cosφ sinλ, sinφ], [B, 2] -> [B, 3].

    Source: the baseline `xyz` of Mai et al., "Sphere2Vec" (ISPRS Journal 2023).
    """

    Config = CartesianConfig
    features = 3

    def __init__(self, config: CartesianConfig) -> None:
        super().__init__()

    def forward(self, place_deg: Tensor) -> Tensor:
        return unit_vector(place_deg).float()
