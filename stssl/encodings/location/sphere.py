"""Points on the sphere at geometric scales."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import LocationEncoding
from stssl.encodings.location._angles import radians, wave_numbers


class SphereConfig(Config):
    """`scales` wavelengths, geometric from 360° down to `smallest_scale_deg`.

    `sphereC` scales both angles at once; `sphereM` scales one and keeps the other.
    """

    name: Literal["sphere"] = "sphere"
    variant: Literal["sphereC", "sphereM"] = "sphereC"
    scales: int = Field(16, ge=4, le=32)
    smallest_scale_deg: float = Field(1.0, ge=0.1, le=30)


class Sphere(LocationEncoding):
    """Spherical coordinates of scaled angles, [B, 2] -> [B, 3·scales] (sphereC) or [B, 5·scales] (sphereM).

    With p = 360° / wavelength, and q being p rounded to a whole number, in blocks of `scales` features:
    sphereC: sin pφ, cos pφ cos qλ, cos pφ sin qλ;
    sphereM: sin pφ, cos pφ cos λ, cos φ cos qλ, cos pφ sin λ, cos φ sin qλ.
    As in the paper, terms with cos pφ still depend on the longitude at a pole.

    Source: Mai et al., "Sphere2Vec" (ISPRS Journal of Photogrammetry and Remote Sensing 2023).
    Deviations: there q = p, which jumps at the date line; and the scale is the wavelength, not the wavelength / 2π.
    """

    Config = SphereConfig
    lat_waves: Tensor
    lng_waves: Tensor

    def __init__(self, config: SphereConfig) -> None:
        super().__init__()
        self.variant = config.variant
        self.features = (3 if config.variant == "sphereC" else 5) * config.scales
        lat_waves, lng_waves = wave_numbers(config.scales, config.smallest_scale_deg)
        self.register_buffer("lat_waves", lat_waves, persistent=False)
        self.register_buffer("lng_waves", lng_waves, persistent=False)

    def forward(self, place_deg: Tensor) -> Tensor:
        lat, lng = (angle[:, None] for angle in radians(place_deg))
        p, q = lat * self.lat_waves, lng * self.lng_waves
        if self.variant == "sphereC":
            parts = [p.sin(), p.cos() * q.cos(), p.cos() * q.sin()]
        else:
            parts = [p.sin(), p.cos() * lng.cos(), lat.cos() * q.cos(), p.cos() * lng.sin(), lat.cos() * q.sin()]
        return torch.cat(parts, dim=1).float()
