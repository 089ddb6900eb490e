"""Random Fourier features of the point on the unit sphere."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from stssl.config import Config
from stssl.encodings.base import LocationEncoding
from stssl.encodings.location._angles import unit_vector


class FourierConfig(Config):
    """Waves in random directions; `sigma` sets how fine they are (waves per Earth radius), `frequencies` how many.

    `seed` draws the directions; it is apart from the recipe's seed, so replicates share them.
    """

    name: Literal["fourier"] = "fourier"
    frequencies: int = Field(64, ge=32, le=256)
    sigma: float = Field(4.0, ge=0.1, le=64)
    seed: int = Field(0, ge=0, lt=2**31)


class Fourier(LocationEncoding):
    """[cos(2πBv), sin(2πBv)], v the unit vector, B [m, 3] drawn from N(0, σ²); [B, 2] -> [B, 2m].

    Source: Tancik et al., "Fourier Features Let Networks Learn High Frequency Functions" (NeurIPS 2020).
    Deviation: they encode points of a cube; here it is the unit sphere, so there is no seam at the date line or a pole.
    """

    Config = FourierConfig
    basis: Tensor

    def __init__(self, config: FourierConfig) -> None:
        super().__init__()
        self.features = 2 * config.frequencies
        generator = torch.Generator().manual_seed(config.seed)
        basis = config.sigma * torch.randn(config.frequencies, 3, generator=generator, dtype=torch.float32)
        self.register_buffer("basis", basis)  # in the checkpoint: another torch may draw other numbers

    def forward(self, place_deg: Tensor) -> Tensor:
        # float64: with hundreds of waves, float32 (let alone TF32) would lose the phase
        angle = 2 * math.pi * unit_vector(place_deg) @ self.basis.double().T
        return torch.cat([angle.cos(), angle.sin()], dim=1).float()
