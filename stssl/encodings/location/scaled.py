"""Latitude and longitude, scaled (the published encoding)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import LocationEncoding


class ScaledConfig(Config):
    """Latitude / 90 and longitude / 180: two numbers in [-1, 1]. It jumps at the date line."""

    name: Literal["scaled"] = "scaled"


class Scaled(LocationEncoding):
    """[lat / 90, lng / 180], [B, 2] -> [B, 2].

    Source: Bernhard et al., "Context Matters" (ECAI 2024).
    """

    Config = ScaledConfig
    features = 2
    seamless = False

    def __init__(self, config: ScaledConfig) -> None:
        super().__init__()

    def forward(self, place_deg: Tensor) -> Tensor:
        return place_deg / place_deg.new_tensor([90.0, 180.0])
