"""Sines and cosines of latitude and longitude at geometric scales."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import LocationEncoding
from stssl.encodings.location._angles import radians, wave_numbers


class MultiscaleConfig(Config):
    """`scales` wavelengths, geometric from 360° down to `smallest_scale_deg`, on latitude and longitude apart."""

    name: Literal["multiscale"] = "multiscale"
    scales: int = Field(16, ge=4, le=32)
    smallest_scale_deg: float = Field(1.0, ge=0.1, le=30)


class Multiscale(LocationEncoding):
    """[sin pφ, cos pφ, sin qλ, cos qλ] for each scale, [B, 2] -> [B, 4·scales], in four blocks.

    p = 360° / wavelength, and q is p rounded to a whole number.

    Source: the `grid` encoder of Mai et al., "Multi-Scale Representation Learning for Spatial Feature Distributions
    using Grid Cells" (Space2Vec, ICLR 2020).
    Deviations: there q = p, which jumps at the date line; and the scale is the wavelength, not the wavelength / 2π.
    """

    Config = MultiscaleConfig
    lat_waves: Tensor
    lng_waves: Tensor

    def __init__(self, config: MultiscaleConfig) -> None:
        super().__init__()
        self.features = 4 * config.scales
        lat_waves, lng_waves = wave_numbers(config.scales, config.smallest_scale_deg)
        self.register_buffer("lat_waves", lat_waves, persistent=False)
        self.register_buffer("lng_waves", lng_waves, persistent=False)

    def forward(self, place_deg: Tensor) -> Tensor:
        lat, lng = radians(place_deg)
        p, q = lat[:, None] * self.lat_waves, lng[:, None] * self.lng_waves
        return torch.cat([p.sin(), p.cos(), q.sin(), q.cos()], dim=1).float()
